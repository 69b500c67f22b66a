//! What a socket refuses harms no other datagram.

use std::net::{SocketAddr, UdpSocket};

use turnserver::proto::DropReason;
use turnserver::wire::{Class, Method};

use super::server;
use crate::net_support::{Client, Link, Reply, Server, eventually, peer, receive_from};

/// A client of the first listener, and its relayed address.
fn allocated(server: &Server) -> (Client, SocketAddr) {
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
    (client, relayed)
}

/// A port of 127.0.0.1 that is closed to all others, as its socket is connected to itself. Nobody
/// gets its number.
fn closed_port() -> (UdpSocket, SocketAddr) {
    let socket = peer("127.0.0.1");
    let address = socket.local_addr().expect("bound");
    socket.connect(address).expect("connected");
    (socket, address)
}

#[test]
fn an_unreachable_peer_is_reported_and_harms_nobody() {
    let server = server(1, &["127.0.0.1:0"]);
    let (mut client, relayed) = allocated(&server);
    let (_closed, gone) = closed_port();
    let good = peer("127.0.0.1");
    client.bind_channel(0x4000, gone);
    client.bind_channel(0x4001, good.local_addr().expect("bound"));
    for round in 0..50_u8 {
        client.send_channel(0x4000, &[round]);
        // RFC 8656 section 11.5: port unreachable comes as a Data indication with ICMP, also
        // on a channel.
        let reply = Reply(client.receive());
        let message = reply.message();
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Method::DATA)
        );
        let attrs = message.unprotected();
        assert_eq!(attrs.peer(), Ok(Some(gone)));
        assert_eq!(attrs.data(), None);
        let icmp = attrs.icmp().expect("well-formed").expect("ICMP");
        assert_eq!((icmp.icmp_type, icmp.code), (3, 3));
        client.send_channel(0x4001, &[round]);
        assert_eq!(receive_from(&good), (vec![round], relayed));
        good.send_to(&[round], relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4001, vec![round]));
    }
    assert_eq!(server.snapshot().dropped(DropReason::SendFailed), 0);
}

#[test]
fn a_storm_of_errors_loses_nothing_that_goes_elsewhere() {
    let server = server(1, &["127.0.0.1:0"]);
    let (mut client, relayed) = allocated(&server);
    let (_closed, gone) = closed_port();
    let good = peer("127.0.0.1");
    client.bind_channel(0x4000, gone);
    client.permit(good.local_addr().expect("bound"));
    let good_address = good.local_addr().expect("bound");
    for round in 0..40_u8 {
        // In one burst, so that an error is queued when the next datagram goes out; with and
        // without DF, so that each is the first one of a system call.
        for number in 0..20_u8 {
            client.send_channel(0x4000, &[round, number]);
            client.send_indication(good_address, &[round, number], true);
        }
        for number in 0..20_u8 {
            assert_eq!(receive_from(&good), (vec![round, number], relayed));
        }
    }
    assert_eq!(server.snapshot().dropped(DropReason::SendFailed), 0);
    assert_eq!(server.shards().allocations(), 1);
}

#[test]
fn a_peer_that_cannot_be_sent_to_is_a_lost_datagram_only() {
    let server = server(1, &["127.0.0.1:0"]);
    let (mut client, relayed) = allocated(&server);
    let good = peer("127.0.0.1");
    client.bind_channel(0x4001, good.local_addr().expect("bound"));
    // From a loopback address the kernel refuses these at once (EINVAL, ENETUNREACH, EACCES).
    let bad = ["192.0.2.1:9", "198.51.100.255:9", "240.0.0.1:9"];
    for (number, bad) in (0x4100..).zip(bad) {
        client.bind_channel(number, bad.parse().expect("an address"));
    }
    for round in 0..20_u8 {
        for number in 0..bad.len() as u16 {
            client.send_channel(0x4100 + number, &[round]);
            client.send_channel(0x4001, &[round]);
        }
        for _ in bad {
            assert_eq!(receive_from(&good), (vec![round], relayed));
        }
    }
    eventually("the refused datagrams are counted", || {
        server.snapshot().dropped(DropReason::SendFailed) == 60
    });
    assert_eq!(client.refresh(600).code(), None);
}

#[test]
fn dont_fragment_mixes_with_ordinary_datagrams_in_order() {
    let server = server(1, &["127.0.0.1:0", "[::1]:0"]);
    for ip in ["127.0.0.1", "::1"] {
        let mut client = Client::udp(server.address(0));
        let peer = peer(ip);
        let address = peer.local_addr().expect("bound");
        let relayed = client.allocate_for(address);
        client.permit(address);
        for number in 0..60_u8 {
            client.send_indication(address, &[number], number % 3 == 0);
        }
        for number in 0..60_u8 {
            assert_eq!(receive_from(&peer), (vec![number], relayed));
        }
    }
}

#[test]
fn garbage_never_stops_binding() {
    let server = server(2, &["127.0.0.1:0"]);
    let mut client = Client::udp(server.address(0));
    let mut seed = 0x9E37_79B9_u32;
    let mut junk = [0; 2048];
    for round in 0..3000_usize {
        for byte in &mut junk {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
        // From plain noise to all but valid messages.
        match round % 4 {
            0 => junk[..8].copy_from_slice(&[0, 1, 0, 200, 0x21, 0x12, 0xA4, 0x42]),
            1 => junk[..8].copy_from_slice(&[0, 3, 7, 0xD0, 0x21, 0x12, 0xA4, 0x42]),
            2 => junk[..4].copy_from_slice(&[0x40, 0, 0xFF, 0xFF]),
            _ => {}
        }
        let Link::Udp(socket) = &client.link else {
            unreachable!("a UDP client");
        };
        socket.send(&junk[..round % junk.len()]).expect("sent");
        if round % 50 == 0 {
            // Some noise is answered; the answer to this request comes in the end.
            let request = client.binding_request();
            client.send(&request);
            while client.receive()[4..20] != request[4..20] {}
        }
    }
}
