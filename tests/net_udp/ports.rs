//! Ports that others have, that are reserved and that come back.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use turnserver::net::{BindProblem, NetConfig, Protocol, bind};
use turnserver::wire::attr;

use super::server;
use crate::net_support::{Client, Server, Setup, eventually, listener, peer, receive_from};

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
