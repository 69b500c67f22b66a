//! Dual allocations: ADDITIONAL-ADDRESS-FAMILY, RFC 8656 sections 5, 6, 7.2, 8.2.

use turnserver::proto::DropReason;
use turnserver::proto::audit::Audit;
use turnserver::wire::{Builder, ErrorCode, Method, attr};

use crate::harness::*;

const V4: u8 = 1;
const V6: u8 = 2;

fn additional(b: &mut Builder<'_>) {
    b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, V6);
}

fn dual() -> (World, Client, Response) {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let response = world.allocate_with(&mut client, additional);
    (world, client, response)
}

fn refresh_half(world: &mut World, client: &mut Client, family: u8, lifetime: u32) -> Response {
    world.call(client, Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, lifetime);
        b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
    })
}

#[test]
fn one_success_has_two_relayed_addresses() {
    let (world, _, response) = dual();
    let relayed = response.relayed();
    assert_eq!(relayed.len(), 2);
    assert!(relayed[0].is_ipv4() && relayed[1].is_ipv6());
    assert_eq!(response.address_error(), None);
    assert_eq!(world.net.leases.len(), 2);
    assert_eq!(world.shared.quotas.total(), 1);
}

#[test]
fn a_retransmitted_dual_request_gets_the_identical_success() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        additional(b);
    });
    let first = world.call_bytes(&client, &request);
    assert_eq!(world.call_bytes(&client, &request), first);
    assert_eq!(world.net.leases.len(), 2);
}

#[test]
fn a_family_that_the_server_lacks_is_reported_by_address_error_code_440() {
    for (relays, missing) in [((LOCAL_V4, PUBLIC_V4), V6), ((LOCAL_V6, PUBLIC_V6), V4)] {
        let mut world = Setup {
            relays: vec![relays],
            ..Setup::default()
        }
        .world();
        let user = world.setup.users[0].clone();
        let mut client = world.client(flow("192.0.2.1:5000"), &user);
        let response = world.allocate_with(&mut client, additional);
        assert_eq!(response.relayed().len(), 1);
        let expected = (missing, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED);
        assert_eq!(response.address_error(), Some(expected));
    }
}

#[test]
fn a_family_without_free_ports_is_reported_by_address_error_code_508() {
    use turnserver::proto::Family;
    for (family, missing) in [(Family::V4, V4), (Family::V6, V6)] {
        let mut world = World::new();
        world.net.fail_family = Some(family);
        let user = world.setup.users[0].clone();
        let mut client = world.client(flow("192.0.2.1:5000"), &user);
        let request = client.request(Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            additional(b);
        });
        let response = world.call_bytes(&client, &request);
        assert_eq!((response.code(), response.relayed().len()), (0, 1));
        let expected = (missing, ErrorCode::INSUFFICIENT_CAPACITY);
        assert_eq!(response.address_error(), Some(expected));
        assert_eq!(world.call_bytes(&client, &request), response);
    }
}

#[test]
fn neither_family_is_508_and_leaves_nothing_behind() {
    let mut world = World::new();
    world.net.fail = Some(turnserver::proto::OpenError::NoPort);
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        additional(b);
    });
    assert_eq!(response.code(), 508);
    world.assert_empty();
}

#[test]
fn additional_ipv4_is_400_and_so_is_an_unknown_family() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    for family in [V4, 0, 3] {
        let response = world.call(&mut client, Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, family);
        });
        assert_eq!(response.code(), 400);
    }
    world.assert_empty();
}

#[test]
fn both_families_relay_by_their_own_address() {
    let (mut world, mut client, response) = dual();
    let peers = [addr("192.0.2.50:9"), addr("[2001:db8:2::5]:9")];
    assert_eq!(world.permit(&mut client, &peers).code(), 0);
    for (relayed, peer) in response.relayed().into_iter().zip(peers) {
        let outcome = world.send(&mut client, peer, b"up");
        assert_eq!(outcome.to_peer(), (peer, &b"up"[..]));
        let Outcome::ToPeer { relay, .. } = outcome else {
            unreachable!("checked above");
        };
        assert_eq!((0, relay), world.relay_of(relayed));
        let outcome = world.arrive(relayed, peer, b"down");
        assert_eq!(outcome.indication(), (peer, &b"down"[..]));
    }
}

#[test]
fn refresh_may_delete_one_half_and_leaves_the_other() {
    for (family, gone, left) in [(V4, 0, 1), (V6, 1, 0)] {
        let (mut world, mut client, response) = dual();
        let relayed = response.relayed();
        let peers = [addr("192.0.2.50:9"), addr("[2001:db8:2::5]:9")];
        world.permit(&mut client, &peers);
        world.bind(&mut client, 0x4000, peers[gone]);
        let (shard, relay) = world.relay_of(relayed[gone]);
        let response = refresh_half(&mut world, &mut client, family, 0);
        assert_eq!((response.code(), response.lifetime()), (0, 0));
        // Silent at once, the port is free, and its peers are strangers.
        let outcome = world.from_peer(shard, relay, peers[gone], b"x");
        assert_eq!(outcome.drop_reason(), DropReason::NoRelay);
        assert_eq!(world.net.leases.len(), 1);
        let outcome = world.channel(&client, 0x4000, b"x");
        assert_eq!(outcome.drop_reason(), DropReason::NoChannel);
        assert_eq!(world.permit(&mut client, &[peers[gone]]).code(), 443);
        // Its half cannot be refreshed any more, the other one can.
        assert_eq!(
            refresh_half(&mut world, &mut client, family, 600).code(),
            443
        );
        let outcome = world.arrive(relayed[left], peers[left], b"here");
        assert_eq!(outcome.indication().1, b"here");
        assert_eq!(world.refresh(&mut client, 600).code(), 0);
        // The summary still names both.
        world.refresh(&mut client, 0);
        let ended = world.audits.iter().find_map(|audit| match audit {
            Audit::Ended { relayed, .. } => Some(relayed.clone()),
            _ => None,
        });
        assert_eq!(ended, Some(relayed));
        world.assert_empty();
    }
}

#[test]
fn the_halves_expire_by_themselves() {
    let (mut world, mut client, response) = dual();
    let relayed = response.relayed();
    assert_eq!(refresh_half(&mut world, &mut client, V6, 1200).code(), 0);
    world.pass(601.0);
    assert_eq!(world.net.leases.len(), 1);
    client.nonce = world.fresh_nonce(&client.flow, true);
    assert_eq!(
        world.permit(&mut client, &[addr("192.0.2.50:9")]).code(),
        443
    );
    let peer = addr("[2001:db8:2::5]:9");
    assert_eq!(world.permit(&mut client, &[peer]).code(), 0);
    assert_eq!(world.arrive(relayed[1], peer, b"x").indication().0, peer);
    world.pass(600.0);
    world.assert_empty();
}

#[test]
fn a_refresh_without_family_means_both_halves() {
    let (mut world, mut client, _) = dual();
    world.pass(500.0);
    assert_eq!(world.refresh(&mut client, 600).code(), 0);
    world.pass(500.0);
    assert_eq!(world.net.leases.len(), 2);
    client.nonce = world.fresh_nonce(&client.flow, true);
    assert_eq!(world.refresh(&mut client, 0).code(), 0);
    world.assert_empty();
}

#[test]
fn channel_numbers_are_shared_by_both_halves() {
    let (mut world, mut client, _) = dual();
    assert_eq!(
        world.bind(&mut client, 0x4000, addr("192.0.2.50:9")).code(),
        0
    );
    let v6 = addr("[2001:db8:2::5]:9");
    assert_eq!(world.bind(&mut client, 0x4000, v6).code(), 400);
    assert_eq!(world.bind(&mut client, 0x4001, v6).code(), 0);
}

#[test]
fn both_halves_wait_for_their_sockets_and_abort_together() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(stream_flow("192.0.2.1:5000", 9), &user);
    world.net.defer = true;
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        additional(b);
    });
    assert_eq!(world.receive(0, &client.flow, &request), Outcome::Waiting);
    world.close_flow(0, &client.flow);
    world.open_deferred();
    assert!(world.answers.is_empty());
    world.assert_empty();
}
