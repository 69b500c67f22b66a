//! Malformed, truncated, oversized, replayed and mis-authenticated input against the running
//! binary: whatever arrives, the next Binding is answered, memory does not grow with what was
//! sent, and every file descriptor comes back.

#![allow(
    clippy::disallowed_methods,
    reason = "attacks a running process in real time"
)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use support::hostile;
use support::random::Random;
use support::stun::{self, Client, Echo, Message, Wire};
use support::{Config, OTHER_USER, Server, USER, tls, wait_until};

const CASES: usize = 6000;
const MOST_GROWTH_KIB: u64 = 16 * 1024;

/// Whether a Binding on a new UDP socket and, every so often, a new TCP connection is answered.
fn assert_answers(server: &mut Server, after: &str) {
    let answered =
        (0..5).any(|_| stun::binding_udp(server.udp(), Duration::from_secs(1)).is_some());
    assert!(
        answered && server.is_running(),
        "no answer over UDP after {after}"
    );
}

fn assert_answers_on_streams(server: &mut Server, after: &str) {
    let answered = stun::binding_tcp(server.tcp(), Duration::from_secs(5));
    assert!(answered.is_some(), "no answer over TCP after {after}");
    assert_answers(server, after);
}

/// Runs `attack` twice and asserts that the second run costs no memory to speak of and that all
/// descriptors come back.
fn assert_no_leak(server: &mut Server, mut attack: impl FnMut(&mut Server, u64)) {
    let descriptors = server.settled_descriptors();
    attack(server, 1);
    let resident = server.resident_kib();
    attack(server, 2);
    let growth = server.resident_kib().saturating_sub(resident);
    assert!(
        growth < MOST_GROWTH_KIB,
        "{growth} KiB more after the second run"
    );
    let came_back = wait_until(Duration::from_secs(45), || {
        server.descriptors() <= descriptors
    });
    assert!(
        came_back,
        "{} descriptors, {descriptors} at the start",
        server.descriptors()
    );
}

fn lucky_client(wire: Wire) -> Client {
    let mut client = Client::new(wire, USER);
    client.allocated();
    client
}

/// Ends whatever the hostile input made of the client's allocation.
fn clean_up(client: &mut Client) {
    for _ in 0..3 {
        while let Wire::Udp(socket) = &client.wire {
            // Answers to the attack are of no interest.
            socket.set_nonblocking(true).expect("it can be set");
            let pending = socket.recv(&mut [0; 2048]).is_ok();
            socket.set_nonblocking(false).expect("it can be set");
            if !pending {
                break;
            }
        }
        let gone = client.refresh(0);
        if gone.is_success() || gone.error() == Some(437) {
            return;
        }
    }
    panic!("the client's allocation cannot be deleted");
}

#[test]
fn datagrams_of_every_kind() {
    let mut server = Server::start();
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    assert_no_leak(&mut server, |server, seed| {
        let mut random = Random(seed);
        let mut client = lucky_client(Wire::udp(server.udp()).expect("a socket"));
        assert!(client.permit(echo.address).is_success());
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for case in 0..CASES {
            let bytes = hostile::any(&mut random, &client, echo.address);
            if random.below(3) == 0 {
                stranger.send_to(&bytes, server.udp()).expect("sent");
            } else {
                client.wire.send(&bytes).expect("sent");
            }
            if case % 50 == 0 {
                assert_answers(server, &format!("case {case} of seed {seed}"));
            }
        }
        clean_up(&mut client);
        // Signed nonsense of the stranger may have made an allocation too.
        clean_up(&mut Client::new(rebind(stranger, server.udp()), USER));
        assert_answers_on_streams(server, "the attack");
    });
}

/// A client on the very socket that was used before.
fn rebind(socket: UdpSocket, server: SocketAddr) -> Wire {
    socket.connect(server).expect("connected");
    let wire = Wire::Udp(socket);
    wire.set_timeout(Duration::from_secs(5));
    wire
}

#[test]
fn oversized_datagrams() {
    let mut server = Server::start();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut random = Random(3);
    for len in [1400, 1500, 1501, 2048, 4096, 9000, 16_384, 65_507] {
        let filler = vec![0; len - 24 - 4];
        let padded = Message::new(stun::BINDING).attr(0x8022, &filler[..filler.len() & !3]);
        for bytes in [padded.into_bytes(), random.bytes(len), vec![0x40; len]] {
            socket.send_to(&bytes, server.udp()).expect("sent");
        }
        assert_answers(&mut server, &format!("datagrams of {len} bytes"));
    }
    for len in [0, 1, 2, 3, 4, 19] {
        socket.send_to(&vec![0; len], server.udp()).expect("sent");
    }
    assert_answers(&mut server, "tiny datagrams");
}

#[test]
fn replayed_requests() {
    let mut server = Server::start();
    let mut client = lucky_client(Wire::udp(server.udp()).expect("a socket"));
    let allocate = client
        .authenticate(Message::new(stun::ALLOCATE).attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));

    // From another 5-tuple the nonce is not the one that this client was given.
    let mut thief = Wire::udp(server.udp()).expect("a socket");
    thief.send(allocate.bytes()).expect("sent");
    let refused = thief.receive_message().expect("an answer");
    assert_eq!(refused.error(), Some(438), "a nonce is bound to its client");

    // From its own 5-tuple a repeated deletion deletes nothing new.
    let delete = client.authenticate(Message::new(stun::REFRESH).attr(stun::LIFETIME, &[0; 4]));
    assert!(client.exchange(&delete).expect("an answer").is_success());
    let descriptors = server.descriptors();
    for _ in 0..2000 {
        client.wire.send(delete.bytes()).expect("sent");
        client.wire.send(allocate.bytes()).expect("sent");
    }
    assert_answers(&mut server, "a replay");
    // A socket closes a moment after its allocation has ended.
    let one_at_most = || server.descriptors() <= descriptors + 1;
    assert!(
        wait_until(Duration::from_secs(10), one_at_most),
        "one 5-tuple, one relay at most"
    );
    clean_up(&mut client);
    assert_answers(&mut server, "cleaning up");
}

#[test]
fn a_flood_of_unauthenticated_requests_costs_no_memory() {
    let mut server = Server::with(Config {
        limits: String::new(),
        ..Config::default()
    });
    assert_no_leak(&mut server, |server, _| {
        let sockets: Vec<_> = (0..50)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket"))
            .collect();
        for round in 0..400 {
            for socket in &sockets {
                let request =
                    Message::new(stun::ALLOCATE).attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
                socket.send_to(request.bytes(), server.udp()).expect("sent");
            }
            // The budget is the attacker's: this source gets few answers, the process lives.
            assert!(round % 100 != 0 || server.is_running());
        }
    });
    // TCP has proven its source address: it is answered at once.
    assert!(stun::binding_tcp(server.tcp(), Duration::from_secs(5)).is_some());
    let recovered = wait_until(Duration::from_secs(10), || {
        stun::binding_udp(server.udp(), Duration::from_millis(200)).is_some()
    });
    assert!(recovered, "the budget refills");
}

#[test]
fn unauthenticated_answers_do_not_amplify() {
    let server = Server::with(Config {
        limits: String::new(),
        ..Config::default()
    });
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let timeout = Some(Duration::from_millis(1));
    socket.set_read_timeout(timeout).expect("above zero");
    let (mut sent, mut received) = (0, 0);
    let started = Instant::now();
    // At least 30 requests a second of 28 bytes, over the budget's window of ten seconds, also where
    // a round takes twice its time.
    while started.elapsed() < Duration::from_secs(10) {
        for _ in 0..2 {
            let request =
                Message::new(stun::ALLOCATE).attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            sent += socket.send_to(request.bytes(), server.udp()).expect("sent");
        }
        let mut buffer = [0; 2048];
        while let Ok(len) = socket.recv(&mut buffer) {
            received += len;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    assert!(received > 0, "an honest client is answered");
    assert!(received <= sent, "{received} bytes out for {sent} in");
}

#[test]
fn streams_of_every_kind() {
    let mut server = Server::start();
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    assert_no_leak(&mut server, |server, seed| {
        let mut random = Random(seed);
        for connection in 0..300 {
            let mut client = Client::new(Wire::tcp(server.tcp()).expect("a connection"), USER);
            if connection % 2 == 0 {
                client.allocated();
                assert!(client.permit(echo.address).is_success());
            }
            let Wire::Tcp(stream) = &client.wire else {
                unreachable!("made from TCP")
            };
            let mut stream = stream.try_clone().expect("a clone");
            for _ in 0..1 + random.below(12) {
                let bytes = hostile::any(&mut random, &client, echo.address);
                // The server may have closed already: that is its answer.
                if send_split(&mut random, &mut stream, &bytes).is_err() {
                    break;
                }
            }
            match random.below(3) {
                // Nobody reads the answers; the connection just goes.
                0 => {}
                1 => drop(stream.shutdown(Shutdown::Write)),
                _ => drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
            }
            if connection % 25 == 0 {
                assert_answers_on_streams(server, &format!("connection {connection}, seed {seed}"));
            }
        }
    });
}

/// Writes in pieces of random sizes.
fn send_split(
    random: &mut Random,
    stream: &mut TcpStream,
    mut bytes: &[u8],
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let len = (1 + random.below(1 + bytes.len())).min(bytes.len());
        stream.write_all(&bytes[..len])?;
        bytes = &bytes[len..];
        if random.below(20) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

#[test]
fn a_request_one_byte_at_a_time() {
    let server = Server::start();
    let Ok(Wire::Tcp(mut stream)) = Wire::tcp(server.tcp()) else {
        panic!("no connection");
    };
    for _ in 0..3 {
        let request = Message::new(stun::BINDING).attr(0x8022, b"slow");
        for byte in request.bytes() {
            stream.write_all(&[*byte]).expect("sent");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut reply = [0; 32];
        stream.read_exact(&mut reply).expect("an answer");
        let reply = Message::parse(&reply).expect("STUN");
        assert!(reply.is_success() && reply.id() == request.id());
    }
}

#[test]
fn what_can_never_become_a_frame_is_closed() {
    let mut server = Server::start();
    let bad_cookie = {
        let mut bytes = Message::new(stun::BINDING).into_bytes();
        bytes[4] = 0;
        bytes
    };
    let bad_length = {
        let mut bytes = Message::new(stun::BINDING).into_bytes();
        bytes[3] = 3;
        bytes
    };
    for bytes in [vec![0x04; 64], vec![0xFF; 64], bad_cookie, bad_length] {
        let Ok(Wire::Tcp(mut stream)) = Wire::tcp(server.tcp()) else {
            panic!("no connection");
        };
        stream.write_all(&bytes).expect("sent");
        let closed = matches!(stream.read(&mut [0; 64]), Ok(0))
            || stream.write_all(&[0]).is_err()
            || stream.take_error().is_ok_and(|error| error.is_some());
        assert!(closed, "still open after {bytes:02x?}");
    }
    assert_answers_on_streams(&mut server, "rubbish");
}

#[test]
fn idle_connections_neither_pile_up_nor_lock_out() {
    let mut server = Server::with(Config {
        limits: "unauthenticated_connections_per_source = 64\n".to_owned(),
        ..Config::default()
    });
    let before = server.settled_descriptors();
    let mut idle = Vec::new();
    for count in 0..400 {
        idle.push(TcpStream::connect(server.tcp()).expect("a connection"));
        if count % 50 == 49 {
            // At the cap the oldest goes and the newcomer is served.
            assert!(stun::binding_tcp(server.tcp(), Duration::from_secs(5)).is_some());
        }
    }
    let bounded = wait_until(Duration::from_secs(5), || {
        server.descriptors() < before + 80
    });
    assert!(bounded, "{} descriptors", server.descriptors());

    // Silence for 5 s, or no credentials for 15 s, ends a connection.
    let mut silent = TcpStream::connect(server.tcp()).expect("a connection");
    let limit = Some(Duration::from_secs(10));
    silent.set_read_timeout(limit).expect("above zero");
    let started = Instant::now();
    assert!(matches!(silent.read(&mut [0; 16]), Ok(0) | Err(_)));
    let lasted = started.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(9)).contains(&lasted),
        "a silent connection lasted {lasted:?}"
    );
    drop(idle);
    let came_back = wait_until(Duration::from_secs(10), || server.descriptors() <= before);
    assert!(
        came_back,
        "{} descriptors, {before} before",
        server.descriptors()
    );
    assert_answers_on_streams(&mut server, "idle connections");
}

#[test]
fn a_client_that_never_reads_is_bounded() {
    let mut server = Server::start();
    let mut client = lucky_client(Wire::tcp(server.tcp()).expect("a connection"));
    let flood = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let limit = Some(Duration::from_secs(10));
    flood.set_read_timeout(limit).expect("above zero");
    let flooder = flood.local_addr().expect("an address");
    assert!(client.permit(flooder).is_success());
    assert!(client.bind(0x4000, flooder).is_success());
    let relayed = {
        client.send_on(0x4000, b"where");
        let mut buffer = [0; 64];
        flood.recv_from(&mut buffer).expect("relayed").1
    };

    let resident = server.settled_kib();
    for _ in 0..40_000 {
        flood.send_to(&[7; 1200], relayed).expect("sent");
    }
    // 48 MB were sent to a client that reads nothing.
    let growth = server.resident_kib().saturating_sub(resident);
    assert!(growth < MOST_GROWTH_KIB, "{growth} KiB were queued");
    assert_answers_on_streams(&mut server, "a client that never reads");
}

#[test]
fn rubbish_on_the_tls_port() {
    let mut server = Server::start();
    let before = server.settled_descriptors();
    let certificate = support::write_certificate(server.dir.path());
    let mut random = Random(5);
    for case in 0..300 {
        let mut stream = TcpStream::connect(server.tls()).expect("a connection");
        let len = 1 + random.below(600);
        let mut bytes = random.bytes(len);
        if case % 2 == 0 && len > 5 {
            // The header of a TLS handshake record with whatever behind it.
            bytes[..3].copy_from_slice(&[0x16, 3, 1]);
            let length = (random.next() as u16 % 0x4800).to_be_bytes();
            bytes[3..5].copy_from_slice(&length);
        }
        // The server may have closed already: that is its answer.
        let _ = send_split(&mut random, &mut stream, &bytes);
    }
    // Plain STUN on a TLS listener is rubbish too.
    assert_eq!(
        stun::binding_tcp(server.tls(), Duration::from_secs(2)),
        None
    );

    server.signal("HUP");
    let served = wait_until(Duration::from_secs(10), || {
        tls::binding(server.tls(), &certificate, rustls::ALL_VERSIONS).is_ok()
    });
    assert!(served, "TLS is still served");
    let came_back = wait_until(Duration::from_secs(20), || server.descriptors() <= before);
    assert!(
        came_back,
        "{} descriptors, {before} before",
        server.descriptors()
    );
    assert_answers_on_streams(&mut server, "rubbish on the TLS port");
}

#[test]
fn a_hostile_neighbour_does_not_touch_an_honest_call() {
    let mut server = Server::start();
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    let mut honest = Client::new(Wire::udp(server.udp()).expect("a socket"), OTHER_USER);
    honest.allocated();
    assert!(honest.permit(echo.address).is_success());

    let mut random = Random(6);
    let mut neighbour = lucky_client(Wire::udp(server.udp()).expect("a socket"));
    for round in 0..40 {
        for _ in 0..50 {
            let bytes = hostile::any(&mut random, &neighbour, echo.address);
            neighbour.wire.send(&bytes).expect("sent");
        }
        let payload = format!("round {round}");
        assert!(honest.echoes(echo.address, payload.as_bytes()), "{payload}");
    }
    clean_up(&mut neighbour);
    assert_answers(&mut server, "the neighbour");
}
