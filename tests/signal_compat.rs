//! Clients of other systems against the pairing endpoint, byte by byte as they behave.

#![allow(
    clippy::disallowed_methods,
    reason = "watches sockets and connections in real time"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use turnserver::signal::{Compat, Config, Handle, Limits, serve};

const LIMIT: Duration = Duration::from_secs(10);
const LOCALHOST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

fn endpoint(compat: Compat) -> Handle {
    let mut config = Config::new([SocketAddr::V4(LOCALHOST)]);
    config.compat = compat;
    config.limits = Limits {
        joins_per_minute: 0,
        ..Limits::default()
    };
    serve(config).expect("started")
}

fn stunturn() -> Handle {
    endpoint(Compat {
        stunturn: true,
        ..Compat::default()
    })
}

/// What its dialer does: an ordinary connection, from an address if one is given, without any
/// option on the socket.
fn dial(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::from((from, 0)).into())
        .expect("bound");
    socket.connect(&to.into()).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

/// A hello as Go's encoder writes it: every field, in this order, and a newline.
fn hello(uuid: &str, target_ip: &str, protocol: &str, address: &str) -> String {
    format!(
        "{{\"uuid\":\"{uuid}\",\"target_ip\":\"{target_ip}\",\"protocol\":\"{protocol}\",\
         \"address\":\"{address}\"}}\n"
    )
}

fn say(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("written");
}

/// All that comes until the server ends it.
fn rest(mut stream: &TcpStream) -> String {
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .expect("an end, and no reset");
    text
}

/// An initiator that certainly waits.
fn waiting(server: &Handle, from: Ipv4Addr, text: &str) -> TcpStream {
    let before = server.snapshot().waiting;
    let stream = dial(from, server.addresses()[0]);
    say(&stream, text);
    until(|| server.snapshot().waiting > before);
    stream
}

fn until(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn receiver(server: &Handle, from: Ipv4Addr, text: &str) -> TcpStream {
    let stream = dial(from, server.addresses()[0]);
    say(&stream, text);
    stream
}

/// What the punching of its clients begins with: the port of the connection that was just closed,
/// with SO_REUSEADDR alone.
fn again(local: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket
        .bind(&local.into())
        .expect("the port is free at once");
    socket
}

#[test]
fn tcp_clients_are_told_the_address_that_the_server_saw_and_punch_from_it() {
    let server = stunturn();
    for round in 0..50 {
        let key = format!("key-{round}");
        let one = waiting(
            &server,
            Ipv4Addr::LOCALHOST,
            &hello(&key, "127.0.0.1", "tcp", ""),
        );
        // A receiver says its UDP address, whatever comes of it.
        let own = UdpSocket::bind(LOCALHOST).expect("a socket");
        let own = own.local_addr().expect("an address").to_string();
        let two = receiver(&server, Ipv4Addr::LOCALHOST, &hello(&key, "", "", &own));
        let at = [&one, &two].map(|stream| stream.local_addr().expect("an address"));
        let answers = [rest(&one), rest(&two)];
        let expected = [at[1], at[0]]
            .map(|peer| format!("{{\"protocol\":\"tcp\",\"peer_address\":\"{peer}\"}}\n"));
        assert_eq!(answers, expected);
        drop((one, two));
        // One listens, the other one dials, both from the ports that the server saw.
        let listener = again(at[0]);
        listener.listen(1).expect("listening");
        let dialer = again(at[1]);
        dialer.connect(&at[0].into()).expect("connected");
        let (_, from) = listener.accept().expect("accepted");
        assert_eq!(from.as_socket(), Some(at[1]));
    }
    until(|| server.snapshot().connections == 0);
    assert_eq!(
        (server.snapshot().waiting, server.snapshot().pairs),
        (0, 50)
    );
}

#[test]
fn udp_clients_exchange_the_addresses_that_they_found() {
    let server = stunturn();
    let sockets = [0, 1].map(|_| UdpSocket::bind(LOCALHOST).expect("a socket"));
    let at = [0, 1].map(|side| sockets[side].local_addr().expect("an address"));
    let text = hello("k", "127.0.0.1", "udp", &at[0].to_string());
    let one = waiting(&server, Ipv4Addr::LOCALHOST, &text);
    let text = hello("k", "", "", &at[1].to_string());
    let two = receiver(&server, Ipv4Addr::LOCALHOST, &text);
    let answer = |peer| format!("{{\"protocol\":\"udp\",\"peer_address\":\"{peer}\"}}\n");
    assert_eq!(rest(&one), answer(at[1]));
    assert_eq!(rest(&two), answer(at[0]));
    for side in [0, 1] {
        sockets[side].send_to(b"ping", at[1 - side]).expect("sent");
    }
    for socket in &sockets {
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).expect("received"), 4);
        assert_eq!(&buffer[..4], b"ping");
    }
}

/// `tcpi_segs_in`: how many segments came in on a connection.
#[allow(
    unsafe_code,
    reason = "no safe wrapper has this option; it only reads into a buffer"
)]
fn segments_in(stream: &TcpStream) -> u32 {
    // Where Linux has it since 4.2 (include/uapi/linux/tcp.h).
    const SEGS_IN: usize = 140;
    let mut info = [0_u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the buffer is as long as `len` says, and lives through the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    assert!(result == 0 && len as usize >= SEGS_IN + 4);
    u32::from_ne_bytes(info[SEGS_IN..SEGS_IN + 4].try_into().expect("4 bytes"))
}

#[test]
fn answer_and_fin_come_in_one_segment() {
    let server = stunturn();
    for round in 0..20 {
        let key = format!("key-{round}");
        let one = waiting(
            &server,
            Ipv4Addr::LOCALHOST,
            &hello(&key, "127.0.0.1", "tcp", ""),
        );
        // The SYN-ACK and the acknowledgement of the hello.
        until(|| segments_in(&one) == 2);
        let two = receiver(&server, Ipv4Addr::LOCALHOST, &hello(&key, "", "", ""));
        assert!(rest(&one).ends_with('\n'));
        assert_eq!(segments_in(&one), 3);
        // On a refusal, too.
        assert!(rest(&two).ends_with('\n'));
        let refused = receiver(&server, Ipv4Addr::LOCALHOST, &hello(&key, "", "", ""));
        assert!(rest(&refused).ends_with('\n'));
        assert!(
            segments_in(&refused) <= 3,
            "with or without an ACK of its own"
        );
    }
}

/// The error of an answer that the clients' decoder refuses.
fn refusal(stream: &TcpStream) -> String {
    let text = rest(stream);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["protocol"], "");
    // Go can not put a number where a string belongs: its caller sees an error rather than a
    // success without an address.
    assert!(value["peer_address"].is_number());
    value["error"].as_str().expect("a text").to_owned()
}

#[test]
fn refusals_have_their_texts_and_what_is_no_hello_is_closed_without() {
    let server = stunturn();
    let local = Ipv4Addr::LOCALHOST;
    let asked = Instant::now();
    let nobody = receiver(&server, local, &hello("nobody", "", "", ""));
    assert_eq!(refusal(&nobody), "Receiver with that UUID not found");
    assert!(asked.elapsed() < LIMIT);
    // Only the receiver that the initiator named pairs, and under its key only.
    let one = waiting(&server, local, &hello("k", "127.0.0.2", "tcp", ""));
    for (from, key) in [(local, "k"), (Ipv4Addr::new(127, 0, 0, 2), "k2")] {
        let other = receiver(&server, from, &hello(key, "", "", ""));
        assert_eq!(refusal(&other), "Receiver with that UUID not found");
    }
    let two = receiver(
        &server,
        Ipv4Addr::new(127, 0, 0, 2),
        &hello("k", "", "", ""),
    );
    assert!(rest(&two).contains("\"peer_address\":\"127.0.0.1:"));
    assert!(rest(&one).contains("\"peer_address\":\"127.0.0.2:"));
    for text in [
        "{}\n",
        "{\"uuid\":\"\"}\n",
        "{\"uuid\":7}\n",
        "{nonsense}\n",
        &hello("k", "no address", "tcp", ""),
        // Somebody else's address; nobody is made to send there.
        &hello("k", "", "", "192.0.2.1:53"),
        &hello("k", "127.0.0.1", "udp", "127.0.0.2:53"),
        &hello("k", "127.0.0.1", "udp", ""),
        &format!("{{\"uuid\":\"{}\"}}", "x".repeat(5000)),
    ] {
        let stream = dial(local, server.addresses()[0]);
        say(&stream, text);
        let mut answer = Vec::new();
        // Unread bytes make the kernel reset it; that is an end as well.
        match (&stream).read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(answer, b"", "{text}");
    }
    until(|| server.snapshot().connections == 0);
    assert_eq!(server.snapshot().waiting, 0);
}

#[test]
fn a_wait_ends_in_time_and_leaves_its_key_free() {
    let mut config = Config::new([SocketAddr::V4(LOCALHOST)]);
    config.compat.stunturn = true;
    config.limits.room.max_wait_s = 1;
    config.limits.room.waiting_per_id = 1;
    let server = serve(config).expect("started");
    let text = hello("k", "127.0.0.1", "tcp", "");
    for _ in 0..2 {
        let one = waiting(&server, Ipv4Addr::LOCALHOST, &text);
        let twin = receiver(&server, Ipv4Addr::LOCALHOST, &text);
        assert_eq!(refusal(&twin), "UUID already in use");
        assert_eq!(refusal(&one), "Timed out waiting for an initiator");
        assert_eq!(server.snapshot().waiting, 0);
    }
    // One that hangs up is forgotten at once, and nobody is paired with it.
    let one = waiting(&server, Ipv4Addr::LOCALHOST, &text);
    one.shutdown(Shutdown::Both).expect("shut down");
    until(|| server.snapshot().waiting == 0);
    let two = receiver(&server, Ipv4Addr::LOCALHOST, &hello("k", "", "", ""));
    assert_eq!(refusal(&two), "Receiver with that UUID not found");
    until(|| server.snapshot().connections == 0);
}

#[test]
fn its_keys_are_those_of_http_behind_a_prefix() {
    let server = stunturn();
    let one = waiting(
        &server,
        Ipv4Addr::LOCALHOST,
        &hello("k", "127.0.0.1", "tcp", ""),
    );
    let post = |key: &str| {
        let body = format!("{{\"role\":\"receiver\",\"access_key\":\"{key}\"}}");
        let stream = dial(Ipv4Addr::LOCALHOST, server.addresses()[0]);
        say(
            &stream,
            &format!(
                "POST /v1/pair HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        rest(&stream)
    };
    assert!(post("k").starts_with("HTTP/1.1 404"));
    assert!(post("stunturn:k").starts_with("HTTP/1.1 200"));
    assert!(rest(&one).contains("\"peer_address\":\"127.0.0.1:"));
}

#[test]
fn it_is_off_unless_switched_on() {
    let server = endpoint(Compat::default());
    let stream = receiver(
        &server,
        Ipv4Addr::LOCALHOST,
        &hello("k", "127.0.0.1", "tcp", ""),
    );
    let mut answer = Vec::new();
    let _ = (&stream).read_to_end(&mut answer);
    assert_eq!(answer, b"");
    assert!(server.compat_addresses().is_empty());
}

fn fractal() -> (Handle, SocketAddr, SocketAddr) {
    let server = endpoint(Compat {
        fractal: vec![LOCALHOST],
        fractal_first: vec![LOCALHOST],
        ..Compat::default()
    });
    let [second, first] = *server.compat_addresses() else {
        panic!("two addresses");
    };
    (server, second, first)
}

fn udp(from: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

const HOST_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const POST: [u8; 12] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7e, 0x06];
const ASK: [u8; 12] = [0, 0, 0, 0, 127, 0, 0, 3, 0, 0, 0x7e, 0x06];
const NOT_FOUND: [u8; 8] = [127, 0, 0, 3, 0, 0, 0x7e, 0x06];

/// What a reply, or a notification with 0 as its last field, has to be.
fn about(peer: SocketAddr, last: u16) -> [u8; 8] {
    let IpAddr::V4(ip) = peer.ip() else {
        panic!("IPv4 only");
    };
    let mut entry = [0; 8];
    entry[..4].copy_from_slice(&ip.octets());
    entry[4..6].copy_from_slice(&peer.port().to_be_bytes());
    entry[6..].copy_from_slice(&last.to_be_bytes());
    entry
}

/// 8 bytes, and where they came from.
fn eight(socket: &UdpSocket) -> ([u8; 8], SocketAddr) {
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer).expect("a datagram");
    (buffer[..len].try_into().expect("8 bytes"), from)
}

/// Asks until the answer is another one than "not found".
fn ask_until_found(client: &UdpSocket, server: SocketAddr) -> [u8; 8] {
    let started = Instant::now();
    loop {
        client.send_to(&ASK, server).expect("sent");
        let (reply, from) = eight(client);
        assert_eq!(from, server);
        if reply != NOT_FOUND {
            return reply;
        }
        assert!(started.elapsed() < LIMIT, "never found");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn fractal_over_udp() {
    let (_server, at, _) = fractal();
    let (host, client) = (udp(HOST_IP), udp(Ipv4Addr::LOCALHOST));
    // Not found is an answer; an empty datagram and a short one are none.
    for request in [&[][..], &ASK[..11], &ASK[..]] {
        client.send_to(request, at).expect("sent");
    }
    assert_eq!(eight(&client), (NOT_FOUND, at));
    // A post is not acknowledged. One that is longer is cut.
    host.send_to(&[&POST[..], b"more"].concat(), at)
        .expect("sent");
    let reply = ask_until_found(&client, at);
    assert_eq!(reply, about(host.local_addr().expect("an address"), 0x7e06));
    // The host hears of the client from the very port that it posted to.
    let told = about(client.local_addr().expect("an address"), 0);
    assert_eq!(eight(&host), (told, at));
    // Every ask announces its client again, and the two meet.
    client.send_to(&ASK, at).expect("sent");
    assert_eq!(eight(&client).0, reply);
    assert_eq!(eight(&host), (told, at));
    host.send_to(b"", client.local_addr().expect("an address"))
        .expect("sent");
    assert_eq!(client.recv(&mut [0; 8]).expect("a datagram"), 0);
}

fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = again(from);
    socket.connect(&to.into()).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

fn eight_on(mut stream: &TcpStream) -> [u8; 8] {
    let mut entry = [0; 8];
    stream.read_exact(&mut entry).expect("8 bytes");
    entry
}

#[test]
fn fractal_over_tcp_and_between_the_two() {
    let (server, at, _) = fractal();
    let local = |ip: Ipv4Addr| SocketAddr::from((ip, 0));
    let host = connect(local(HOST_IP), at);
    // In pieces: a stream has no datagrams.
    for piece in POST.chunks(5) {
        (&host).write_all(piece).expect("written");
        std::thread::sleep(Duration::from_millis(5));
    }
    let started = Instant::now();
    let (client, reply) = loop {
        let client = connect(local(Ipv4Addr::LOCALHOST), at);
        (&client).write_all(&ASK).expect("written");
        let reply = eight_on(&client);
        if reply != NOT_FOUND {
            break (client, reply);
        }
        assert!(started.elapsed() < LIMIT, "never found");
    };
    let (host_at, client_at) = (
        host.local_addr().expect("an address"),
        client.local_addr().expect("an address"),
    );
    assert_eq!(reply, about(host_at, 0x7e06));
    assert_eq!(eight_on(&host), about(client_at, 0));
    // Told once: it has left to dial.
    let late = connect(local(Ipv4Addr::LOCALHOST), at);
    (&late).write_all(&ASK).expect("written");
    assert_eq!(eight_on(&late), NOT_FOUND);
    // Both close and dial each other from the same ports, at the same time and without a
    // listener.
    drop((host, client, late));
    let (one, two) = (again(host_at), again(client_at));
    let dialing = std::thread::spawn(move || dial_until(one, client_at));
    let two = dial_until(two, host_at);
    let one = dialing.join().expect("dialled");
    (&one).write_all(b"hello").expect("written");
    let mut buffer = [0; 5];
    (&two).read_exact(&mut buffer).expect("read");
    assert_eq!(&buffer, b"hello");
    drop((one, two));
    // A datagram finds a host on TCP, and it hears of it there.
    let host = connect(local(HOST_IP), at);
    (&host).write_all(&POST).expect("written");
    let client = udp(Ipv4Addr::LOCALHOST);
    let reply = ask_until_found(&client, at);
    assert_eq!(reply, about(host.local_addr().expect("an address"), 0x7e06));
    let told = about(client.local_addr().expect("an address"), 0);
    assert_eq!(eight_on(&host), told);
    drop(host);
    until(|| server.snapshot().connections == 0);
    // One that hangs up takes along what it posted.
    let host = connect(local(HOST_IP), at);
    (&host).write_all(&POST).expect("written");
    until(|| server.snapshot().connections == 1);
    drop(host);
    until(|| server.snapshot().connections == 0);
    client.send_to(&ASK, at).expect("sent");
    assert_eq!(eight(&client).0, NOT_FOUND);
}

/// A simultaneous open needs both SYNs to cross; on loopback the first one may meet nobody.
fn dial_until(socket: Socket, to: SocketAddr) -> TcpStream {
    let from = socket.local_addr().expect("an address");
    let from = from.as_socket().expect("an IP address");
    let started = Instant::now();
    let mut socket = Some(socket);
    loop {
        let dialer = socket.take().unwrap_or_else(|| again(from));
        if dialer.connect(&to.into()).is_ok() {
            return dialer.into();
        }
        drop(dialer);
        assert!(started.elapsed() < LIMIT, "the two never meet");
    }
}

#[test]
fn fractals_first_generation_in_either_order() {
    let (_server, _, at) = fractal();
    for machine_first in [true, false] {
        let (machine, client) = (udp(HOST_IP), udp(Ipv4Addr::LOCALHOST));
        let ask = || client.send_to(b"127.0.0.3C", at).expect("sent");
        let offer = || machine.send_to(b"S", at).expect("sent");
        if machine_first {
            offer();
            std::thread::sleep(Duration::from_millis(50));
            ask();
        } else {
            ask();
            std::thread::sleep(Duration::from_millis(50));
            offer();
        }
        let here = |socket: &UdpSocket| socket.local_addr().expect("an address");
        assert_eq!(eight(&client), (about(here(&machine), 0), at));
        assert_eq!(eight(&machine), (about(here(&client), 0), at));
    }
}
