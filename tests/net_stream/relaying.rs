//! Every transport relays, also between streams, and takes new certificates.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use turnserver::net::{ListenerConfig, Protocol, StreamLimits};
use turnserver::wire::{Method, attr};

use super::{closed, relays_both_ways, server, tcp_server, with_tls};
use crate::net_support::{
    Client, Link, Pem, Reply, bind_to_each_other, channel_frame, connect, eventually, listener,
    peer,
};

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
    bind_to_each_other(&mut clients);
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
