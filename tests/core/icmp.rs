//! ICMP errors about relayed datagrams: RFC 8656 section 11.5.

use std::net::SocketAddr;

use turnserver::proto::{DropReason, IcmpError};
use turnserver::wire::{Class, Icmp, Message, Method, attr};

use crate::harness::*;

const PEER: &str = "192.0.2.50:9";

fn permitted() -> (World, Client, SocketAddr) {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world.allocate(&mut client);
    world.permit(&mut client, &[addr(PEER)]);
    (world, client, relayed)
}

fn error(destination: &str, icmp_type: u8, code: u8, data: u32) -> IcmpError {
    IcmpError {
        destination: addr(destination),
        icmp_type,
        code,
        data,
    }
}

fn forwarded(
    world: &mut World,
    relayed: SocketAddr,
    error: IcmpError,
) -> Option<(SocketAddr, Icmp)> {
    let (shard, relay) = world.relay_of(relayed);
    match world.icmp(shard, relay, error) {
        Outcome::Reply { bytes, .. } => {
            let message = Message::parse(&bytes).expect("a message");
            assert_eq!(
                (message.class(), message.method()),
                (Class::Indication, Method::DATA)
            );
            assert_eq!(message.integrity(), None);
            let attrs = message.unprotected();
            assert!(!attrs.contains(attr::DATA));
            let peer = attrs.peer().expect("well-formed").expect("a peer");
            Some((peer, attrs.icmp().expect("well-formed").expect("ICMP")))
        }
        Outcome::Drop(_) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unreachable_and_time_exceeded_are_forwarded_with_type_code_and_mtu() {
    let (mut world, client, relayed) = permitted();
    for (icmp_type, code, data) in [(3, 3, 0), (3, 4, 1280), (11, 0, 0)] {
        let (shard, relay) = world.relay_of(relayed);
        let outcome = world.icmp(shard, relay, error(PEER, icmp_type, code, data));
        assert_eq!(outcome.to_flow(), client.flow);
        let (peer, icmp) =
            forwarded(&mut world, relayed, error(PEER, icmp_type, code, data)).expect("forwarded");
        assert_eq!(peer, addr(PEER));
        let expected = Icmp {
            icmp_type,
            code: u16::from(code),
            data,
        };
        assert_eq!(icmp, expected);
    }
    assert_eq!(world.snapshot().icmp_forwarded, 6);
}

#[test]
fn other_types_are_not_forwarded() {
    let (mut world, _, relayed) = permitted();
    for icmp_type in (0..=255).filter(|ty| ![3, 11].contains(ty)) {
        let (shard, relay) = world.relay_of(relayed);
        let outcome = world.icmp(shard, relay, error(PEER, icmp_type, 0, 0));
        assert_eq!(outcome.drop_reason(), DropReason::Icmp, "type {icmp_type}");
    }
}

#[test]
fn for_ipv6_types_1_2_and_3_are_forwarded() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world
        .allocate_with(&mut client, |b| {
            b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, 2);
        })
        .relayed()[0];
    let peer = "[2001:db8:2::5]:9";
    world.permit(&mut client, &[addr(peer)]);
    for icmp_type in 0..=255 {
        let told = forwarded(&mut world, relayed, error(peer, icmp_type, 1, 1400));
        assert_eq!(
            told.is_some(),
            [1, 2, 3].contains(&icmp_type),
            "{icmp_type}"
        );
        if let Some((from, icmp)) = told {
            assert_eq!(
                (from, icmp.icmp_type, icmp.data),
                (addr(peer), icmp_type, 1400)
            );
        }
    }
}

#[test]
fn a_permission_for_the_destination_is_needed() {
    let (mut world, mut client, relayed) = permitted();
    let (shard, relay) = world.relay_of(relayed);
    let outcome = world.icmp(shard, relay, error("192.0.2.51:9", 3, 3, 0));
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
    // The port does not matter, the time does.
    assert!(forwarded(&mut world, relayed, error("192.0.2.50:77", 3, 3, 0)).is_some());
    world.bind(&mut client, 0x4000, addr(PEER));
    world.pass(300.0);
    let outcome = world.icmp(shard, relay, error(PEER, 3, 3, 0));
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
}

#[test]
fn an_indication_is_used_even_where_a_channel_is_bound() {
    let (mut world, mut client, relayed) = permitted();
    world.bind(&mut client, 0x4000, addr(PEER));
    assert!(forwarded(&mut world, relayed, error(PEER, 3, 1, 0)).is_some());
}

#[test]
fn an_icmp_error_never_ends_the_allocation() {
    let (mut world, mut client, relayed) = permitted();
    for code in 0..16 {
        forwarded(&mut world, relayed, error(PEER, 3, code, 0));
    }
    assert_eq!(
        world.send(&mut client, addr(PEER), b"x").to_peer().0,
        addr(PEER)
    );
    assert_eq!(
        world.arrive(relayed, addr(PEER), b"x").indication().0,
        addr(PEER)
    );
    let (shard, relay) = world.relay_of(relayed);
    world.refresh(&mut client, 0);
    let outcome = world.icmp(shard, relay, error(PEER, 3, 3, 0));
    assert_eq!(outcome.drop_reason(), DropReason::NoRelay);
}
