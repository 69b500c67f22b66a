//! What one may have that waits for the other side of a pair, and what all pairs together may.

use std::collections::BTreeMap;

use turnserver::proto::audit::{Audit, EndReason};
use turnserver::proto::places::PairLimits;
use turnserver::proto::waits::WaitGuard;
use turnserver::proto::{DropReason, Limits};
use turnserver::wire::{Method, attr};

use crate::harness::*;

/// Somebody waits as pair 1, and both sides that it may have.
fn waiting(setup: Setup) -> (World, WaitGuard) {
    let users = [
        User::waiting(1),
        User::paired(1, 'i'),
        User::paired(1, 'r'),
        User::waiting(2),
        User::new("alice", "secret-a"),
    ];
    let world = Setup {
        users: users.to_vec(),
        ..setup
    }
    .world();
    let guard = world.shared.waits.begin(pair_id(1));
    (world, guard)
}

/// The code that an Allocate is answered with; `family` as in RFC 8656 section 14.6.
fn code(world: &mut World, client: &mut Client, family: Option<u8>) -> u16 {
    let response = world.call(client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        if let Some(family) = family {
            b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
        }
    });
    response.code()
}

/// The end of a wait without a pair, as its owner tells every shard.
fn over(world: &mut World, guard: WaitGuard) {
    let now = world.now;
    for flow in guard.end() {
        for shard in 0..world.shards.len() {
            world.shards[shard].wait_over(now, guard.pair(), &flow);
            world.drain_effects(shard);
        }
    }
}

/// The same 5-tuple under another name.
fn renamed(world: &World, client: &Client, user: &User) -> Client {
    let mut new = world.client(client.flow, user);
    (new.shard, new.transactions) = (client.shard, client.transactions);
    new
}

fn reasons(world: &World) -> Vec<EndReason> {
    let ended = world.audits.iter().filter_map(|audit| match audit {
        Audit::Ended { reason, .. } => Some(*reason),
        _ => None,
    });
    ended.collect()
}

#[test]
fn who_waits_has_one_allocation_of_each_family() {
    let (mut world, guard) = waiting(Setup::default());
    let user = User::waiting(1);
    let [mut a, mut b, mut c] =
        [1, 2, 3].map(|port| world.client(flow(&format!("192.0.2.1:500{port}")), &user));
    assert_eq!(code(&mut world, &mut a, None), 0);
    assert_eq!(code(&mut world, &mut b, None), 486);
    assert_eq!(code(&mut world, &mut b, Some(attr::FAMILY_IPV6)), 0);
    assert_eq!(code(&mut world, &mut c, Some(attr::FAMILY_IPV6)), 486);
    // One that was given back can be had again, also both families in one.
    world.refresh(&mut a, 0);
    world.refresh(&mut b, 0);
    let both = |b: &mut turnserver::wire::Builder<'_>| {
        b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, attr::FAMILY_IPV6);
    };
    assert_eq!(world.allocate_with(&mut c, both).relayed().len(), 2);
    assert_eq!(code(&mut world, &mut a, None), 486);
    // Nobody waits as another pair.
    let mut other = world.client(flow("192.0.2.2:5000"), &User::waiting(2));
    assert_eq!(code(&mut world, &mut other, None), 403);
    over(&mut world, guard);
    world.assert_empty();
}

#[test]
fn what_a_wait_allocated_lives_on_when_it_is_paired() {
    let (mut world, guard) = waiting(Setup::default());
    let mut a = world.client(flow("192.0.2.1:5000"), &User::waiting(1));
    let ra = world.allocate(&mut a);
    // Whom the server saw is not known yet, but the way to the other side can be opened.
    assert_eq!(world.permit(&mut a, &[addr("192.0.2.2:1")]).code(), 403);
    let all_ports = std::net::SocketAddr::new(ra.ip(), 0);
    assert_eq!(world.permit(&mut a, &[all_ports]).code(), 0);
    world.pass(25.0);
    // Paired: nobody ends it. Its session may be over as soon.
    drop(guard);
    let mut b = world.client(flow("192.0.2.2:5000"), &User::paired(1, 'r'));
    let rb = world.allocate(&mut b);
    assert_eq!(world.bind(&mut b, 0x4000, ra).code(), 0);
    assert_eq!(world.send(&mut a, rb, b"x").channel().0, 0x4000);
    let mut a = renamed(&world, &a, &User::paired(1, 'i'));
    for _ in 0..10 {
        world.pass(200.0);
        for client in [&mut a, &mut b] {
            client.nonce = world.fresh_nonce(&client.flow, true);
            assert_eq!(world.refresh(client, 600).code(), 0);
        }
        assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
        assert_eq!(world.bind(&mut b, 0x4000, ra).code(), 0);
        assert_eq!(world.send(&mut a, rb, b"x").channel().0, 0x4000);
        assert_eq!(world.channel(&b, 0x4000, b"y").indication().0, rb);
    }
    // The first credentials make no more, those of the pair do.
    let flow = flow("192.0.2.1:5001");
    let mut late = world.client(flow, &User::waiting(1));
    assert_eq!(code(&mut world, &mut late, None), 403);
    let mut more = world.client(flow, &User::paired(1, 'i'));
    assert_eq!(code(&mut world, &mut more, None), 0);
    for client in [&mut a, &mut b, &mut more] {
        world.refresh(client, 0);
    }
    world.assert_empty();
}

#[test]
fn what_a_wait_allocated_ends_with_it_at_once() {
    for shard in [0, 1] {
        let (mut world, guard) = waiting(Setup {
            shards: 2,
            ..Setup::default()
        });
        let mut a = world.client(stream_flow("192.0.2.1:5000", 7), &User::waiting(1));
        a.shard = shard;
        let ra = world.allocate(&mut a);
        over(&mut world, guard);
        assert_eq!(reasons(&world), [EndReason::Unpaired]);
        assert_eq!(world.closed_flows, [a.flow], "the connection is of no use");
        assert!(world.shared.relays.live(ra).is_none());
        world.assert_empty();
        assert_eq!(world.refresh(&mut a, 600).code(), 437);
        assert_eq!(code(&mut world, &mut a, None), 403, "as long as they last");
    }
}

#[test]
fn a_wait_that_ends_while_a_socket_is_opened_leaves_nothing() {
    let (mut world, guard) = waiting(Setup::default());
    let mut a = world.client(flow("192.0.2.1:5000"), &User::waiting(1));
    world.net.defer = true;
    let request = a.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    let flow = a.flow;
    assert_eq!(world.receive(0, &flow, &request).kind(), "waiting");
    over(&mut world, guard);
    world.open_deferred();
    world.assert_empty();
}

#[test]
fn the_end_of_a_wait_touches_nothing_else() {
    let (mut world, guard) = waiting(Setup::default());
    let mut a = world.client(flow("192.0.2.1:5000"), &User::waiting(1));
    world.allocate(&mut a);
    let (now, flow) = (world.now, a.flow);
    // Another pair's.
    world.shards[0].wait_over(now, pair_id(2), &flow);
    // One that has the credentials of the pair already.
    a = renamed(&world, &a, &User::paired(1, 'i'));
    assert_eq!(world.refresh(&mut a, 600).code(), 0);
    world.shards[0].wait_over(now, pair_id(1), &flow);
    // Somebody else's on the same 5-tuple.
    world.refresh(&mut a, 0);
    let mut alice = renamed(&world, &a, &User::new("alice", "secret-a"));
    world.allocate(&mut alice);
    world.shards[0].wait_over(now, pair_id(1), &flow);
    assert_eq!(reasons(&world), [EndReason::Deleted]);
    drop(guard);
    assert_eq!(world.refresh(&mut alice, 600).code(), 0);
}

fn limited(share: u8, per_source: u32, bandwidth: u64) -> Setup {
    Setup {
        ports: 50_000..=50_019,
        limits: Limits {
            pairs: PairLimits {
                share,
                per_source,
                bandwidth,
            },
            ..Limits::default()
        },
        ..Setup::default()
    }
}

#[test]
fn pairs_never_take_the_ports_of_others() {
    let mut setup = limited(75, 3, 0);
    setup.users.extend((1..=40).map(User::waiting));
    let mut world = setup.world();
    let guards: Vec<_> = (1..=40)
        .map(|pair| world.shared.waits.begin(pair_id(pair)))
        .collect();
    let mut codes = BTreeMap::<u16, usize>::new();
    for pair in 1..=40 {
        // Four of each address.
        let from = flow(&format!("192.0.2.{}:{}", pair / 4, 5000 + u16::from(pair)));
        let mut client = world.client(from, &User::waiting(pair));
        *codes
            .entry(code(&mut world, &mut client, None))
            .or_default() += 1;
    }
    assert_eq!(codes[&0], 15, "three quarters of 20: {codes:?}");
    assert!(codes[&486] > 3 && codes[&508] > 3, "{codes:?}");
    for port in 1..=5 {
        let mut user = world.client(
            flow(&format!("192.0.2.1:{port}")),
            &User::new("alice", "secret-a"),
        );
        world.allocate(&mut user);
    }
    for guard in guards {
        over(&mut world, guard);
    }
    assert_eq!(world.shared.relays.in_use(), 5, "those of the user");
    assert_eq!(world.shared.places.held(), 0);
}

#[test]
fn an_allocation_of_a_pair_has_its_own_bandwidth() {
    let mut setup = limited(100, 0, 1000);
    setup.users.push(User::paired(1, 'i'));
    let mut world = setup.world();
    let seen = addr("192.0.2.9:9");
    let user = User::seen(1, 'i', ["192.0.2.9", "192.0.2.1"]);
    world.setup.users.push(user.clone());
    let policy = world.setup.policy();
    world.reload(policy);
    let sent = |world: &mut World, user: &User, port: u16| {
        let mut client = world.client(flow(&format!("192.0.2.1:{port}")), user);
        world.allocate(&mut client);
        assert_eq!(world.permit(&mut client, &[seen]).code(), 0);
        let mut send = |world: &mut World| {
            let outcome = world.send(&mut client, seen, &[0; 1000]);
            if outcome.kind() != "to peer" {
                assert_eq!(outcome.drop_reason(), DropReason::Bandwidth);
            }
            usize::from(outcome.kind() == "to peer")
        };
        let before: usize = (0..200).map(|_| send(world)).sum();
        world.setup.limits.pairs.bandwidth = 0;
        let policy = world.setup.policy();
        world.reload(policy);
        let after: usize = (0..200).map(|_| send(world)).sum();
        world.setup.limits.pairs.bandwidth = 1000;
        let policy = world.setup.policy();
        world.reload(policy);
        (before, after)
    };
    let alice = User::new("alice", "secret-a");
    assert_eq!(sent(&mut world, &user, 1), (65, 200));
    assert_eq!(sent(&mut world, &alice, 2), (200, 200));
}
