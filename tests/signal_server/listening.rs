//! Where it listens: TLS, addresses that are taken, ports that serve bindings too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use turnserver::client::probe::{self, Transport};

use super::credentials::turn;
use super::{PATIENCE, sockets, start, until};
use crate::signal_support::{Reply, initiator, pair, parse, receiver};
use crate::support::{Config, Server, tls};

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

    let fresh = crate::support::write_certificate(server.dir.path());
    until(|| over_tls(&server, &fresh, &receiver("k")).is_ok());
    assert!(over_tls(&server, &server.certificate, &receiver("k")).is_err());
    // The URL for TLS names what the client called the server.
    let versions = &[&rustls::version::TLS13];
    let mut waiting = tls::connect(server.signaling(), &fresh, versions).expect("TLS");
    let body = initiator("k").to_string();
    let head = "POST /v1/pair HTTP/1.1\r\nHost: pair.example.org:8443\r\nContent-Length: ";
    write!(waiting, "{head}{}\r\n\r\n{body}", body.len()).expect("sent");
    until(|| server.metric("turnserver_signaling_waiting ") == Some(1));
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
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = taken.local_addr().expect("an address");
    let dir = tempfile::tempdir().expect("a directory");
    let ports = crate::support::Ports::claim();
    let config = Config {
        tls: false,
        extra: format!("[signaling]\naddress = \"{address}\"\n"),
        ..Config::default()
    };
    std::fs::write(dir.path().join("stunner.toml"), config.render(&ports)).expect("written");
    let mut child = crate::support::spawn(dir.path(), &[]);
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(dir.path().join("log")).expect("a log");
    for word in [&address.to_string(), "[signaling] address", "in use"] {
        assert!(log.contains(word), "no {word:?} in {log}");
    }
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
    assert_eq!(server.metric("turnserver_signaling_waiting "), Some(0));
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
    assert!(crate::support::stun::binding_udp(address, PATIENCE).is_some());
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
    assert!(crate::support::stun::binding_udp(address, PATIENCE).is_some());
    let (name, password) = crate::support::USER;
    probe::allocate(address, Transport::Udp, name, password, PATIENCE).expect("it relays, too");
    assert_eq!(echoed(server.udp(), b"ping"), None, "only there");
    let plain = with("");
    assert_eq!(echoed(plain.signaling(), b"ping"), None, "only by choice");
}
