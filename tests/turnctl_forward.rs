//! `turnctl host` and `turnctl forward` as scripts use them: processes that stay, the built server,
//! and what happens when one of them goes and comes back.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use support::turnctl::{PATIENCE, Turnctl, pairing, service, start};
use turnserver::client::connect::Connector;
use turnserver::pairing::AccessKey;

fn left_in_order(host: &mut Turnctl) {
    let left = host.event("device_left");
    assert!(left["message"].is_null(), "{left}");
}

/// Sends back what it gets, in capitals, until the end.
fn shouting_service() -> SocketAddr {
    service(|mut stream| {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("readable");
        text.make_ascii_uppercase();
        stream.write_all(&text).expect("writable");
    })
}

/// Sends capitals for every datagram.
fn shouting_port() -> SocketAddr {
    let service = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address = service.local_addr().expect("bound");
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        loop {
            let (len, from) = service.recv_from(&mut buffer).expect("readable");
            buffer[..len].make_ascii_uppercase();
            service.send_to(&buffer[..len], from).expect("writable");
        }
    });
    address
}

#[test]
fn a_tcp_port_is_forwarded_to_many_at_once() {
    let server = start();
    let at = pairing(&server);
    let _host = Turnctl::serve(&at, "k", "tcp", shouting_service());
    let mut forward = Turnctl::start(&["forward", &at, "k", "tcp", "0"]);
    let local = forward.listening();
    let mut streams: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(local).expect("the port is there"))
        .collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
            .write_all(format!("hello {number}").as_bytes())
            .expect("writable");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("half closed");
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("readable");
        assert_eq!(answer, format!("HELLO {number}"));
    }
    // The device leaves, and the host takes the next one.
    drop(forward);
    let mut forward = Turnctl::start(&["forward", &at, "k", "tcp", "0"]);
    let mut stream = TcpStream::connect(forward.listening()).expect("the port is there");
    stream.write_all(b"again").expect("writable");
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("half closed");
    let mut answer = String::new();
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.read_to_string(&mut answer).expect("readable");
    assert_eq!(answer, "AGAIN");
}

#[test]
fn a_udp_port_is_forwarded_to_many_at_once() {
    let server = start();
    let at = pairing(&server);
    let _host = Turnctl::serve(&at, "k", "udp", shouting_port());
    let mut forward = Turnctl::start(&["forward", &at, "k", "udp", "0"]);
    let local = forward.listening();
    let clients: Vec<_> = (0..4).map(|_| client_of(local)).collect();
    for (number, client) in clients.iter().enumerate() {
        answered(client, number);
    }
}

/// A UDP client, with a port of its own.
fn client_of(local: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    client.connect(local).expect("loopback");
    let wait = Some(Duration::from_millis(500));
    client.set_read_timeout(wait).expect("set");
    client
}

/// Asks the shouting port. Datagrams may be lost on the way.
fn answered(client: &UdpSocket, number: usize) {
    let (question, wanted) = (format!("hello {number}"), format!("HELLO {number}"));
    let mut buffer = [0; 2000];
    let answered = (0..20).any(|_| {
        client.send(question.as_bytes()).expect("sent");
        matches!(client.recv(&mut buffer), Ok(len) if buffer[..len] == *wanted.as_bytes())
    });
    assert!(answered, "{wanted}");
}

/// More than are remembered at a time: the one that was silent for longest makes room, at both
/// ends.
#[test]
fn more_udp_clients_than_there_is_room_for_are_answered_one_after_the_other() {
    const CLIENTS: usize = 300;

    let server = start();
    let at = pairing(&server);
    let _host = Turnctl::serve(&at, "k", "udp", shouting_port());
    let mut forward = Turnctl::start(&["forward", &at, "k", "udp", "0"]);
    let local = forward.listening();
    let clients: Vec<_> = (0..CLIENTS).map(|_| client_of(local)).collect();
    // The first ones are forgotten by then, and are new ones.
    for number in (0..CLIENTS).chain(0..4) {
        answered(&clients[number], number);
    }
}

#[test]
fn connect_reaches_the_served_port_as_netcat_would() {
    let server = start();
    let at = pairing(&server);
    let mut host = Turnctl::serve(&at, "k", "tcp", shouting_service());
    // Several at a time, and each on its own connection.
    let mut guests: Vec<_> = (0..3)
        .map(|_| Turnctl::start(&["connect", &at, "k"]))
        .collect();
    for (number, guest) in guests.iter_mut().enumerate() {
        guest.event("path");
        guest.write(format!("hello {number}").as_bytes());
        guest.end_input();
    }
    for (number, guest) in guests.iter_mut().enumerate() {
        assert_eq!(guest.rest(), format!("HELLO {number}").as_bytes());
        assert_eq!(guest.exit_code(), 0);
        left_in_order(&mut host);
    }
    // What serves only speaks: the guest hears it with nothing to say.
    let mut guest = Turnctl::start(&["connect", &at, "k"]);
    guest.end_input();
    assert_eq!((guest.rest(), guest.exit_code()), (Vec::new(), 0));
    // A port where nothing listens is a connection that breaks at once.
    let closed = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let to = closed.local_addr().expect("bound");
    let _host = Turnctl::serve(&at, "closed", "tcp", to);
    let mut guest = Turnctl::start(&["connect", &at, "closed"]);
    guest.event("path");
    assert_eq!((guest.rest(), guest.exit_code()), (Vec::new(), 1));
}

#[test]
fn connect_reaches_a_served_udp_port_too() {
    let server = start();
    let at = pairing(&server);
    let mut host = Turnctl::serve(&at, "k", "udp", shouting_port());
    let mut guest = Turnctl::start(&["connect", &at, "k"]);
    guest.event("path");
    for word in ["hello", "again"] {
        guest.write(word.as_bytes());
        assert_eq!(guest.read(5), word.to_ascii_uppercase().as_bytes());
    }
    guest.end_input();
    assert_eq!((guest.rest(), guest.exit_code()), (Vec::new(), 0));
    left_in_order(&mut host);
}

/// A program that ends without a word, as when it panics.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_says_why_a_device_is_gone() {
    let server = start();
    let at = pairing(&server);
    for (protocol, key) in [("tcp", "one"), ("udp", "two")] {
        let mut host = Turnctl::serve(&at, key, protocol, shouting_service());
        let key = AccessKey::new(key).expect("a key");
        let device = Connector::new(at.parse().expect("a server"), key);
        let conn = device.connect().await.expect("connected");
        drop(conn.into_streams().await.expect("streams"));
        let left = host.event("device_left");
        assert_eq!(left["message"], "the peer broke it off");
    }
}

/// The host says that its own port is the reason, and blames no device for it.
#[test]
fn a_host_says_that_it_cannot_reach_the_port_that_it_serves() {
    let server = start();
    let at = pairing(&server);
    // Nobody else gets these numbers meanwhile.
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let no_tcp = udp.local_addr().expect("bound");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let no_udp = tcp.local_addr().expect("bound");
    let mut host = Turnctl::serve(&at, "tcp", "tcp", no_tcp);
    let mut guest = Turnctl::start(&["connect", &at, "tcp"]);
    let lost = guest.event("error");
    assert_eq!(guest.exit_code(), 1);
    let unreached = "the peer cannot reach the port that it serves";
    assert_eq!(
        lost["message"],
        format!("the connection was lost: {unreached}")
    );
    let reason = failed_service(&mut host, no_tcp);
    let left = host.event("device_left");
    assert_eq!(left["message"], *reason);
    // One that does more than this is not gone for it.
    let mut forward = Turnctl::start(&["forward", &at, "tcp", "tcp", "0"]);
    let mut stream = TcpStream::connect(forward.listening()).expect("the port is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let end = stream.read(&mut [0; 1]);
    assert!(end.is_err(), "an error and not an end: {end:?}");
    let refused = forward.event("service_failed");
    assert_eq!(refused["message"], unreached);
    support::signal(forward.child.id(), "TERM");
    assert_eq!(forward.exit_code(), 143);
    left_in_order(&mut host);
    let mut host = Turnctl::serve(&at, "udp", "udp", no_udp);
    let mut forward = Turnctl::start(&["forward", &at, "udp", "udp", "0"]);
    let client = client_of(forward.listening());
    for _ in 0..20 {
        client.send(b"hello").expect("sent");
    }
    failed_service(&mut host, no_udp);
    assert_eq!(forward.event("service_failed")["message"], unreached);
    support::signal(forward.child.id(), "TERM");
    assert_eq!(forward.exit_code(), 143);
    left_in_order(&mut host);
    // Standard input that is at its end, and that is not.
    for more in [false, true] {
        let mut guest = Turnctl::start(&["connect", &at, "udp"]);
        guest.write(b"hello");
        if !more {
            guest.end_input();
        }
        let lost = guest.event("error");
        assert_eq!(guest.exit_code(), 1);
        assert_eq!(
            lost["message"],
            format!("the connection was lost: {unreached}")
        );
        let left = host.event("device_left");
        let why = left["message"].as_str().expect("a text");
        assert!(why.contains(&no_udp.to_string()), "{why}");
    }
}

/// What it says of that.
fn failed_service(host: &mut Turnctl, to: SocketAddr) -> String {
    let failed = host.event("service_failed");
    let message = failed["message"].as_str().expect("a text");
    let told = message.contains(&to.to_string()) && message.contains("refused");
    assert!(told, "{message}");
    message.to_owned()
}

#[test]
fn what_does_not_fit_together_says_so_at_once() {
    let server = start();
    let at = pairing(&server);
    let refused = |forward: &[&str], word: &str| {
        let mut forward = Turnctl::start(forward);
        let error = forward.event("error");
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains(word), "{message}");
        assert_eq!(forward.exit_code(), 1);
    };
    let _host = Turnctl::serve(&at, "udp", "udp", shouting_port());
    refused(&["forward", &at, "udp", "tcp", "0"], "serves a UDP port");
    for protocol in ["udp", "tcp"] {
        let key = format!("talks {protocol}");
        let mut talks = Turnctl::start(&["host", &at, &key, protocol]);
        talks.event("registered");
        refused(&["forward", &at, &key, "tcp", "0"], "serves no port");
    }
    // Nobody at all is 3, as with `connect`, and a port that somebody has is 1.
    let mut nobody = Turnctl::start(&["forward", &at, "nobody", "tcp", "0"]);
    assert_eq!(nobody.exit_code(), 3);
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = taken.local_addr().expect("bound").port().to_string();
    let mut forward = Turnctl::start(&["forward", &at, "k", "tcp", &port]);
    assert_eq!(forward.exit_code(), 1);
}

/// Asks the shouting service through a forwarded port, again until it answers.
fn shouts(local: SocketAddr, word: &str) {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(local)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(word.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answered = (0..20).any(|_| match ask() {
        Ok(answer) => answer == word.to_ascii_uppercase(),
        Err(_) => {
            thread::park_timeout(Duration::from_millis(500));
            false
        }
    });
    assert!(answered, "{word}");
}

#[test]
fn a_forwarded_port_survives_a_restart_of_the_host() {
    let server = start();
    let at = pairing(&server);
    let to = shouting_service();
    let mut host = Turnctl::serve(&at, "k", "tcp", to);
    let mut forward = Turnctl::start(&["forward", &at, "k", "tcp", "0"]);
    let local = forward.listening();
    shouts(local, "one");
    for (signal, word) in [("TERM", "two"), ("KILL", "three")] {
        // One connection is open when it happens.
        let mut open = TcpStream::connect(local).expect("the port is there");
        open.write_all(b"never answered").expect("writable");
        host.event("path");
        support::signal(host.child.id(), signal);
        if signal == "TERM" {
            assert_eq!(host.exit_code(), 143, "it ended in order");
        }
        forward.event("disconnected");
        open.set_read_timeout(Some(PATIENCE)).expect("set");
        let end = open.read(&mut [0; 100]);
        assert!(end.is_err(), "an error and not an end: {end:?}");
        // One that comes meanwhile waits for the host, which is back in time.
        let waiting = thread::spawn(move || shouts(local, "waiting"));
        host = Turnctl::serve(&at, "k", "tcp", to);
        forward.event("reconnected");
        waiting.join().expect("answered");
        shouts(local, word);
    }
    support::signal(forward.child.id(), "TERM");
    assert_eq!(forward.exit_code(), 143, "it ended in order");
    assert!(TcpStream::connect(local).is_err());
    left_in_order(&mut host);
}

#[test]
fn while_the_host_is_away_a_client_is_refused_within_seconds() {
    let server = start();
    let at = pairing(&server);
    let mut host = Turnctl::serve(&at, "k", "tcp", shouting_service());
    let mut forward = Turnctl::start(&["forward", &at, "k", "tcp", "0"]);
    let local = forward.listening();
    support::signal(host.child.id(), "INT");
    assert_eq!(host.exit_code(), 130);
    forward.event("disconnected");
    let mut stream = TcpStream::connect(local).expect("the port is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let end = stream.read(&mut [0; 1]);
    assert!(end.is_err(), "an error and not an end: {end:?}");
    let event = forward.event("reconnecting");
    assert!(event["in_s"].as_f64().is_some(), "{event}");
    let message = event["message"].as_str().expect("a text");
    assert!(message.contains("nobody waits"), "{message}");
}

#[test]
fn a_forwarded_port_survives_a_restart_of_the_server() {
    for manner in [&[][..], &["--relay-only"]] {
        let mut server = start();
        let at = pairing(&server);
        let to = shouting_service().to_string();
        let serve = ["host", &at, "k", "tcp", "--to", &to];
        let mut host = Turnctl::start(&[&serve[..], manner].concat());
        host.event("registered");
        let forward = ["forward", &at, "k", "tcp", "0"];
        let mut forward = Turnctl::start(&[&forward[..], manner].concat());
        let local = forward.listening();
        shouts(local, "before");
        server.kill();
        server.start_again();
        // Also what was relayed: the allocations are made again.
        shouts(local, "after");
    }
}

#[test]
fn a_forwarded_udp_port_survives_a_restart_of_the_host() {
    let server = start();
    let at = pairing(&server);
    let to = shouting_port();
    let mut host = Turnctl::serve(&at, "k", "udp", to);
    let mut forward = Turnctl::start(&["forward", &at, "k", "udp", "0"]);
    let client = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    client.connect(forward.listening()).expect("loopback");
    client
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("set");
    let mut buffer = [0; 100];
    let mut answered = || {
        (0..40).any(|_| {
            client.send(b"hello").expect("sent");
            matches!(client.recv(&mut buffer), Ok(5) if buffer[..5] == *b"HELLO")
        })
    };
    assert!(answered());
    support::signal(host.child.id(), "TERM");
    assert_eq!(host.exit_code(), 143);
    forward.event("disconnected");
    let _host = Turnctl::serve(&at, "k", "udp", to);
    forward.event("reconnected");
    assert!(answered());
}
