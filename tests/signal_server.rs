//! The pairing endpoint in the built server: configuration, credentials for the relay, TLS,
//! metrics, log, drain, restart.

#![allow(
    clippy::disallowed_methods,
    reason = "tests of a running process wait in real time"
)]

mod signal_support;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use signal_support::{Reply, Socket, connect, initiator, pair, parse, post, receiver, reply, with};
use support::{Config, Server, tls};
use turnserver::client::probe::{self, ProbeError, Transport};

const PATIENCE: Duration = Duration::from_secs(5);

fn start(lines: &str) -> Server {
    Server::with(Config {
        ops: true,
        signaling: Some(lines.to_owned()),
        ..Config::default()
    })
}

/// Pairs two WebSockets; the initiator's is first, with what it was told.
fn sockets(server: SocketAddr, key: &str) -> [(Socket, Value); 2] {
    let mut a = Socket::open(server);
    a.join(initiator(key));
    a.expect("waiting");
    let mut b = Socket::open(server);
    b.join(receiver(key));
    let for_b = b.expect("paired");
    let for_a = a.expect("paired");
    [(a, for_a), (b, for_b)]
}

/// The TURN server among the ICE servers.
fn turn(message: &Value) -> (Vec<String>, String, String) {
    let servers = message["ice_servers"].as_array().expect("a list");
    let turn = servers.iter().find(|server| server["username"].is_string());
    let turn = turn.unwrap_or_else(|| panic!("no TURN in {message}"));
    let text = |key: &str| turn[key].as_str().expect("text").to_owned();
    let urls = serde_json::from_value(turn["urls"].clone()).expect("a list");
    (urls, text("username"), text("credential"))
}

fn metric(server: &Server, line: &str) -> Option<u64> {
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut stream = connect(server.ops());
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let value = text.lines().find_map(|found| found.strip_prefix(line));
    value.and_then(|value| value.trim().parse().ok())
}

fn until(mut done: impl FnMut() -> bool) {
    assert!(
        support::wait_until(signal_support::LIMIT, &mut done),
        "it never was"
    );
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
    assert!(support::stun::binding_udp(server.signaling(), PATIENCE).is_some());
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
    let (name, password) = support::USER;
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

#[test]
fn no_level_of_the_log_has_keys_or_passwords() {
    let server = Server::with(Config {
        signaling: Some(String::new()),
        environment: vec![("TURNSERVER_LOG_LEVEL", "trace")],
        ..Config::default()
    });
    let [(mut a, for_a), (mut b, for_b)] = sockets(server.signaling(), "the-secret-access-key");
    let session = for_a["session"].as_str().expect("text");
    for socket in [&mut a, &mut b] {
        socket.say(&json!({"type": "result", "session": session, "outcome": "relayed"}));
    }
    pair(
        server.signaling(),
        &json!({"role": "receiver", "access_key": "the-secret-access-key"}),
    );
    let (_, username, password) = turn(&for_a);
    probe::allocate(server.udp(), Transport::Udp, &username, &password, PATIENCE)
        .expect("an allocation");
    server.wait_for_log("result of a session");
    // Said at a lower level than the default.
    server.wait_for_log("allocation created");
    let log = server.log();
    assert!(!log.contains("the-secret-access-key"), "{log}");
    for message in [for_a, for_b] {
        let (_, _, password) = turn(&message);
        assert!(!log.contains(&password), "{log}");
    }
}

#[test]
fn keys_are_in_no_log_line_and_pairs_are() {
    let server = start("");
    let [(mut a, paired), _b] = sockets(server.signaling(), "the-secret-access-key");
    let session = paired["session"].as_str().expect("text");
    a.say(&json!({"type": "result", "session": session, "outcome": "relayed"}));
    pair(
        server.signaling(),
        &json!({"role": "the-secret-access-key"}),
    );
    pair(
        server.signaling(),
        &json!({"role": "receiver", "id": "the-secret-access-key"}),
    );
    server.wait_for_log("result of a session");
    let log = server.log();
    let line = log
        .lines()
        .find(|line| line.contains("\"paired\""))
        .expect("a line");
    assert!(
        line.contains(session) && line.contains("127.0.0.1:"),
        "{line}"
    );
    assert!(!log.contains("the-secret-access-key"), "{log}");
    let id = turnserver::pairing::AccessKey::new("the-secret-access-key");
    let id = id.expect("a key").rendezvous_id().to_string();
    assert!(!log.contains(&id), "{log}");
    let read = |line: &str| metric(&server, line);
    assert_eq!(read("turnserver_signaling_pairs_total "), Some(1));
    assert_eq!(read("turnserver_signaling_sessions "), Some(1));
    assert_eq!(
        read("turnserver_signaling_joins_total{answer=\"waiting\"}"),
        Some(1)
    );
    assert_eq!(
        read("turnserver_signaling_joins_total{answer=\"paired\"}"),
        Some(1)
    );
    assert_eq!(
        read("turnserver_signaling_waits_total{end=\"paired\"}"),
        Some(1)
    );
    assert_eq!(
        read("turnserver_signaling_results_total{outcome=\"relayed\"}"),
        Some(1)
    );
}

fn over_tls(server: &Server, certificate: &[u8], body: &Value) -> Result<Reply, String> {
    let versions = &[&rustls::version::TLS13];
    let mut stream = tls::connect(server.signaling(), certificate, versions)?;
    let body = body.to_string();
    let request = format!(
        "POST /v1/pair HTTP/1.1\r\nHost: pair.example.org\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let sent = stream.write_all(request.as_bytes());
    sent.map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    Ok(parse(&text))
}

#[test]
fn with_a_certificate_it_speaks_tls_alone_and_takes_new_ones() {
    let server = start("certificate = \"cert.pem\"\nkey = \"key.pem\"");
    let answer = over_tls(&server, &server.certificate, &receiver("k")).expect("an answer");
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (404, &json!("nobody_waits"))
    );
    let plain = pair(server.signaling(), &receiver("k"));
    assert_eq!(
        (plain.status, &plain.body["code"]),
        (400, &json!("bad_request"))
    );

    let fresh = support::write_certificate(server.dir.path());
    until(|| over_tls(&server, &fresh, &receiver("k")).is_ok());
    assert!(over_tls(&server, &server.certificate, &receiver("k")).is_err());
    // The URL for TLS names what the client called the server.
    let versions = &[&rustls::version::TLS13];
    let mut waiting = tls::connect(server.signaling(), &fresh, versions).expect("TLS");
    let body = initiator("k").to_string();
    let head = "POST /v1/pair HTTP/1.1\r\nHost: pair.example.org:8443\r\nContent-Length: ";
    write!(waiting, "{head}{}\r\n\r\n{body}", body.len()).expect("sent");
    until(|| metric(&server, "turnserver_signaling_waiting ") == Some(1));
    let answer = over_tls(&server, &fresh, &receiver("k")).expect("an answer");
    assert_eq!(answer.status, 200);
    let mut text = String::new();
    waiting
        .read_to_string(&mut text)
        .expect("an answer, and an end in order");
    let (urls, ..) = turn(&parse(&text).body);
    let secure = format!(
        "turns:pair.example.org:{}?transport=tcp",
        server.ports.tls()
    );
    assert!(urls.contains(&secure), "{urls:?}");
}

#[test]
fn a_drain_sends_those_who_wait_away_and_lets_sessions_go_on() {
    let mut server = start("");
    // An allocation keeps the drain from being over at once.
    let [(mut a, for_a), (mut b, _)] = sockets(server.signaling(), "key");
    let (_, username, password) = turn(&for_a);
    let mut held = Socket::open(server.signaling());
    held.join(with(initiator("host"), json!({"host": true})));
    held.expect("waiting");
    let request = post(connect(server.signaling()), &initiator("k").to_string());
    until(|| metric(&server, "turnserver_signaling_waiting ") == Some(2));
    let client = support::stun::Client::new(
        support::stun::Wire::udp(server.udp()).expect("a socket"),
        (&username, &password),
    );
    let _allocation = allocated(client);
    server.signal("TERM");
    held.expect_error("going_away");
    held.wait_for_end();
    let answer = reply(request);
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (503, &json!("going_away"))
    );
    let answer = pair(server.signaling(), &receiver("host"));
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (503, &json!("going_away"))
    );
    let session = for_a["session"].clone();
    a.say(&json!({"type": "signal", "session": session, "blob": "still"}));
    assert_eq!(b.expect("signal")["blob"], "still");
    server.signal("TERM");
    assert!(
        server
            .wait_for_end(PATIENCE)
            .is_some_and(|status| status.success())
    );
    b.wait_for_end();
}

#[test]
fn all_who_wait_hear_that_the_server_goes_away() {
    const HOSTS: usize = 1000;
    let mut server = start("joins_per_minute = 0");
    let join = with(initiator("host"), json!({"host": true}));
    let mut hosts: Vec<Socket> = (0..HOSTS)
        .map(|n| {
            let mut host = Socket::open(server.signaling());
            host.join(with(
                join.clone(),
                json!({"access_key": format!("host {n}")}),
            ));
            host.expect("waiting");
            host
        })
        .collect();
    let polls: Vec<TcpStream> = (0..100)
        .map(|n| {
            let wait = initiator(&format!("poll {n}")).to_string();
            post(connect(server.signaling()), &wait)
        })
        .collect();
    until(|| metric(&server, "turnserver_signaling_waiting ") == Some(HOSTS as u64 + 100));
    // Nothing is allocated, so that the drain is over at once.
    server.signal("TERM");
    for host in &mut hosts {
        host.expect_error("going_away");
        host.wait_for_close(1001);
    }
    for poll in polls {
        assert_eq!(reply(poll).body["code"], "going_away");
    }
    let ended = server.wait_for_end(PATIENCE);
    assert!(ended.is_some_and(|status| status.success()));
}

fn allocated(mut client: support::stun::Client) -> support::stun::Client {
    let allocated = client.allocate();
    assert!(allocated.is_success(), "{allocated:?}");
    client
}

#[test]
fn a_host_registers_again_after_a_restart() {
    let mut server = start("");
    let join = with(initiator("host"), json!({"host": true}));
    let mut host = Socket::open(server.signaling());
    host.join(join.clone());
    host.expect("waiting");
    for _ in 0..3 {
        let mut guest = Socket::open(server.signaling());
        guest.join(receiver("host"));
        let session = guest.expect("paired")["session"].clone();
        assert_eq!(host.expect("paired")["session"], session);
        drop(guest);
        assert_eq!(host.expect("peer_left")["session"], session);
    }
    server.kill();
    host.wait_for_end();
    server.start_again();
    server.wait_until_it_answers();
    let mut host = Socket::open(server.signaling());
    host.join(join);
    host.expect("waiting");
    let answer = pair(server.signaling(), &receiver("host"));
    assert_eq!(host.expect("paired")["session"], answer.body["session"]);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = taken.local_addr().expect("an address");
    let dir = tempfile::tempdir().expect("a directory");
    let ports = support::Ports::claim();
    let config = Config {
        tls: false,
        extra: format!("[signaling]\naddress = \"{address}\"\n"),
        ..Config::default()
    };
    std::fs::write(dir.path().join("stunner.toml"), config.render(&ports)).expect("written");
    let mut child = support::spawn(dir.path(), &[]);
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
    for word in [&address.to_string(), "[signaling] address", "in use"] {
        assert!(log.contains(word), "no {word:?} in {log}");
    }
}

#[test]
fn a_thousand_waits_leave_no_descriptor() {
    let server = start("joins_per_minute = 0");
    let before = server.settled_descriptors();
    let wait = with(initiator("k"), json!({"wait_s": 1})).to_string();
    for round in 0..4 {
        let wait = wait.replace("\"k\"", &format!("\"k{round}\""));
        let polls: Vec<TcpStream> = (0..250)
            .map(|n| {
                let wait = wait.replace("\"k", &format!("\"k{n}-"));
                post(connect(server.signaling()), &wait)
            })
            .collect();
        for poll in polls {
            assert_eq!(reply(poll).status, 408);
        }
    }
    until(|| metric(&server, "turnserver_signaling_connections_active ") == Some(0));
    assert_eq!(metric(&server, "turnserver_signaling_waiting "), Some(0));
    assert_eq!(
        metric(
            &server,
            "turnserver_signaling_waits_total{end=\"timed_out\"}"
        ),
        Some(1000)
    );
    until(|| server.descriptors() <= before);
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
    let (name, password) = support::USER;
    probe::allocate(server.udp(), Transport::Udp, name, password, PATIENCE)
        .expect("nothing changed");
}

#[test]
fn addresses_that_become_free_are_waited_for() {
    let mut server = start("");
    server.kill();
    let addresses = [server.ops(), server.signaling()];
    let held = addresses.map(|address| TcpListener::bind(address).expect("it is free"));
    server.start_again();
    server.wait_for_log("by a server that just ended");
    assert!(server.is_running());
    drop(held);
    server.wait_until_it_answers();
    assert_eq!(pair(server.signaling(), &receiver("k")).status, 404);
    assert_eq!(metric(&server, "turnserver_signaling_waiting "), Some(0));
    let waits = server.log().matches("by a server that just ended").count();
    assert_eq!(waits, 1, "all are waited for together:\n{}", server.log());
}

/// The address of the pairing endpoint as the log has it.
fn logged_address(server: &Server) -> SocketAddr {
    server.wait_for_log("\"serving\"");
    let log = server.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut pairing = lines.filter(|line| line.to_string().contains("\"pairing\""));
    let line = pairing
        .next()
        .unwrap_or_else(|| panic!("no address in {log}"));
    let text = line.to_string();
    let (_, rest) = text.split_once("127.0.0.1:").expect("an address");
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    ([127, 0, 0, 1], port.parse().expect("a port")).into()
}

#[test]
fn any_free_port_answers_bindings_by_the_same_number() {
    let server = Server::with(Config {
        extra: "[signaling]\naddress = \"127.0.0.1:0\"\nstunturn = true\n".to_owned(),
        ..Config::default()
    });
    let address = logged_address(&server);
    let [(_a, for_a), _b] = sockets(address, "key");
    let url = format!("stun:{address}");
    assert!(for_a["ice_servers"].to_string().contains(&url), "{for_a}");
    assert!(support::stun::binding_udp(address, PATIENCE).is_some());
    assert_eq!(echoed(address, b"ping"), Some(true));
}

/// Whether what comes back to some bytes is the sender's address as text; `None`: nothing comes.
fn echoed(server: SocketAddr, bytes: &[u8]) -> Option<bool> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    socket.send_to(bytes, server).expect("sent");
    let mut answer = [0; 100];
    let len = socket.recv(&mut answer).ok()?;
    let own = socket.local_addr().expect("an address").to_string();
    Some(answer[..len] == *own.as_bytes())
}

/// The clients of stunturn send to the UDP port of the same number, whoever serves it.
#[test]
fn a_udp_listener_on_the_port_number_answers_what_the_endpoint_would() {
    let with = |lines: &str| {
        Server::with_ports(|ports| {
            let port = ports.signaling();
            Config {
                signaling: Some(lines.to_owned()),
                extra: format!(
                    "[[listener]]\nprotocol = \"udp\"\naddress = \"127.0.0.1:{port}\"\n"
                ),
                ..Config::default()
            }
        })
    };
    let server = with("stunturn = true");
    let address = server.signaling();
    assert_eq!(echoed(address, b"ping"), Some(true));
    assert!(support::stun::binding_udp(address, PATIENCE).is_some());
    let (name, password) = support::USER;
    probe::allocate(address, Transport::Udp, name, password, PATIENCE).expect("it relays, too");
    assert_eq!(echoed(server.udp(), b"ping"), None, "only there");
    let plain = with("");
    assert_eq!(echoed(plain.signaling(), b"ping"), None, "only by choice");
}
