//! Channels: RFC 8656 section 12.

use std::net::SocketAddr;

use turnserver::proto::{CHANNEL_LIFETIME, DropReason};
use turnserver::wire::{Method, attr};

use crate::harness::*;

fn allocated() -> (World, Client, SocketAddr) {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world
        .allocate_with(&mut client, |b| {
            b.u32(attr::LIFETIME, 3600);
        })
        .relayed()[0];
    (world, client, relayed)
}

const PEER: &str = "192.0.2.50:9";

fn renew(world: &World, client: &mut Client) {
    client.nonce = world.fresh_nonce(&client.flow, true);
}

#[test]
fn only_0x4000_to_0x4fff_can_be_bound() {
    let (mut world, mut client, _) = allocated();
    for number in [0, 1, 0x3FFF, 0x5000, 0x7FFF, 0x8000, 0xFFFF] {
        let response = world.bind(&mut client, number, addr(PEER));
        assert_eq!(response.code(), 400, "{number:#x}");
    }
    assert_eq!(world.bind(&mut client, 0x4000, addr(PEER)).code(), 0);
    assert_eq!(
        world.bind(&mut client, 0x4FFF, addr("192.0.2.51:9")).code(),
        0
    );
}

#[test]
fn numbers_of_rfc_5766_are_for_old_clients_and_only_by_configuration() {
    use turnserver::wire::PasswordAlgorithm;
    for (configured, algorithm, code) in [
        (false, None, 400),
        (false, Some(PasswordAlgorithm::Md5), 400),
        (true, None, 0),
        // Whoever knows RFC 8489 knows where the numbers end.
        (true, Some(PasswordAlgorithm::Md5), 400),
    ] {
        let mut world = Setup {
            rfc5766_channels: configured,
            ..Setup::default()
        }
        .world();
        let user = world.setup.users[0].clone();
        let mut client = world.client(flow("192.0.2.1:5000"), &user);
        client.algorithm = algorithm;
        let relayed = world.allocate(&mut client);
        for number in [0x5000, 0x7FFF] {
            assert_eq!(world.bind(&mut client, number, addr(PEER)).code(), code);
            if code == 0 {
                let outcome = world.channel(&client, number, b"x");
                assert_eq!(outcome.to_peer().0, addr(PEER));
                assert_eq!(world.arrive(relayed, addr(PEER), b"x").channel().0, number);
                world.refresh(&mut client, 0);
                break;
            }
        }
        assert_ne!(world.bind(&mut client, 0x8000, addr(PEER)).code(), 0);
    }
}

#[test]
fn a_missing_or_malformed_attribute_is_400() {
    let (mut world, mut client, _) = allocated();
    let mut ask = |number: Option<&[u8]>, peer: Option<&[u8]>| {
        world
            .call(&mut client, Method::CHANNEL_BIND, |b| {
                if let Some(value) = number {
                    b.attribute(attr::CHANNEL_NUMBER, value);
                }
                if let Some(value) = peer {
                    b.attribute(attr::XOR_PEER_ADDRESS, value);
                }
            })
            .code()
    };
    // 192.0.2.50:9 under the cookie.
    let peer: &[u8] = &[0, 1, 0x21, 0x1B, 0xE1, 0x12, 0xA6, 0x70];
    let number: &[u8] = &[0x40, 0, 0, 0];
    assert_eq!(ask(None, None), 400);
    assert_eq!(ask(Some(number), None), 400);
    assert_eq!(ask(None, Some(peer)), 400);
    assert_eq!(ask(Some(&[0x40, 0]), Some(peer)), 400);
    assert_eq!(ask(Some(number), Some(&peer[..7])), 400);
    assert_eq!(ask(Some(number), Some(&[0, 7, 0, 0, 0, 0, 0, 0])), 400);
    assert_eq!(ask(Some(number), Some(peer)), 0);
}

#[test]
fn a_channel_is_bound_to_ip_and_port() {
    let (mut world, mut client, relayed) = allocated();
    world.bind(&mut client, 0x4000, addr(PEER));
    let outcome = world.channel(&client, 0x4000, b"up");
    assert_eq!(outcome.to_peer(), (addr(PEER), &b"up"[..]));
    assert_eq!(
        world.arrive(relayed, addr(PEER), b"x").channel(),
        (0x4000, &b"x"[..])
    );
    // Another port of the same IP has the permission, but not the channel.
    let other = addr("192.0.2.50:10");
    assert_eq!(world.arrive(relayed, other, b"x").indication().0, other);
}

#[test]
fn a_bound_channel_is_used_towards_the_client_never_an_indication() {
    let (mut world, mut client, relayed) = allocated();
    world.permit(&mut client, &[addr(PEER)]);
    world.arrive(relayed, addr(PEER), b"x").indication();
    world.bind(&mut client, 0x4000, addr(PEER));
    world.arrive(relayed, addr(PEER), b"x").channel();
    // Send goes on working next to the channel.
    let outcome = world.send(&mut client, addr(PEER), b"y");
    assert_eq!(outcome.to_peer(), (addr(PEER), &b"y"[..]));
}

#[test]
fn rebinding_the_same_pair_refreshes_and_anything_else_is_400() {
    let (mut world, mut client, _) = allocated();
    let other = addr("192.0.2.50:10");
    assert_eq!(world.bind(&mut client, 0x4000, addr(PEER)).code(), 0);
    assert_eq!(world.bind(&mut client, 0x4000, addr(PEER)).code(), 0);
    // Same number for another peer; another number for the same peer.
    assert_eq!(world.bind(&mut client, 0x4000, other).code(), 400);
    assert_eq!(world.bind(&mut client, 0x4001, addr(PEER)).code(), 400);
    assert_eq!(world.bind(&mut client, 0x4001, other).code(), 0);
    assert_eq!(world.bind(&mut client, 0x4001, addr(PEER)).code(), 400);
    assert_eq!(world.bind(&mut client, 0x4000, other).code(), 400);
    // None of the refused ones changed anything.
    assert_eq!(world.channel(&client, 0x4000, b"x").to_peer().0, addr(PEER));
    assert_eq!(world.channel(&client, 0x4001, b"x").to_peer().0, other);
}

#[test]
fn a_channel_lasts_exactly_600_s_and_then_number_and_peer_are_free() {
    assert_eq!(CHANNEL_LIFETIME, 600);
    let (mut world, mut client, _) = allocated();
    let other = addr("192.0.2.51:9");
    world.bind(&mut client, 0x4000, addr(PEER));
    world.pass_micros(600 * 1_000_000 - 1);
    renew(&world, &mut client);
    assert_eq!(world.channel(&client, 0x4000, b"x").to_peer().0, addr(PEER));
    assert_eq!(world.bind(&mut client, 0x4000, other).code(), 400);
    world.pass_micros(1);
    let outcome = world.channel(&client, 0x4000, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoChannel);
    assert_eq!(world.bind(&mut client, 0x4000, other).code(), 0);
    assert_eq!(world.bind(&mut client, 0x4001, addr(PEER)).code(), 0);
    assert_eq!(world.channel(&client, 0x4000, b"x").to_peer().0, other);
    assert_eq!(world.channel(&client, 0x4001, b"x").to_peer().0, addr(PEER));
}

#[test]
fn a_bind_refreshes_the_permission_for_300_s() {
    let (mut world, mut client, relayed) = allocated();
    world.permit(&mut client, &[addr(PEER)]);
    world.pass(200.0);
    world.bind(&mut client, 0x4000, addr(PEER));
    world.pass(299.999);
    world.arrive(relayed, addr(PEER), b"x").channel();
    world.pass(0.001);
    let outcome = world.arrive(relayed, addr(PEER), b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
}

#[test]
fn an_idle_channel_outlives_its_permission_and_inbound_data_needs_both() {
    let (mut world, mut client, relayed) = allocated();
    world.bind(&mut client, 0x4000, addr(PEER));
    world.pass(300.0);
    let outcome = world.arrive(relayed, addr(PEER), b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
    // RFC 8656 section 12.6 asks for nothing but the channel on the way out.
    assert_eq!(world.channel(&client, 0x4000, b"x").to_peer().0, addr(PEER));
    // CreatePermission brings the inbound direction back, still as ChannelData.
    world.permit(&mut client, &[addr("192.0.2.50:0")]);
    assert_eq!(world.arrive(relayed, addr(PEER), b"x").channel().0, 0x4000);
}

#[test]
fn data_refreshes_neither_channel_nor_permission() {
    let (mut world, mut client, relayed) = allocated();
    world.bind(&mut client, 0x4000, addr(PEER));
    for _ in 0..30 {
        world.channel(&client, 0x4000, b"x").to_peer();
        world.arrive(relayed, addr(PEER), b"x").channel();
        world.pass(10.0);
    }
    let outcome = world.arrive(relayed, addr(PEER), b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
    for _ in 0..30 {
        world.channel(&client, 0x4000, b"x").to_peer();
        world.pass(10.0);
    }
    let outcome = world.channel(&client, 0x4000, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoChannel);
}

#[test]
fn unbound_and_reserved_numbers_are_dropped_in_silence() {
    let (mut world, mut client, _) = allocated();
    world.bind(&mut client, 0x4000, addr(PEER));
    for number in [0x4001, 0x4FFF, 0x5000, 0x7FFF] {
        let outcome = world.channel(&client, number, b"x");
        assert_eq!(outcome.drop_reason(), DropReason::NoChannel);
    }
    for number in [0x8000, 0xFFFE] {
        let outcome = world.channel(&client, number, b"x");
        assert_eq!(outcome.drop_reason(), DropReason::Malformed);
    }
}

#[test]
fn channel_data_shorter_than_its_length_is_dropped_and_longer_tolerated_over_udp() {
    let (mut world, mut client, _) = allocated();
    world.bind(&mut client, 0x4000, addr(PEER));
    let whole = channel_data(0x4000, b"12345");
    for len in 4..whole.len() {
        let outcome = world.receive(0, &client.flow, &whole[..len]);
        assert_eq!(outcome.drop_reason(), DropReason::Malformed);
    }
    let trailing = [&whole[..], &[9; 7]].concat();
    let outcome = world.receive(0, &client.flow, &trailing);
    assert_eq!(outcome.to_peer().1, b"12345");
}

#[test]
fn empty_channel_data_becomes_an_empty_datagram_both_ways() {
    let (mut world, mut client, relayed) = allocated();
    world.bind(&mut client, 0x4000, addr(PEER));
    assert_eq!(world.channel(&client, 0x4000, b"").to_peer().1, b"");
    let outcome = world.arrive(relayed, addr(PEER), b"");
    assert_eq!(outcome.channel(), (0x4000, &b""[..]));
    let Outcome::ToClient { bytes, .. } = outcome else {
        unreachable!("checked above");
    };
    assert_eq!(bytes, [0x40, 0, 0, 0]);
}

#[test]
fn channel_data_is_padded_with_zeros_on_streams_only() {
    for stream in [false, true] {
        let mut world = World::new();
        let user = world.setup.users[0].clone();
        let flow = if stream {
            stream_flow("192.0.2.1:5000", 1)
        } else {
            flow("192.0.2.1:5000")
        };
        let mut client = world.client(flow, &user);
        let relayed = world.allocate(&mut client);
        world.bind(&mut client, 0x4000, addr(PEER));
        for len in 0..9 {
            let data = vec![0xEE; len];
            let Outcome::ToClient { bytes, .. } = world.arrive(relayed, addr(PEER), &data) else {
                panic!("not relayed");
            };
            let mut expected = channel_data(0x4000, &data);
            if stream {
                // The padding is not in the length.
                expected.resize(4 + len.next_multiple_of(4), 0);
            }
            assert_eq!(bytes, expected);
        }
        // Towards the server padding may be there or not.
        let mut padded = channel_data(0x4000, b"12345");
        assert_eq!(
            world.receive(0, &client.flow, &padded).to_peer().1,
            b"12345"
        );
        padded.resize(12, 0);
        assert_eq!(
            world.receive(0, &client.flow, &padded).to_peer().1,
            b"12345"
        );
    }
}

#[test]
fn more_channels_than_the_limit_are_508() {
    let mut setup = Setup::default();
    setup.limits.channels_per_allocation = 2;
    let mut world = setup.world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    world.allocate_with(&mut client, |b| {
        b.u32(attr::LIFETIME, 3600);
    });
    let peers = [
        addr("192.0.2.50:1"),
        addr("192.0.2.50:2"),
        addr("192.0.2.50:3"),
    ];
    assert_eq!(world.bind(&mut client, 0x4000, peers[0]).code(), 0);
    assert_eq!(world.bind(&mut client, 0x4001, peers[1]).code(), 0);
    assert_eq!(world.bind(&mut client, 0x4002, peers[2]).code(), 508);
    assert_eq!(world.bind(&mut client, 0x4001, peers[1]).code(), 0);
    world.pass(600.0);
    renew(&world, &mut client);
    assert_eq!(world.bind(&mut client, 0x4002, peers[2]).code(), 0);
}

#[test]
fn every_channel_number_can_be_bound_at_once() {
    let mut setup = Setup::default();
    setup.limits.channels_per_allocation = 0;
    let mut world = setup.world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world.allocate(&mut client);
    let peer = |number: u16| addr(&format!("192.0.2.50:{}", 1 + number - 0x4000));
    for number in 0x4000..=0x4FFF {
        assert_eq!(world.bind(&mut client, number, peer(number)).code(), 0);
    }
    for number in 0x4000..=0x4FFF {
        assert_eq!(
            world.channel(&client, number, b"x").to_peer().0,
            peer(number)
        );
        assert_eq!(
            world.arrive(relayed, peer(number), b"x").channel().0,
            number
        );
    }
}

#[test]
fn port_0_cannot_be_bound() {
    let (mut world, mut client, _) = allocated();
    assert_eq!(
        world.bind(&mut client, 0x4000, addr("192.0.2.50:0")).code(),
        403
    );
}

#[test]
fn a_refresh_of_a_channel_renews_its_600_s() {
    let (mut world, mut client, _) = allocated();
    world.bind(&mut client, 0x4000, addr(PEER));
    world.pass(500.0);
    renew(&world, &mut client);
    assert_eq!(world.bind(&mut client, 0x4000, addr(PEER)).code(), 0);
    world.pass_micros(600 * 1_000_000 - 1);
    assert_eq!(world.channel(&client, 0x4000, b"x").to_peer().0, addr(PEER));
    world.pass_micros(1);
    let outcome = world.channel(&client, 0x4000, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoChannel);
}
