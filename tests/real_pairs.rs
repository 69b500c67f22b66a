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

use serde_json::Value;
use signal_support::{Reply, connect_from, initiator, post, receiver, reply};
use support::stun::{self, Client, Echo, Wire};
use support::{Config, Server, USER};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The credentials in an answer.
fn credentials(reply: &Reply) -> (String, String) {
    let servers = reply.body["ice_servers"].as_array().expect("a list");
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

/// Whether a payload from one client arrives at another one, with its peer.
fn arrives(from: &mut Client, peer: SocketAddr, at: &mut Client, payload: &[u8]) -> bool {
    at.wire.set_timeout(Duration::from_millis(100));
    (0..5).any(|_| {
        from.send_to(peer, payload);
        at.wire
            .receive_message()
            .is_some_and(|message| message.get(stun::DATA) == Some(payload))
    })
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
        assert!(!arrives(&mut user, ra, &mut a, b"stranger"));
        assert!(!arrives(&mut a, ru, &mut user, b"out"));
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
