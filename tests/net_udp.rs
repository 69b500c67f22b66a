//! The UDP side of the data plane against real sockets on loopback.

mod net_support;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use net_support::{Client, Link, Server, Setup, eventually, listener, peer, receive_from};
use turnserver::net::{BindProblem, NetConfig, Protocol, bind};
use turnserver::proto::DropReason;
use turnserver::wire::{Class, Method, attr};

use crate::net_support::Reply;

fn server(threads: usize, addresses: &[&str]) -> Server {
    Server::start(Setup {
        threads,
        listeners: addresses
            .iter()
            .map(|address| listener(Protocol::Udp, address))
            .collect(),
        ..Setup::default()
    })
}

#[test]
fn binding_over_both_families() {
    let server = server(1, &["127.0.0.1:0", "[::1]:0"]);
    for index in 0..2 {
        let mut client = Client::udp(server.address(index));
        assert_eq!(client.binding(), client.local());
    }
}

#[test]
fn a_wildcard_listener_answers_from_the_address_that_was_reached() {
    let server = server(2, &["0.0.0.0:0", "[::]:0"]);
    let port = server.address(0).port();
    for ip in ["127.0.0.1", "127.0.0.2", "127.9.8.7"] {
        // A connected socket takes datagrams from this very address only.
        let reached: SocketAddr = format!("{ip}:{port}").parse().expect("an address");
        let mut client = Client::udp(reached);
        assert_eq!(client.binding(), client.local());
        // The 5-tuple has that address too: relayed data comes from it.
        let relayed = client.allocate();
        let peer = peer("127.0.0.1");
        client.bind_channel(0x4000, peer.local_addr().expect("bound"));
        peer.send_to(b"hello", relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4000, b"hello".to_vec()));
    }
    let reached = SocketAddr::new("::1".parse().expect("an address"), server.address(1).port());
    let mut client = Client::udp(reached);
    assert_eq!(client.binding(), client.local());
}

#[test]
fn data_passes_both_ways_in_both_families() {
    let server = server(1, &["127.0.0.1:0", "[::1]:0"]);
    for index in 0..2 {
        for ip in ["127.0.0.1", "::1"] {
            let mut client = Client::udp(server.address(index));
            let peer = peer(ip);
            let address = peer.local_addr().expect("bound");
            let relayed = match address {
                SocketAddr::V4(_) => client.allocate(),
                SocketAddr::V6(_) => client.allocate_v6(),
            };
            client.permit(address);
            for len in [0, 1, 2, 3, 4, 1200, 20_000] {
                let data = vec![len as u8; len];
                client.send_indication(address, &data, false);
                assert_eq!(receive_from(&peer), (data.clone(), relayed));
                peer.send_to(&data, relayed).expect("sent");
                assert_eq!(client.receive_data(), (address, data));
            }
            client.bind_channel(0x4001, address);
            for len in [0, 1, 2, 3, 4, 1200, 20_000] {
                let data = vec![!(len as u8); len];
                client.send_channel(0x4001, &data);
                assert_eq!(receive_from(&peer), (data.clone(), relayed));
                peer.send_to(&data, relayed).expect("sent");
                assert_eq!(client.receive_channel(), (0x4001, data));
            }
        }
    }
}

#[test]
fn bursts_keep_their_order() {
    let server = server(1, &["127.0.0.1:0"]);
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
    let peer = peer("127.0.0.1");
    client.bind_channel(0x4000, peer.local_addr().expect("bound"));
    for round in 0..20_u32 {
        for number in 0..100_u32 {
            let data = [round.to_be_bytes(), number.to_be_bytes()].concat();
            client.send_channel(0x4000, &data);
            peer.send_to(&data, relayed).expect("sent");
        }
        for number in 0..100_u32 {
            let data = [round.to_be_bytes(), number.to_be_bytes()].concat();
            assert_eq!(receive_from(&peer).0, data);
            assert_eq!(client.receive_channel().1, data);
        }
    }
}

#[test]
fn all_shards_take_part() {
    let server = server(2, &["127.0.0.1:0"]);
    let mut clients: Vec<_> = (0..64).map(|_| Client::udp(server.address(0))).collect();
    for client in &mut clients {
        client.allocate();
    }
    eventually("all allocations are counted", || {
        server.shards().allocations() == 64
    });
    for counters in &server.counters {
        let snapshot = counters.snapshot();
        // One in 2^63 that all land on one shard by chance.
        assert!(snapshot.allocations_active > 0, "{snapshot:?}");
    }
    server.stop();
}

#[test]
fn a_port_that_another_socket_has_is_refused() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let first = Server::start(Setup {
            threads: 2,
            listeners: vec![listener(protocol, "127.0.0.1:0")],
            ..Setup::default()
        });
        // The first server's sockets have SO_REUSEPORT, and still are not joined.
        let error = bind(NetConfig {
            threads: 2,
            listeners: vec![listener(protocol, &first.address(0).to_string())],
            ..NetConfig::default()
        })
        .expect_err("in use");
        assert_eq!(error.problem, BindProblem::InUse);
        assert_eq!(error.address, first.address(0));
        let text = error.to_string();
        let port = first.address(0).port().to_string();
        assert!(text.contains("in use") && text.contains(&port), "{text}");
        assert!(text.contains("another program has this port"), "{text}");
        // And the port is free again once that server is gone.
        let address = first.address(0).to_string();
        first.stop();
        let again = bind(NetConfig {
            threads: 2,
            listeners: vec![listener(protocol, &address)],
            ..NetConfig::default()
        });
        assert!(again.is_ok(), "{again:?}");
    }
}

#[test]
fn foreign_sockets_are_noticed_too() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
    for (protocol, address) in [
        (Protocol::Udp, udp.local_addr()),
        (Protocol::Tcp, tcp.local_addr()),
    ] {
        let error = bind(NetConfig {
            threads: 1,
            listeners: vec![listener(protocol, &address.expect("bound").to_string())],
            ..NetConfig::default()
        })
        .expect_err("in use");
        assert_eq!(error.problem, BindProblem::InUse);
    }
}

#[test]
fn an_address_of_another_host_is_named_as_such() {
    let error = bind(NetConfig {
        threads: 1,
        listeners: vec![listener(Protocol::Udp, "192.0.2.1:3478")],
        ..NetConfig::default()
    })
    .expect_err("not local");
    assert_eq!(error.problem, BindProblem::NotLocal);
    assert!(
        error
            .to_string()
            .contains("no interface of this host has 192.0.2.1")
    );
    let error = bind(NetConfig {
        threads: 1,
        listeners: vec![listener(Protocol::Tls, "127.0.0.1:0")],
        ..NetConfig::default()
    })
    .expect_err("no certificate");
    assert_eq!(error.problem, BindProblem::NoCertificate);
}

/// A port of 127.0.0.1 that nothing listens on.
fn closed_port() -> SocketAddr {
    peer("127.0.0.1").local_addr().expect("bound")
}

#[test]
fn an_unreachable_peer_is_reported_and_harms_nobody() {
    let server = server(1, &["127.0.0.1:0"]);
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
    let gone = closed_port();
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
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
    let gone = closed_port();
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
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
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
        let relayed = match address {
            SocketAddr::V4(_) => client.allocate(),
            SocketAddr::V6(_) => client.allocate_v6(),
        };
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
fn relayed_addresses_of_this_server_reach_each_other_on_any_shard() {
    let server = server(2, &["127.0.0.1:0"]);
    let mut clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = Client::udp(server.address(0));
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
        for to in 0..clients.len() {
            if from == to {
                continue;
            }
            let data = [from as u8, to as u8];
            clients[from].0.send_channel(0x4000 + to as u16, &data);
            let got = clients[to].0.receive_channel();
            assert_eq!(got, (0x4000 + from as u16, data.to_vec()));
        }
    }
}

#[test]
fn relayed_addresses_behind_a_nat_reach_each_other_by_their_public_name() {
    let address = |ip: &str| ip.parse().expect("an address");
    let server = Server::start(Setup {
        threads: 2,
        relays: vec![(address("127.0.0.1"), address("203.0.113.7"))],
        ..Setup::default()
    });
    let mut clients: Vec<_> = (0..6).map(|_| Client::udp(server.address(0))).collect();
    let relayed: Vec<_> = clients.iter_mut().map(Client::allocate).collect();
    for from in 0..clients.len() {
        for other in &relayed {
            clients[from].permit(*other);
        }
        assert_eq!(relayed[from].ip(), address("203.0.113.7"));
    }
    for from in 0..clients.len() {
        for to in (0..clients.len()).filter(|to| *to != from) {
            clients[from].send_indication(relayed[to], b"inside", false);
            // Whatever way it took, the peer is called by its public name.
            let got = clients[to].receive_data();
            assert_eq!(got, (relayed[from], b"inside".to_vec()));
        }
    }
}

#[test]
fn a_reserved_port_goes_to_whichever_shard_presents_the_token() {
    let server = server(2, &["127.0.0.1:0"]);
    // Clients stay: a new socket with the port of an old one would have its allocation.
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut first = Client::udp(server.address(0));
        let reply = first.try_allocate(|builder| {
            builder.even_port(true);
        });
        let even = reply.relayed();
        assert_eq!(even.port() % 2, 0);
        let token = reply.message().unprotected().reservation_token();
        let token = token.expect("well-formed").expect("a token");
        // Really held: nobody else can bind it.
        let odd = SocketAddr::new(even.ip(), even.port() + 1);
        UdpSocket::bind(odd).expect_err("the next port is bound");

        let mut second = Client::udp(server.address(0));
        let claim = |client: &mut Client| {
            client.try_allocate(|builder| {
                builder.attribute(attr::RESERVATION_TOKEN, &token);
            })
        };
        assert_eq!(claim(&mut second).relayed(), odd);
        let mut third = Client::udp(server.address(0));
        assert_eq!(claim(&mut third).code(), Some(508));

        let peer = peer("127.0.0.1");
        second.bind_channel(0x4000, peer.local_addr().expect("bound"));
        second.send_channel(0x4000, b"x");
        assert_eq!(receive_from(&peer), (b"x".to_vec(), odd));
        clients.extend([first, second, third]);
    }
}

/// On both data planes the same, whatever their buffers are like.
#[test]
fn the_largest_datagrams_pass_unharmed() {
    let server = server(1, &["127.0.0.1:0", "0.0.0.0:0"]);
    for index in 0..2 {
        let port = server.address(index).port();
        let mut client = Client::udp(SocketAddr::new([127, 0, 0, 1].into(), port));
        let relayed = client.allocate();
        let peer = peer("127.0.0.1");
        let address = peer.local_addr().expect("bound");
        client.bind_channel(0x4000, address);
        for (round, len) in [9000, 60_000, 65_500, 172].into_iter().enumerate() {
            let data: Vec<u8> = (0..len).map(|at| (at * 7 + round) as u8).collect();
            // One at a time: the client's socket buffer holds little more.
            for _ in 0..3 {
                client.send_channel(0x4000, &data);
                peer.send_to(&data, relayed).expect("sent");
                assert_eq!(receive_from(&peer), (data.clone(), relayed));
                assert_eq!(client.receive_channel(), (0x4000, data.clone()));
            }
        }
        // What a datagram over IPv4 holds less the header of ChannelData is the most.
        peer.send_to(&[2; 65_503], relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4000, vec![2; 65_503]));
        // One without room for the header goes nowhere, and harms nothing.
        peer.send_to(&[1; 65_507], relayed).expect("sent");
        peer.send_to(b"after", relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4000, b"after".to_vec()));
    }
}

#[test]
fn ports_of_other_processes_are_passed_over_and_come_back() {
    // Eight ports that are free now, of which another socket keeps all but one.
    let (mut taken, base) = (10_000..19_992)
        .step_by(8)
        .find_map(|base| {
            let ports = base..base + 8;
            let bound: Result<Vec<_>, _> = ports
                .map(|port| UdpSocket::bind(("127.0.0.1", port)))
                .collect();
            Some((bound.ok()?, base))
        })
        .expect("eight free ports in a row");
    drop(taken.pop());
    let server = Server::start(Setup {
        ports: base..=base + 7,
        ..Setup::default()
    });
    let mut client = Client::udp(server.address(0));
    assert_eq!(client.allocate().port(), base + 7);
    let mut other = Client::udp(server.address(0));
    assert_eq!(other.try_allocate(|_| {}).code(), Some(508));
    assert_eq!(client.refresh(0).code(), None);
    drop(taken);
    let mut clients: Vec<_> = (0..8).map(|_| Client::udp(server.address(0))).collect();
    let mut ports: Vec<_> = clients.iter_mut().map(|c| c.allocate().port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, Vec::from_iter(base..base + 8));
    for client in &mut clients {
        assert_eq!(client.refresh(0).code(), None);
    }
    eventually("all ports are free", || server.relays.in_use() == 0);
}

#[test]
fn a_deleted_allocation_is_silent_and_its_port_free() {
    let server = server(1, &["127.0.0.1:0"]);
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
    let peer = peer("127.0.0.1");
    client.bind_channel(0x4000, peer.local_addr().expect("bound"));
    assert_eq!(server.relays.in_use(), 1);
    assert_eq!(client.refresh(0).code(), None);
    eventually("the port is free", || server.relays.in_use() == 0);
    UdpSocket::bind(relayed).expect("the socket is closed");
    let again = client.allocate();
    peer.send_to(b"stale", again).expect("sent");
    client.permit(peer.local_addr().expect("bound"));
    peer.send_to(b"fresh", again).expect("sent");
    assert_eq!(client.receive_data().1, b"fresh");
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

#[test]
fn draining_refuses_and_stopping_ends_everything() {
    let server = server(2, &["127.0.0.1:0"]);
    let mut old = Client::udp(server.address(0));
    old.allocate();
    server.shards().drain(&[]);
    eventually("every shard has the message", || {
        (0..8).all(|_| {
            let mut client = Client::udp(server.address(0));
            let reply = client.try_allocate(|_| {});
            reply.code() == Some(508)
        })
    });
    assert_eq!(old.refresh(600).code(), None);
    let relays = std::sync::Arc::clone(&server.relays);
    server.stop();
    assert_eq!(relays.in_use(), 0);
}

#[test]
fn stopping_is_quick_while_nothing_happens() {
    let server = server(2, &["127.0.0.1:0"]);
    let (done, stopped) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        server.stop();
        done.send(()).expect("waited for");
    });
    stopped
        .recv_timeout(Duration::from_secs(20))
        .expect("the shards were woken");
    thread.join().expect("no panic");
}
