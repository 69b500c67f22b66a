//! What only real sockets show: the address that replies leave from, ICMP errors, fragmentation,
//! addresses behind NAT, and demultiplexing by first byte.

#![allow(
    clippy::disallowed_methods,
    reason = "watches a running process in real time"
)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use support::stun::{self, Client, Echo, Message, Wire};
use support::tools::need;
use support::{Config, OTHER_USER, Ports, Server, USER, namespace, tls};

fn udp_client(server: SocketAddr, user: (&str, &str)) -> Client {
    Client::new(Wire::udp(server).expect("a socket"), user)
}

/// Two allocations with permissions for each other's address.
fn two_clients(server: &Server) -> [(Client, SocketAddr); 2] {
    let mut left = udp_client(server.udp(), USER);
    let mut right = udp_client(server.udp(), OTHER_USER);
    let (at_left, at_right) = (left.allocated(), right.allocated());
    assert_eq!(left.permit(at_right).error(), None);
    assert_eq!(right.permit(at_left).error(), None);
    [(left, at_left), (right, at_right)]
}

/// The next Data indication: peer and payload.
fn next_data(client: &mut Client) -> Option<(SocketAddr, Vec<u8>)> {
    let message = client.wire.receive_message()?;
    assert_eq!(message.kind(), stun::DATA_METHOD | stun::INDICATION);
    let peer = message.get_address(stun::XOR_PEER_ADDRESS)?;
    Some((peer, message.get(stun::DATA)?.to_vec()))
}

#[test]
fn replies_leave_from_the_address_that_was_reached() {
    let server = Server::with(Config {
        hosts: vec!["0.0.0.0".to_owned(), "[::]".to_owned()],
        tls: false,
        ..Config::default()
    });
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    for ip in ["127.0.0.1", "127.0.0.2", "127.9.8.7", "::1"] {
        // A connected socket hears nothing from any other address.
        let ip: IpAddr = ip.parse().expect("an address");
        let address = SocketAddr::new(ip, server.ports.plain());
        let mut client = udp_client(address, USER);
        client.allocated();
        assert!(client.permit(echo.address).is_success(), "{ip}");
        assert!(client.echoes(echo.address, b"relayed"), "{ip}");
        let mapped = stun::binding_tcp(address, Duration::from_secs(5));
        assert!(mapped.is_some(), "{ip} over TCP");
    }
}

#[test]
fn a_five_tuple_includes_the_server_address() {
    let server = Server::with(Config {
        hosts: vec!["0.0.0.0".to_owned()],
        tls: false,
        ..Config::default()
    });
    // One client socket, two addresses of the server: two allocations.
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut relayed = Vec::new();
    for ip in ["127.0.0.1", "127.0.0.2"] {
        let ip: IpAddr = ip.parse().expect("an address");
        let socket = socket.try_clone().expect("a clone");
        socket
            .connect((ip, server.ports.plain()))
            .expect("connected");
        let wire = Wire::Udp(socket);
        wire.set_timeout(Duration::from_secs(5));
        relayed.push(Client::new(wire, USER).allocated());
    }
    assert_ne!(relayed[0], relayed[1]);
}

/// Sends through a relay to a port that nobody listens on; returns type and code of the ICMP
/// error that comes back (RFC 8656 section 11.5).
fn icmp_error(server: &Server, ip: IpAddr, family: u8, channel: bool) -> (u8, u8) {
    // Connected to itself: to all others the port is closed, and nobody gets its number.
    let closed_to_others = UdpSocket::bind((ip, 0)).expect("a free port");
    let dead = closed_to_others.local_addr().expect("an address");
    closed_to_others.connect(dead).expect("connected");
    let mut client = udp_client(server.udp(), USER);
    let allocated = client.request(stun::ALLOCATE, |request| {
        request
            .attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attr(stun::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0])
    });
    assert!(allocated.is_success(), "{:?}", allocated.error());
    assert!(client.permit(dead).is_success());
    if channel {
        assert!(client.bind(0x4000, dead).is_success());
        client.send_on(0x4000, b"anyone?");
    } else {
        client.send_to(dead, b"anyone?");
    }
    let message = client.wire.receive_message().expect("an ICMP error");
    assert_eq!(message.kind(), stun::DATA_METHOD | stun::INDICATION);
    assert_eq!(message.get_address(stun::XOR_PEER_ADDRESS), Some(dead));
    assert_eq!(message.get(stun::DATA), None, "ICMP instead of DATA");
    let icmp = message.get(stun::ICMP).expect("an ICMP attribute").to_vec();
    assert_eq!((icmp.len(), &icmp[..2]), (8, &[0, 0][..]));

    // The relay lives on: the datagram after the error is neither lost nor late.
    let echo = Echo::start(ip);
    assert!(client.permit(echo.address).is_success());
    client.send_to(dead, b"anyone?");
    client.wire.set_timeout(Duration::from_secs(2));
    std::thread::sleep(Duration::from_millis(50));
    client.send_to(echo.address, b"you");
    let mut echoed = false;
    for _ in 0..3 {
        let Some(message) = client.wire.receive_message() else {
            break;
        };
        echoed |= message.get(stun::DATA) == Some(b"you");
        if echoed {
            break;
        }
    }
    assert!(echoed, "the send after an ICMP error is not lost");
    // Type in the first 7 bits, code in the 9 behind them (RFC 8656 figure 11).
    let both = u16::from_be_bytes([icmp[2], icmp[3]]);
    ((both >> 9) as u8, (both & 0x1FF) as u8)
}

#[test]
fn icmp_errors_reach_the_client() {
    let server = Server::start();
    // Destination unreachable, port unreachable.
    assert_eq!(
        icmp_error(&server, Ipv4Addr::LOCALHOST.into(), 1, false),
        (3, 3)
    );
    assert_eq!(
        icmp_error(&server, Ipv6Addr::LOCALHOST.into(), 2, false),
        (1, 4)
    );
}

#[test]
fn icmp_errors_come_as_indications_also_on_a_channel() {
    let server = Server::start();
    assert_eq!(
        icmp_error(&server, Ipv4Addr::LOCALHOST.into(), 1, true),
        (3, 3)
    );
}

#[test]
fn unreachable_peers_are_lost_datagrams_only() {
    let server = Server::with(Config {
        peers: "allow = [\"0.0.0.0/0\", \"::/0\"]\n".to_owned(),
        ..Config::default()
    });
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    for wire in [Wire::udp(server.udp()), Wire::tcp(server.tcp())] {
        let mut client = Client::new(wire.expect("connected"), USER);
        client.allocated();
        for peer in [
            "240.0.0.1:9",
            "255.255.255.255:9",
            "224.0.0.1:9",
            "0.0.0.1:9",
            "127.0.0.1:1",
        ] {
            let peer = peer.parse().expect("an address");
            // Some are refused whatever the configuration says; those that are not are sent to.
            if client.permit(peer).is_success() {
                for _ in 0..5 {
                    client.send_to(peer, b"into the void");
                }
            }
        }
        assert!(client.permit(echo.address).is_success());
        assert!(client.echoes(echo.address, b"still alive"));
    }
}

#[test]
fn dont_fragment_sets_the_bit_and_nothing_else_does() {
    const NAME: &str = "dont_fragment_sets_the_bit_and_nothing_else_does";
    if !namespace::inside(NAME) {
        return;
    }
    // Loopback with a small MTU: what is larger arrives in fragments, or with DF not at all.
    let ip = need("ip", "iproute2");
    let set = Command::new(ip)
        .args(["link", "set", "lo", "mtu", "1280"])
        .status();
    assert!(set.expect("ip runs").success());
    let server = Server::start();
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    // Over TCP, so that the client's own datagrams play no part.
    let mut client = Client::new(Wire::tcp(server.tcp()).expect("a connection"), USER);
    client.allocated();
    assert!(client.permit(echo.address).is_success());
    let large = vec![7; 2000];
    assert!(
        client.echoes(echo.address, &large),
        "without DF it is fragmented"
    );
    let mut send = |payload: &[u8], limit| {
        let indication = Message::new(stun::SEND | stun::INDICATION)
            .address(stun::XOR_PEER_ADDRESS, echo.address)
            .attr(stun::DONT_FRAGMENT, &[])
            .attr(stun::DATA, payload);
        client.wire.send(indication.bytes()).expect("sent");
        client.wire.set_timeout(limit);
        // An ICMP error may come, and what was echoed twice before.
        std::iter::from_fn(|| client.wire.receive_message())
            .any(|answer| answer.get(stun::DATA) == Some(payload))
    };
    let (long, short) = (Duration::from_secs(5), Duration::from_millis(500));
    assert!(send(&[8; 500], long), "with DF what fits arrives");
    assert!(
        !send(&[10; 2000], short),
        "with DF what does not fit is not sent"
    );
    assert!(send(&[9; 500], long), "and the relay lives on");
    assert!(
        client.echoes(echo.address, &large),
        "the next one has no DF"
    );
}

#[test]
fn the_public_address_is_told_and_reached_inside() {
    let server = Server::with(Config {
        relay: "address = \"127.0.0.1\"\npublic_address = \"203.0.113.7\"\n".to_owned(),
        ..Config::default()
    });
    let [(mut left, at_left), (mut right, at_right)] = two_clients(&server);
    let public: IpAddr = "203.0.113.7".parse().expect("an address");
    assert_eq!((at_left.ip(), at_right.ip()), (public, public));
    // The datagram never leaves the host, and the peer is named as it is known outside.
    for round in 0..20 {
        let payload = format!("{round}").into_bytes();
        left.send_to(at_right, &payload);
        assert_eq!(next_data(&mut right), Some((at_left, payload)));
    }
    assert!(right.bind(0x4001, at_left).is_success());
    right.send_on(0x4001, b"back");
    assert_eq!(next_data(&mut left), Some((at_right, b"back".to_vec())));
}

#[test]
fn several_relay_addresses_form_a_pool() {
    let server = Server::with(Config {
        relay: "address = [\"127.0.0.1\", \"127.0.0.2\"]\n\
                public_address = [\"203.0.113.1\", \"203.0.113.2\"]\n"
            .to_owned(),
        ..Config::default()
    });
    let mut seen = std::collections::BTreeSet::new();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = udp_client(server.udp(), USER);
        seen.insert(client.allocated().ip().to_string());
        clients.push(client);
    }
    assert_eq!(Vec::from_iter(seen), ["203.0.113.1", "203.0.113.2"]);
}

#[test]
fn relay_to_relay_needs_the_receivers_permission() {
    let server = Server::start();
    let mut left = udp_client(server.udp(), USER);
    let mut right = udp_client(server.udp(), OTHER_USER);
    let (at_left, at_right) = (left.allocated(), right.allocated());
    assert!(left.permit(at_right).is_success());
    left.send_to(at_right, b"unasked");
    right.wire.set_timeout(Duration::from_millis(300));
    assert_eq!(next_data(&mut right), None);
    assert!(right.permit(at_left).is_success());
    right.wire.set_timeout(Duration::from_secs(5));
    left.send_to(at_right, b"asked");
    assert_eq!(next_data(&mut right), Some((at_left, b"asked".to_vec())));
}

#[test]
fn every_shard_relays_to_every_other() {
    // Many clients land on all shards; each sends to each.
    let server = Server::with(Config {
        extra: "[runtime]\nthreads = 4\n".to_owned(),
        ..Config::default()
    });
    let mut clients: Vec<_> = (0..8).map(|_| udp_client(server.udp(), USER)).collect();
    let relayed: Vec<_> = clients.iter_mut().map(Client::allocated).collect();
    for client in &mut clients {
        assert!(client.permit(relayed[0]).is_success());
    }
    for from in 0..clients.len() {
        for to in 0..clients.len() {
            if from != to {
                let payload = format!("{from} to {to}").into_bytes();
                clients[from].send_to(relayed[to], &payload);
                let arrived = next_data(&mut clients[to]);
                assert_eq!(arrived, Some((relayed[from], payload)));
            }
        }
    }
}

#[test]
fn a_tcp_listener_with_a_certificate_speaks_both() {
    let both = |ports: &Ports| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.peer()));
    let server = Server::with_ports(|ports| Config {
        tls: false,
        extra: format!(
            "[[listener]]\nprotocol = \"tcp\"\naddress = \"{}\"\n\
             certificate = \"cert.pem\"\nkey = \"key.pem\"\n",
            both(ports)
        ),
        ..Config::default()
    });
    let both = both(&server.ports);
    let plain = stun::binding_tcp(both, Duration::from_secs(5));
    assert!(plain.is_some(), "plain on the same port");
    let trusted = server.certificate.clone();
    assert_eq!(tls::binding(both, &trusted, rustls::ALL_VERSIONS), Ok(()));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        assert_eq!(tls::binding(both, &trusted, &[version]), Ok(()));
    }
}

#[test]
fn channel_data_is_padded_on_streams_only() {
    let server = Server::start();
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());

    let mut client = udp_client(server.udp(), USER);
    client.allocated();
    assert!(client.bind(0x4000, echo.address).is_success());
    client.send_on(0x4000, b"12345");
    let frame = client.wire.receive().expect("it comes back");
    assert_eq!(frame, b"\x40\x00\x00\x0512345");

    let mut client = Client::new(Wire::tcp(server.tcp()).expect("a connection"), USER);
    client.allocated();
    assert!(client.bind(0x4000, echo.address).is_success());
    client.send_on(0x4000, b"12345");
    let Wire::Tcp(stream) = &mut client.wire else {
        unreachable!("made from TCP")
    };
    let mut frame = [0xFF; 12];
    stream.read_exact(&mut frame).expect("it comes back");
    assert_eq!(
        &frame, b"\x40\x00\x00\x0512345\0\0\0",
        "zeros outside the length"
    );
}

#[test]
fn an_empty_payload_is_an_empty_datagram() {
    let server = Server::start();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let limit = Some(Duration::from_secs(5));
    peer.set_read_timeout(limit).expect("above zero");
    let address = peer.local_addr().expect("an address");
    let mut client = udp_client(server.udp(), USER);
    client.allocated();
    assert!(client.bind(0x4000, address).is_success());
    client.send_on(0x4000, b"");
    let (len, relayed) = peer.recv_from(&mut [0; 16]).expect("an empty datagram");
    assert_eq!(len, 0);
    peer.send_to(b"", relayed).expect("sent");
    assert_eq!(
        client.wire.receive().as_deref(),
        Some(&b"\x40\x00\x00\x00"[..])
    );
}

#[test]
fn requests_and_data_share_one_segment() {
    // Two requests and ChannelData written at once on a stream are three messages.
    let server = Server::start();
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    let mut client = Client::new(Wire::tcp(server.tcp()).expect("a connection"), USER);
    client.allocated();
    assert!(client.bind(0x4000, echo.address).is_success());
    let (first, second) = (Message::new(stun::BINDING), Message::new(stun::BINDING));
    let mut bytes = first.bytes().to_vec();
    bytes.extend_from_slice(b"\x40\x00\x00\x01!\0\0\0");
    bytes.extend_from_slice(second.bytes());
    let Wire::Tcp(stream) = &mut client.wire else {
        unreachable!("made from TCP")
    };
    stream.write_all(&bytes).expect("sent");
    let mut frames = Vec::new();
    for _ in 0..3 {
        frames.push(client.wire.receive().expect("three answers"));
    }
    let answered = |request: &Message| {
        let id = |frame: &Vec<u8>| frame.get(8..20) == Some(request.id());
        frames.iter().any(id)
    };
    assert!(answered(&first) && answered(&second));
    assert!(
        frames
            .iter()
            .any(|frame| frame == b"\x40\x00\x00\x01!\0\0\0")
    );
}

#[test]
fn channel_numbers_of_rfc_5766_by_configuration_only() {
    // A client that takes no notice of PASSWORD-ALGORITHMS is of the age of RFC 5766.
    for (key, allowed) in [("", true), ("rfc5766_channels = false\n", false)] {
        let default = Config::default();
        let server = Server::with(Config {
            relay: default.relay.clone() + key,
            ..default
        });
        let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
        let mut client = udp_client(server.udp(), USER);
        client.allocated();
        let bound = client.bind(0x7FFF, echo.address);
        assert_eq!(bound.is_success(), allowed, "{key:?}");
        if allowed {
            client.send_on(0x7FFF, b"old");
            let frame = client.wire.receive().expect("it comes back");
            assert_eq!(frame, b"\x7F\xFF\x00\x03old");
        } else {
            assert_eq!(bound.error(), Some(400));
        }
        assert_eq!(client.bind(0x8000, echo.address).error(), Some(400));
    }
}
