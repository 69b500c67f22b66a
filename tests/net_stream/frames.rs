//! Frames are found however a stream is cut, and what is none ends only its connection.

use std::io::Write;
use std::net::SocketAddr;

use rustls::version::TLS13;
use turnserver::net::{Protocol, StreamLimits};

use super::{server, tcp_server, with_tls};
use crate::net_support::{
    Client, Link, Pem, Server, Setup, channel_frame, connect, eventually, listener, peer,
    receive_from,
};

#[test]
fn frames_are_found_at_every_split_point() {
    let server = tcp_server(StreamLimits::default());
    let mut client = Client::tcp(server.address(0));
    let peer = peer("127.0.0.1");
    let relayed = client.allocate();
    client.bind_channel(0x4000, peer.local_addr().expect("bound"));
    let request = client.binding_request();
    let bytes = [
        channel_frame(0x4000, b"first"),
        request.clone(),
        channel_frame(0x4000, b""),
        channel_frame(0x4000, b"last one"),
    ]
    .concat();
    for split in 0..=bytes.len() {
        client.send(&bytes[..split]);
        // The pieces must not travel together: what is complete is answered before the rest.
        if split >= 12 {
            assert_eq!(receive_from(&peer), (b"first".to_vec(), relayed));
        }
        if split >= 12 + request.len() {
            assert_eq!(client.receive()[8..20], request[8..20]);
        }
        client.send(&bytes[split..]);
        if split < 12 {
            assert_eq!(receive_from(&peer), (b"first".to_vec(), relayed));
        }
        if split < 12 + request.len() {
            assert_eq!(client.receive()[8..20], request[8..20]);
        }
        assert_eq!(receive_from(&peer).0, b"");
        assert_eq!(receive_from(&peer).0, b"last one");
    }
    // Byte by byte, too.
    for byte in bytes.chunks(1) {
        client.send(byte);
    }
    assert_eq!(receive_from(&peer).0, b"first");
    assert_eq!(client.receive()[8..20], request[8..20]);
    assert_eq!(receive_from(&peer).0, b"");
    assert_eq!(receive_from(&peer).0, b"last one");
}

#[test]
fn many_frames_in_one_write_all_arrive_in_order() {
    let pem = Pem::new();
    let server = server(vec![with_tls(Protocol::Tcp, &pem)], StreamLimits::default());
    for link in [
        Link::tcp(server.address(0)),
        Link::tls(server.address(0), &pem.cert(), &TLS13),
    ] {
        let mut client = Client::new(link);
        let peer = peer("127.0.0.1");
        client.allocate();
        client.bind_channel(0x4000, peer.local_addr().expect("bound"));
        // More than a turn's share of frames, and more than one read takes.
        for _ in 0..4 {
            let mut bytes = Vec::new();
            for number in 0..300_u32 {
                let data = [&number.to_be_bytes()[..], &vec![7; number as usize % 149]].concat();
                bytes.extend(channel_frame(0x4000, &data));
            }
            client.send(&bytes);
            for number in 0..300_u32 {
                let (data, _) = receive_from(&peer);
                assert_eq!(data[..4], number.to_be_bytes());
                assert_eq!(data.len(), 4 + number as usize % 149);
            }
        }
    }
}

#[test]
fn what_can_never_become_a_frame_closes_that_connection_only() {
    let server = tcp_server(StreamLimits::default());
    let mut good = Client::tcp(server.address(0));
    let junk: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xFF; 64],
        // Not the magic cookie; a length that is not a multiple of 4; reserved channels.
        &[0, 1, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 1, 0, 3, 0x21, 0x12, 0xA4, 0x42],
        &[0x50, 0, 0, 4, 1, 2, 3, 4],
        &[0x80, 0, 0, 0],
    ];
    for junk in junk {
        let mut bad = Client::tcp(server.address(0));
        bad.binding();
        let request = bad.binding_request();
        // What came before it is answered.
        bad.send(&[&request, junk].concat());
        let answer = bad.try_receive();
        if let Some(answer) = answer {
            assert_eq!(answer[8..20], request[8..20]);
            assert_eq!(bad.try_receive(), None, "{junk:?}");
        }
        good.binding();
    }
    eventually("only the good one is left", || {
        let snapshot = server.snapshot();
        snapshot.connections_active == 1
    });
}

#[test]
fn frames_of_one_read_do_not_overwrite_each_other() {
    // One shard, so that data goes from the stream's buffer to the datagrams directly, and the
    // prefix of a Data indication is longer than a whole small frame.
    let server = Server::start(Setup {
        listeners: vec![
            listener(Protocol::Tcp, "127.0.0.1:0"),
            listener(Protocol::Udp, "127.0.0.1:0"),
        ],
        ..Setup::default()
    });
    let mut sender = Client::tcp(server.address(0));
    let from = sender.allocate();
    let mut receivers: Vec<_> = (0..3).map(|_| Client::udp(server.address(1))).collect();
    for (number, receiver) in (0x4000..).zip(&mut receivers) {
        let relayed = receiver.allocate();
        receiver.permit(from);
        sender.bind_channel(number, relayed);
    }
    let outside = peer("127.0.0.1");
    sender.bind_channel(0x4003, outside.local_addr().expect("bound"));
    let mut bytes = Vec::new();
    for number in 0..8_u8 {
        for channel in 0x4000..0x4004 {
            bytes.extend(channel_frame(channel, &[channel as u8, number]));
        }
    }
    sender.send(&bytes);
    for number in 0..8_u8 {
        for (channel, receiver) in (0_u8..).zip(&mut receivers) {
            assert_eq!(receiver.receive_data(), (from, vec![channel, number]));
        }
        assert_eq!(receive_from(&outside).0, [3, number]);
    }
}

/// Connections that are ready together are read into one place, one behind the other.
#[test]
fn connections_that_are_ready_together_keep_their_bytes_apart() {
    let server = Server::start(Setup {
        threads: 1,
        listeners: vec![listener(Protocol::Tcp, "127.0.0.1:0")],
        ..Setup::default()
    });
    let peer = peer("127.0.0.1");
    let mut clients: Vec<(Client, SocketAddr)> = (0..24)
        .map(|_| {
            let mut client = Client::tcp(server.address(0));
            let relayed = client.allocate();
            client.bind_channel(0x4000, peer.local_addr().expect("bound"));
            (client, relayed)
        })
        .collect();
    for round in 0..20 {
        // Two that take more than one place, and many short ones; all in two pieces, so that
        // most have something carried over.
        let payloads: Vec<Vec<u8>> = (0..clients.len())
            .map(|n| {
                let len = match n {
                    5 => 40_000,
                    15 => 30_000,
                    _ => [3, 200, 2500][(n + round) % 3],
                };
                (0..len).map(|at| (at + 7 * n + round) as u8).collect()
            })
            .collect();
        for half in 0..2 {
            for ((client, _), payload) in clients.iter_mut().zip(&payloads) {
                let frame = channel_frame(0x4000, payload);
                let (first, second) = frame.split_at(frame.len() / 2);
                client.send(if half == 0 { first } else { second });
            }
        }
        for _ in &clients {
            let (data, from) = receive_from(&peer);
            let sender = clients.iter().position(|(_, relayed)| *relayed == from);
            assert!(data == payloads[sender.expect("one of them")], "{round}");
        }
    }
}

#[test]
fn garbage_on_streams_never_stops_binding() {
    let pem = Pem::new();
    let server = server(vec![with_tls(Protocol::Tcp, &pem)], StreamLimits::default());
    let mut seed = 0x1234_5678_u32;
    let mut client = Client::tcp(server.address(0));
    client.allocate();
    for round in 0..400_usize {
        let mut junk = vec![0; round % 300 + 1];
        for byte in &mut junk {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
        // Noise that begins like TLS, STUN or ChannelData, and plain noise.
        match round % 4 {
            0 => junk[0] = 0x16,
            1 => junk[0] = 0x40,
            2 if junk.len() > 8 => {
                junk[..8].copy_from_slice(&[0, 1, 0, 200, 0x21, 0x12, 0xA4, 0x42]);
            }
            _ => {}
        }
        let mut socket = connect(server.address(0));
        let _ = socket.write_all(&junk);
        drop(socket);
        if round % 20 == 0 {
            client.binding();
            Client::tcp(server.address(0)).binding();
        }
    }
    drop(client);
    eventually("nothing is left behind", || {
        server.snapshot().connections_active == 0 && server.shards().allocations() == 0
    });
}
