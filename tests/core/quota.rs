//! Quotas: RFC 8656 sections 5 and 7.2 (486), and what they cost to release.

use turnserver::proto::audit::Audit;
use turnserver::wire::{Method, attr};

use crate::harness::*;

fn allocate(world: &mut World, user: usize, port: u16) -> (Client, u16) {
    let user = world.setup.users[user].clone();
    let mut client = world.client(flow(&format!("192.0.2.1:{port}")), &user);
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    (client, response.code())
}

#[test]
fn allocations_per_user_beyond_the_quota_are_486() {
    let mut setup = Setup::default();
    setup.limits.allocations_per_user = 2;
    let mut world = setup.world();
    let (mut first, code) = allocate(&mut world, 0, 1);
    assert_eq!(code, 0);
    assert_eq!(allocate(&mut world, 0, 2).1, 0);
    assert_eq!(allocate(&mut world, 0, 3).1, 486);
    assert!(world.audits.iter().any(|audit| {
        matches!(audit, Audit::AllocateRefused { code: 486, username, .. } if &**username == "alice")
    }));
    // Another user has a quota of its own.
    assert_eq!(allocate(&mut world, 1, 4).1, 0);
    // An allocation that ends makes room, at once.
    world.refresh(&mut first, 0);
    assert_eq!(allocate(&mut world, 0, 3).1, 0);
}

#[test]
fn allocations_of_all_users_are_limited_too() {
    let mut setup = Setup::default();
    setup.limits.allocations = 3;
    let mut world = setup.world();
    for (user, port, code) in [(0, 1, 0), (1, 2, 0), (0, 3, 0), (1, 4, 486), (0, 5, 486)] {
        assert_eq!(allocate(&mut world, user, port).1, code);
    }
    world.pass(601.0);
    world.assert_empty();
    assert_eq!(allocate(&mut world, 1, 4).1, 0);
}

#[test]
fn the_quota_is_shared_by_all_shards() {
    let mut setup = Setup {
        shards: 2,
        ..Setup::default()
    };
    setup.limits.allocations_per_user = 1;
    let mut world = setup.world();
    assert_eq!(allocate(&mut world, 0, 1).1, 0);
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:2"), &user);
    client.shard = 1;
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    assert_eq!(response.code(), 486);
}

#[test]
fn time_limited_usernames_of_one_user_share_a_quota() {
    let start = World::new().now.unix;
    let users = vec![
        User::limited(start + 1000, "carol", "pw"),
        User::limited(start + 2000, "carol", "pw"),
        User::limited(start + 2000, "dave", "pw"),
    ];
    let mut setup = Setup {
        users,
        ..Setup::default()
    };
    setup.limits.allocations_per_user = 1;
    let mut world = setup.world();
    assert_eq!(allocate(&mut world, 0, 1).1, 0);
    assert_eq!(allocate(&mut world, 1, 2).1, 486);
    assert_eq!(allocate(&mut world, 2, 3).1, 0);
}

#[test]
fn a_refused_request_takes_no_quota() {
    let mut setup = Setup::default();
    setup.limits.allocations_per_user = 1;
    let mut world = setup.world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:1"), &user);
    for transport in [1, 6, 99] {
        let response = world.call(&mut client, Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, transport);
        });
        assert_eq!(response.code(), 442);
    }
    world.net.fail = Some(turnserver::proto::OpenError::NoPort);
    assert_eq!(allocate(&mut world, 0, 1).1, 508);
    world.net.fail = None;
    assert_eq!(allocate(&mut world, 0, 1).1, 0);
}

#[test]
fn a_quota_that_shrinks_by_reload_ends_nothing() {
    let mut world = World::new();
    for port in 1..=3 {
        assert_eq!(allocate(&mut world, 0, port).1, 0);
    }
    let mut smaller = Setup::default();
    smaller.limits.allocations_per_user = 1;
    world.reload(smaller.policy());
    assert_eq!(world.shards[0].allocations(), 3);
    assert_eq!(allocate(&mut world, 0, 4).1, 486);
}
