//! `turnctl connect`, `host`, `forward` and `nat` as scripts use them: two processes and the
//! built server.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::Value;
use support::Server;
use support::turnctl::{PATIENCE, Turnctl, command, now, pairing, start};
use turnserver::client::rendezvous::{Rendezvous, SocketOptions};
use turnserver::pairing::{AccessKey, ClientMessage, Join, Role, ServerMessage, SessionId};

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at % 251) as u8 ^ seed;
    (0..len).map(byte).collect()
}

/// The two commands of the README, in two processes: 1 MB each way, and each direction ends
/// alone.
fn pipes(server: &Server, key: &str, protocol: &str, extra: &[&str]) -> (Value, Value) {
    let at = pairing(server);
    let mut first = Turnctl::start(&[&["connect", &at, key, protocol][..], extra].concat());
    first.event("waiting");
    let mut second = Turnctl::start(&[&["connect", &at, key][..], extra].concat());
    let (forth, back) = (pattern(1_000_000, 1), pattern(1_000_000, 2));
    let mut input = first.input.take().expect("open");
    let sent = forth.clone();
    let writing = thread::spawn(move || input.write_all(&sent).expect("taken"));
    let got = second.rest_while_input_is_open();
    writing.join().expect("written");
    assert!(got == forth, "{} bytes came through", got.len());
    // Only now the other direction: the first one has ended alone.
    let mut input = second.input.take().expect("open");
    let sent = back.clone();
    let writing = thread::spawn(move || input.write_all(&sent).expect("taken"));
    assert!(first.rest() == back, "the other direction");
    writing.join().expect("written");
    let paths = (first.event("path"), second.event("path"));
    assert_eq!((first.exit_code(), second.exit_code()), (0, 0));
    paths
}

#[test]
fn pipes_carry_both_directions_and_end_each_alone() {
    let server = start();
    for protocol in ["udp", "tcp"] {
        let (first, second) = pipes(&server, protocol, protocol, &[]);
        for path in [first, second] {
            let mut fields: Vec<_> = path.as_object().expect("an object").keys().collect();
            fields.sort();
            let all = [
                "event", "local", "nat", "path", "reason", "remote", "rtt_ms",
            ];
            assert_eq!(fields, all);
            let kind = path["path"].as_str().expect("a text");
            assert!(["direct", "relayed"].contains(&kind), "{kind}");
            let address = path["remote"].as_str().expect("an address");
            address.parse::<SocketAddr>().expect("an address");
        }
    }
}

#[test]
fn without_a_direct_path_the_relay_carries_everything() {
    let server = start();
    for protocol in ["udp", "tcp"] {
        let (first, second) = pipes(&server, protocol, protocol, &["--relay-only"]);
        assert_eq!(
            (&first["path"], &second["path"]),
            (&"relayed".into(), &"relayed".into())
        );
    }
}

#[test]
fn words_instead_of_json_and_still_only_the_peers_bytes_on_standard_output() {
    let server = start();
    let at = pairing(&server);
    let mut first = Turnctl::spawn(&mut command(&["connect", &at, "k", "udp"]));
    // "k" is no good key.
    for words in ["warning: ", "waiting for the other device"] {
        let line = first.events.recv_timeout(PATIENCE).expect("a line");
        assert!(line.as_str().expect("words").starts_with(words), "{line}");
    }
    let mut second = Turnctl::spawn(&mut command(&["connect", &at, "k"]));
    first.write(b"hello\n");
    first.end_input();
    second.end_input();
    assert_eq!(second.rest(), b"hello\n");
    assert_eq!(first.rest(), b"");
    assert_eq!((first.exit_code(), second.exit_code()), (0, 0));
    let lines: Vec<String> = first.events.iter().map(|line| line.to_string()).collect();
    assert!(
        lines.iter().any(|line| line.contains("connected ")),
        "{lines:?}"
    );
}

/// A terminal with a `turnctl` on it.
struct Terminal {
    turnctl: Turnctl,
    keyboard: File,
    shown: Receiver<Vec<u8>>,
    screen: Vec<u8>,
}

impl Terminal {
    fn start(arguments: &[&str]) -> Self {
        // Not the one that would send signals to this test.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).expect("a pseudo terminal");
        unlockpt(&keyboard).expect("unlocked");
        let line = ioctl_tiocgptpeer(&keyboard, flags).expect("its other end");
        let mut command = command(arguments);
        command
            .arg("--json")
            .stdin(line.try_clone().expect("cloned"))
            .stdout(line);
        let turnctl = Turnctl::spawn(&mut command);
        let keyboard = File::from(keyboard);
        let mut screen = keyboard.try_clone().expect("cloned");
        let (sender, shown) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 1000];
            // When nobody has the other end any more, it is an error.
            while let Ok(len @ 1..) = screen.read(&mut bytes) {
                let _ = sender.send(bytes[..len].to_vec());
            }
        });
        Self {
            turnctl,
            keyboard,
            shown,
            screen: Vec::new(),
        }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until it shows this line.
    fn shows(&mut self, line: &str) {
        let line = format!("{line}\r\n");
        while !String::from_utf8_lossy(&self.screen).contains(&line) {
            let more = self.shown.recv_timeout(PATIENCE);
            self.screen.extend(more.expect("it is shown"));
        }
    }
}

#[test]
fn two_terminals_exchange_what_is_typed_until_ctrl_d() {
    const CTRL_D: &str = "\x04";

    let server = start();
    let at = pairing(&server);
    for protocol in ["udp", "tcp"] {
        let mut first = Terminal::start(&["connect", &at, protocol, protocol]);
        first.turnctl.event("waiting");
        let mut second = Terminal::start(&["connect", &at, protocol]);
        for side in [&mut first, &mut second] {
            side.turnctl.event("chat");
        }
        first.types("are you there?\n");
        second.shows("are you there?");
        second.types("I am\n");
        first.shows("I am");
        first.types(CTRL_D);
        // Who has said all still hears the other.
        second.types("then goodbye\n");
        first.shows("then goodbye");
        second.types(CTRL_D);
        for side in [&mut first, &mut second] {
            side.turnctl.event("ended");
            assert_eq!(side.turnctl.exit_code(), 0, "{protocol}");
        }
    }
}

/// Joins as somebody whom a lying server lets in, who has not the key that the two talk by: what it
/// joins with is not used for anything else.
async fn impostor(server: &Server, key: &str) -> (Rendezvous, SessionId) {
    let url = pairing(server).parse().expect("a server");
    let connected = Rendezvous::connect(&url, &SocketOptions::default()).await;
    let mut rendezvous = connected.expect("connected");
    let key = AccessKey::new(key).expect("a key");
    let join = Join::new(Role::Receiver);
    rendezvous.join(&key, join).await.expect("sent");
    loop {
        if let ServerMessage::Paired { session, .. } = rendezvous.next().await.expect("open") {
            return (rendezvous, session);
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn it_warns_of_weak_keys_and_makes_strong_ones() {
    let fresh = || {
        let made = command(&["key"]).output().expect("turnctl starts");
        assert!(made.status.success());
        assert_eq!(made.stderr, b"");
        String::from_utf8(made.stdout).expect("text")
    };
    let key = fresh();
    assert_eq!((key.len(), key.lines().count()), (33, 1), "{key:?}");
    assert_ne!(key, fresh());
    let server = start();
    let at = pairing(&server);
    for (key, weak) in [(key.trim_end(), false), ("my-secret-key", true)] {
        // Nobody waits, so that it ends at once.
        let mut asking = Turnctl::start(&["connect", &at, key]);
        if weak {
            let warning = asking.event("warning");
            assert_eq!(warning["code"], "weak_key");
            let message = warning["message"].as_str().expect("a text");
            assert!(
                message.contains("turnctl key") && !message.contains(key),
                "{message}"
            );
        }
        let next = asking.events.recv_timeout(PATIENCE).expect("an event");
        assert_eq!(next["event"], "error", "{next}");
        assert_eq!(asking.exit_code(), 3);
    }
}

#[test]
fn every_failure_has_its_exit_code() {
    let server = start();
    let at = pairing(&server);
    let fails = |arguments: &[&str], code: i32, word: &str| {
        let mut failing = Turnctl::start(arguments);
        let error = failing.event("error");
        assert_eq!(failing.exit_code(), code, "{arguments:?}: {error}");
        assert_eq!(error["exit_code"], code);
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains(word), "{message}");
        assert_eq!(failing.rest(), b"", "standard output is the peer's");
    };
    // 3: nobody waited, and that at once.
    let started = now();
    fails(&["connect", &at, "k"], 3, "nobody waits");
    assert!(started.elapsed() < Duration::from_secs(10));
    // 4: nobody came.
    let started = now();
    fails(
        &["connect", &at, "k", "udp", "--wait", "1"],
        4,
        "nobody came",
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    // 1: anything else, as a server that is not there.
    fails(
        &["connect", "127.0.0.1:9", "k", "tcp"],
        1,
        "nothing listens",
    );
    // 2: the command line.
    fails(&["connect", &at, ""], 2, "empty");
    fails(&["connect", &at, "-"], 2, "TURNCTL_KEY");
    fails(&["connect", &at, "k", "--wait", "3"], 2, "--wait");
    for wrong in [
        &["connect", &at, "k", "sctp"][..],
        &["connect", &at],
        &["connect", "nowhere", "k"],
        &["connect", "ftp://a:1", "k"],
        &["connect", &at, "k", "udp", "300.0.0.1"],
        &["connect", &at, "k", "udp", "--wait", "0"],
        &["forward", &at, "k", "tcp", "x"],
    ] {
        assert_eq!(Turnctl::start(wrong).exit_code(), 2, "{wrong:?}");
    }
    for protocol in ["udp", "tcp"] {
        // 6: somebody without the key. He is told by what he sends.
        let mut first = Turnctl::start(&["connect", &at, "k6", protocol]);
        first.event("waiting");
        block_on(async {
            let (mut rendezvous, session) = impostor(&server, "k6").await;
            let blob = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned();
            let signal = ClientMessage::Signal { session, blob };
            rendezvous.send(&signal).await.expect("sent");
            // Stays until the other has gone.
            while let Ok(message) = rendezvous.next().await {
                if matches!(message, ServerMessage::PeerLeft { .. }) {
                    break;
                }
            }
        });
        assert_eq!(first.exit_code(), 6, "{protocol}");
        assert_eq!(first.rest(), b"");
        // 5: somebody came and went, and there is no path to nobody.
        let mut first = Turnctl::start(&["connect", &at, "k5", protocol]);
        first.event("waiting");
        block_on(async { impostor(&server, "k5").await.0.close().await });
        assert_eq!(first.exit_code(), 5, "{protocol}");
    }
}

/// 1, on whichever side: the other program was killed.
#[test]
fn a_connection_that_breaks_is_no_end_in_order() {
    let server = start();
    let at = pairing(&server);
    for protocol in ["udp", "tcp"] {
        for killed in [0, 1] {
            let key = format!("{protocol}{killed}");
            let mut first = Turnctl::start(&["connect", &at, &key, protocol]);
            first.event("waiting");
            let mut pair = [first, Turnctl::start(&["connect", &at, &key])];
            for side in &mut pair {
                side.write(b"hello");
                side.event("path");
            }
            let [first, second] = &mut pair;
            let (dead, left) = match killed {
                0 => (first, second),
                _ => (second, first),
            };
            dead.child.kill().expect("killed");
            let error = left.event("error");
            assert_eq!((left.exit_code(), &error["exit_code"]), (1, &1.into()));
        }
    }
}

#[test]
fn only_the_named_address_is_taken_and_the_own_one_can_be_chosen() {
    let server = start();
    let at = pairing(&server);
    let mut first = Turnctl::start(&["connect", &at, "k", "udp", "127.0.0.9"]);
    first.event("waiting");
    let mut other = Turnctl::start(&["connect", &at, "k"]);
    assert_eq!(other.exit_code(), 3, "another address");
    let mut named = Turnctl::start(&["connect", &at, "k", "--bind", "127.0.0.9"]);
    let peer = first.event("paired")["peer"].clone();
    assert!(
        peer.as_str().expect("an address").starts_with("127.0.0.9:"),
        "{peer}"
    );
    first.end_input();
    named.end_input();
    assert_eq!((first.exit_code(), named.exit_code()), (0, 0));
}

#[test]
fn the_key_need_not_be_an_argument() {
    let server = start();
    let at = pairing(&server);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("key");
    std::fs::write(&file, "the key\nnot this\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let mut first = Turnctl::start(&["connect", &at, "-", "tcp", "--key-file", file]);
    first.event("waiting");
    let shown = std::fs::read(format!("/proc/{}/cmdline", first.child.id())).expect("running");
    assert!(!String::from_utf8_lossy(&shown).contains("the key"));
    let mut second = command(&["connect", &at, "-", "--json"]);
    let mut second = Turnctl::spawn(second.env("TURNCTL_KEY", "the key"));
    second.write(b"it fits");
    first.end_input();
    second.end_input();
    assert_eq!(first.rest(), b"it fits");
    assert_eq!((first.exit_code(), second.exit_code()), (0, 0));
    assert!(!server.log().contains("the key"), "nor is it in the log");
}

#[test]
fn the_nat_is_described_in_words_and_as_json() {
    let server = start();
    let at = pairing(&server);
    let run = |arguments: &[&str]| {
        let output = command(arguments).output().expect("turnctl runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        (output.status.code(), text)
    };
    let (code, words) = run(&["nat", &at]);
    assert_eq!(code, Some(0), "{words}");
    for word in ["none, there is no NAT", "Filtering:", "Outlook:", "Router:"] {
        assert!(words.contains(word), "{words}");
    }
    let (code, line) = run(&["nat", &at, "--json"]);
    assert_eq!(code, Some(0), "{line}");
    let report: Value = serde_json::from_str(&line).expect("one object");
    assert_eq!(report["mapping"], "none");
    assert_eq!(report["ports"], "preserved");
    assert!(report["outlook"].is_string());
    // An address that this machine can not send to, as one of IPv6 where there is none.
    let (code, words) = run(&["nat", &at, "--stun", "[fe80::1]:3478"]);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("Outlook:"), "{words}");
    let (code, words) = run(&["nat", "nobody.invalid:3478"]);
    assert_eq!((code, words.as_str()), (Some(1), ""));
}

#[test]
fn nat_says_why_it_asks_nobody() {
    let server = start();
    let at = pairing(&server);
    let fails = |arguments: &[&str]| {
        let output = command(&[&["nat", &at][..], arguments].concat()).output();
        let output = output.expect("turnctl runs");
        assert_eq!(output.stdout, b"");
        let words = String::from_utf8(output.stderr).expect("UTF-8");
        (output.status.code(), words)
    };
    let (code, words) = fails(&["--bind", "::1"]);
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("--bind ::1 is of IPv6"), "{words}");
    let (code, line) = fails(&["--bind", "::1", "--json"]);
    let event: Value = serde_json::from_str(&line).expect("one object");
    assert_eq!(code, Some(2), "{line}");
    assert_eq!(
        (&event["event"], &event["exit_code"]),
        (&"error".into(), &2.into())
    );
    assert_eq!(
        words,
        format!("error: {}\n", event["message"].as_str().expect("a text"))
    );
    for stun in ["x", "x:0", ":3478", "x:y"] {
        let (code, words) = fails(&["--stun", stun]);
        assert_eq!(code, Some(2), "{words}");
    }
    // That may be another time.
    let (code, words) = fails(&["--stun", "nobody.invalid:3478"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.starts_with("error: nobody.invalid:3478: "), "{words}");
}

/// The server says for how long it may be silent, which ends nothing.
#[test]
fn a_host_waits_without_an_end() {
    let server = start();
    let at = pairing(&server);
    let mut host = Turnctl::start(&["host", &at, "k"]);
    let waiting = host.event("waiting");
    assert!(
        waiting["observed"].is_string() && waiting["wait_s"].is_null(),
        "{waiting}"
    );
    let host = Turnctl::spawn(&mut command(&["host", &at, "l"]));
    let line = loop {
        let line = host.events.recv_timeout(PATIENCE).expect("a line");
        if line.as_str().expect("words").starts_with("waiting") {
            break line;
        }
    };
    assert!(
        line.as_str()
            .expect("words")
            .starts_with("waiting for devices (seen as "),
        "{line}"
    );
    let mut waiting = Turnctl::start(&["connect", &at, "m", "udp", "--wait", "7"]);
    assert_eq!(waiting.event("waiting")["wait_s"], 7);
}
