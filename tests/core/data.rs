//! Send and Data indications, limits of the relayed path: RFC 8656 section 11.

use std::net::SocketAddr;

use turnserver::proto::DropReason;
use turnserver::wire::{Class, Integrity, Message, Method, attr};

use crate::harness::*;

const PEER: &str = "192.0.2.50:9";

fn permitted(flow: turnserver::proto::Flow) -> (World, Client, SocketAddr) {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow, &user);
    let relayed = world.allocate(&mut client);
    world.permit(&mut client, &[addr(PEER)]);
    (world, client, relayed)
}

fn udp() -> (World, Client, SocketAddr) {
    permitted(flow("192.0.2.1:5000"))
}

#[test]
fn send_relays_the_value_of_data_without_padding() {
    let (mut world, mut client, relayed) = udp();
    for len in 0..9 {
        let data = vec![7; len];
        let outcome = world.send(&mut client, addr(PEER), &data);
        assert_eq!(outcome.to_peer(), (addr(PEER), &data[..]));
        let Outcome::ToPeer {
            relay,
            dont_fragment,
            ..
        } = outcome
        else {
            unreachable!("checked above");
        };
        assert_eq!((0, relay), world.relay_of(relayed));
        assert!(!dont_fragment);
    }
}

#[test]
fn send_needs_peer_and_data() {
    let (mut world, client, _) = udp();
    let indication = |peer: bool, data: bool| {
        plain(Class::Indication, Method::SEND, |b| {
            if peer {
                b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER));
            }
            if data {
                b.attribute(attr::DATA, b"x");
            }
        })
    };
    for (peer, data) in [(false, false), (true, false), (false, true)] {
        let outcome = world.receive(0, &client.flow, &indication(peer, data));
        assert_eq!(outcome.drop_reason(), DropReason::Malformed);
    }
    let outcome = world.receive(0, &client.flow, &indication(true, true));
    assert_eq!(outcome.to_peer().1, b"x");
}

#[test]
fn a_malformed_or_unknown_attribute_drops_the_indication_without_a_reply() {
    let (mut world, client, _) = udp();
    for (ty, value, reason) in [
        (0x7F01, &b""[..], DropReason::UnknownAttribute),
        (attr::DONT_FRAGMENT, b"x", DropReason::Malformed),
    ] {
        let bytes = plain(Class::Indication, Method::SEND, |b| {
            b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER));
            b.attribute(attr::DATA, b"x");
            b.attribute(ty, value);
        });
        assert_eq!(world.receive(0, &client.flow, &bytes).drop_reason(), reason);
    }
    let bytes = plain(Class::Indication, Method::SEND, |b| {
        b.attribute(attr::XOR_PEER_ADDRESS, &[0, 1, 0]);
        b.attribute(attr::DATA, b"x");
    });
    let outcome = world.receive(0, &client.flow, &bytes);
    assert_eq!(outcome.drop_reason(), DropReason::Malformed);
}

#[test]
fn send_without_permission_or_to_port_0_is_dropped() {
    let (mut world, mut client, _) = udp();
    let outcome = world.send(&mut client, addr("192.0.2.51:9"), b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
    let outcome = world.send(&mut client, addr("192.0.2.50:0"), b"x");
    assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
}

#[test]
fn dont_fragment_in_send_is_carried_out() {
    let (mut world, client, _) = udp();
    let bytes = plain(Class::Indication, Method::SEND, |b| {
        b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER));
        b.empty(attr::DONT_FRAGMENT);
        b.attribute(attr::DATA, b"x");
    });
    let outcome = world.receive(0, &client.flow, &bytes);
    assert!(matches!(
        outcome,
        Outcome::ToPeer {
            dont_fragment: true,
            ..
        }
    ));
}

#[test]
fn indications_need_no_integrity_and_one_that_has_it_is_not_refused_for_it() {
    let (mut world, client, _) = udp();
    let bytes = plain(Class::Indication, Method::SEND, |b| {
        b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER));
        b.attribute(attr::DATA, b"x");
        b.integrity(Integrity::Sha1, client.key());
    });
    assert_eq!(world.receive(0, &client.flow, &bytes).to_peer().1, b"x");
    // But nothing behind the integrity is looked at.
    let bytes = plain(Class::Indication, Method::SEND, |b| {
        b.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER));
        b.integrity(Integrity::Sha1, client.key());
        b.attribute(attr::DATA, b"x");
    });
    let outcome = world.receive(0, &client.flow, &bytes);
    assert_eq!(outcome.drop_reason(), DropReason::Malformed);
}

#[test]
fn a_data_indication_names_the_peer_and_is_padded_with_zeros() {
    let (mut world, _, relayed) = udp();
    for len in 0..9 {
        let data = vec![0xEE; len];
        let outcome = world.arrive(relayed, addr(PEER), &data);
        assert_eq!(outcome.indication(), (addr(PEER), &data[..]));
        let Outcome::ToClient { bytes, .. } = outcome else {
            unreachable!("checked above");
        };
        assert_eq!(bytes.len(), 36 + len.next_multiple_of(4));
        assert!(bytes[36 + len..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn data_indications_have_different_transaction_ids() {
    let (mut world, _, relayed) = udp();
    let mut ids: Vec<_> = (0..1000)
        .map(|_| {
            let Outcome::ToClient { bytes, .. } = world.arrive(relayed, addr(PEER), b"x") else {
                panic!("not relayed");
            };
            Message::parse(&bytes).expect("a message").transaction_id()
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
}

#[test]
fn stun_inside_the_relay_is_payload() {
    let (mut world, mut client, relayed) = udp();
    let check = plain(Class::Request, Method::BINDING, |b| {
        b.attribute(attr::USERNAME, b"ice:ice");
        b.fingerprint();
    });
    let outcome = world.arrive(relayed, addr(PEER), &check);
    assert_eq!(outcome.indication().1, check);
    world.bind(&mut client, 0x4000, addr(PEER));
    assert_eq!(world.arrive(relayed, addr(PEER), &check).channel().1, check);
    // And whatever a peer sends, it never speaks to the server.
    for bytes in [channel_data(0x4000, b"x"), vec![], vec![0xFF; 20]] {
        assert_eq!(world.arrive(relayed, addr(PEER), &bytes).channel().1, bytes);
    }
}

#[test]
fn a_datagram_for_a_socket_that_is_gone_is_dropped() {
    let (mut world, mut client, relayed) = udp();
    let (shard, relay) = world.relay_of(relayed);
    world.refresh(&mut client, 0);
    let outcome = world.from_peer(shard, relay, addr(PEER), b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoRelay);
}

#[test]
fn a_peer_that_cannot_be_answered_is_dropped() {
    let (mut world, mut client, relayed) = udp();
    world.bind(&mut client, 0x4000, addr(PEER));
    for source in [
        "192.0.2.50:0",
        "0.0.0.0:9",
        "224.0.0.1:9",
        "255.255.255.255:9",
    ] {
        let outcome = world.arrive(relayed, addr(source), b"x");
        assert_eq!(outcome.drop_reason(), DropReason::BadSource, "{source}");
    }
}

#[test]
fn what_does_not_fit_a_datagram_is_dropped() {
    // Over UDP a Data indication has 36 bytes in front; ChannelData has 4.
    let (mut world, mut client, relayed) = udp();
    let (shard, relay) = world.relay_of(relayed);
    let big = vec![1; 65_507];
    let arrive =
        |world: &mut World, len: usize| world.from_peer(shard, relay, addr(PEER), &big[..len]);
    assert_eq!(arrive(&mut world, 65_468).indication().1.len(), 65_468);
    assert_eq!(
        arrive(&mut world, 65_472).drop_reason(),
        DropReason::TooLarge
    );
    world.bind(&mut client, 0x4000, addr(PEER));
    assert_eq!(arrive(&mut world, 65_503).channel().1.len(), 65_503);
    assert_eq!(
        arrive(&mut world, 65_504).drop_reason(),
        DropReason::TooLarge
    );
    // A stream takes them all.
    let (mut world, mut client, relayed) = permitted(stream_flow("192.0.2.1:5000", 1));
    let (shard, relay) = world.relay_of(relayed);
    let outcome = world.from_peer(shard, relay, addr(PEER), &big);
    assert_eq!(outcome.indication().1.len(), 65_507);
    world.bind(&mut client, 0x4000, addr(PEER));
    let outcome = world.from_peer(shard, relay, addr(PEER), &big);
    assert_eq!(outcome.channel().1.len(), 65_507);
    // And from a stream comes more than a datagram takes.
    assert_eq!(
        world.channel(&client, 0x4000, &big).to_peer().1.len(),
        65_507
    );
    let outcome = world.channel(&client, 0x4000, &[2; 65_508]);
    assert_eq!(outcome.drop_reason(), DropReason::TooLarge);
}

#[test]
fn bandwidth_is_limited_in_each_direction_and_what_is_over_is_counted() {
    let mut setup = Setup::default();
    setup.limits.bandwidth_per_allocation = 100_000;
    let mut world = setup.world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world.allocate(&mut client);
    world.bind(&mut client, 0x4000, addr(PEER));
    let data = [0; 1000];
    let (mut up, mut down) = (0, 0);
    for _ in 0..2000 {
        if matches!(
            world.channel(&client, 0x4000, &data),
            Outcome::ToPeer { .. }
        ) {
            up += data.len();
        }
        if matches!(
            world.arrive(relayed, addr(PEER), &data),
            Outcome::ToClient { .. }
        ) {
            down += data.len();
        }
        world.pass(0.005);
    }
    // Ten seconds at the rate, and a second's worth at once.
    for bytes in [up, down] {
        assert!((990_000..=1_101_000).contains(&bytes), "{bytes}");
    }
    let snapshot = world.snapshot();
    assert_eq!(snapshot.bytes_up as usize, up);
    assert_eq!(snapshot.bytes_down as usize, down);
    let dropped = snapshot.dropped(DropReason::Bandwidth) as usize;
    assert_eq!(dropped * data.len() + up + down, 4_000_000);
    // A reload lifts it for allocations that exist.
    world.reload(Setup::default().policy());
    for _ in 0..500 {
        world.channel(&client, 0x4000, &data).to_peer();
    }
}
