//! Clients of stunturn and Fractal against the built server, with the ports and the flows that
//! they have: nothing but one line of configuration each.

#![allow(
    clippy::disallowed_methods,
    reason = "watches a running process in real time"
)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::{Config, Server, stun};

const LIMIT: Duration = Duration::from_secs(10);

/// Without the reply budget: everybody here is one source.
fn server() -> Server {
    with_limits("unauthenticated_replies = 0\n")
}

fn with_limits(limits: &str) -> Server {
    Server::with_ports(|ports| Config {
        signaling: Some(format!(
            "stunturn = true\nfractal = \"127.0.0.1:{0}\"\nfractal_first = \"127.0.0.2:{0}\"",
            ports.peer()
        )),
        tls: false,
        limits: limits.to_owned(),
        ..Config::default()
    })
}

/// What the Go client has of a pairing.
struct Pairing {
    protocol: String,
    /// The port of the signalling connection, which TCP punches from.
    local: SocketAddr,
    peer: SocketAddr,
}

/// The text that answers `ping`: one attempt, read for 10 s.
fn discover(socket: &UdpSocket, server: SocketAddr) -> String {
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket.send_to(b"ping", server).expect("sent");
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, server);
    String::from_utf8(buffer[..len].to_vec()).expect("text")
}

/// The client's signalling: dial, write the hello, read one answer, close. An answer that Go's
/// decoder refuses is an error, as is one without a peer.
fn signal(
    server: SocketAddr,
    key: &str,
    target_ip: &str,
    protocol: &str,
    address: &str,
) -> Result<Pairing, String> {
    // From a port that is this connection's alone. One that the system chooses while connecting may
    // be in use by another one, also by one that has ended a minute ago, and is then not to be had.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    socket.bind(&any.into()).expect("a port");
    socket.connect(&server.into()).expect("connected");
    let mut stream = TcpStream::from(socket);
    let local = stream.local_addr().expect("an address");
    let hello = format!(
        "{{\"uuid\":\"{key}\",\"target_ip\":\"{target_ip}\",\"protocol\":\"{protocol}\",\
         \"address\":\"{address}\"}}\n"
    );
    stream.write_all(hello.as_bytes()).expect("written");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an end");
    let value: Value = serde_json::from_str(&text).map_err(|_| "EOF".to_owned())?;
    let peer = value["peer_address"].as_str();
    let Some(peer) = peer else {
        return Err(value["error"].as_str().unwrap_or_default().to_owned());
    };
    Ok(Pairing {
        protocol: value["protocol"].as_str().expect("a text").to_owned(),
        local,
        peer: peer.parse().expect("an address"),
    })
}

/// A receiver comes at once with its own UDP address, and asks again until somebody waits.
fn receive(server: SocketAddr, key: &str, socket: &UdpSocket) -> Pairing {
    let started = Instant::now();
    loop {
        let own = discover(socket, server);
        match signal(server, key, "", "", &own) {
            Ok(pairing) => return pairing,
            Err(error) => assert_eq!(error, "Receiver with that UUID not found"),
        }
        assert!(started.elapsed() < LIMIT, "nobody waits");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Pings every 100 ms; done with the first ping from anywhere, after one ping more.
fn punch_udp(socket: &UdpSocket, peer: SocketAddr) {
    let pause = Some(Duration::from_millis(100));
    socket.set_read_timeout(pause).expect("a timeout");
    for _ in 0..300 {
        socket.send_to(b"ping", peer).expect("sent");
        let mut buffer = [0; 64];
        if let Ok((4, _)) = socket.recv_from(&mut buffer) {
            assert_eq!(&buffer[..4], b"ping");
            socket.send_to(b"ping", peer).expect("sent");
            return;
        }
    }
    panic!("never punched");
}

fn bound(local: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, local.port())).into())?;
    Ok(socket)
}

/// Two loops on the port of the signalling connection: one dials, one listens. The first
/// connection wins. Only SO_REUSEADDR is set, so that a side that listens dials no more.
fn punch_tcp(pairing: &Pairing, listens: bool) -> TcpStream {
    let (won, winner) = mpsc::channel();
    let (local, peer) = (pairing.local, pairing.peer);
    if listens {
        // The port of the signalling connection is free when its last segment is acknowledged.
        let started = Instant::now();
        let listener = loop {
            match bound(local) {
                Ok(listener) => break listener,
                Err(error) => assert!(started.elapsed() < LIMIT, "{local}: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        listener.listen(1).expect("listening");
        let won = won.clone();
        thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = won.send(TcpStream::from(stream));
            }
        });
    } else {
        thread::spawn(move || {
            for _ in 0..100 {
                thread::sleep(Duration::from_millis(100));
                let dialled = bound(local).and_then(|socket| {
                    socket.connect_timeout(&peer.into(), Duration::from_secs(5))?;
                    Ok(socket)
                });
                if let Ok(socket) = dialled {
                    let _ = won.send(TcpStream::from(socket));
                    return;
                }
            }
        });
    }
    winner.recv_timeout(LIMIT).expect("a connection")
}

fn echo(mut one: TcpStream, mut two: TcpStream) {
    let data: Vec<u8> = (0..1 << 20).map(|n| (n * 7 + n / 251) as u8).collect();
    let sent = data.clone();
    let sender = thread::spawn(move || {
        one.write_all(&sent).expect("written");
        let mut back = vec![0; sent.len()];
        one.read_exact(&mut back).expect("read");
        back
    });
    let mut received = vec![0; data.len()];
    two.read_exact(&mut received).expect("read");
    two.write_all(&received).expect("written");
    assert!(sender.join().expect("done") == data);
}

#[test]
fn stunturns_clients_pair_in_both_protocols() {
    let server = server();
    let at = server.signaling();
    for round in 0..3 {
        for protocol in ["tcp", "udp"] {
            let key = format!("key-{round}-{protocol}");
            let initiator = {
                let key = key.clone();
                thread::spawn(move || {
                    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                    let own = match protocol {
                        "udp" => discover(&socket, at),
                        _ => String::new(),
                    };
                    let pairing = signal(at, &key, "127.0.0.1", protocol, &own);
                    let pairing = pairing.expect("paired");
                    assert_eq!(pairing.protocol, protocol);
                    if protocol == "udp" {
                        punch_udp(&socket, pairing.peer);
                        return None;
                    }
                    Some(punch_tcp(&pairing, true))
                })
            };
            // Gathered anew for each attempt: it need not know the protocol.
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let pairing = receive(at, &key, &socket);
            assert_eq!(pairing.protocol, protocol);
            if protocol == "udp" {
                punch_udp(&socket, pairing.peer);
                assert!(initiator.join().expect("punched").is_none());
            } else {
                let two = punch_tcp(&pairing, false);
                let one = initiator.join().expect("punched").expect("a connection");
                echo(one, two);
            }
        }
    }
}

#[test]
fn a_port_number_answers_http_stun_and_the_text() {
    let server = server();
    let at = server.signaling();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let own = socket.local_addr().expect("an address").to_string();
    assert_eq!(discover(&socket, at), own);
    // Any datagram, the empty one too.
    for bytes in [&b""[..], b"anything"] {
        socket.send_to(bytes, at).expect("sent");
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..len], own.as_bytes());
    }
    assert!(stun::binding_udp(at, LIMIT).is_some());
    let mut stream = TcpStream::connect(at).expect("connected");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("written");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an end");
    assert!(text.starts_with("HTTP/1.1 404"));
    // The relay's own port does not echo.
    let relay = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let pause = Some(Duration::from_millis(300));
    relay.set_read_timeout(pause).expect("a timeout");
    relay.send_to(b"ping", server.udp()).expect("sent");
    assert!(relay.recv(&mut [0; 64]).is_err());
}

#[test]
fn texts_to_one_address_are_bounded() {
    let server = with_limits("");
    let at = server.signaling();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for _ in 0..1000 {
        socket.send_to(b"", at).expect("sent");
    }
    // The first one has time; behind the last one there is none for long.
    let mut answers = 0;
    let mut limit = LIMIT;
    loop {
        socket.set_read_timeout(Some(limit)).expect("a timeout");
        if socket.recv(&mut [0; 64]).is_err() {
            break;
        }
        answers += 1;
        limit = Duration::from_millis(300);
    }
    // 10 a second from one source; the flood may reach into a second one.
    assert!((1..=30).contains(&answers), "{answers}");
}

#[test]
fn fractals_clients_meet_and_their_requests_are_logged() {
    let server = server();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, server.ports.peer()));
    let udp = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        socket
    };
    let (host, client) = (udp(), udp());
    let post = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7e, 0x07];
    host.send_to(&post, at).expect("sent");
    server.wait_for_log("fractal: posted");
    let ask = [0, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0x7e, 0x07];
    client.send_to(&ask, at).expect("sent");
    let [mut reply, mut told] = [[0; 8]; 2];
    assert_eq!(client.recv(&mut reply).expect("a reply"), 8);
    assert_eq!(host.recv(&mut told).expect("a notification"), 8);
    let port = |socket: &UdpSocket| {
        let port = socket.local_addr().expect("an address").port();
        port.to_be_bytes()
    };
    assert_eq!(reply[..4], [127, 0, 0, 1]);
    assert_eq!(
        (&reply[4..6], &reply[6..]),
        (&port(&host)[..], &[0x7e, 7][..])
    );
    assert_eq!((&told[4..6], &told[6..]), (&port(&client)[..], &[0, 0][..]));
    server.wait_for_log("fractal: asked");
    // Both connect to each other and open the way by an empty datagram.
    let peer = |bytes: [u8; 8]| {
        SocketAddr::from((
            [bytes[0], bytes[1], bytes[2], bytes[3]],
            u16::from_be_bytes([bytes[4], bytes[5]]),
        ))
    };
    host.connect(peer(told)).expect("connected");
    client.connect(peer(reply)).expect("connected");
    for socket in [&host, &client] {
        socket.send(b"").expect("sent");
    }
    for socket in [&host, &client] {
        assert_eq!(socket.recv(&mut [0; 8]).expect("a datagram"), 0);
    }
}

/// The fields of the latest line with this message.
fn logged(server: &Server, message: &str) -> Value {
    server.wait_for_log(message);
    let log = server.log();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let mut told = lines.filter(|line: &Value| line["message"] == message);
    told.next_back().expect("a line")
}

#[test]
fn requests_by_tcp_are_logged_too() {
    let server = server();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, server.ports.peer()));
    let connect = || TcpStream::connect(at).expect("connected");
    let (mut host, mut client) = (connect(), connect());
    let address = |stream: &TcpStream| stream.local_addr().expect("an address").to_string();
    host.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7e, 0x08])
        .expect("sent");
    let posted = logged(&server, "fractal: posted");
    assert_eq!(posted["host"], address(&host), "{posted}");
    assert_eq!(posted["service"], 0x7e08);
    client
        .write_all(&[0, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0x7e, 0x08])
        .expect("sent");
    client.read_exact(&mut [0; 8]).expect("a reply");
    let asked = logged(&server, "fractal: asked");
    assert_eq!(asked["client"], address(&client), "{asked}");
    assert_eq!(
        (&asked["host"], &asked["found"]),
        (&"127.0.0.1".into(), &true.into())
    );
}

#[test]
fn requests_of_the_first_generation_are_logged_too() {
    let server = server();
    let at = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), server.ports.peer()));
    let udp = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (machine, client) = (udp(), udp());
    let address = |socket: &UdpSocket| socket.local_addr().expect("an address").to_string();
    let message = "fractal: first generation";
    machine.send_to(b"S", at).expect("sent");
    let offered = logged(&server, message);
    assert_eq!(offered["from"], address(&machine), "{offered}");
    assert_eq!(offered["met"], false);
    client.send_to(b"127.0.0.1C", at).expect("sent");
    client.set_read_timeout(Some(LIMIT)).expect("a timeout");
    client.recv(&mut [0; 8]).expect("a reply");
    let started = Instant::now();
    let mut asked = logged(&server, message);
    while asked == offered && started.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(10));
        asked = logged(&server, message);
    }
    assert_eq!(asked["from"], address(&client), "{asked}");
    assert_eq!(asked["met"], true);
}

/// Senders of datagrams can be forged, so that a limit for each of them bounds no log.
#[test]
fn a_flood_of_requests_is_no_flood_of_log_lines() {
    let server = server();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, server.ports.peer()));
    let ask = [0, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0x7e, 0x07];
    let mut answered = 0;
    for n in 0..3000_u32 {
        let from = Ipv4Addr::from(0x7F01_0000 + n % 500);
        let socket = UdpSocket::bind((from, 0)).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        socket.send_to(&ask, at).expect("sent");
        answered += usize::from(socket.recv(&mut [0; 8]).is_ok());
    }
    assert_eq!(answered, 3000, "all are answered");
    let lines = || server.log().matches("fractal: asked").count();
    let before = lines();
    assert!((1000..2500).contains(&before), "{before} lines");
    // What was left out is counted in the next line.
    let told = || {
        let log = server.log();
        let counts = log.lines().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            find(&line, "suppressed")
        });
        counts.sum::<u64>()
    };
    let started = Instant::now();
    while lines() as u64 + told() < 3000 {
        assert!(
            started.elapsed() < LIMIT,
            "{} lines, {} left out",
            lines(),
            told()
        );
        thread::sleep(Duration::from_millis(100));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(&ask, at).expect("sent");
    }
}

/// A number anywhere in an object.
fn find(value: &Value, name: &str) -> Option<u64> {
    let object = value.as_object()?;
    let own = object.get(name).and_then(Value::as_u64);
    own.or_else(|| object.values().find_map(|inner| find(inner, name)))
}
