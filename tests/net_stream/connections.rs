//! Which connections stay, which are closed, and what a slow client loses.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use rustls::version::TLS12;
use turnserver::net::{Protocol, StreamLimits};
use turnserver::proto::DropReason;
use turnserver::wire::Method;

use super::{closed, server, tcp_server, with_tls};
use crate::net_support::{Client, Link, PATIENCE, Pem, Reply, connect, eventually, listener, peer};

/// As short as can be where each of a few clients has to prove itself in time.
fn hasty() -> StreamLimits {
    StreamLimits {
        first_byte: Duration::from_millis(750),
        authenticated: Duration::from_millis(2000),
        frame: Duration::from_millis(1500),
        idle: Duration::from_millis(1500),
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
