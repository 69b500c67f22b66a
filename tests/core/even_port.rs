//! EVEN-PORT and RESERVATION-TOKEN: RFC 8656 sections 7.2, 18.7, 18.10.

use turnserver::proto::{OpenError, RESERVATION_LIFETIME};
use turnserver::wire::{Method, attr};

use crate::harness::*;

fn clients(world: &World, count: u16) -> Vec<Client> {
    let user = world.setup.users[0].clone();
    (1..=count)
        .map(|port| world.client(flow(&format!("192.0.2.1:{port}")), &user))
        .collect()
}

fn even(world: &mut World, client: &mut Client, reserve: bool) -> Response {
    world.call(client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        b.even_port(reserve);
    })
}

/// Allocates an even port and reserves the next one.
fn reserve(world: &mut World, client: &mut Client) -> [u8; 8] {
    even(world, client, true).token().expect("a token")
}

fn claim(world: &mut World, client: &mut Client, token: [u8; 8]) -> Response {
    world.call(client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        b.attribute(attr::RESERVATION_TOKEN, &token);
    })
}

#[test]
fn without_the_r_bit_the_port_is_even_and_nothing_is_reserved() {
    let mut world = World::new();
    for client in &mut clients(&world, 40) {
        let response = even(&mut world, client, false);
        assert_eq!(response.relayed()[0].port() % 2, 0);
        assert_eq!(response.token(), None);
    }
    assert_eq!(world.shared.relays.in_use(), 40);
    assert_eq!(world.shards[0].reservations(), 0);
}

#[test]
fn with_the_r_bit_the_next_port_is_held_and_the_token_gets_it() {
    let mut world = World::new();
    let mut clients = clients(&world, 2);
    let first = even(&mut world, &mut clients[0], true);
    let token = first.token().expect("a token");
    let port = first.relayed()[0].port();
    assert_eq!(port % 2, 0);
    assert_eq!(world.shared.relays.in_use(), 2);
    let second = claim(&mut world, &mut clients[1], token);
    assert_eq!(second.code(), 0);
    assert_eq!(second.relayed()[0].port(), port + 1);
    assert_eq!(second.relayed()[0].ip(), first.relayed()[0].ip());
    assert_eq!(second.token(), None);
    assert_eq!(world.shards[0].reservations(), 0);
    // A token works once.
    world.refresh(&mut clients[1], 0);
    assert_eq!(claim(&mut world, &mut clients[1], token).code(), 508);
}

#[test]
fn a_held_port_is_given_to_nobody_else() {
    let mut world = Setup {
        ports: 50_000..=50_003,
        relays: vec![(LOCAL_V4, PUBLIC_V4)],
        ..Setup::default()
    }
    .world();
    let mut clients = clients(&world, 4);
    let token = reserve(&mut world, &mut clients[0]);
    world.allocate(&mut clients[1]);
    world.allocate(&mut clients[2]);
    let response = even(&mut world, &mut clients[3], false);
    assert_eq!(response.code(), 508);
    assert_eq!(claim(&mut world, &mut clients[3], token).code(), 0);
}

#[test]
fn a_reservation_is_held_for_at_least_30_s_and_then_released() {
    const { assert!(RESERVATION_LIFETIME >= 30) };
    let mut world = World::new();
    let mut clients = clients(&world, 2);
    let token = reserve(&mut world, &mut clients[0]);
    // Also when the allocation that it came with is gone.
    world.refresh(&mut clients[0], 0);
    world.pass(RESERVATION_LIFETIME as f64 - 0.001);
    assert_eq!(world.net.held.len(), 1);
    world.pass(1.001);
    world.assert_empty();
    assert_eq!(claim(&mut world, &mut clients[1], token).code(), 508);
    world.assert_empty();
}

#[test]
fn a_token_nobody_holds_is_508() {
    let mut world = World::new();
    let mut clients = clients(&world, 1);
    assert_eq!(claim(&mut world, &mut clients[0], [7; 8]).code(), 508);
    world.assert_empty();
}

#[test]
fn a_token_with_even_port_or_a_family_is_400() {
    let mut world = World::new();
    let mut clients = clients(&world, 2);
    let token = reserve(&mut world, &mut clients[0]);
    for extra in 0..4 {
        let response = world.call(&mut clients[1], Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            b.attribute(attr::RESERVATION_TOKEN, &token);
            match extra {
                0 => b.even_port(false),
                1 => b.even_port(true),
                2 => b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, 1),
                _ => b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, 2),
            };
        });
        assert_eq!(response.code(), 400);
    }
    // The failed attempts did not use it up.
    assert_eq!(claim(&mut world, &mut clients[1], token).code(), 0);
}

#[test]
fn the_r_bit_with_an_additional_family_is_400_and_without_it_both_ports_are_even() {
    let mut world = World::new();
    let mut clients = clients(&world, 1);
    for (reserve, code) in [(true, 400), (false, 0)] {
        let response = world.call(&mut clients[0], Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            b.even_port(reserve);
            b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, 2);
        });
        assert_eq!(response.code(), code);
        if code == 0 {
            assert!(
                response
                    .relayed()
                    .iter()
                    .all(|relayed| relayed.port() % 2 == 0)
            );
        }
    }
}

#[test]
fn no_even_port_left_is_508() {
    let mut world = Setup {
        ports: 50_000..=50_001,
        relays: vec![(LOCAL_V4, PUBLIC_V4)],
        ..Setup::default()
    }
    .world();
    let mut clients = clients(&world, 3);
    even(&mut world, &mut clients[0], false);
    assert_eq!(even(&mut world, &mut clients[1], false).code(), 508);
    assert_eq!(even(&mut world, &mut clients[1], true).code(), 508);
    // The odd one is still there for who does not care.
    world.allocate(&mut clients[2]);
}

#[test]
fn the_requested_family_goes_together_with_even_port() {
    let mut world = World::new();
    let mut clients = clients(&world, 2);
    let response = world.allocate_with(&mut clients[0], |b| {
        b.even_port(true);
        b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, 2);
    });
    assert!(response.relayed()[0].is_ipv6());
    let token = response.token().expect("a token");
    let claimed = claim(&mut world, &mut clients[1], token);
    assert!(claimed.relayed()[0].is_ipv6());
}

#[test]
fn tokens_are_server_wide() {
    let mut world = Setup {
        shards: 2,
        ..Setup::default()
    }
    .world();
    let mut clients = clients(&world, 2);
    clients[1].shard = 1;
    let first = even(&mut world, &mut clients[0], true);
    let token = first.token().expect("a token");
    let second = claim(&mut world, &mut clients[1], token);
    assert_eq!(second.relayed()[0].port(), first.relayed()[0].port() + 1);
    // The shard that reserved it lets go later, without touching the socket.
    world.pass(31.0);
    assert_eq!(world.shards[0].reservations(), 0);
    assert_eq!(world.net.leases.len(), 2);
    world.refresh(&mut clients[0], 0);
    world.refresh(&mut clients[1], 0);
    world.assert_empty();
}

#[test]
fn a_failed_claim_leaves_the_reservation_to_its_timer() {
    let mut world = World::new();
    let mut clients = clients(&world, 2);
    let token = reserve(&mut world, &mut clients[0]);
    world.net.fail = Some(OpenError::Exhausted);
    assert_eq!(claim(&mut world, &mut clients[1], token).code(), 508);
    world.net.fail = None;
    assert_eq!(claim(&mut world, &mut clients[1], token).code(), 0);
}

/// A world whose users may have so many allocations, and clients of one user.
fn with_quota(allocations: u32, count: u16) -> (World, Vec<Client>) {
    let mut setup = Setup::default();
    setup.limits.allocations_per_user = allocations;
    let world = setup.world();
    let clients = clients(&world, count);
    (world, clients)
}

#[test]
fn churning_reservations_is_bounded_by_the_quota() {
    let (mut world, mut clients) = with_quota(4, 20);
    for client in &mut clients {
        even(&mut world, client, true);
        world.refresh(client, 0);
    }
    // Only reservations are left, no more than the quota.
    assert!(world.net.held.len() <= 4, "{}", world.net.held.len());
    world.pass(31.0);
    world.assert_empty();
}

#[test]
fn a_pair_of_two_fits_a_quota_of_two() {
    let (mut world, mut clients) = with_quota(2, 3);
    let token = reserve(&mut world, &mut clients[0]);
    assert_eq!(claim(&mut world, &mut clients[1], token).code(), 0);
    assert_eq!(world.shared.quotas.total(), 2);
    assert_eq!(even(&mut world, &mut clients[2], false).code(), 486);
}

#[test]
fn the_place_in_the_quota_passes_on_whichever_shard_claims_the_token() {
    for (first, second) in [(0, 0), (0, 1), (1, 0)] {
        let mut setup = Setup {
            shards: 2,
            ..Setup::default()
        };
        setup.limits.allocations_per_user = 2;
        let mut world = setup.world();
        let mut clients = clients(&world, 4);
        clients[0].shard = first;
        clients[1].shard = second;
        let token = reserve(&mut world, &mut clients[0]);
        assert_eq!(claim(&mut world, &mut clients[1], token).code(), 0);
        assert_eq!(world.shared.quotas.total(), 2);
        // Both places are free as soon as the allocations are gone, not when a timer fires.
        world.refresh(&mut clients[0], 0);
        world.refresh(&mut clients[1], 0);
        assert_eq!(world.shared.quotas.total(), 0);
        assert_eq!(even(&mut world, &mut clients[2], false).code(), 0);
        assert_eq!(even(&mut world, &mut clients[3], false).code(), 0);
        world.refresh(&mut clients[2], 0);
        world.refresh(&mut clients[3], 0);
        world.pass(31.0);
        world.assert_empty();
    }
}

#[test]
fn a_failed_claim_gives_the_place_back_to_the_reservation() {
    let (mut world, mut clients) = with_quota(2, 3);
    let token = reserve(&mut world, &mut clients[0]);
    world.net.fail = Some(OpenError::Exhausted);
    assert_eq!(claim(&mut world, &mut clients[1], token).code(), 508);
    world.net.fail = None;
    // The reserved port still counts.
    assert_eq!(world.shared.quotas.total(), 2);
    assert_eq!(even(&mut world, &mut clients[2], false).code(), 486);
    assert_eq!(claim(&mut world, &mut clients[1], token).code(), 0);
}
