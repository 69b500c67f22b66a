//! Running `turnctl`s, and the server that pairs them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Config, Server};

/// For anything that has to happen at all.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `turnctl … --json`. Ended when dropped.
pub struct Turnctl {
    pub child: Child,
    pub input: Option<ChildStdin>,
    pub output: Option<ChildStdout>,
    pub events: Receiver<Value>,
    seen: Vec<Value>,
}

impl Drop for Turnctl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.seen.extend(self.events.try_iter());
            eprintln!("{:#?}", self.seen);
        }
    }
}

/// `turnctl` with these arguments and nothing else.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnctl"));
    command
        .args(arguments)
        .env_remove("TURNCTL_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Turnctl {
    /// With `--json`.
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(command(arguments).arg("--json"))
    }

    /// As the command says.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("turnctl starts");
        let stderr = child.stderr.take().expect("piped");
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let line = line.expect("UTF-8");
                // Nothing but objects, one a line.
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let _ = sender.send(event);
            }
        });
        Self {
            input: child.stdin.take(),
            output: child.stdout.take(),
            child,
            events,
            seen: Vec::new(),
        }
    }

    /// A host that has registered and serves the port at `to`.
    pub fn serve(at: &str, key: &str, protocol: &str, to: SocketAddr) -> Self {
        let to = to.to_string();
        let mut host = Self::start(&["host", at, key, protocol, "--to", &to]);
        host.event("registered");
        host
    }

    /// Where it listens for what it forwards.
    pub fn listening(&mut self) -> SocketAddr {
        let event = self.event("listening");
        let local = event["local"].as_str().expect("a text");
        local.parse().expect("an address")
    }

    /// The next event of this name.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let event = self.events.recv_timeout(PATIENCE).expect(name);
            assert!(event.is_object(), "{event} is no JSON object");
            self.seen.push(event.clone());
            if event["event"] == name {
                return event;
            }
        }
    }

    /// To its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("open");
        input.write_all(bytes).expect("taken");
    }

    /// The end of its standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// So much of standard output.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut output = self.output.take().expect("open");
        let (sender, read) = channel();
        // A pipe has no limit of its own.
        thread::spawn(move || {
            let mut bytes = vec![0; len];
            let done = output.read_exact(&mut bytes).map(|()| (bytes, output));
            let _ = sender.send(done);
        });
        let done = read.recv_timeout(PATIENCE).expect("output in time");
        let (bytes, output) = done.expect("more output");
        self.output = Some(output);
        bytes
    }

    /// All of standard output, to its end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut output = self.output.take().expect("not yet read");
        output.read_to_end(&mut all).expect("readable");
        all
    }

    /// Standard output to its end, while standard input is still open.
    pub fn rest_while_input_is_open(&mut self) -> Vec<u8> {
        assert!(self.input.is_some());
        self.rest()
    }

    /// Waits for the end.
    pub fn exit_code(&mut self) -> i32 {
        let until = now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code().expect("not killed");
            }
            assert!(now() < until, "it does not end");
            thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// Tests of real processes have a real clock.
pub fn now() -> Instant {
    Instant::now()
}

/// A port on loopback whose connections `serve` has, each on a thread of its own.
pub fn service(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A server that pairs.
pub fn start() -> Server {
    Server::with(Config {
        signaling: Some(String::new()),
        ..Config::default()
    })
}

/// Its address, as `turnctl` takes it.
pub fn pairing(server: &Server) -> String {
    server.signaling().to_string()
}
