//! Address families: RFC 8656 sections 7.2, 10.2, 12.2.

use turnserver::proto::{DefaultFamily, DropReason, Family};
use turnserver::wire::{Method, attr};

use crate::harness::*;

fn world_with(default_family: DefaultFamily, relays: Vec<(&'static str, &'static str)>) -> World {
    Setup {
        default_family,
        relays,
        ..Setup::default()
    }
    .world()
}

fn both() -> Vec<(&'static str, &'static str)> {
    Setup::default().relays
}

fn allocated_family(world: &mut World, client: &str, requested: Option<u8>) -> Result<u8, u16> {
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow(client), &user);
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        if let Some(family) = requested {
            b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
        }
    });
    match response.code() {
        0 => Ok(if response.relayed()[0].is_ipv4() {
            1
        } else {
            2
        }),
        code => Err(code),
    }
}

#[test]
fn without_a_family_attribute_the_relayed_address_is_ipv4() {
    let mut world = World::new();
    for client in ["192.0.2.1:5000", "[2001:db8:9::1]:5000"] {
        assert_eq!(allocated_family(&mut world, client, None), Ok(1));
    }
}

#[test]
fn the_default_family_can_be_the_clients_or_a_fixed_one() {
    let mut world = world_with(DefaultFamily::Client, both());
    assert_eq!(allocated_family(&mut world, "192.0.2.1:5000", None), Ok(1));
    let v6 = "[2001:db8:9::1]:5000";
    assert_eq!(allocated_family(&mut world, v6, None), Ok(2));
    let mut world = world_with(DefaultFamily::Fixed(Family::V6), both());
    assert_eq!(allocated_family(&mut world, "192.0.2.1:5000", None), Ok(2));
}

#[test]
fn the_requested_family_is_given() {
    let mut world = World::new();
    for (port, family) in [(1, 1), (2, 2)] {
        let client = format!("192.0.2.1:{port}");
        assert_eq!(
            allocated_family(&mut world, &client, Some(family)),
            Ok(family)
        );
    }
}

#[test]
fn a_family_that_the_server_does_not_have_is_440() {
    let v4 = || vec![(LOCAL_V4, PUBLIC_V4)];
    let v6 = || vec![(LOCAL_V6, PUBLIC_V6)];
    let fixed = DefaultFamily::Fixed(Family::V4);
    let client = "192.0.2.1:5000";
    let mut world = world_with(fixed, v4());
    assert_eq!(allocated_family(&mut world, client, Some(2)), Err(440));
    assert_eq!(allocated_family(&mut world, client, Some(3)), Err(440));
    assert_eq!(allocated_family(&mut world, client, Some(0)), Err(440));
    assert_eq!(allocated_family(&mut world, client, Some(1)), Ok(1));
    let mut world = world_with(fixed, v6());
    assert_eq!(allocated_family(&mut world, client, None), Err(440));
    assert_eq!(allocated_family(&mut world, client, Some(2)), Ok(2));
}

#[test]
fn both_family_attributes_are_400() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    for (requested, additional) in [(1, 2), (2, 2), (1, 1)] {
        let response = world.call(&mut client, Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, requested);
            b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, additional);
        });
        assert_eq!(response.code(), 400);
    }
}

#[test]
fn a_peer_of_the_other_family_is_443() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    for (port, family, wrong) in [
        (1, 1, "[2001:db8:2::5]:9"),
        (2, 2, "192.0.2.50:9"),
        // What counts is the family on the wire.
        (3, 1, "[::ffff:192.0.2.50]:9"),
    ] {
        let mut client = world.client(flow(&format!("192.0.2.1:{port}")), &user);
        world.allocate_with(&mut client, |b| {
            b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
        });
        assert_eq!(world.permit(&mut client, &[addr(wrong)]).code(), 443);
        assert_eq!(world.bind(&mut client, 0x4000, addr(wrong)).code(), 443);
        let outcome = world.send(&mut client, addr(wrong), b"x");
        assert_eq!(outcome.drop_reason(), DropReason::PeerFamily);
    }
}

#[test]
fn relaying_works_over_ipv6_with_48_bytes_in_front() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("[2001:db8:9::1]:5000"), &user);
    let response = world.allocate_with(&mut client, |b| {
        b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, 2);
    });
    let relayed = response.relayed()[0];
    let peer = addr("[2001:db8:2::5]:9");
    assert_eq!(world.permit(&mut client, &[peer]).code(), 0);
    assert_eq!(
        world.send(&mut client, peer, b"up").to_peer(),
        (peer, &b"up"[..])
    );
    let outcome = world.arrive(relayed, peer, b"down");
    assert_eq!(outcome.indication(), (peer, &b"down"[..]));
    let Outcome::ToClient { bytes, .. } = outcome else {
        unreachable!("checked above");
    };
    assert_eq!(bytes.len(), 48 + 4);
    // Flow label and scope are no part of a transport address.
    let mut scoped = peer;
    if let std::net::SocketAddr::V6(scoped) = &mut scoped {
        scoped.set_flowinfo(77);
        scoped.set_scope_id(3);
    }
    world.bind(&mut client, 0x4000, peer);
    assert_eq!(world.arrive(relayed, scoped, b"x").channel().0, 0x4000);
}
