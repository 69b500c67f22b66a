//! The relay of the built server with the credentials that its pairing endpoint hands out, over
//! sockets and shards: the two sides reach each other, and nobody else is reached by them.

#![allow(
    clippy::disallowed_methods,
    reason = "watches a running process in real time"
)]

mod signal_support;
mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use signal_support::{Reply, Socket, connect_from, initiator, post, receiver, reply};
use support::stun::{self, Client, Echo, Wire};
use support::{Config, Server, USER};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The credentials in an answer.
fn credentials(reply: &Reply) -> (String, String) {
    credentials_in(&reply.body)
}

fn credentials_in(message: &Value) -> (String, String) {
    let servers = message["ice_servers"].as_array().expect("a list");
    let turn = servers.iter().find(|server| server["username"].is_string());
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let turn = turn.expect("TURN");
    (text(&turn["username"]), text(&turn["credential"]))
}

/// Pairs two clients that come from these addresses.
fn pair(server: &Server, key: &str, from: [&str; 2]) -> [(String, String); 2] {
    let at = server.signaling();
    let one = post(connect_from(ip(from[0]), at), &initiator(key).to_string());
    let two = loop {
        let two = post(connect_from(ip(from[1]), at), &receiver(key).to_string());
        let two = reply(two);
        match two.status {
            404 => std::thread::sleep(Duration::from_millis(10)),
            status => {
                assert_eq!(status, 200, "{:?}", two.body);
                break two;
            }
        }
    };
    [credentials(&reply(one)), credentials(&two)]
}

fn client(server: &Server, (name, password): (&str, &str)) -> Client {
    Client::new(Wire::udp(server.udp()).expect("a socket"), (name, password))
}

fn of(server: &Server, credentials: &(String, String)) -> Client {
    client(server, (&credentials.0, &credentials.1))
}

/// A payload goes from one client to another one, with its peer, so often; whether one arrives.
fn sent(rounds: u32, from: &mut Client, peer: SocketAddr, at: &mut Client, payload: &[u8]) -> bool {
    at.wire.set_timeout(Duration::from_millis(100));
    let arrived = (0..rounds).any(|_| {
        from.send_to(peer, payload);
        at.wire
            .receive_message()
            .is_some_and(|message| message.get(stun::DATA) == Some(payload))
    });
    // Answers may take longer than that.
    at.wire.set_timeout(Duration::from_secs(5));
    arrived
}

/// Some may be lost, and some may be late.
fn arrives(from: &mut Client, peer: SocketAddr, at: &mut Client, payload: &[u8]) -> bool {
    sent(100, from, peer, at, payload)
}

fn stays_out(from: &mut Client, peer: SocketAddr, at: &mut Client, payload: &[u8]) -> bool {
    !sent(5, from, peer, at, payload)
}

#[test]
fn a_pair_reaches_itself_and_nobody_else() {
    for data_path in ["auto", "mmsg"] {
        let server = Server::with(Config {
            signaling: Some(String::new()),
            tls: false,
            environment: vec![("TURNSERVER_DATA_PATH", data_path)],
            // The sides come from 127.0.0.2 and 127.0.0.3, the relay is elsewhere.
            ..Config::default()
        });
        let first = pair(&server, "one", ["127.0.0.2", "127.0.0.3"]);
        let second = pair(&server, "two", ["127.0.0.4", "127.0.0.5"]);
        let [mut a, mut b] = [0, 1].map(|side| of(&server, &first[side]));
        let mut c = of(&server, &second[0]);
        let mut user = client(&server, USER);
        let [ra, rb] = [a.allocated(), b.allocated()];
        let [rc, ru] = [c.allocated(), user.allocated()];
        // The other side's relay, both ways.
        assert!(a.permit(rb).is_success());
        assert!(b.permit(ra).is_success());
        assert!(arrives(&mut a, rb, &mut b, b"hello"));
        assert!(arrives(&mut b, ra, &mut a, b"back"));
        // Whom the server saw, and nobody besides, though the gate would let them all in.
        let echoes = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9"].map(|host| {
            let echo = Echo::start(ip(host));
            echo.address
        });
        for peer in &echoes[..2] {
            assert!(a.permit(*peer).is_success(), "{peer}");
            assert!(a.echoes(*peer, b"direct"), "{peer}");
        }
        for peer in echoes[2..].iter().chain(&[rc, ru, server.udp()]) {
            let mut fresh = of(&server, &first[0]);
            fresh.allocated();
            assert_eq!(fresh.permit(*peer).error(), Some(403), "{peer}");
            assert_eq!(fresh.bind(0x4000, *peer).error(), Some(403), "{peer}");
            assert!(fresh.refresh(0).is_success());
        }
        // Nor do they reach the pair, whatever they may send.
        assert_eq!(c.permit(ra).error(), Some(403));
        assert!(user.permit(ra).is_success());
        assert!(stays_out(&mut user, ra, &mut a, b"stranger"));
        assert!(stays_out(&mut a, ru, &mut user, b"out"));
        // A side's credentials are good for a few allocations.
        let mut more: Vec<Client> = (0..4).map(|_| of(&server, &first[0])).collect();
        let codes = more.iter_mut().map(|client| client.allocate().error());
        let codes: Vec<_> = codes.collect();
        assert_eq!(codes, [None, None, None, Some(486)]);
        // The other side's password does not fit.
        let crossed = (first[0].0.clone(), first[1].1.clone());
        let mut crossed = of(&server, &crossed);
        assert_eq!(crossed.allocate().error(), Some(401));
    }
}

/// Waits as an initiator; what it was told, and its connection.
fn waiting(server: &Server, key: &str) -> (Socket, (String, String)) {
    let mut socket = Socket::open(server.signaling());
    socket.join(initiator(key));
    let told = socket.expect("waiting");
    let told = credentials_in(&told);
    (socket, told)
}

fn from(server: &Server, local: &str, credentials: &(String, String)) -> Client {
    let wire = Wire::udp_from(ip(local), server.udp()).expect("a socket");
    Client::new(wire, (&credentials.0, &credentials.1))
}

fn until(server: &Server, line: &str, value: u64) {
    let limit = Duration::from_secs(20);
    let reached = support::wait_until(limit, || server.metric(line) == Some(value));
    assert!(reached, "{line}{:?}, not {value}", server.metric(line));
}

/// A server with 40 relay ports in each family, of which pairs may have 30.
fn small(data_path: &'static str) -> Server {
    Server::with_ports(|ports| Config {
        relay_ports: Some((ports.relay().0, ports.relay().0 + 39)),
        signaling: Some("joins_per_minute = 0".to_owned()),
        ops: true,
        tls: false,
        environment: vec![("TURNSERVER_DATA_PATH", data_path)],
        ..Config::default()
    })
}

/// Some users that the configuration names.
fn users(server: &Server) -> Vec<Client> {
    let mut users: Vec<Client> = (0..5).map(|_| client(server, USER)).collect();
    for user in &mut users {
        user.allocated();
    }
    users
}

const WAITING: &str = "turnserver_signaling_waiting ";
const IN_USE: &str = "turnserver_relay_ports_in_use ";
const OF_PAIRS: &str = "turnserver_signaling_relay_ports ";

#[test]
fn who_only_said_that_it_waits_gets_nothing_of_the_relay() {
    let server = small("auto");
    // Random ids, connections that are closed at once, and all that the credentials are good for.
    let gone: Vec<_> = (0..60)
        .map(|n| waiting(&server, &format!("stranger {n}")).1)
        .collect();
    until(&server, WAITING, 0);
    for credentials in &gone {
        for _ in 0..4 {
            assert_eq!(of(&server, credentials).allocate().error(), Some(403));
        }
    }
    let mut other = Socket::open(server.signaling());
    let (username, credential) = &gone[0];
    other.say(&json!({"type": "renew", "username": username, "credential": credential}));
    other.expect_error("no_session");
    assert_eq!(server.metric(IN_USE), Some(0));
    users(&server);
}

#[test]
fn those_who_wait_never_take_what_others_need() {
    for data_path in ["auto", "mmsg"] {
        let server = small(data_path);
        let strangers: Vec<_> = (0..60)
            .map(|n| waiting(&server, &format!("stranger {n}")))
            .collect();
        let mut codes = Vec::new();
        // No later client is to get the port of one that has an allocation.
        let mut clients = Vec::new();
        for (n, (_, credentials)) in strangers.iter().enumerate() {
            let mut first = from(&server, &format!("127.0.1.{}", n / 20), credentials);
            codes.push(first.allocate().error());
            if codes[n].is_none() {
                let mut second = of(&server, credentials);
                assert_eq!(second.allocate().error(), Some(486), "one of a family");
            }
            clients.push(first);
        }
        let count = |code| codes.iter().filter(|found| **found == code).count();
        // Half of what pairs may have to one source, half to the next, nothing to anybody else.
        assert_eq!(
            (count(None), count(Some(486)), count(Some(508))),
            (30, 10, 20),
            "{codes:?}"
        );
        assert_eq!(server.metric(OF_PAIRS), Some(30));
        let users = users(&server);
        assert_eq!(server.metric(IN_USE), Some(35));
        // They go, and so does what they had, long before it would have expired.
        drop(strangers);
        until(&server, IN_USE, 5);
        assert_eq!(server.metric(OF_PAIRS), Some(0));
        server.wait_for_log("\"unpaired\"");
        drop(users);
    }
}

#[test]
fn what_was_allocated_while_waiting_lives_on_in_the_pair() {
    for data_path in ["auto", "mmsg"] {
        let server = small(data_path);
        let (mut one, waits) = waiting(&server, "key");
        let mut a = of(&server, &waits);
        let ra = a.allocated();
        let any_port = SocketAddr::new(ra.ip(), 0);
        assert!(a.permit(any_port).is_success());
        let mut two = Socket::open(server.signaling());
        two.join(receiver("key"));
        let for_b = credentials_in(&two.expect("paired"));
        let for_a = credentials_in(&one.expect("paired"));
        // Also when both leave the pairing server at once.
        drop((one, two));
        let mut b = of(&server, &for_b);
        let rb = b.allocated();
        assert!(b.permit(ra).is_success());
        assert!(arrives(&mut b, ra, &mut a, b"early"));
        let mut a = Client::new(a.wire, (&for_a.0, &for_a.1));
        assert!(a.refresh(600).is_success());
        assert!(a.permit(rb).is_success());
        assert!(arrives(&mut a, rb, &mut b, b"late"));
        assert_eq!(server.metric(OF_PAIRS), Some(2));
    }
}

/// Whom the server saw is part of what the credentials say: renewed ones know it, also of a
/// server that was started again.
#[test]
fn the_addresses_of_a_pair_outlive_its_session_and_a_restart() {
    let mut server = small("auto");
    let [for_a, _] = pair(&server, "key", ["127.0.0.2", "127.0.0.3"]);
    server.kill();
    server.start_again();
    server.wait_until_it_answers();
    let mut any = Socket::open(server.signaling());
    any.say(&json!({"type": "renew", "username": for_a.0, "credential": for_a.1}));
    let renewed = credentials_in(&any.expect("renewed"));
    let mut a = of(&server, &renewed);
    a.allocated();
    let [peer, stranger] = ["127.0.0.3", "127.0.0.9"].map(|host| Echo::start(ip(host)));
    assert!(a.permit(peer.address).is_success());
    assert!(a.echoes(peer.address, b"direct"));
    assert_eq!(a.permit(stranger.address).error(), Some(403));
}
