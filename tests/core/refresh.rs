//! Refresh: RFC 8656 sections 5 and 8.2.

use turnserver::proto::DropReason;
use turnserver::wire::{Method, attr};

use crate::harness::*;

fn allocated() -> (World, Client, std::net::SocketAddr) {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world.allocate(&mut client);
    (world, client, relayed)
}

#[test]
fn lifetime_follows_the_rule_of_allocate_except_that_0_deletes() {
    for (requested, granted) in [
        (1, 600),
        (599, 600),
        (601, 601),
        (3600, 3600),
        (3601, 3600),
        (u32::MAX, 3600),
    ] {
        let (mut world, mut client, _) = allocated();
        let response = world.refresh(&mut client, requested);
        assert_eq!((response.code(), response.lifetime()), (0, granted));
        world.pass(f64::from(granted) - 0.001);
        assert!(world.shards[0].has_allocation(&client.flow));
        world.pass(1.001);
        world.assert_empty();
    }
    let (mut world, mut client, _) = allocated();
    let response = world.call(&mut client, Method::REFRESH, |_| {});
    assert_eq!((response.code(), response.lifetime()), (0, 600));
}

#[test]
fn a_refresh_may_shorten_the_lifetime_and_the_port_is_free_in_time() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    // The timer stands at an hour, and must not be waited for.
    world.allocate_with(&mut client, |b| {
        b.u32(attr::LIFETIME, 3600);
    });
    assert_eq!(world.refresh(&mut client, 600).lifetime(), 600);
    world.pass(601.0);
    world.assert_empty();
    // Nor does the timer that was left over disturb a successor.
    client.nonce = world.fresh_nonce(&client.flow, true);
    world.allocate_with(&mut client, |b| {
        b.u32(attr::LIFETIME, 3600);
    });
    world.pass(3000.0);
    assert!(world.shards[0].has_allocation(&client.flow));
}

#[test]
fn refreshing_over_and_over_keeps_the_allocation_and_one_timer() {
    let (mut world, mut client, _) = allocated();
    for _ in 0..50 {
        world.pass(300.0);
        client.nonce = world.fresh_nonce(&client.flow, true);
        assert_eq!(world.refresh(&mut client, 600).code(), 0);
    }
    world.pass(601.0);
    world.assert_empty();
    // No timer is left to wake up for.
    world.pass(7200.0);
    assert_eq!(world.shards[0].poll_timeout(), None);
}

#[test]
fn lifetime_0_deletes_at_once_and_the_5_tuple_can_allocate_again() {
    let (mut world, mut client, relayed) = allocated();
    let peer = addr("192.0.2.50:9");
    world.permit(&mut client, &[peer]);
    let (shard, relay) = world.relay_of(relayed);
    let response = world.refresh(&mut client, 0);
    assert_eq!((response.code(), response.lifetime()), (0, 0));
    world.assert_empty();
    // The relayed address is silent at once, also for a datagram that was already on its way.
    let outcome = world.from_peer(shard, relay, peer, b"late");
    assert_eq!(outcome.drop_reason(), DropReason::NoRelay);
    let again = world.allocate(&mut client);
    let (_, new_relay) = world.relay_of(again);
    assert_ne!(relay, new_relay);
    // And the new allocation knows none of the old one's peers.
    let outcome = world.from_peer(shard, relay, peer, b"late");
    assert_eq!(outcome.drop_reason(), DropReason::NoRelay);
    let outcome = world.arrive(again, peer, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
}

#[test]
fn deleting_what_is_not_there_is_437() {
    let (mut world, mut client, _) = allocated();
    world.refresh(&mut client, 0);
    assert_eq!(world.refresh(&mut client, 0).code(), 437);
    assert_eq!(world.refresh(&mut client, 600).code(), 437);
}

#[test]
fn requests_without_an_allocation_are_437_and_data_is_dropped_in_silence() {
    let world = &mut World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let peer = addr("192.0.2.50:9");
    assert_eq!(world.refresh(&mut client, 600).code(), 437);
    assert_eq!(world.permit(&mut client, &[peer]).code(), 437);
    assert_eq!(world.bind(&mut client, 0x4000, peer).code(), 437);
    let outcome = world.send(&mut client, peer, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoAllocation);
    let outcome = world.channel(&client, 0x4000, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoAllocation);
}

#[test]
fn another_username_on_the_5_tuple_is_441_for_every_request() {
    let (mut world, client, _) = allocated();
    let bob = world.setup.users[1].clone();
    let mut bob = world.client(client.flow, &bob);
    let peer = addr("192.0.2.50:9");
    assert_eq!(world.refresh(&mut bob, 0).code(), 441);
    assert_eq!(world.permit(&mut bob, &[peer]).code(), 441);
    assert_eq!(world.bind(&mut bob, 0x4000, peer).code(), 441);
    assert!(world.shards[0].has_allocation(&client.flow));
}

#[test]
fn a_family_that_the_allocation_does_not_have_is_443() {
    let (mut world, mut client, _) = allocated();
    for (family, code) in [(2, 443), (0, 443), (9, 443), (1, 0)] {
        let response = world.call(&mut client, Method::REFRESH, |b| {
            b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
        });
        assert_eq!(response.code(), code, "family {family}");
    }
    // Naming the only family there is deletes all of it.
    let response = world.call(&mut client, Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, 0);
        b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, 1);
    });
    assert_eq!(response.code(), 0);
    world.assert_empty();
}

#[test]
fn attributes_of_a_wrong_length_are_400() {
    let (mut world, mut client, _) = allocated();
    for (ty, value) in [
        (attr::LIFETIME, &[0, 0][..]),
        (attr::LIFETIME, &[]),
        (attr::REQUESTED_ADDRESS_FAMILY, &[1]),
    ] {
        let response = world.call(&mut client, Method::REFRESH, |b| {
            b.attribute(ty, value);
        });
        assert_eq!(response.code(), 400);
    }
    assert!(world.shards[0].has_allocation(&client.flow));
}

#[test]
fn an_expired_credential_is_401_and_the_allocation_lives_until_its_lifetime_ends() {
    let start = World::new().now.unix;
    let user = User::limited(start + 100, "carol", "pw");
    let mut world = Setup {
        users: vec![user.clone()],
        ..Setup::default()
    }
    .world();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world.allocate(&mut client);
    let peer = addr("192.0.2.50:9");
    world.pass(99.0);
    assert_eq!(world.permit(&mut client, &[peer]).code(), 0);
    world.pass(1.0);
    for method in [
        Method::REFRESH,
        Method::CREATE_PERMISSION,
        Method::CHANNEL_BIND,
    ] {
        let request = client.request(method, |_| {});
        let response = world.answer(0, &client.flow, &request);
        assert_eq!(response.code(), 401);
    }
    let outcome = world.arrive(relayed, peer, b"alive");
    assert_eq!(outcome.indication().1, b"alive");
    world.pass(501.0);
    world.assert_empty();
}

#[test]
fn a_newer_timestamp_of_the_same_user_is_441_unless_configured() {
    let start = World::new().now.unix;
    let users = [
        User::limited(start + 1000, "carol", "pw"),
        User::limited(start + 2000, "carol", "pw"),
        User::limited(start + 2000, "dave", "pw"),
    ];
    for (match_user_id, code) in [(false, 441), (true, 0)] {
        let mut world = Setup {
            users: users.to_vec(),
            match_user_id,
            ..Setup::default()
        }
        .world();
        let mut client = world.client(flow("192.0.2.1:5000"), &users[0]);
        world.allocate(&mut client);
        let mut newer = world.client(client.flow, &users[1]);
        assert_eq!(world.refresh(&mut newer, 600).code(), code);
        let mut other = world.client(client.flow, &users[2]);
        assert_eq!(world.refresh(&mut other, 600).code(), 441);
    }
}
