//! Whatever strangers send, however slowly and however often: it ends with a definite answer or
//! with the connection, leaves nothing, and does not keep others from being paired.

#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

mod signal_support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signal_support::{
    LIMIT, Reply, Socket, connect, connect_from, initiator, pair, parse, post, receiver, reply,
    serve, with,
};
use tokio_tungstenite::tungstenite::Message;
use turnserver::signal::Handle;

fn until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "it never was");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Nothing is left, and two are paired as ever.
fn unharmed(handle: &Handle, server: SocketAddr) {
    until(|| handle.snapshot().connections == 0);
    let read = handle.snapshot();
    assert_eq!((read.waiting, read.sessions), (0, 0));
    let mut socket = Socket::open(server);
    socket.join(initiator("unharmed"));
    socket.expect("waiting");
    assert_eq!(pair(server, &receiver("unharmed")).status, 200);
}

/// What comes back, to the end of the connection.
fn sent(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(server);
    // The server may have closed before all is sent.
    let _ = stream.write_all(bytes);
    end_of(stream)
}

fn end_of(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    if let Err(error) = stream.read_to_end(&mut all) {
        assert_ne!(
            error.kind(),
            std::io::ErrorKind::WouldBlock,
            "it stays open"
        );
    }
    all
}

#[test]
fn malformed_requests() {
    let (handle, server) = serve(|_| {});
    let long = "x".repeat(20_000);
    let head = "POST /v1/pair HTTP/1.1\r\nHost: x\r\n";
    for (status, text) in [
        (400, "GARBAGE\r\n\r\n".to_owned()),
        (400, format!("{head}Content-Length: -1\r\n\r\n")),
        (
            400,
            format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        ),
        (413, format!("{head}Content-Length: 20000\r\n\r\n{long}")),
        (431, format!("{head}X: {long}\r\n\r\n")),
        (404, "GET /admin HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (405, "GET /v1/pair HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (405, "DELETE /v1/ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (400, "GET /v1/ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        (
            426,
            "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
                .to_owned(),
        ),
        (
            400,
            "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n"
                .to_owned(),
        ),
    ] {
        let answer = String::from_utf8(sent(server, text.as_bytes())).expect("text");
        let found = answer.split(' ').nth(1).map(str::to_owned);
        assert_eq!(found, Some(status.to_string()), "{:.80} {answer}", text);
    }
    // Neither HTTP nor, here, TLS or anybody's hello: closed without a word.
    for text in [
        "{\"uuid\":\"k\"}\n",
        "\u{16}\u{3}\u{1}",
        "\0\u{1}\0\0",
        "ssh",
        " ",
    ] {
        assert_eq!(sent(server, text.as_bytes()), b"", "{text:?}");
    }
    unharmed(&handle, server);
}

#[test]
fn malformed_joins() {
    let (handle, server) = serve(|_| {});
    let ask = |body: &str| -> Reply { reply(post(connect(server), body)) };
    let nested = "[".repeat(5000);
    let key = |length: usize| receiver(&"k".repeat(length)).to_string();
    let endpoints = |each: &str, count: usize| {
        with(receiver("k"), json!({"endpoints": vec![each; count]})).to_string()
    };
    let id = "\"id\": \"9_FQBMSaNCbQiH6h9JzPyw\"";
    let (public_key, signature) = ("A".repeat(43), "A".repeat(86));
    let proof = |public_key: &str, nonce: &str, signature: &str| {
        let proof = json!({"public_key": public_key, "nonce": nonce, "signature": signature});
        format!("{{\"role\":\"receiver\",{id},\"proof\":{proof}}}")
    };
    for (code, body) in [
        ("bad_request", String::new()),
        ("bad_request", "null".to_owned()),
        ("bad_request", "{\"role\":\"receiver\"".to_owned()),
        ("bad_request", nested),
        (
            "bad_request",
            "[\"receiver\",null,null,\"akey\",null,null,null,false,[]]".to_owned(),
        ),
        (
            "bad_request",
            format!(
                "{{\"role\":\"receiver\",{id},\"proof\":[\"{public_key}\",\"n\",\"{signature}\"]}}"
            ),
        ),
        (
            "bad_request",
            "{\"role\":\"initiator\",\"access_key\":\"k\",\"wait_s\":0}".to_owned(),
        ),
        ("bad_request", "{\"role\":\"receiver\"}".to_owned()),
        (
            "bad_request",
            "{\"role\":\"master\",\"access_key\":\"k\"}".to_owned(),
        ),
        (
            "bad_request",
            format!("{{\"role\":\"receiver\",\"access_key\":\"k\",{id}}}"),
        ),
        (
            "bad_request",
            "{\"role\":\"receiver\",\"id\":\"too short\"}".to_owned(),
        ),
        ("bad_request", proof("short", "n", &signature)),
        ("bad_request", proof(&public_key, "two words", &signature)),
        (
            "bad_request",
            proof(&public_key, &"n".repeat(65), &signature),
        ),
        ("bad_request", proof(&public_key, "n", "short")),
        ("proof_required", proof(&public_key, "n", &signature)),
        ("proof_required", format!("{{\"role\":\"receiver\",{id}}}")),
        (
            "bad_request",
            "{\"role\":\"receiver\",\"access_key\":7}".to_owned(),
        ),
        (
            "bad_request",
            "{\"role\":\"initiator\",\"access_key\":\"k\",\"wait_s\":-1}".to_owned(),
        ),
        (
            "bad_request",
            "{\"role\":\"initiator\",\"access_key\":\"k\",\"target_ip\":\"x\"}".to_owned(),
        ),
        (
            "bad_request",
            "{\"role\":\"initiator\",\"access_key\":\"k\",\"host\":true}".to_owned(),
        ),
        ("bad_request", key(0)),
        ("bad_request", key(1025)),
        ("bad_request", endpoints("192.0.2.1:0", 1)),
        ("bad_request", endpoints("255.255.255.255:9", 1)),
        ("bad_request", endpoints("[ff02::1]:9", 1)),
        ("too_large", endpoints("192.0.2.1:9", 9)),
        ("too_large", key(8192)),
        ("nobody_waits", key(1024)),
        ("nobody_waits", endpoints("192.0.2.1:9", 8)),
    ] {
        let answer = ask(&body);
        assert_eq!(answer.body["type"], "error", "{body:.80}");
        assert_eq!(answer.body["code"], code, "{body:.80}: {}", answer.body);
        assert_eq!(
            answer.status,
            match code {
                "bad_request" => 400,
                "proof_required" => 401,
                "too_large" => 413,
                _ => 404,
            }
        );
    }
    let mut stream = connect(server);
    stream
        .write_all(b"POST /v1/pair HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n\xFF\xFE")
        .expect("sent");
    let answer = parse(&String::from_utf8(end_of(stream)).expect("text"));
    assert_eq!(answer.body["code"], "bad_request");
    unharmed(&handle, server);
}

#[test]
fn malformed_websockets() {
    let (handle, server) = serve(|_| {});
    let open = || Socket::open(server);
    for text in [
        "",
        "hello",
        "{}",
        "[]",
        "[\"join\",\"receiver\",null,null,\"akey\",null,null,null,false,[]]",
        "[\"leave\",\"AAECAwQFBgcICQoLDA0ODw\",false]",
        "{\"type\":\"shutdown\"}",
        "{\"type\":\"signal\"}",
    ] {
        let mut socket = open();
        socket.0.send(Message::text(text)).expect("sent");
        socket.expect_error("bad_request");
        socket.wait_for_end();
    }
    let mut socket = open();
    socket.0.send(Message::binary(vec![0; 10])).expect("sent");
    socket.expect_error("bad_request");
    socket.wait_for_end();
    let mut socket = open();
    socket
        .0
        .send(Message::text("x".repeat(8193)))
        .expect("sent");
    socket.expect_error("too_large");
    socket.wait_for_end();
    // Frames that no library makes: not masked, of an unknown kind, a fragment of nothing, not
    // UTF-8, a length of 2^63.
    for frame in [
        &b"\x81\x02{}"[..],
        b"\x83\x80\0\0\0\0",
        b"\x80\x81\0\0\0\0x",
        b"\x81\x82\0\0\0\0\xFF\xFE",
        b"\x81\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0",
    ] {
        let mut socket = open();
        socket.0.get_mut().write_all(frame).expect("sent");
        socket.wait_for_end();
    }
    // One that never stops.
    let mut socket = open();
    let ping = Message::Ping(tokio_tungstenite::tungstenite::Bytes::from_static(b"x"));
    until(|| socket.0.send(ping.clone()).is_err());
    let session = json!({"type": "leave", "session": "AAECAwQFBgcICQoLDA0ODw"});
    let mut socket = open();
    let refused = (0..1000).map_while(|_| {
        socket.0.send(Message::text(session.to_string())).ok()?;
        socket.hear()
    });
    let last = refused.last().expect("answers");
    assert_eq!(last["code"], "too_many");
    unharmed(&handle, server);
}

#[test]
fn those_who_dawdle_are_closed() {
    let (handle, server) = serve(|_| {});
    let head = "POST /v1/pair HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n";
    let beginnings = [
        "",
        "P",
        "POST /v1/pair HTTP/1.1\r\nHost:",
        head,
        "GET /v1/ws HTTP/1.1\r\n",
    ];
    let mut slow: Vec<_> = (0..100)
        .map(|n| {
            let beginning = beginnings[n % beginnings.len()];
            let mut stream = connect(server);
            stream.write_all(beginning.as_bytes()).expect("sent");
            // Half of them send a byte now and then.
            let dripping = n % 2 == 0 && !beginning.is_empty();
            thread::spawn(move || {
                let step = Duration::from_millis(500);
                stream.set_read_timeout(Some(step)).expect("a timeout");
                // 25 s; they have 15.
                for _ in 0..50 {
                    match stream.read(&mut [0; 512]) {
                        Ok(0) => return true,
                        Ok(_) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => return true,
                    }
                    if dripping && stream.write_all(b"x").is_err() {
                        return true;
                    }
                }
                false
            })
        })
        .collect();
    // Others are served meanwhile.
    for _ in 0..20 {
        assert_eq!(pair(server, &receiver("k")).status, 404);
    }
    assert!(
        slow.drain(..).all(|slow| slow.join().expect("no panic")),
        "some stay"
    );
    unharmed(&handle, server);
}

#[test]
fn a_flood_of_joins_is_answered_429_and_others_are_served() {
    let (handle, server) = serve(|limits| limits.joins_per_minute = 60);
    let statuses: Vec<u16> = (0..100)
        .map(|_| pair(server, &receiver("k")).status)
        .collect();
    let refused = statuses.iter().filter(|status| **status == 429).count();
    // A second brings one more.
    assert!((20..=40).contains(&refused), "{statuses:?}");
    assert_eq!(statuses[..60], [404; 60]);
    let answer = pair(server, &receiver("k"));
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (429, &json!("too_many"))
    );
    assert_eq!(answer.body["reason"], "joins");
    let retry = answer.body["retry_after_s"].as_u64().expect("a number");
    let words = answer.body["message"].as_str().expect("a text");
    assert!(words.ends_with(&format!("in {retry} s")), "{words}");
    let header = format!("\r\nretry-after: {retry}\r\n");
    assert!(answer.head.contains(&header), "{}", answer.head);
    let mut socket = Socket::open(server);
    socket.join(initiator("k"));
    let refused = socket.expect_error("too_many");
    assert_eq!(
        (&refused["reason"], &refused["session"]),
        (&json!("joins"), &Value::Null)
    );
    let other = connect_from([127, 0, 0, 9].into(), server);
    assert_eq!(reply(post(other, &receiver("k").to_string())).status, 404);
    drop(socket);
    until(|| handle.snapshot().connections == 0);
    assert_eq!(handle.snapshot().waiting, 0);
}

#[test]
fn connections_and_entries_are_capped() {
    let (handle, server) = serve(|limits| {
        limits.connections_per_source = 5;
        limits.room.waiting_per_id = 2;
        limits.room.waiting = 3;
    });
    let mut waiting: Vec<Socket> = (0..2)
        .map(|_| {
            let mut socket = Socket::open(server);
            socket.join(initiator("k"));
            socket.expect("waiting");
            socket
        })
        .collect();
    let answer = pair(server, &initiator("k"));
    assert_eq!((answer.status, &answer.body["code"]), (409, &json!("busy")));
    let mut third = Socket::open(server);
    third.join(initiator("l"));
    third.expect("waiting");
    let answer = pair(server, &initiator("m"));
    assert_eq!(
        (answer.status, &answer.body["reason"]),
        (429, &json!("all_waits"))
    );
    // One from elsewhere is let in, for the newest of those who have more.
    let stream = connect_from([127, 0, 0, 9].into(), server);
    let mut elsewhere = Socket::over(stream, server);
    elsewhere.join(initiator("m"));
    elsewhere.expect("waiting");
    assert_eq!(third.expect_error("too_many")["reason"], "displaced");
    drop(elsewhere);
    let idle = [connect(server), connect(server)];
    until(|| handle.snapshot().connections == 5);
    let full = parse(&String::from_utf8(end_of(connect(server))).expect("text"));
    assert_eq!((full.status, &full.body["code"]), (429, &json!("too_many")));
    assert_eq!(full.body["reason"], "connections");
    assert!(full.head.contains("retry-after"), "{}", full.head);
    assert_eq!(handle.snapshot().refused_connections, 1);
    let other = connect_from([127, 0, 0, 9].into(), server);
    assert_eq!(reply(post(other, &receiver("k").to_string())).status, 200);
    waiting[0].expect("paired");
    drop((waiting, third, idle));
    unharmed(&handle, server);
}

/// With what code the server closes a WebSocket, after at most one message.
fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match socket.0.read().expect("a message or a close") {
            Message::Close(Some(frame)) => return frame.code.into(),
            Message::Text(_) | Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_websocket_is_closed_with_a_code_that_says_why() {
    let (handle, server) = serve(|_| {});
    let open = || Socket::open(server);
    // One that asks for nothing, or for nothing any more.
    let idle = thread::spawn(move || {
        let mut sockets = [Socket::open(server), Socket::open(server)];
        let began = Instant::now();
        sockets[1].join(receiver("k"));
        for socket in &mut sockets {
            let limit = Some(Duration::from_secs(50));
            socket
                .0
                .get_ref()
                .set_read_timeout(limit)
                .expect("a timeout");
        }
        let codes = sockets.each_mut().map(close_code);
        (codes, began.elapsed())
    });
    let mut socket = open();
    socket.0.send(Message::text("{}")).expect("sent");
    assert_eq!(close_code(&mut socket), 1008);
    let mut socket = open();
    socket
        .0
        .send(Message::text("x".repeat(8193)))
        .expect("sent");
    assert_eq!(close_code(&mut socket), 1009);
    // Its own close is answered, by the same code.
    let mut socket = open();
    let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
        code: 4001.into(),
        reason: "done".into(),
    };
    socket.0.close(Some(frame)).expect("sent");
    assert_eq!(close_code(&mut socket), 4001);
    socket.wait_for_end();
    let (codes, after) = idle.join().expect("no panic");
    assert_eq!(codes, [1000, 1000]);
    // Busy hands may make it later; before the time it is never closed.
    assert!(after >= Duration::from_secs(30), "{after:?}");
    let mut waiting = open();
    waiting.join(initiator("k"));
    waiting.expect("waiting");
    handle.drain();
    waiting.expect_error("going_away");
    assert_eq!(close_code(&mut waiting), 1001);
    until(|| handle.snapshot().connections == 0);
}

/// Whoever comes in the very moment in which a wait ends: both are paired, or neither.
#[test]
fn a_receiver_in_the_moment_of_the_timeout() {
    let (handle, server) = serve(|limits| limits.joins_per_minute = 0);
    let wait = |key: &str| with(initiator(key), json!({"wait_s": 1})).to_string();
    let pairs: Vec<_> = (0..60_u64)
        .map(|n| {
            let key = format!("key {n}");
            let waiting = post(connect(server), &wait(&key));
            thread::spawn(move || {
                // Around the second: some before, some after, most close to it.
                thread::sleep(Duration::from_micros(985_000 + 500 * n));
                let second = pair(server, &receiver(&key));
                let first = reply(waiting);
                match (first.status, second.status) {
                    (200, 200) => {
                        assert_eq!(first.body["session"], second.body["session"]);
                        1
                    }
                    (408, 404) => 0,
                    other => panic!("{other:?}"),
                }
            })
        })
        .collect();
    let paired: u32 = pairs
        .into_iter()
        .map(|pair| pair.join().expect("no panic"))
        .sum();
    println!("{paired} of 60 came in time");
    unharmed(&handle, server);
}
