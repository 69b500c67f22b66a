//! Clients of stunturn.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use turnserver::signal::{Compat, Config, Handle, serve};

use super::{LIMIT, LOCALHOST, again, endpoint, until};

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

fn receiver(server: &Handle, from: Ipv4Addr, text: &str) -> TcpStream {
    let stream = dial(from, server.addresses()[0]);
    say(&stream, text);
    stream
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
    // Long enough for a second one to come.
    config.limits.room.max_wait_s = 3;
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
