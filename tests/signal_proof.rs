//! Somebody who knows a rendezvous id and not the access key: by WebSocket and by HTTP, in every
//! role, with whatever he has recorded, he gets an error and nothing else, and those who wait
//! under the id do not notice.

#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

mod signal_support;

use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};
use signal_support::{
    Socket, connect, connect_from, initiator, pair, post, proven, receiver, reply, serve, with,
};
use turnserver::pairing::AccessKey;

const KEY: &str = "the key of the two";

fn id(key: &str) -> Value {
    let key = AccessKey::new(key).expect("a key");
    key.rendezvous_id().to_string().into()
}

fn host() -> Value {
    json!({"role": "initiator", "host": true})
}

/// What the impostor may ask for.
fn roles() -> [Value; 3] {
    [
        json!({"role": "initiator"}),
        json!({"role": "receiver"}),
        host(),
    ]
}

/// Nothing but what went wrong: no address, no server, no session.
fn tells_nothing(answer: &Value, code: &str) {
    let mut fields: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    fields.retain(|field| *field != "nonce");
    assert_eq!(fields, ["code", "message", "type"], "{answer}");
    assert_eq!(answer["code"], code, "{answer}");
    let message = answer["message"].as_str().expect("text");
    assert!(!message.contains("127.0.0"), "{message}");
}

/// Takes a proof to another id, as its owner would not.
fn for_id(mut join: Value, id: &Value) -> Value {
    join["id"] = id.clone();
    join
}

/// A nonce of HTTP.
fn nonce(server: SocketAddr) -> Value {
    let asked = pair(server, &json!({"role": "receiver", "id": id(KEY)}));
    assert_eq!(asked.status, 401);
    tells_nothing(&asked.body, "proof_required");
    asked.body["nonce"].clone()
}

#[test]
fn an_impostor_gets_nothing_and_the_host_stays() {
    let (handle, server) = serve(|_| {});
    let mut desk = Socket::open(server);
    let join = proven(&host(), KEY, &desk.1);
    desk.join(join.clone());
    desk.expect("waiting");
    let victim = id(KEY);
    for role in roles() {
        let bare = with(role.clone(), json!({"id": victim}));
        // By WebSocket: without a proof, by a proof of his own key, by one with his nonce put in
        // its place, by what the host itself said on its connection.
        let mut socket = Socket::open(server);
        assert_ne!(socket.1, desk.1);
        socket.join(bare.clone());
        tells_nothing(&socket.hear().expect("an answer"), "proof_required");
        let own = proven(&role, "a key of his own", &socket.1);
        socket.join(for_id(own.clone(), &victim));
        tells_nothing(&socket.hear().expect("an answer"), "proof_wrong");
        let mut recorded = with(role.clone(), json!({"id": victim, "proof": join["proof"]}));
        socket.join(recorded.clone());
        tells_nothing(&socket.hear().expect("an answer"), "proof_required");
        recorded["proof"]["nonce"] = socket.1.clone();
        socket.join(recorded.clone());
        tells_nothing(&socket.hear().expect("an answer"), "proof_wrong");
        recorded["proof"]["signature"] = own["proof"]["signature"].clone();
        socket.join(recorded);
        tells_nothing(&socket.hear().expect("an answer"), "proof_wrong");
        // By HTTP, which has no hosts.
        if role["host"] == true {
            continue;
        }
        let bare = pair(server, &bare);
        assert_eq!(bare.status, 401);
        tells_nothing(&bare.body, "proof_required");
        let own = proven(&role, "a key of his own", &bare.body["nonce"]);
        let wrong = pair(server, &for_id(own, &victim));
        assert_eq!(wrong.status, 403);
        tells_nothing(&wrong.body, "proof_wrong");
        let recorded = with(role, json!({"id": victim, "proof": join["proof"]}));
        tells_nothing(&pair(server, &recorded).body, "proof_required");
    }
    let read = handle.snapshot();
    assert_eq!((read.waiting, read.sessions, read.pairs), (1, 0, 0));
    // It was told nothing, and is found by who has the key.
    let mut guest = Socket::open(server);
    guest.join(proven(&receiver(""), KEY, &guest.1));
    let session = guest.expect("paired")["session"].clone();
    assert_eq!(desk.expect("paired")["session"], session);
}

/// A proof is for one role: who was let in as a receiver does not become the host by it.
#[test]
fn a_proof_holds_for_one_role() {
    let (handle, server) = serve(|_| {});
    for (said, other) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        let [said, other] = [said, other].map(|role: usize| roles()[role].clone());
        let mut socket = Socket::open(server);
        let said = proven(&said, KEY, &socket.1);
        let changed = with(other, json!({"id": said["id"], "proof": said["proof"]}));
        socket.join(changed);
        tells_nothing(&socket.hear().expect("an answer"), "proof_wrong");
    }
    assert_eq!(handle.snapshot().waiting, 0);
}

#[test]
fn a_recorded_request_is_of_no_use() {
    let (handle, server) = serve(|limits| limits.joins_per_minute = 0);
    let given = nonce(server);
    let request = proven(&with(initiator(""), json!({"wait_s": 1})), KEY, &given).to_string();
    let from = |last: u8| post(connect_from([127, 0, 0, last].into(), server), &request);
    // Before it is used it is good for whom it was given to.
    let stolen = reply(from(2));
    assert_eq!(stolen.status, 401);
    tells_nothing(&stolen.body, "proof_required");
    let first = reply(from(1));
    assert_eq!(first.body["code"], "timed_out");
    for last in [1, 2] {
        let again = reply(from(last));
        assert_eq!(again.status, 401, "127.0.0.{last}");
        tells_nothing(&again.body, "proof_required");
        // The nonce of that refusal does not go with what was signed before.
        let mut recorded: Value = serde_json::from_str(&request).expect("JSON");
        recorded["proof"]["nonce"] = again.body["nonce"].clone();
        let stream = connect_from([127, 0, 0, last].into(), server);
        tells_nothing(
            &reply(post(stream, &recorded.to_string())).body,
            "proof_wrong",
        );
    }
    // Also while the owner of the key waits by it.
    let given = nonce(server);
    let request = proven(&initiator(""), KEY, &given).to_string();
    let waiting = post(connect(server), &request);
    while handle.snapshot().waiting == 0 {
        std::thread::yield_now();
    }
    assert_eq!(reply(post(connect(server), &request)).status, 401);
    assert_eq!(handle.snapshot().waiting, 1);
    assert_eq!(pair(server, &receiver(KEY)).status, 200);
    assert_eq!(reply(waiting).status, 200);
}

/// Another server's nonce, made up ones, and those of a WebSocket, are no nonces of HTTP.
#[test]
fn only_the_own_nonces_are_taken() {
    let (_one, server) = serve(|_| {});
    let (_two, other) = serve(|_| {});
    let socket = Socket::open(server);
    for given in [nonce(other), socket.1, json!("AAAA"), json!("A".repeat(43))] {
        let answer = pair(server, &proven(&receiver(""), KEY, &given));
        assert_eq!(answer.status, 401, "{given}");
        tells_nothing(&answer.body, "proof_required");
    }
    let given = nonce(server);
    let answer = pair(server, &proven(&receiver(""), KEY, &given));
    assert_eq!(answer.body["code"], "nobody_waits");
}

/// The answer that asks for a proof is no longer than the request, and counts as a join.
#[test]
fn asking_for_nonces_is_cheap_and_counted() {
    let (handle, server) = serve(|limits| limits.joins_per_minute = 20);
    let ask = json!({"role": "receiver", "id": id(KEY)});
    let statuses: Vec<u16> = (0..25).map(|_| pair(server, &ask).status).collect();
    assert_eq!(statuses[..20], [401; 20]);
    assert!(statuses[20..].contains(&429), "{statuses:?}");
    let refused = |label: &str| {
        let joins = handle.snapshot().joins;
        joins
            .iter()
            .find(|(name, _)| *name == label)
            .map(|(_, count)| *count)
    };
    assert!(refused("proof_required") >= Some(20));
    assert!(refused("too_many") >= Some(1));
    assert_eq!(handle.snapshot().waiting, 0);
}

#[test]
fn the_hello_comes_with_the_answer_to_the_request() {
    let (_handle, server) = serve(|_| {});
    let mut stream = connect(server);
    let request = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut come = Vec::new();
    while !come.ends_with(b"}") {
        let mut part = [0; 512];
        let read = std::io::Read::read(&mut stream, &mut part).expect("an answer");
        assert_ne!(read, 0, "it closed");
        come.extend_from_slice(&part[..read]);
    }
    let text = String::from_utf8_lossy(&come);
    let (head, frame) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let hello = frame.find('{').map(|at| &frame[at..]).expect("JSON");
    let hello: Value = serde_json::from_str(hello).expect("JSON");
    let fields: Vec<&String> = hello.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["nonce", "type"]);
    assert_eq!(hello["nonce"].as_str().map(str::len), Some(22));
}

/// Who has the key can still not bother a host without end.
#[test]
fn receivers_of_one_id_are_limited_by_source_and_in_all() {
    let (_handle, server) = serve(|limits| {
        limits.receivers_per_id = 8;
        limits.receivers_per_id_and_source = 5;
    });
    let mut desk = Socket::open(server);
    desk.join(with(initiator("k"), json!({"host": true})));
    desk.expect("waiting");
    // To find nobody costs nothing.
    for _ in 0..20 {
        assert_eq!(pair(server, &receiver("nobody's")).status, 404);
    }
    let comes = |last: u8, key: &str| {
        let stream = connect_from([127, 0, 0, last].into(), server);
        reply(post(stream, &receiver(key).to_string())).status
    };
    assert_eq!(
        [(); 6].map(|()| comes(1, "k")),
        [200, 200, 200, 200, 200, 429]
    );
    assert_eq!([(); 4].map(|()| comes(2, "k")), [200, 200, 200, 429]);
    let refused = pair(server, &receiver("k"));
    assert_eq!(refused.body["code"], "too_many");
    // Another one's are not touched by that.
    let mut other = Socket::open(server);
    other.join(initiator("l"));
    other.expect("waiting");
    assert_eq!(comes(1, "l"), 200);
}
