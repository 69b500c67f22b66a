//! `docs/signalling.md` is enough to write a client from: `tests/foreign` is one in Python that
//! shares no code with ours. It meets itself, the library and `turnctl` at the built server.

mod connect_support;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use connect_support::{PATIENCE, becomes, content, fresh_key, in_time, meet};
use serde_json::Value;
use support::tools::run;
use support::{Config, Server};
use turnserver::client::connect::{Connector, Ended, PunchedConn};
use turnserver::pairing::{AccessKey, PathKind, Protocol, Role};

/// Its first line names Debian's interpreter, which has Debian's modules.
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/pair.py");
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/signalling.md");

/// A running client, the foreign one or `turnctl`: both write events as JSON to standard error.
/// Ended when dropped.
struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    arrived: Vec<u8>,
    events: Receiver<String>,
    seen: Vec<String>,
}

impl Drop for Program {
    fn drop(&mut self) {
        // Killing a process that has ended is an error of no interest.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.seen.extend(self.events.iter());
            eprintln!("--- a client said ---\n{}\n---", self.seen.join("\n"));
        }
    }
}

impl Program {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut stdout = child.stdout.take().expect("piped");
        let (line, events) = channel();
        thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|text| line.send(text))
        });
        let (part, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                if part.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            output,
            arrived: Vec::new(),
            events,
            seen: Vec::new(),
        }
    }

    /// The client in Python.
    fn foreign(server: &Server, key: &str, more: &[&str]) -> Self {
        let at = server.signaling().to_string();
        Self::start(CLIENT, &[&["connect", &at, key][..], more].concat())
    }

    /// The client in Rust.
    fn turnctl(server: &Server, key: &str, more: &[&str]) -> Self {
        let at = server.signaling().to_string();
        let arguments = [&["connect", &at, key, "--json"][..], more].concat();
        Self::start(env!("CARGO_BIN_EXE_turnctl"), &arguments)
    }

    /// The next event of this name.
    fn event(&mut self, name: &str) -> Value {
        loop {
            let line = self.events.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("no {name}: {error}"));
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            self.seen.push(line);
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Waits until its path is of this kind.
    fn becomes(&mut self, path: &str) {
        while self.event("path")["path"] != path {}
    }

    fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("open");
        input.write_all(bytes).expect("taken");
    }

    fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits for more of standard output.
    fn more(&mut self, limit: Duration) -> Result<(), RecvTimeoutError> {
        let part = self.output.recv_timeout(limit)?;
        self.arrived.extend(part);
        Ok(())
    }

    /// The next line of standard output.
    fn expect_line(&mut self, line: &[u8]) {
        let line = [line, b"\n"].concat();
        while self.arrived.len() < line.len() {
            let more = self.more(PATIENCE);
            more.unwrap_or_else(|error| panic!("{:?} is all: {error}", self.arrived));
        }
        let next: Vec<u8> = self.arrived.drain(..line.len()).collect();
        assert_eq!(next, line);
    }

    /// All of standard output that is left, to its end.
    fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.more(PATIENCE) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return std::mem::take(&mut self.arrived),
                Err(RecvTimeoutError::Timeout) => panic!("standard output does not end"),
            }
        }
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        let ended = support::wait_until(PATIENCE, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        assert!(ended, "it does not end");
        status.and_then(|status| status.code())
    }
}

/// The built server, which pairs.
fn start() -> Server {
    Server::with(Config {
        signaling: Some(String::new()),
        tls: false,
        ..Config::default()
    })
}

/// Runs the client for one answer.
fn foreign(arguments: &[&str]) -> String {
    let output = run(&[&[CLIENT][..], arguments].concat(), PATIENCE);
    assert_eq!(
        output.code, 0,
        "{arguments:?} (it needs `apt-get install python3-cryptography`): {}",
        output.text
    );
    output.stdout
}

/// What is said in datagrams, each in its turn.
fn lines() -> [Vec<u8>; 3] {
    [b"hello".to_vec(), "Grüße".into(), vec![b'x'; 1000]]
}

/// From one program to the other.
fn says(from: &mut Program, to: &mut Program) {
    for line in lines() {
        from.write(&[&line[..], b"\n"].concat());
        to.expect_line(&line);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(future)
}

/// The library's side.
fn device(server: &Server, key: &str) -> Connector {
    let url = server.signaling().to_string().parse().expect("a server");
    Connector::new(url, AccessKey::new(key).expect("a key"))
}

#[test]
fn it_finds_the_vectors_of_the_document() {
    let said = foreign(&["vectors", DOCUMENT]);
    assert_eq!(said, "16 values are as the document says\n");
}

#[test]
fn it_pairs_over_http() {
    let server = start();
    let at = server.signaling().to_string();
    let key = fresh_key();
    let ask = |more: &[&str]| -> Value {
        let said = foreign(&[&["ask", &at, &key][..], more].concat());
        serde_json::from_str(&said).expect("JSON")
    };
    let nobody = ask(&[]);
    assert_eq!(nobody["status"], 404);
    assert_eq!(nobody["answer"]["code"], "nobody_waits");
    // One tells the key and the other one what it derived.
    let (first, second) = thread::scope(|scope| {
        let told = ["udp", "--plain", "--endpoint", "192.0.2.1:4000"];
        let first = scope.spawn(move || ask(&told));
        let second = std::iter::repeat_with(|| ask(&[]))
            .find(|answer| answer["status"] != 404)
            .expect("it repeats");
        (first.join().expect("an answer"), second)
    });
    assert_eq!(
        (&first["status"], &second["status"]),
        (&200.into(), &200.into())
    );
    let (first, second) = (&first["answer"], &second["answer"]);
    assert_eq!(first["session"], second["session"]);
    assert_eq!(first["observed"], second["peer_observed"]);
    assert_eq!(second["peer_endpoints"][0], "192.0.2.1:4000");
    // What each got for the relay can be renewed, by whoever has it.
    let credentials = |answer: &Value| -> [String; 2] {
        let servers = answer["ice_servers"].as_array().expect("a list");
        let turn = servers.iter().find(|server| server["username"].is_string());
        ["username", "credential"].map(|name| {
            let text = turn.and_then(|turn| turn[name].as_str());
            text.expect("a text").to_owned()
        })
    };
    let renew = |[name, password]: &[String; 2]| -> Value {
        let said = foreign(&["renew", &at, name, password]);
        serde_json::from_str(&said).expect("JSON")
    };
    let had = credentials(first);
    let renewed = renew(&had);
    assert_eq!(renewed["type"], "renewed", "{renewed}");
    assert_eq!(renewed["session"], first["session"]);
    let [name, _] = had;
    // The same user; within the second that they were made in, the very same credentials.
    let user = |name: &str| name.split_once(':').map(|parts| parts.1.to_owned());
    assert_eq!(user(&credentials(&renewed)[0]), user(&name));
    let refused = renew(&[name, "wrong".to_owned()]);
    assert_eq!(refused["code"], "no_session", "{refused}");
}

#[test]
fn two_of_them_exchange_datagrams() {
    let server = start();
    for (more, path) in [
        (&[][..], "direct"),
        (&["--relay-only"], "relayed"),
        (&["--direct-only"], "direct"),
    ] {
        let key = fresh_key();
        let mut one = Program::foreign(&server, &key, &[&["udp"][..], more].concat());
        let mut two = Program::foreign(&server, &key, more);
        one.becomes(path);
        two.becomes(path);
        says(&mut one, &mut two);
        says(&mut two, &mut one);
        one.end_input();
        assert_eq!((one.exit_code(), two.exit_code()), (Some(0), Some(0)));
    }
}

/// In both roles, by the relay and without it, also when hands are shaken by blobs alone; either
/// side ends it.
#[test]
fn it_exchanges_datagrams_with_the_library() {
    let server = start();
    for (role, more, path) in [
        (Role::Initiator, &[][..], PathKind::Direct),
        (Role::Receiver, &[], PathKind::Direct),
        (Role::Initiator, &["--relay-only"], PathKind::Relayed),
        (Role::Receiver, &["--relay-only"], PathKind::Relayed),
        (Role::Initiator, &["--direct-only"], PathKind::Direct),
        (Role::Receiver, &["--direct-only"], PathKind::Direct),
        (Role::Initiator, &["--shake-by-blobs"], PathKind::Direct),
        (Role::Receiver, &["--shake-by-blobs"], PathKind::Direct),
    ] {
        let key = fresh_key();
        let device = device(&server, &key);
        let protocol: &[&str] = match role {
            Role::Initiator => &["udp"],
            Role::Receiver => &[],
        };
        let mut other = Program::foreign(&server, &key, &[protocol, more].concat());
        block_on(async {
            let connected = match role {
                Role::Initiator => in_time("connected", meet(device)).await,
                Role::Receiver => {
                    in_time("connected", device.protocol(Protocol::Udp).connect()).await
                }
            };
            let conn = connected.unwrap_or_else(|error| panic!("{role:?} {more:?}: {error}"));
            becomes(&mut conn.path_changes(), path).await;
            other.becomes(match path {
                PathKind::Direct => "direct",
                PathKind::Relayed => "relayed",
            });
            with_the_library(&mut other, &conn).await;
            if role == Role::Initiator {
                other.end_input();
                assert_eq!(in_time("the end", conn.recv()).await, None);
                assert_eq!(conn.ended(), Some(Ended::ByPeer(0)));
            } else {
                in_time("the end", conn.close()).await;
            }
            assert_eq!(other.exit_code(), Some(0));
        });
    }
}

async fn with_the_library(other: &mut Program, conn: &PunchedConn) {
    for line in lines() {
        other.write(&[&line[..], b"\n"].concat());
        let received = in_time("a datagram", conn.recv()).await;
        assert_eq!(received.as_deref(), Some(&line[..]));
    }
    for line in lines() {
        conn.send(&line).await.expect("sent");
        other.expect_line(&line);
    }
}

/// The direct path dies and comes back, and it goes along: to the relay and back again.
#[test]
fn it_moves_with_the_path() {
    let server = start();
    for protocol in [&["udp"][..], &[]] {
        let key = fresh_key();
        let device = device(&server, &key);
        let mut other = Program::foreign(&server, &key, protocol);
        block_on(async {
            let connecting = async {
                match protocol.is_empty() {
                    true => device.protocol(Protocol::Udp).connect().await,
                    false => meet(device).await,
                }
            };
            let conn = in_time("connected", connecting).await.expect("connected");
            let mut changes = conn.path_changes();
            let loss = conn.direct_loss().expect("a udp session");
            for (percent, path, word) in [
                (0, PathKind::Direct, "direct"),
                (100, PathKind::Relayed, "relayed"),
                (0, PathKind::Direct, "direct"),
            ] {
                loss.set(percent).await;
                becomes(&mut changes, path).await;
                other.becomes(word);
                with_the_library(&mut other, &conn).await;
            }
        });
    }
}

/// Bytes each way, of which each ends alone.
fn streams(protocol: &str, for_foreign: &[&str], for_turnctl: &[&str], path: &str) {
    let server = start();
    let (forth, back) = (content(300_000), content(200_000));
    let side = |is_foreign: bool, key: &str, first: &[&str]| match is_foreign {
        true => Program::foreign(&server, key, &[first, for_foreign].concat()),
        false => Program::turnctl(&server, key, &[first, for_turnctl].concat()),
    };
    for (first, second) in [(true, true), (true, false), (false, true)] {
        let key = fresh_key();
        let mut one = side(first, &key, &[protocol]);
        one.event("waiting");
        let mut two = side(second, &key, &[]);
        one.becomes(path);
        two.becomes(path);
        one.write(&forth);
        one.end_input();
        assert!(two.rest() == forth, "forth");
        two.write(&back);
        two.end_input();
        assert!(one.rest() == back, "back");
        assert_eq!((one.exit_code(), two.exit_code()), (Some(0), Some(0)));
    }
}

#[test]
fn it_exchanges_tcp_streams_with_itself_and_turnctl() {
    streams("tcp", &[], &[], "direct");
}

#[test]
fn it_exchanges_quic_streams_with_itself_and_turnctl() {
    streams("udp", &["--stream"], &[], "direct");
}

#[test]
fn it_exchanges_streams_over_the_relay() {
    let relay = ["--relay-only"];
    streams("udp", &["--stream", "--relay-only"], &relay, "relayed");
    streams("tcp", &relay, &relay, "relayed");
}

/// Two devices, one after the other, at a port that `turnctl` serves.
#[test]
fn it_reaches_a_served_port() {
    let server = start();
    let (at, key) = (server.signaling().to_string(), fresh_key());
    let echo = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = echo.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for mut stream in echo.incoming().map_while(Result::ok) {
            let mut back = stream.try_clone().expect("cloned");
            thread::spawn(move || {
                std::io::copy(&mut stream, &mut back)?;
                back.shutdown(Shutdown::Write)
            });
        }
    });
    let arguments = ["host", &at, &key, "tcp", "--to", &port, "--json"];
    let mut host = Program::start(env!("CARGO_BIN_EXE_turnctl"), &arguments);
    host.event("registered");
    for _ in 0..2 {
        let mut other = Program::foreign(&server, &key, &["--stream"]);
        let sent = content(100_000);
        other.write(&sent);
        other.end_input();
        assert!(other.rest() == sent);
        assert_eq!(other.exit_code(), Some(0));
    }
}

/// Whoever knows the rendezvous id and not the key is found out, by it and by us.
#[test]
fn without_the_key_it_is_refused() {
    let server = start();
    for protocol in ["udp", "tcp"] {
        for [ours, theirs] in [[&[protocol][..], &[]], [&[], &[protocol][..]]] {
            let key = fresh_key();
            let guess = [theirs, &["--guess", "another key"]].concat();
            let (mut honest, mut guessing) = if ours.is_empty() {
                let mut guessing = Program::foreign(&server, &key, &guess);
                guessing.event("waiting");
                (Program::turnctl(&server, &key, ours), guessing)
            } else {
                let mut honest = Program::turnctl(&server, &key, ours);
                honest.event("waiting");
                (honest, Program::foreign(&server, &key, &guess))
            };
            assert_eq!(honest.exit_code(), Some(6), "{protocol} {ours:?}");
            assert_eq!(guessing.exit_code(), Some(6), "{protocol} {theirs:?}");
        }
    }
}
