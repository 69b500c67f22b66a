//! Credentials for the relay: what they open, how they are renewed, and who else may use it.

use serde_json::{Value, json};
use turnserver::client::probe::{self, ProbeError, Transport};

use super::{PATIENCE, sockets, start};
use crate::signal_support::{Socket, initiator, with};
use crate::support::{Config, Server};

/// The TURN server among the ICE servers.
pub(super) fn turn(message: &Value) -> (Vec<String>, String, String) {
    let servers = message["ice_servers"].as_array().expect("a list");
    let turn = servers.iter().find(|server| server["username"].is_string());
    let turn = turn.unwrap_or_else(|| panic!("no TURN in {message}"));
    let text = |key: &str| turn[key].as_str().expect("text").to_owned();
    let urls = serde_json::from_value(turn["urls"].clone()).expect("a list");
    (urls, text("username"), text("credential"))
}

#[test]
fn the_answer_has_all_that_the_relay_needs() {
    let server = start("");
    let mut host = Socket::open(server.signaling());
    host.join(with(initiator("host"), json!({"host": true})));
    let waiting = host.expect("waiting");
    assert!(waiting.get("session").is_none());
    assert!(
        waiting["ice_servers"]
            .to_string()
            .contains("stun:127.0.0.1:")
    );
    assert!(!waiting["ice_servers"].to_string().contains("username"));

    let [(_a, for_a), (_b, for_b)] = sockets(server.signaling(), "key");
    let session = for_a["session"].as_str().expect("text");
    let plain = server.ports.plain();
    for (message, side) in [(&for_a, "i"), (&for_b, "r")] {
        let (urls, username, password) = turn(message);
        for transport in ["udp", "tcp"] {
            let url = format!("turn:127.0.0.1:{plain}?transport={transport}");
            assert!(urls.contains(&url), "{urls:?}");
        }
        let secure = format!("turns:127.0.0.1:{}?transport=tcp", server.ports.tls());
        assert!(urls.contains(&secure), "{urls:?}");
        assert!(
            username.contains(&format!(":pair:{session}:{side}:")),
            "{username}"
        );
        let allocate = |password: &str| {
            probe::allocate(server.udp(), Transport::Udp, &username, password, PATIENCE)
        };
        allocate(&password).expect("an allocation");
        let wrong = allocate("wrong").expect_err("refused");
        assert!(wrong.to_string().contains("401"), "{wrong}");
    }
    // The second port for discovery: the endpoint's own number.
    let second = format!("stun:127.0.0.1:{}", server.ports.signaling());
    assert!(for_a["ice_servers"].to_string().contains(&second));
    assert!(crate::support::stun::binding_udp(server.signaling(), PATIENCE).is_some());
    let allocated = probe::allocate(server.signaling(), Transport::Udp, "u", "p", PATIENCE);
    assert!(allocated.is_err(), "Bindings and nothing else");
    assert_eq!(for_a["ttl_s"], 3600);
}

/// Asks for fresh credentials, over a connection like any other.
fn renew(socket: &mut Socket, username: &str, credential: &str) -> Value {
    socket.say(&json!({"type": "renew", "username": username, "credential": credential}));
    socket.hear().expect("an answer")
}

#[test]
fn credentials_are_renewed_for_who_shows_valid_ones() {
    let server = start("");
    let [(mut a, for_a), (b, for_b)] = sockets(server.signaling(), "key");
    let session = &for_a["session"];
    let (_, first_a, password_a) = turn(&for_a);
    let (_, first_b, password_b) = turn(&for_b);
    let allocate = |(urls, username, password): (Vec<String>, String, String)| {
        assert!(urls.iter().any(|url| url.starts_with("turn:127.0.0.1:")));
        probe::allocate(server.udp(), Transport::Udp, &username, &password, PATIENCE)
    };
    // Over the connection of the session, and over any other one when that is gone.
    let renewed = renew(&mut a, &first_a, &password_a);
    assert_eq!(
        (&renewed["type"], &renewed["session"]),
        (&json!("renewed"), session)
    );
    assert_eq!(renewed["ttl_s"], 3600);
    allocate(turn(&renewed)).expect("an allocation");
    drop(b);
    let mut other = Socket::open(server.signaling());
    let renewed = renew(&mut other, &first_b, &password_b);
    let (_, second_b, second_password) = turn(&renewed);
    assert!(
        second_b.contains(":r:"),
        "the same side, and since when: {second_b}"
    );
    allocate(turn(&renewed)).expect("an allocation");
    assert_eq!(
        renew(&mut other, &second_b, &second_password)["type"],
        "renewed"
    );
    // Not what is wrong, expired or no pair's.
    let (_, rest) = second_b.split_once(':').expect("an expiry");
    let expired = format!("1:{rest}");
    assert!(rest.contains(session.as_str().expect("text")));
    let (name, password) = crate::support::USER;
    for (username, credential) in [
        (&*first_b, &*password_a),
        (&*first_a, &*password_b),
        (&*expired, &*password_b),
        (name, password),
        ("", ""),
    ] {
        let refused = renew(&mut other, username, credential);
        assert_eq!(refused["code"], "no_session", "{refused}");
    }
    server.wait_for_log("credentials renewed");
    assert!(!server.log().contains(&password_a));
}

#[test]
fn renewals_count_as_joins() {
    let server = start("joins_per_minute = 5");
    let mut socket = Socket::open(server.signaling());
    let codes: Vec<_> = (0..7)
        .map(|_| renew(&mut socket, "x", "y")["code"].clone())
        .collect();
    assert_eq!(codes[..5], vec![json!("no_session"); 5]);
    assert_eq!(codes[5..], vec![json!("too_many"); 2]);
}

pub(super) fn allocated(mut client: crate::support::stun::Client) -> crate::support::stun::Client {
    let allocated = client.allocate();
    assert!(allocated.is_success(), "{allocated:?}");
    client
}

#[test]
fn without_users_and_secrets_only_pairs_allocate() {
    let mut server = Server::with(Config {
        users: Vec::new(),
        secrets: Vec::new(),
        signaling: Some(String::new()),
        ..Config::default()
    });
    server.wait_for_log("only devices that `[signaling]` pairs may allocate");
    let [(_a, for_a), (_b, for_b)] = sockets(server.signaling(), "key");
    for message in [&for_a, &for_b] {
        let (_, username, password) = turn(message);
        probe::allocate(server.udp(), Transport::Udp, &username, &password, PATIENCE)
            .expect("an allocation");
    }
    let (_, name, _) = turn(&for_a);
    let (_, rest) = name.split_once(':').expect("an expiry");
    let expired = format!("1:{rest}");
    let unborn = "4000000000:pair:AAECAwQFBgcICQoLDA0ODw:i:wait";
    for name in ["", "user-1", "4000000000:user-1", &expired, unborn] {
        for password in ["", "pass-1"] {
            let refused = probe::allocate(server.udp(), Transport::Udp, name, password, PATIENCE);
            let refused = refused.expect_err("nobody else");
            assert!(!matches!(refused, ProbeError::Timeout), "{name}: no answer");
        }
    }
    // Without the section nobody could get in: such a file is not taken over.
    server.rewrite(|config| config.signaling = None);
    server.signal("HUP");
    server.wait_for_log("no credentials are configured");
    let (_, username, password) = turn(&for_b);
    probe::allocate(server.udp(), Transport::Udp, &username, &password, PATIENCE)
        .expect("nothing changed");
}

#[test]
fn a_reload_can_not_leave_a_relay_that_nobody_may_use() {
    let mut server = Server::start();
    server.rewrite(|config| {
        config.users.clear();
        config.secrets.clear();
        config.signaling = Some(String::new());
    });
    server.signal("HUP");
    // Pairing begins with a restart, so that until then there would be nobody.
    server.wait_for_log("nobody could allocate");
    let (name, password) = crate::support::USER;
    probe::allocate(server.udp(), Transport::Udp, name, password, PATIENCE)
        .expect("nothing changed");
}
