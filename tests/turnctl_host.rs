//! `turnctl host` at a terminal: one device has the turn, others wait for theirs.

mod support;

use std::io::Read;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use support::turnctl::{PATIENCE, Turnctl, pairing, start};
use turnserver::client::connect::Connector;
use turnserver::pairing::AccessKey;

fn left_in_order(host: &mut Turnctl) {
    let left = host.event("device_left");
    assert!(left["message"].is_null(), "{left}");
}

/// What the host's standard output has next.
fn hears(host: &mut Turnctl, words: &[u8]) {
    let mut heard = vec![0; words.len()];
    let output = host.output.as_mut().expect("open");
    output.read_exact(&mut heard).expect("its turn has begun");
    assert!(heard == words, "{heard:?}");
}

#[test]
fn a_host_stays_and_talks_to_one_after_the_other() {
    let server = start();
    let at = pairing(&server);
    let mut host = Turnctl::start(&["host", &at, "k", "udp"]);
    host.event("registered");
    host.end_input();
    for name in ["one", "two"] {
        let mut guest = Turnctl::start(&["connect", &at, "k"]);
        guest.write(name.as_bytes());
        guest.end_input();
        assert_eq!(guest.exit_code(), 0, "{name}");
        left_in_order(&mut host);
    }
    hears(&mut host, b"onetwo");
}

/// A host, and a device that has the turn there.
fn talking(at: &str, protocol: &str) -> (Turnctl, Turnctl) {
    let mut host = Turnctl::start(&["host", at, protocol, protocol]);
    host.event("registered");
    let mut device = Turnctl::start(&["connect", at, protocol]);
    device.write(b"one");
    hears(&mut host, b"one");
    (host, device)
}

/// A second device is connected while the first one talks, and has its turn afterwards.
#[test]
fn a_host_that_talks_lets_others_wait_for_their_turn() {
    let server = start();
    let at = pairing(&server);
    for protocol in ["udp", "tcp"] {
        let (mut host, mut one) = talking(&at, protocol);
        let mut two = Turnctl::start(&["connect", &at, protocol]);
        two.event("path");
        two.write(b"two");
        two.end_input();
        // One that has gone before its turn is passed over.
        let mut gone = Turnctl::start(&["connect", &at, protocol]);
        gone.event("path");
        support::signal(gone.child.id(), "INT");
        assert_eq!(gone.exit_code(), 130);
        host.event("device_failed");
        one.end_input();
        host.write(b"bye");
        host.end_input();
        for guest in [&mut one, &mut two] {
            assert_eq!(guest.exit_code(), 0, "{protocol}");
        }
        assert_eq!(one.rest(), b"bye");
        hears(&mut host, b"two");
        for _ in 0..2 {
            host.event("device_left");
        }
    }
}

/// Who gives up before its turn leaves the row, and the terminal says so.
#[test]
fn one_that_goes_before_its_turn_keeps_nobody_waiting() {
    let server = start();
    let at = pairing(&server);
    for protocol in ["udp", "tcp"] {
        let (mut host, mut first) = talking(&at, protocol);
        let mut second = Turnctl::start(&["connect", &at, protocol]);
        second.write(b"two");
        second.event("path");
        support::signal(second.child.id(), "TERM");
        assert_eq!(second.exit_code(), 143);
        let gone = host.event("device_failed");
        assert_eq!(gone["message"], "before its turn: the peer broke it off");
        let mut third = Turnctl::start(&["connect", &at, protocol]);
        third.write(b"three");
        third.event("path");
        host.write(b"to the first");
        host.end_input();
        let mut answer = [0; 12];
        let output = first.output.as_mut().expect("open");
        output
            .read_exact(&mut answer)
            .expect("it still has its turn");
        assert_eq!(&answer, b"to the first");
        first.end_input();
        assert_eq!(first.exit_code(), 0);
        left_in_order(&mut host);
        hears(&mut host, b"three");
        third.end_input();
        assert_eq!(third.exit_code(), 0);
        left_in_order(&mut host);
    }
}

/// Who has said everything need not wait for its turn.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_left_in_order_before_its_turn_is_heard() {
    const EARLY: usize = 50_000;
    const LONG: usize = 200_000;
    let server = start();
    let at = pairing(&server);
    for protocol in ["udp", "tcp"] {
        let (mut host, mut first) = talking(&at, protocol);
        let key = AccessKey::new(protocol).expect("a key");
        let device = Connector::new(at.parse().expect("a server"), key);
        for len in [10, EARLY, LONG] {
            let conn = device.clone().connect().await.expect("connected");
            let mut stream = conn.into_stream().await.expect("a stream");
            let said = vec![len as u8; len];
            let all = async move {
                stream.write_all(&said).await.expect("writable");
                stream.shutdown().await.expect("in order");
                stream
            };
            match len {
                // The terminal takes the rest in its turn.
                LONG => drop(tokio::spawn(async { all.await.close().await })),
                _ => all.await.close().await.expect("in order"),
            }
        }
        host.end_input();
        first.end_input();
        assert_eq!(first.exit_code(), 0);
        for len in [10, EARLY, LONG] {
            hears(&mut host, &vec![len as u8; len]);
        }
    }
}

/// Nobody is broken off without a word: who finds no room is told so, and the terminal too.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_find_too_many_waiting_at_a_terminal_are_told_so() {
    const WAITING: usize = 64;
    const LATE: Duration = PATIENCE.saturating_mul(10);

    let server = start();
    let at = pairing(&server);
    let mut host = Turnctl::start(&["host", &at, "k", "udp"]);
    host.event("registered");
    let key = AccessKey::new("k").expect("a key");
    let device = Connector::new(at.parse().expect("a server"), key).establish_timeout(LATE);
    let talking = |device: Connector| async move {
        let conn = device.connect().await.expect("there is room");
        let mut stream = conn.into_stream().await.expect("a stream");
        stream.write_all(b"one").await.expect("writable");
        stream
    };
    let first = talking(device.clone()).await;
    hears(&mut host, b"one");
    // Not all at the same moment: they share this machine.
    let mut waiting = Vec::new();
    while waiting.len() < WAITING {
        let some: JoinSet<_> = (0..8).map(|_| talking(device.clone())).collect();
        waiting.extend(some.join_all().await);
    }
    let refused = device
        .clone()
        .connect()
        .await
        .expect_err("there is no room");
    assert!(refused.to_string().contains("busy"), "{refused}");
    let failed = host.event("device_failed");
    assert_eq!(failed["message"], "too many devices wait");
    assert!(failed["peer"].is_string(), "{failed}");
    // Whoever has the next turn leaves room.
    first.close().await.expect("in order");
    hears(&mut host, b"one");
    talking(device).await;
}
