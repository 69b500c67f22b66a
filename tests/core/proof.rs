//! What proved an allocation's owner proves its next request, and no longer than it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use turnserver::auth::{CredentialStore, RestOptions};
use turnserver::proto::credentials::{Credentials, Identity, UserClaim};
use turnserver::wire::{Key, Method, PasswordAlgorithm};

use crate::harness::*;

/// Counts how often credentials are looked up.
struct Counted {
    store: CredentialStore,
    asked: AtomicUsize,
}

impl Counted {
    fn new(users: &[(&str, &str)], secrets: &[&str]) -> Arc<Self> {
        let secrets = secrets.iter().map(|secret| secret.as_bytes());
        let options = RestOptions::default();
        let store = CredentialStore::new(REALM, users.iter().copied(), secrets, options);
        Arc::new(Self {
            store: store.expect("usable"),
            asked: AtomicUsize::new(0),
        })
    }

    /// How often since the last time.
    fn asked(&self) -> usize {
        self.asked.swap(0, Relaxed)
    }

    fn setup(self: &Arc<Self>) -> Setup {
        let credentials: Arc<dyn Credentials> = Arc::clone(self) as _;
        Setup {
            credentials: Some(credentials),
            ..Setup::default()
        }
    }
}

impl Credentials for Counted {
    fn realm(&self) -> &str {
        self.store.realm()
    }

    fn authenticate(
        &self,
        user: UserClaim<'_>,
        algorithm: PasswordAlgorithm,
        unix: u64,
        check: &mut dyn FnMut(&Key) -> bool,
    ) -> Option<Identity> {
        self.asked.fetch_add(1, Relaxed);
        self.store.authenticate(user, algorithm, unix, check)
    }

    fn supports_userhash(&self) -> bool {
        self.store.supports_userhash()
    }
}

const EXPIRES: u64 = UNIX_START + 500;

/// A world with an allocation of a time-limited user.
fn allocated() -> (Arc<Counted>, World, Client) {
    let counted = Counted::new(&[("alice", "secret-a")], &["new", "old"]);
    let mut world = counted.setup().world();
    let user = User::of_secret(EXPIRES, "carol", "old");
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    world.allocate(&mut client);
    assert_eq!(counted.asked(), 1);
    (counted, world, client)
}

fn code(world: &mut World, client: &mut Client) -> u16 {
    let request = client.request(Method::REFRESH, |_| {});
    world.answer(0, &client.flow, &request).code()
}

#[test]
fn the_owners_later_requests_are_proven_without_a_look_up() {
    let (counted, mut world, mut client) = allocated();
    let peer = addr("192.0.2.50:9");
    for _ in 0..3 {
        assert_eq!(world.refresh(&mut client, 600).code(), 0);
        assert_eq!(world.permit(&mut client, &[peer]).code(), 0);
        assert_eq!(world.bind(&mut client, 0x4000, peer).code(), 0);
    }
    assert_eq!(world.refresh(&mut client, 0).code(), 0);
    assert_eq!(counted.asked(), 0);
    world.assert_empty();
    // With the allocation goes what was known.
    assert_eq!(code(&mut world, &mut client), 437);
    assert_eq!(counted.asked(), 1);
}

#[test]
fn nobody_else_is_proven_by_it() {
    let (counted, mut world, mut client) = allocated();
    let mut others = [
        // The right name with another password, another name, another 5-tuple.
        (client.clone(), 401),
        (
            world.client(client.flow, &User::new("alice", "secret-a")),
            441,
        ),
        (world.client(flow("192.0.2.2:5000"), &client.user), 437),
    ];
    others[0].0.user = User::limited(EXPIRES, "carol", "guessed");
    for (other, refused) in &mut others {
        assert_eq!(code(&mut world, other), *refused);
        assert_eq!(counted.asked(), 1, "{refused}");
    }
    assert_eq!(code(&mut world, &mut client), 0);
    assert_eq!(counted.asked(), 0);
}

#[test]
fn a_time_limited_credential_ends_in_time_all_the_same() {
    let (counted, mut world, mut client) = allocated();
    world.pass(499.0);
    client.nonce = world.fresh_nonce(&client.flow, true);
    assert_eq!(code(&mut world, &mut client), 0);
    world.pass(1.0);
    assert_eq!(counted.asked(), 0);
    assert_eq!(code(&mut world, &mut client), 401);
    assert_eq!(counted.asked(), 1);
}

#[test]
fn a_reload_has_everybody_proven_again() {
    let (_, mut world, mut client) = allocated();
    // The secret is still there: proven once, and known again.
    let rotated = Counted::new(&[], &["old"]);
    world.reload(rotated.setup().policy());
    for _ in 0..3 {
        assert_eq!(code(&mut world, &mut client), 0);
    }
    assert_eq!(rotated.asked(), 1);
    // It is gone: so is the entry.
    let without = Counted::new(&[], &["newest"]);
    world.reload(without.setup().policy());
    for _ in 0..3 {
        assert_eq!(code(&mut world, &mut client), 401);
    }
    assert_eq!(without.asked(), 3);
}

#[test]
fn another_secret_or_algorithm_takes_its_place() {
    let (counted, mut world, mut client) = allocated();
    client.user = User::of_secret(EXPIRES, "carol", "new");
    for asked in [1, 0] {
        assert_eq!(code(&mut world, &mut client), 0);
        assert_eq!(counted.asked(), asked);
    }
    client.algorithm = Some(PasswordAlgorithm::Sha256);
    for asked in [1, 0] {
        assert_eq!(code(&mut world, &mut client), 0);
        assert_eq!(counted.asked(), asked);
    }
}
