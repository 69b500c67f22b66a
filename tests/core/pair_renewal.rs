//! Credentials of pairs end after their time, and are renewed for allocations that there are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use turnserver::auth::{CredentialStore, PairMint, PairSecrets, RestOptions};
use turnserver::proto::pairs::{ALLOCATIONS_PER_SIDE, PairId};
use turnserver::wire::{Method, attr};

use crate::harness::*;

const TTL: u64 = 60;
const LIFETIME: u64 = 1000;
const SIDES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];

type Shown = (String, String);

struct Pair {
    world: World,
    mint: Arc<PairMint>,
}

impl Pair {
    fn new() -> Self {
        let secrets = PairSecrets::new([&b"secret"[..]], &[0; 32]);
        let mint = PairMint::new(&secrets);
        let options = RestOptions::default();
        let store = CredentialStore::new(REALM, [], [], options).expect("usable");
        let setup = Setup {
            credentials: Some(Arc::new(store.with_pairs(secrets))),
            ..Setup::default()
        };
        Self {
            world: setup.world(),
            mint,
        }
    }

    fn first(&self, initiator: bool) -> Shown {
        let now = self.world.now.unix;
        self.mint.mint(now, TTL, &[7; 16], initiator, SIDES)
    }

    fn renewed(&self, shown: &Shown) -> Option<Shown> {
        let shown = (shown.0.as_str(), shown.1.as_str());
        let renewed = self.mint.renew(self.world.now.unix, TTL, LIFETIME, shown);
        renewed.map(|renewed| (renewed.username, renewed.password))
    }

    fn client(&self, from: &str, shown: &Shown) -> Client {
        self.world
            .client(flow(from), &User::new(&shown.0, &shown.1))
    }

    /// The same 5-tuple, other credentials.
    fn as_user(&self, client: &Client, shown: &Shown) -> Client {
        let mut new = self.client("192.0.2.1:1", shown);
        new.flow = client.flow;
        new.transactions = client.transactions;
        new.nonce = self.world.fresh_nonce(&client.flow, true);
        new
    }

    fn refresh(&mut self, client: &mut Client) -> u16 {
        let request = client.request(Method::REFRESH, |_| {});
        self.world.answer(0, &client.flow, &request).code()
    }
}

fn allocate(pair: &mut Pair, from: &str, shown: &Shown) -> (Client, SocketAddr) {
    let mut client = pair.client(from, shown);
    let relayed = pair.world.allocate(&mut client);
    (client, relayed)
}

#[test]
fn an_allocation_outlives_its_credentials_by_renewed_ones_and_ends_with_its_pair() {
    let mut pair = Pair::new();
    let born = pair.world.now.unix;
    let mut shown = [pair.first(true), pair.first(false)];
    let (mut a, ra) = allocate(&mut pair, "192.0.2.1:5000", &shown[0]);
    let (mut b, rb) = allocate(&mut pair, "192.0.2.2:5000", &shown[1]);
    let mut renewals = 0;
    loop {
        pair.world.pass(40.0);
        let renewed = [0, 1].map(|side| pair.renewed(&shown[side]));
        let [Some(one), Some(two)] = renewed else {
            break;
        };
        // What was proven by the former ones goes on, with all that it has.
        (a, b) = (pair.as_user(&a, &one), pair.as_user(&b, &two));
        shown = [one, two];
        assert_eq!(pair.refresh(&mut a), 0);
        assert_eq!(pair.refresh(&mut b), 0);
        assert_eq!(pair.world.permit(&mut a, &[rb]).code(), 0);
        // The addresses that the server saw stay those of the pair.
        let seen = SIDES.map(|ip| SocketAddr::new(ip, 9));
        assert_eq!(pair.world.permit(&mut a, &seen).code(), 0);
        assert_eq!(pair.world.permit(&mut b, &seen).code(), 0);
        assert_eq!(pair.world.bind(&mut b, 0x4000, ra).code(), 0);
        assert_eq!(pair.world.send(&mut a, rb, b"x").channel().0, 0x4000);
        renewals += 1;
    }
    assert!(renewals > 20, "{renewals}");
    assert!(pair.world.now.unix >= born + LIFETIME);
    (a.nonce, b.nonce) = (
        pair.world.fresh_nonce(&a.flow, true),
        pair.world.fresh_nonce(&b.flow, true),
    );
    assert_eq!(pair.refresh(&mut a), 401);
    assert_eq!(pair.refresh(&mut b), 401);
    pair.world.pass(600.0);
    assert_eq!(pair.world.shared.relays.in_use(), 0, "it is over");
}

#[test]
fn without_renewal_an_allocation_ends() {
    let mut pair = Pair::new();
    let shown = pair.first(true);
    let (mut a, _) = allocate(&mut pair, "192.0.2.1:5000", &shown);
    pair.world.pass((TTL - 1) as f64);
    assert_eq!(pair.refresh(&mut a), 0);
    pair.world.pass(1.0);
    assert_eq!(pair.refresh(&mut a), 401);
    assert_eq!(pair.renewed(&shown), None, "too late");
}

#[test]
fn only_the_same_side_of_the_same_pair_takes_over() {
    let mut pair = Pair::new();
    let shown = pair.first(true);
    let (a, _) = allocate(&mut pair, "192.0.2.1:5000", &shown);
    let other_side = pair.first(false);
    let (now, session) = (pair.world.now.unix, [8; 16]);
    let other_pair = pair.mint.mint(now, TTL, &session, true, SIDES);
    for other in [other_side, other_pair] {
        let mut client = pair.as_user(&a, &other);
        assert_eq!(pair.refresh(&mut client), 441);
    }
    // Both names are good as long as both are valid.
    pair.world.pass(10.0);
    let renewed = pair.renewed(&shown).expect("valid");
    for user in [&renewed, &shown, &renewed] {
        let mut client = pair.as_user(&a, user);
        assert_eq!(pair.refresh(&mut client), 0);
    }
}

#[test]
fn renewed_names_have_no_quota_of_their_own() {
    let mut pair = Pair::new();
    let mut shown = pair.first(true);
    for number in 0..=ALLOCATIONS_PER_SIDE {
        let mut client = pair.client(&format!("192.0.2.1:{}", 5000 + number), &shown);
        let request = client.request(Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP);
        });
        let code = pair.world.answer(0, &client.flow, &request).code();
        assert_eq!(
            code,
            if number < ALLOCATIONS_PER_SIDE {
                0
            } else {
                486
            }
        );
        pair.world.pass(1.0);
        shown = pair.renewed(&shown).expect("valid");
    }
}

#[test]
fn credentials_of_a_wait_are_not_renewed() {
    let mut pair = Pair::new();
    let waits = pair.mint.waiting(pair.world.now.unix, TTL, &[7; 16]);
    let guard = pair.world.shared.waits.begin(PairId::of_session(&[7; 16]));
    let (a, _) = allocate(&mut pair, "192.0.2.1:5000", &waits);
    assert_eq!(pair.renewed(&waits), None);
    let mut same = pair.as_user(&a, &waits);
    assert_eq!(pair.refresh(&mut same), 0, "as long as they are good");
    pair.world.pass(TTL as f64);
    let mut late = pair.as_user(&a, &waits);
    assert_eq!(pair.refresh(&mut late), 401);
    // Those of the pair take over.
    let paired = pair.first(true);
    let mut a = pair.as_user(&a, &paired);
    assert_eq!(pair.refresh(&mut a), 0);
    assert!(pair.renewed(&paired).is_some());
    drop(guard);
}
