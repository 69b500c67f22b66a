//! What the pairing endpoint sees of clients behind a NAT, by IPv6, and on several nodes.

#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

mod signal_support;
mod support;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use signal_support::{Socket, connect, connect_from, initiator, pair, post, receiver, reply, with};
use support::namespace::inside;
use support::tools::{need, run};
use support::{Config, Ports, Server};
use turnserver::client::probe::{self, Transport};
use turnserver::pairing::AccessKey;
use turnserver::signal::{self, ServeError};

/// Two clients with private addresses of one machine, each behind a NAT that maps it to one
/// outer address and port, over TCP and UDP.
const NAT: &str = "
table ip nat {
  chain post {
    type nat hook postrouting priority srcnat
    ip saddr 192.168.1.2 meta l4proto { tcp, udp } snat to 203.0.113.9:5000-5000
    ip saddr 192.168.1.3 meta l4proto { tcp, udp } snat to 203.0.113.10:6000-6000
  }
}
";

fn sh(script: &str) {
    let output = run(&["sh", "-c", script], Duration::from_secs(20));
    assert_eq!(output.code, 0, "{}", output.text);
}

#[test]
fn the_outer_addresses_are_told() {
    if !inside("the_outer_addresses_are_told") {
        return;
    }
    let (ip, nft) = (need("ip", "iproute2"), need("nft", "nftables"));
    sh(&format!(
        "for a in 192.168.1.2 192.168.1.3 198.51.100.1 203.0.113.9 203.0.113.10; do \
         {ip} addr add $a/32 dev lo || exit 1; done; \
         echo 1 > /proc/sys/net/ipv4/conf/lo/accept_local; echo '{NAT}' | {nft} -f -"
    ));
    let server = Server::with_ports(|ports| Config {
        hosts: vec!["198.51.100.1".to_owned(), "127.0.0.1".to_owned()],
        tls: false,
        extra: format!(
            "[signaling]\naddress = \"198.51.100.1:{}\"\nstunturn = true\n",
            ports.signaling()
        ),
        ..Config::default()
    });
    let at = SocketAddr::from(([198, 51, 100, 1], server.ports.signaling()));
    let [one, two] = [[192, 168, 1, 2], [192, 168, 1, 3]].map(Ipv4Addr::from);

    // Only the receiver whose outer address is named pairs, and each is told the other's.
    let named = with(
        initiator("k"),
        json!({"protocol": "tcp", "target_ip": "203.0.113.10"}),
    );
    let mut waiting = Socket::over(connect_from(one.into(), at), at);
    waiting.join(named);
    assert_eq!(waiting.expect("waiting")["observed"], "203.0.113.9:5000");
    let answer = reply(post(
        connect_from(two.into(), at),
        &receiver("k").to_string(),
    ));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["observed"], "203.0.113.10:6000");
    assert_eq!(answer.body["peer_observed"], "203.0.113.9:5000");
    let paired = waiting.expect("paired");
    assert_eq!(paired["peer_observed"], "203.0.113.10:6000");

    // Over UDP the same by a Binding, and as text.
    let socket = UdpSocket::bind((one, 0)).expect("a socket");
    socket.connect(at).expect("a route");
    socket
        .set_read_timeout(Some(signal_support::LIMIT))
        .expect("a timeout");
    socket.send(b"ping").expect("sent");
    let mut text = [0; 64];
    let len = socket.recv(&mut text).expect("an answer");
    assert_eq!(&text[..len], b"203.0.113.9:5000");
    let request = support::stun::Message::new(support::stun::BINDING);
    socket.send(request.bytes()).expect("sent");
    let len = socket.recv(&mut text).expect("an answer");
    let answer = support::stun::Message::parse(&text[..len]).expect("STUN");
    let mapped = answer.get_address(support::stun::XOR_MAPPED_ADDRESS);
    assert_eq!(mapped, Some(SocketAddr::from(([203, 0, 113, 9], 5000))));
}

#[test]
fn by_ipv6_as_by_ipv4() {
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let handle = signal::serve(signal::Config::new([six, four])).expect("it serves");
    let [six, four] = *handle.addresses() else {
        panic!("two addresses");
    };
    let mut waiting = Socket::open(six);
    waiting.join(with(initiator("k"), json!({"target_ip": "::1"})));
    let observed = waiting.expect("waiting")["observed"].clone();
    assert!(
        observed
            .as_str()
            .is_some_and(|text| text.starts_with("[::1]:")),
        "{observed}"
    );
    // Another address is another receiver, whatever its family.
    assert_eq!(pair(four, &receiver("k")).status, 404);
    let answer = pair(six, &receiver("k"));
    assert_eq!(answer.body["peer_observed"], observed);
    waiting.expect("paired");
    // The two need not have come by one family.
    let mut waiting = Socket::open(four);
    waiting.join(initiator("k"));
    waiting.expect("waiting");
    assert_eq!(pair(six, &receiver("k")).status, 200);
    let peer = waiting.expect("paired")["peer_observed"].clone();
    assert!(
        peer.as_str().is_some_and(|text| text.starts_with("[::1]:")),
        "{peer}"
    );
}

#[test]
fn a_program_that_embeds_it_gets_errors_and_its_address_back() {
    // Ports that no connection is given while they are free.
    let ports = Ports::claim();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.signaling()));
    let taken = TcpListener::bind(address).expect("an address");
    let Err(ServeError::Listen(named, error)) = signal::serve(address) else {
        panic!("the address is taken");
    };
    assert_eq!((named, error.kind()), (address, io::ErrorKind::AddrInUse));
    // One that is free beside one that is not: neither stays open.
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.peer()));
    assert!(signal::serve(signal::Config::new([free, address])).is_err());
    drop(TcpListener::bind(free).expect("it was given back"));
    drop(taken);
    for _ in 0..10 {
        let handle = signal::serve(address).expect("it is free");
        let mut waiting = Socket::open(address);
        waiting.join(initiator("k"));
        waiting.expect("waiting");
        assert_eq!(pair(address, &receiver("k")).status, 200);
        handle.stop();
        waiting.expect("paired");
        waiting.wait_for_end();
    }
}

/// Which of several nodes a key belongs to, as both sides work it out for themselves.
fn node(key: &str, nodes: usize) -> usize {
    let id = AccessKey::new(key).expect("a key").rendezvous_id();
    usize::from(id.0[0]) % nodes
}

fn turn(message: &Value) -> (String, String) {
    let servers = message["ice_servers"].as_array().expect("a list");
    let turn = servers.iter().find(|server| server["username"].is_string());
    let text = |key: &str| turn.expect("TURN")[key].as_str().expect("text").to_owned();
    (text("username"), text("credential"))
}

#[test]
fn keys_are_shared_out_among_nodes() {
    let nodes = [(); 2].map(|()| {
        Server::with(Config {
            signaling: Some("joins_per_minute = 0".to_owned()),
            ..Config::default()
        })
    });
    let mut served = [0; 2];
    for n in 0..40 {
        let key = format!("key {n}");
        let own = node(&key, nodes.len());
        let (here, there) = (&nodes[own], &nodes[1 - own]);
        let mut waiting = Socket::over(connect(here.signaling()), here.signaling());
        waiting.join(initiator(&key));
        waiting.expect("waiting");
        // Nodes know nothing of each other,
        assert_eq!(pair(there.signaling(), &receiver(&key)).status, 404);
        // and need not: both sides come to the same one.
        let answer = pair(here.signaling(), &receiver(&key));
        assert_eq!(answer.status, 200);
        let paired = waiting.expect("paired");
        assert_eq!(paired["session"], answer.body["session"]);
        served[own] += 1;
        // Nodes that share their secrets take each other's credentials.
        if n < 4 {
            let (name, password) = turn(&answer.body);
            let patience = Duration::from_secs(5);
            probe::allocate(there.udp(), Transport::Udp, &name, &password, patience)
                .expect("an allocation on the other node");
        }
    }
    assert!(served.iter().all(|count| *count > 5), "{served:?}");
}
