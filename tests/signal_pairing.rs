//! Pairing over real sockets: HTTP and WebSocket, by key and by id, in every combination.

#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

mod signal_support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signal_support::{
    Socket, connect, connect_from, initiator, pair, post, proven, receiver, reply, with,
};
use tokio_tungstenite::tungstenite;
use turnserver::client::connect::Connector;
use turnserver::client::rendezvous::{Rendezvous, SocketOptions};
use turnserver::pairing::{
    AccessKey, ClientMessage, ErrorCode, Join, Outcome, Protocol, Role, ServerMessage, SessionId,
};
use turnserver::signal::{self, Handle};

fn serve() -> (Handle, SocketAddr) {
    let handle = signal::serve(SocketAddr::from(([127, 0, 0, 1], 0))).expect("it serves");
    let address = handle.addresses()[0];
    (handle, address)
}

fn until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < signal_support::LIMIT, "it never was");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn two_requests_with_one_key_are_paired() {
    let (handle, server) = serve();
    let waiting = post(connect(server), &initiator("our key").to_string());
    let own = waiting.local_addr().expect("an address");
    until(|| handle.snapshot().waiting == 1);
    assert_eq!(pair(server, &receiver("another")).status, 404);
    let told = ["10.0.0.7:9", "[fd00::7]:9"];
    let second = with(receiver("our key"), json!({"endpoints": told}));
    let second = pair(server, &second);
    let first = reply(waiting);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body["type"], "paired");
    assert_eq!(first.body["role"], "initiator");
    assert_eq!(second.body["role"], "receiver");
    assert_eq!(second.body["protocol"], "udp", "the default");
    assert_eq!(first.body["session"], second.body["session"]);
    assert_eq!(first.body["observed"], own.to_string());
    assert_eq!(first.body["peer_observed"], second.body["observed"]);
    assert_eq!(second.body["peer_observed"], own.to_string());
    assert_eq!(first.body["peer_endpoints"], json!(told));
    let read = handle.snapshot();
    assert_eq!((read.waiting, read.sessions, read.pairs), (0, 0, 1));
    until(|| handle.snapshot().connections == 0);
}

#[test]
fn the_initiator_chooses_the_protocol() {
    let (handle, server) = serve();
    let wait = with(initiator("k"), json!({"protocol": "tcp"}));
    let waiting = post(connect(server), &wait.to_string());
    until(|| handle.snapshot().waiting == 1);
    let second = with(receiver("k"), json!({"protocol": "udp"}));
    assert_eq!(pair(server, &second).body["protocol"], "tcp");
    assert_eq!(reply(waiting).body["protocol"], "tcp");
}

#[test]
fn a_derived_id_and_a_plain_key_meet() {
    let (_handle, server) = serve();
    for _ in 0..2 {
        let mut first = Socket::open(server);
        first.join(proven(&initiator(""), "our key", &first.1));
        let waiting = first.expect("waiting");
        assert_eq!(waiting["wait_s"], 30);
        let second = pair(server, &receiver("our key"));
        assert_eq!(second.body["session"], waiting["session"]);
        let paired = first.expect("paired");
        assert_eq!(paired["session"], waiting["session"]);
        // The other way round, by HTTP, where the nonce comes with the first refusal.
        let mut first = Socket::open(server);
        first.join(initiator("our key"));
        let waiting = first.expect("waiting");
        let id = AccessKey::new("our key").expect("a key").rendezvous_id();
        let asked = pair(server, &json!({"role": "receiver", "id": id}));
        assert_eq!(
            (asked.status, &asked.body["code"]),
            (401, &json!("proof_required"))
        );
        assert!(
            asked.head.contains("\r\nwww-authenticate: "),
            "{}",
            asked.head
        );
        let second = proven(&receiver(""), "our key", &asked.body["nonce"]);
        let second = pair(server, &second);
        assert_eq!(second.body["session"], waiting["session"]);
    }
}

#[test]
fn a_receiver_is_answered_at_once() {
    let (_handle, server) = serve();
    let started = Instant::now();
    let answer = pair(server, &receiver("k"));
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (404, &json!("nobody_waits"))
    );
    // Nothing waits here for anything, and this is far from a wait of 30 s.
    assert!(started.elapsed() < Duration::from_secs(10));
    let mut socket = Socket::open(server);
    socket.join(receiver("k"));
    socket.expect_error("nobody_waits");
    // It may ask again on the same connection.
    let mut waiting = Socket::open(server);
    waiting.join(initiator("k"));
    waiting.expect("waiting");
    socket.join(receiver("k"));
    socket.expect("paired");
}

#[test]
fn a_wait_without_a_receiver_ends_in_time_and_the_key_can_be_used_again() {
    let (handle, server) = serve();
    let wait = with(initiator("k"), json!({"wait_s": 1}));
    let mut socket = Socket::open(server);
    let started = Instant::now();
    socket.join(wait.clone());
    assert_eq!(socket.expect("waiting")["wait_s"], 1);
    let answer = pair(server, &wait);
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (408, &json!("timed_out"))
    );
    socket.expect_error("timed_out");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(handle.snapshot().waiting, 0);
    assert_eq!(pair(server, &receiver("k")).status, 404);
    socket.join(initiator("k"));
    socket.expect("waiting");
    assert_eq!(pair(server, &receiver("k")).status, 200);
}

#[test]
fn only_the_named_address_pairs() {
    let (_handle, server) = serve();
    let mut first = Socket::open(server);
    first.join(with(initiator("k"), json!({"target_ip": "127.0.0.2"})));
    first.expect("waiting");
    assert_eq!(pair(server, &receiver("k")).body["code"], "nobody_waits");
    let named = connect_from([127, 0, 0, 2].into(), server);
    let answer = reply(post(named, &receiver("k").to_string()));
    assert_eq!(answer.status, 200);
    let paired = first.expect("paired");
    let peer: SocketAddr = paired["peer_observed"]
        .as_str()
        .expect("text")
        .parse()
        .expect("address");
    assert_eq!(peer.ip().to_string(), "127.0.0.2");
}

#[test]
fn signals_pass_both_ways_and_the_end_is_told() {
    let (handle, server) = serve();
    let (mut a, mut b) = (Socket::open(server), Socket::open(server));
    a.join(initiator("k"));
    a.expect("waiting");
    b.join(receiver("k"));
    let session = b.expect("paired")["session"].clone();
    a.expect("paired");
    for n in 0..50 {
        let blob = format!("blob {n}");
        a.say(&json!({"type": "signal", "session": session, "blob": blob}));
        b.say(&json!({"type": "signal", "session": session, "blob": "b".repeat(4096)}));
        assert_eq!(b.expect("signal")["blob"], blob);
        assert_eq!(a.expect("signal")["session"], session);
    }
    let long = "x".repeat(4097);
    a.say(&json!({"type": "signal", "session": session, "blob": long}));
    a.expect_error("too_large");
    let mut stranger = Socket::open(server);
    stranger.say(&json!({"type": "signal", "session": session, "blob": "x"}));
    stranger.expect_error("no_session");
    a.say(&json!({"type": "result", "session": session, "outcome": "direct"}));
    drop(a);
    assert_eq!(
        b.expect("peer_left"),
        json!({"type": "peer_left", "session": session})
    );
    b.say(&json!({"type": "leave", "session": session}));
    until(|| handle.snapshot().sessions == 0);
    let outcomes = handle.snapshot().outcomes;
    assert_eq!(outcomes, [("direct", 1), ("relayed", 0), ("failed", 0)]);
}

#[test]
fn an_initiator_that_has_gone_is_not_paired() {
    let (handle, server) = serve();
    for _ in 0..20 {
        let mut socket = Socket::open(server);
        socket.join(initiator("k"));
        socket.expect("waiting");
        let request = post(connect(server), &initiator("k").to_string());
        until(|| handle.snapshot().waiting == 2);
        drop((socket, request));
        until(|| handle.snapshot().waiting == 0);
        assert_eq!(pair(server, &receiver("k")).status, 404);
    }
    until(|| handle.snapshot().connections == 0);
}

/// The client of this library against the server of this library.
#[tokio::test]
async fn our_own_client_pairs() {
    let (_handle, server) = serve();
    let url = format!("http://{server}").parse().expect("a URL");
    let key = AccessKey::new("our key").expect("a key");
    let options = SocketOptions::default();
    let mut a = Rendezvous::connect(&url, &options).await.expect("connects");
    let mut b = Rendezvous::connect(&url, &options).await.expect("connects");
    let join = |role| Join {
        protocol: Some(Protocol::Tcp),
        wait_s: Some(5),
        ..Join::new(role)
    };
    b.join(&key, join(Role::Receiver)).await.expect("sent");
    let refused = b.next().await.expect("an answer");
    assert!(matches!(
        refused,
        ServerMessage::Error {
            code: ErrorCode::NobodyWaits,
            ..
        }
    ));
    a.join(&key, join(Role::Initiator)).await.expect("sent");
    let ServerMessage::Waiting { session, .. } = a.next().await.expect("an answer") else {
        panic!("it waits");
    };
    b.join(&key, join(Role::Receiver)).await.expect("sent");
    for (side, own) in [(&mut a, Role::Initiator), (&mut b, Role::Receiver)] {
        let ServerMessage::Paired {
            session: paired,
            role,
            protocol,
            observed,
            ..
        } = side.next().await.expect("an answer")
        else {
            panic!("paired");
        };
        assert_eq!((Some(paired), role), (session, own));
        assert_eq!(protocol, Protocol::Tcp);
        assert_eq!(observed, side.local_addr());
    }
    let session = session.expect("named");
    let blob = "sealed".to_owned();
    let signal = ClientMessage::Signal {
        session,
        blob: blob.clone(),
    };
    b.send(&signal).await.expect("sent");
    assert_eq!(
        a.next().await.ok(),
        Some(ServerMessage::Signal { session, blob })
    );
    let outcome = Outcome::Direct;
    a.send(&ClientMessage::Result { session, outcome })
        .await
        .expect("sent");
    a.close().await;
    assert_eq!(
        b.next().await.ok(),
        Some(ServerMessage::PeerLeft {
            session,
            busy: false
        })
    );
}

#[test]
fn a_receiver_is_told_that_the_host_is_busy() {
    let (_handle, server) = serve();
    let (mut host, receivers) = host_and_receivers(server, 2);
    for (busy, (mut receiver, session)) in [true, false].into_iter().zip(receivers) {
        host.say(&json!({"type": "leave", "session": session, "busy": busy}));
        let left = receiver.expect("peer_left");
        assert_eq!(left["session"], session);
        assert_eq!(left["busy"], if busy { json!(true) } else { Value::Null });
    }
}

/// A host and some receivers, each on a WebSocket of its own, with the sessions between them.
fn host_and_receivers(server: SocketAddr, count: usize) -> (Socket, Vec<(Socket, Value)>) {
    let mut host = Socket::open(server);
    host.join(with(initiator("k"), json!({"host": true})));
    host.expect("waiting");
    let receivers = (0..count).map(|_| {
        let mut socket = Socket::open(server);
        socket.join(receiver("k"));
        let session = socket.expect("paired")["session"].clone();
        assert_eq!(host.expect("paired")["session"], session);
        (socket, session)
    });
    let receivers = receivers.collect();
    (host, receivers)
}

#[test]
fn the_sessions_of_a_host_do_not_share_what_each_may_say() {
    const EACH: usize = 100;
    let (_handle, server) = serve();
    let (mut host, mut receivers) = host_and_receivers(server, 6);
    // More than a connection may say of other things.
    for n in 0..EACH {
        for (_, session) in &receivers {
            let signal = json!({"type": "signal", "session": session, "blob": n.to_string()});
            host.say(&signal);
        }
    }
    for (socket, _) in &mut receivers {
        for n in 0..EACH {
            assert_eq!(socket.expect("signal")["blob"], n.to_string());
        }
    }
}

#[test]
fn an_error_of_one_session_says_which_one_and_touches_nothing_else() {
    let (_handle, server) = serve();
    let (mut host, mut receivers) = host_and_receivers(server, 2);
    let signal = |session: &Value| json!({"type": "signal", "session": session, "blob": "x"});
    let (mut second, other) = receivers.pop().expect("two");
    let (_first, session) = receivers.pop().expect("two");
    for _ in 0..150 {
        host.say(&signal(&session));
    }
    let refused = host.expect_error("too_many");
    assert_eq!(
        (&refused["session"], &refused["reason"]),
        (&session, &json!("signals"))
    );
    host.say(&signal(&other));
    assert_eq!(second.expect("signal")["session"], other);
    let mut third = Socket::open(server);
    third.join(receiver("k"));
    third.expect("paired");
}

/// The host is refused something of one session, and is paired on the same connection later.
#[test]
fn our_own_host_stays_registered_when_a_session_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let server = listener.local_addr().expect("an address");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let url = format!("http://{server}").parse().expect("a URL");
    let key = AccessKey::new("k").expect("a key");
    let _host = Connector::new(url, key).protocol(Protocol::Udp).host();

    let (stream, from) = listener.accept().expect("it connects");
    let mut socket = tungstenite::accept(stream).expect("a WebSocket");
    let say = |socket: &mut tungstenite::WebSocket<_>, message: Value| {
        let text = tungstenite::Message::text(message.to_string());
        socket.send(text).expect("it is taken");
    };
    let hear = |socket: &mut tungstenite::WebSocket<TcpStream>| -> Value {
        let text = socket.read().expect("the host stays");
        serde_json::from_str(text.to_text().expect("text")).expect("JSON")
    };
    say(&mut socket, json!({"type": "hello", "nonce": "n"}));
    assert_eq!(hear(&mut socket)["host"], true);
    let waiting = json!({"type": "waiting", "observed": from, "wait_s": 60, "ice_servers": []});
    say(&mut socket, waiting);
    let [one, two] = [1, 2].map(|byte| SessionId([byte; 16]));
    let refused = json!({"type": "error", "code": "too_many", "message": "too many signals; try again in 1 s",
        "session": one, "reason": "signals", "retry_after_s": 1});
    say(&mut socket, refused);
    let paired = json!({"type": "paired", "session": two, "role": "initiator", "protocol": "udp",
        "observed": from, "peer_observed": from, "ice_servers": [], "ttl_s": 60});
    say(&mut socket, paired);
    assert_eq!(hear(&mut socket)["session"], json!(two), "it goes on");
}
