//! TCP and TLS clients against real sockets on loopback.

mod net_support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use net_support::{
    Client, Link, PATIENCE, Pem, Reply, Server, Setup, channel_frame, connect, eventually,
    listener, peer, receive_from,
};
use rustls::version::{TLS12, TLS13};
use turnserver::net::{ListenerConfig, Protocol, StreamLimits};
use turnserver::proto::DropReason;
use turnserver::wire::{Method, attr};

fn server(listeners: Vec<ListenerConfig>, streams: StreamLimits) -> Server {
    Server::start(Setup {
        threads: 2,
        listeners,
        streams,
        ..Setup::default()
    })
}

fn tcp_server(streams: StreamLimits) -> Server {
    server(vec![listener(Protocol::Tcp, "127.0.0.1:0")], streams)
}

fn with_tls(protocol: Protocol, pem: &Pem) -> ListenerConfig {
    ListenerConfig {
        tls: Some(pem.load()),
        ..listener(protocol, "127.0.0.1:0")
    }
}

/// Waits for the end of a connection that the server closes.
fn closed(mut socket: &TcpStream) {
    let mut chunk = [0; 4096];
    while matches!(socket.read(&mut chunk), Ok(1..)) {}
}

fn relays_both_ways(client: &mut Client) {
    assert_eq!(client.binding(), client.local());
    let peer = peer("127.0.0.1");
    let address = peer.local_addr().expect("bound");
    let relayed = client.allocate();
    client.permit(address);
    client.send_indication(address, b"indication", false);
    assert_eq!(receive_from(&peer), (b"indication".to_vec(), relayed));
    peer.send_to(b"back", relayed).expect("sent");
    assert_eq!(client.receive_data(), (address, b"back".to_vec()));
    client.bind_channel(0x4002, address);
    for len in [0, 1, 2, 3, 4, 5, 1200, 16_383, 16_384, 40_000, 60_000] {
        let data: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        client.send_channel(0x4002, &data);
        assert_eq!(receive_from(&peer), (data.clone(), relayed));
        peer.send_to(&data, relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4002, data));
    }
}

#[test]
fn every_transport_relays_both_ways() {
    let pem = Pem::new();
    let server = server(
        vec![
            listener(Protocol::Tcp, "127.0.0.1:0"),
            listener(Protocol::Tcp, "[::1]:0"),
            listener(Protocol::Tcp, "0.0.0.0:0"),
            with_tls(Protocol::Tls, &pem),
            with_tls(Protocol::Tcp, &pem),
        ],
        StreamLimits::default(),
    );
    relays_both_ways(&mut Client::tcp(server.address(0)));
    relays_both_ways(&mut Client::tcp(server.address(1)));
    let port = server.address(2).port();
    relays_both_ways(&mut Client::tcp(SocketAddr::from(([127, 0, 0, 5], port))));
    for version in [&TLS12, &TLS13] {
        for index in [3, 4] {
            let link = Link::tls(server.address(index), &pem.cert(), version);
            relays_both_ways(&mut Client::new(link));
        }
    }
    // A `tcp` listener with a certificate still speaks plain.
    relays_both_ways(&mut Client::tcp(server.address(4)));
    eventually("closed connections leave nothing behind", || {
        server.shards().allocations() == 0 && server.relays.in_use() == 0
    });
}

#[test]
fn a_tls_listener_speaks_only_tls() {
    let pem = Pem::new();
    let server = server(
        vec![
            with_tls(Protocol::Tls, &pem),
            listener(Protocol::Tcp, "127.0.0.1:0"),
        ],
        StreamLimits::default(),
    );
    let mut plain = Client::tcp(server.address(0));
    let request = plain.binding_request();
    plain.send(&request);
    assert_eq!(plain.try_receive(), None);
    // And a `tcp` listener without a certificate no TLS.
    let mut socket = connect(server.address(1));
    socket.write_all(&[0x16, 3, 1, 0, 5]).expect("sent");
    closed(&socket);
}

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

fn hasty() -> StreamLimits {
    StreamLimits {
        first_byte: Duration::from_millis(150),
        authenticated: Duration::from_millis(400),
        frame: Duration::from_millis(300),
        idle: Duration::from_millis(300),
        ..StreamLimits::default()
    }
}

#[test]
fn connections_that_get_nowhere_are_closed() {
    let pem = Pem::new();
    let server = server(
        vec![
            listener(Protocol::Tcp, "127.0.0.1:0"),
            with_tls(Protocol::Tls, &pem),
        ],
        hasty(),
    );
    // Silent; TLS handshake begun; a frame begun; Binding only.
    let silent = connect(server.address(0));
    let mut handshake = connect(server.address(1));
    handshake.write_all(&[0x16, 3, 1]).expect("sent");
    let mut partial = connect(server.address(0));
    partial.write_all(&[0, 1, 0]).expect("sent");
    let mut binding = Client::tcp(server.address(0));
    binding.binding();
    closed(&silent);
    closed(&handshake);
    closed(&partial);
    assert_eq!(binding.try_receive(), None);
    // Bytes that trickle in do not help.
    let trickle = connect(server.address(0));
    let mut writer = trickle.try_clone().expect("cloned");
    let thread = std::thread::spawn(move || {
        let mut sent = 0;
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        while writer.write_all(&[0]).is_ok() {
            sent += 1;
            assert!(sent < 1000, "it is never closed");
            let _ = never.recv_timeout(Duration::from_millis(20));
        }
    });
    closed(&trickle);
    drop(trickle);
    thread.join().expect("closed in the end");
}

#[test]
fn authenticated_connections_stay_while_they_have_an_allocation() {
    let server = tcp_server(hasty());
    let mut client = Client::tcp(server.address(0));
    let peer = peer("127.0.0.1");
    let relayed = client.allocate();
    client.bind_channel(0x4000, peer.local_addr().expect("bound"));
    // Another one whose allocation is deleted goes, and one that is stuck inside a frame.
    let mut deleted = Client::tcp(server.address(0));
    deleted.allocate();
    assert_eq!(deleted.refresh(0).code(), None);
    let mut stuck = Client::tcp(server.address(0));
    stuck.allocate();
    stuck.send(&[0x40, 0, 0]);
    assert_eq!(deleted.try_receive(), None);
    assert_eq!(stuck.try_receive(), None);
    // All deadlines are over by now, for the first one too.
    peer.send_to(b"still here", relayed).expect("sent");
    assert_eq!(client.receive_channel().1, b"still here");
    assert_eq!(client.refresh(600).code(), None);
}

#[test]
fn the_oldest_unproven_connection_of_a_source_makes_room() {
    let server = tcp_server(StreamLimits {
        per_source: 3,
        ..StreamLimits::default()
    });
    let mut proven = Client::tcp(server.address(0));
    proven.allocate();
    let mut crowd: Vec<Client> = Vec::new();
    for _ in 0..40 {
        let mut client = Client::tcp(server.address(0));
        // Each newcomer is served.
        client.binding();
        crowd.push(client);
        if crowd.len() > 3 {
            assert_eq!(crowd.remove(0).try_receive(), None);
        }
    }
    // Those within the cap are still there, and one that proved itself does not count.
    for client in &mut crowd {
        client.binding();
    }
    assert_eq!(proven.refresh(600).code(), None);
}

#[test]
fn a_client_that_does_not_read_loses_data_and_nothing_else() {
    let pem = Pem::new();
    let server = server(
        vec![with_tls(Protocol::Tcp, &pem)],
        StreamLimits {
            write_queue_bytes: 64 * 1024,
            ..StreamLimits::default()
        },
    );
    for link in [
        Link::tcp(server.address(0)),
        Link::tls(server.address(0), &pem.cert(), &TLS12),
    ] {
        let mut slow = Client::new(link);
        let relayed = slow.allocate();
        let source = peer("127.0.0.1");
        slow.bind_channel(0x4000, source.local_addr().expect("bound"));
        let mut other = Client::tcp(server.address(0));
        let other_relayed = other.allocate();
        other.bind_channel(0x4000, source.local_addr().expect("bound"));
        let before = server.snapshot().dropped(DropReason::QueueFull);
        let mut number = 0_u32;
        eventually("the queue overflows", || {
            for _ in 0..200 {
                let data = [&number.to_be_bytes()[..], &[9; 1300]].concat();
                source.send_to(&data, relayed).expect("sent");
                number += 1;
            }
            // Nobody waits for the slow one.
            source.send_to(b"quick", other_relayed).expect("sent");
            assert_eq!(other.receive_channel().1, b"quick");
            server.snapshot().dropped(DropReason::QueueFull) > before + 100
        });
        // An answer comes through, behind whole frames in order.
        let request = slow.signed(Method::REFRESH, |_| {});
        slow.send(&request);
        let mut last = None;
        loop {
            let bytes = slow.receive();
            if bytes[0] < 0x40 {
                assert_eq!(Reply(bytes.clone()).code(), None);
                assert_eq!(bytes[8..20], request[8..20]);
                break;
            }
            assert_eq!(bytes.len(), 4 + 4 + 1300);
            let number = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            assert!(last < Some(number), "{number} after {last:?}");
            last = Some(number);
        }
    }
}

#[test]
fn an_answer_without_room_closes_the_connection() {
    let server = tcp_server(StreamLimits {
        write_queue_bytes: 16 * 1024,
        authenticated: PATIENCE * 3,
        ..StreamLimits::default()
    });
    let mut socket = connect(server.address(0));
    let request = Client::tcp(server.address(0)).binding_request();
    let requests = request.repeat(3000);
    let mut sent = 0_usize;
    // It asks for ever and never reads: at some point the server gives up on it.
    while socket.write_all(&requests).is_ok() {
        sent += requests.len();
        assert!(sent < 1 << 30, "the answers are queued without bound");
    }
    assert!(server.snapshot().dropped(DropReason::QueueFull) > 0);
    Client::tcp(server.address(0)).binding();
}

#[test]
fn a_client_that_closes_its_sending_side_still_gets_its_answer() {
    let server = tcp_server(StreamLimits::default());
    for _ in 0..50 {
        let mut client = Client::tcp(server.address(0));
        let request = client.binding_request();
        client.send(&request);
        let Link::Tcp(socket) = &client.link else {
            unreachable!("a TCP client");
        };
        socket.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(client.receive()[8..20], request[8..20]);
        assert_eq!(client.try_receive(), None);
    }
}

#[test]
fn a_closed_connection_ends_its_allocation() {
    let server = tcp_server(StreamLimits::default());
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Client::tcp(server.address(0));
            client.allocate();
            client
        })
        .collect();
    eventually("all are counted", || server.shards().allocations() == 20);
    drop(clients);
    eventually("all are gone", || {
        server.shards().allocations() == 0 && server.relays.in_use() == 0
    });
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
fn relayed_data_passes_between_streams_of_one_shard_and_of_two() {
    let pem = Pem::new();
    let server = server(
        vec![
            with_tls(Protocol::Tcp, &pem),
            listener(Protocol::Udp, "127.0.0.1:0"),
        ],
        StreamLimits::default(),
    );
    let mut clients: Vec<_> = (0..6)
        .map(|number| {
            let link = match number % 3 {
                0 => Link::tcp(server.address(0)),
                1 => Link::tls(server.address(0), &pem.cert(), &TLS13),
                _ => Link::udp(server.address(1)),
            };
            let mut client = Client::new(link);
            let relayed = client.allocate();
            (client, relayed)
        })
        .collect();
    let relayed: Vec<_> = clients.iter().map(|(_, relayed)| *relayed).collect();
    for (client, _) in &mut clients {
        for (number, other) in (0x4000..).zip(&relayed) {
            client.bind_channel(number, *other);
        }
    }
    for from in 0..clients.len() {
        // Several frames in one write: each must keep its own bytes.
        let mut bytes = Vec::new();
        let udp = matches!(clients[from].0.link, Link::Udp(_));
        for to in (0..clients.len()).filter(|to| *to != from) {
            for number in 0..5 {
                let frame = channel_frame(0x4000 + to as u16, &[from as u8, to as u8, number]);
                if udp {
                    clients[from].0.send(&frame);
                } else {
                    bytes.extend(frame);
                }
            }
        }
        if !udp {
            clients[from].0.send(&bytes);
        }
        for to in (0..clients.len()).filter(|to| *to != from) {
            for number in 0..5 {
                let got = clients[to].0.receive_channel();
                let sent = vec![from as u8, to as u8, number];
                assert_eq!(got, (0x4000 + from as u16, sent));
            }
        }
    }
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
fn new_handshakes_see_a_new_certificate_and_old_connections_stay() {
    let pem = Pem::new();
    let certificates = pem.load();
    let server = server(
        vec![ListenerConfig {
            tls: Some(Arc::clone(&certificates)),
            ..listener(Protocol::Tls, "127.0.0.1:0")
        }],
        StreamLimits::default(),
    );
    let mut old = Client::new(Link::tls(server.address(0), &pem.cert(), &TLS13));
    old.binding();
    pem.renew();
    assert!(certificates.reload().expect("reloads"));
    // This client trusts the new certificate only.
    let mut new = Client::new(Link::tls(server.address(0), &pem.cert(), &TLS13));
    new.binding();
    old.binding();
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

#[test]
fn what_is_sent_behind_an_allocate_finds_the_allocation() {
    let server = tcp_server(StreamLimits::default());
    let mut client = Client::tcp(server.address(0));
    // Learns the nonce.
    assert_eq!(client.refresh(0).code(), Some(437));
    let peer = peer("127.0.0.1");
    let address = peer.local_addr().expect("bound");
    let mut bytes = client.signed(Method::ALLOCATE, |builder| {
        builder.u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP);
    });
    let permission = client.signed(Method::CREATE_PERMISSION, |builder| {
        builder.xor_address(attr::XOR_PEER_ADDRESS, address);
    });
    bytes.extend(permission);
    client.send(&bytes);
    for method in [Method::ALLOCATE, Method::CREATE_PERMISSION] {
        let reply = Reply(client.receive());
        assert_eq!((reply.message().method(), reply.code()), (method, None));
    }
}
