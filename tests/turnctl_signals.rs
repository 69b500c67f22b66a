//! What `turnctl` leaves behind when it is told to stop, or its peer is gone: nothing at the
//! server, and a peer who knows.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use support::turnctl::{PATIENCE, Turnctl, pairing, service};
use support::{Config, Server, wait_until};

const SIGNALS: [(&str, i32); 2] = [("INT", 130), ("TERM", 143)];

/// A server that pairs and counts.
fn start() -> Server {
    Server::with(Config {
        ops: true,
        signaling: Some(String::new()),
        ..Config::default()
    })
}

fn allocations(server: &Server) -> u64 {
    let active = server.metric("turnserver_allocations_active ");
    active.expect("counted")
}

/// Nothing is left at the server: no allocation, nobody who waits.
fn nothing_is_left(server: &Server, key: &str) {
    let gone = wait_until(PATIENCE, || allocations(server) == 0);
    assert!(gone, "{} allocations", allocations(server));
    let mut other = Turnctl::start(&["connect", &pairing(server), key]);
    assert_eq!(other.exit_code(), 3, "nobody waits");
}

/// A peer that is gone confirms nothing: that takes time, and the allocation is given back then.
#[test]
fn one_whose_peer_is_gone_gives_its_allocation_back() {
    for protocol in ["udp", "tcp"] {
        let server = start();
        let at = pairing(&server);
        let mut one = Turnctl::start(&["connect", &at, "k", protocol, "--relay-only"]);
        one.event("waiting");
        let mut gone = Turnctl::start(&["connect", &at, "k", "--relay-only"]);
        one.event("path");
        gone.event("path");
        assert_eq!(allocations(&server), 2, "{protocol}");
        support::signal(gone.child.id(), "KILL");
        gone.child.wait().expect("it is killed");
        support::signal(one.child.id(), "INT");
        assert_eq!(one.exit_code(), 130);
        // The release may be on its way; one that is not given back lives for ten minutes.
        let given_back = wait_until(PATIENCE, || allocations(&server) == 1);
        let left = allocations(&server);
        assert!(given_back, "{protocol}: {left}, not that of the killed one");
    }
}

#[test]
fn a_device_that_waits_can_be_stopped() {
    let server = start();
    let at = pairing(&server);
    for (signal, code) in SIGNALS {
        for protocol in ["udp", "tcp"] {
            let mut waiting = Turnctl::start(&["connect", &at, "k", protocol]);
            waiting.event("waiting");
            assert!(
                wait_until(PATIENCE, || allocations(&server) == 1),
                "it makes its relay ready"
            );
            support::signal(waiting.child.id(), signal);
            let stopping = waiting.event("stopping");
            assert_eq!(stopping["signal"], format!("SIG{signal}"));
            assert_eq!(waiting.exit_code(), code);
            assert_eq!(waiting.rest(), b"");
            nothing_is_left(&server, "k");
        }
    }
}

/// Two that are connected and have heard each other.
fn pair(at: &str, key: &str, protocol: &str, extra: &[&str]) -> [Turnctl; 2] {
    let mut first = Turnctl::start(&[&["connect", at, key, protocol][..], extra].concat());
    first.event("waiting");
    let mut pair = [
        first,
        Turnctl::start(&[&["connect", at, key][..], extra].concat()),
    ];
    for side in &mut pair {
        side.write(b"hello");
    }
    for side in &mut pair {
        assert_eq!(side.read(5), b"hello");
    }
    pair
}

#[test]
fn the_peer_of_one_that_is_stopped_learns_it() {
    let server = start();
    let at = pairing(&server);
    for (protocol, extra) in [
        ("udp", &[][..]),
        ("tcp", &[]),
        ("udp", &["--relay-only"]),
        ("tcp", &["--relay-only"]),
    ] {
        for ((signal, code), stopped) in SIGNALS.into_iter().zip([0, 1]) {
            let mut pair = pair(&at, "k", protocol, extra);
            let [first, second] = &mut pair;
            let (stopped, other) = match stopped {
                0 => (first, second),
                _ => (second, first),
            };
            support::signal(stopped.child.id(), signal);
            assert_eq!(stopped.exit_code(), code, "{protocol} {extra:?}");
            let error = other.event("error");
            assert_eq!((other.exit_code(), &error["exit_code"]), (1, &1.into()));
            let message = error["message"].as_str().expect("a text");
            let told = "the connection was lost: the peer broke it off";
            assert_eq!(message, told, "{protocol} {extra:?} {signal}");
            nothing_is_left(&server, "k");
        }
    }
}

/// It waits for nothing but its own input, and yet sees that nobody is there any more.
#[test]
fn who_has_read_the_end_still_learns_that_the_peer_is_gone() {
    let server = start();
    let at = pairing(&server);
    let [mut first, mut second] = pair(&at, "k", "udp", &[]);
    first.end_input();
    assert_eq!(second.rest_while_input_is_open(), b"");
    first.child.kill().expect("killed");
    let error = second.event("error");
    let silent = "the connection was lost: the peer has gone silent";
    assert_eq!(error["message"], silent);
    assert_eq!(second.exit_code(), 1);
}

/// As when what it was piped into has ended.
#[test]
fn the_peer_of_one_that_cannot_write_learns_it() {
    let server = start();
    let at = pairing(&server);
    for protocol in ["udp", "tcp"] {
        let [mut first, mut second] = pair(&at, "k", protocol, &[]);
        first.output = None;
        second.write(b"for nobody");
        let error = first.event("error");
        let message = error["message"].as_str().expect("a text");
        assert!(message.starts_with("standard output: "), "{message}");
        let error = second.event("error");
        let told = "the connection was lost: the peer broke it off";
        assert_eq!(error["message"], told, "{protocol}");
        assert_eq!((first.exit_code(), second.exit_code()), (1, 1));
    }
}

#[test]
fn a_host_that_is_stopped_leaves_nobody_waiting() {
    let server = start();
    let at = pairing(&server);
    for ((signal, code), protocol) in SIGNALS.into_iter().zip(["udp", "tcp"]) {
        let mut host = Turnctl::start(&["host", &at, "k", protocol]);
        host.event("registered");
        let mut guests = [(); 2].map(|()| Turnctl::start(&["connect", &at, "k"]));
        for guest in &mut guests {
            guest.event("path");
        }
        support::signal(host.child.id(), signal);
        assert_eq!(host.exit_code(), code);
        for guest in &mut guests {
            guest.event("error");
            assert_eq!(guest.exit_code(), 1);
        }
        nothing_is_left(&server, "k");
    }
}

/// Sends back what it gets, until the end.
fn echo() -> SocketAddr {
    service(|mut stream| {
        let mut back = stream.try_clone().expect("cloned");
        let _ = std::io::copy(&mut stream, &mut back);
    })
}

fn echoed(local: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(local).expect("the port is there");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(b"hello").expect("writable");
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).expect("echoed");
    stream
}

/// Otherwise half an answer would look like a whole one.
#[test]
fn a_forwarded_connection_that_is_broken_off_does_not_look_like_one_that_ended() {
    let server = start();
    let at = pairing(&server);
    let to = echo();
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let _host = Turnctl::serve(&at, signal, "tcp", to);
        let mut forward = Turnctl::start(&["forward", &at, signal, "tcp", "0"]);
        let mut stream = echoed(forward.listening());
        support::signal(forward.child.id(), signal);
        match code {
            Some(code) => assert_eq!(forward.exit_code(), code),
            None => drop(forward.child.wait().expect("a child")),
        }
        let end = stream.read(&mut [0; 1]);
        assert!(end.is_err(), "{signal}: an error and not an end: {end:?}");
    }
}

/// A burst of clients takes the last descriptor, and it goes on when they have left.
#[test]
fn a_forwarded_port_outlives_a_lack_of_descriptors() {
    let server = start();
    let at = pairing(&server);
    let _host = Turnctl::serve(&at, "k", "tcp", echo());
    let limited = "ulimit -n 48 && exec \"$0\" \"$@\"";
    let forward = support::turnctl::command(&["forward", &at, "k", "tcp", "0", "--json"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", limited]).arg(forward.get_program());
    shell.args(forward.get_args()).env_remove("TURNCTL_KEY");
    shell
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut forward = Turnctl::spawn(&mut shell);
    let local = forward.listening();
    let burst: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(local).expect("the backlog has room"))
        .collect();
    let descriptors = || {
        let directory = format!("/proc/{}/fd", forward.child.id());
        std::fs::read_dir(directory).expect("it runs").count()
    };
    // One with a higher number may have been inherited.
    assert!(wait_until(PATIENCE, || descriptors() >= 48));
    // It has tried to take one more by now, and again.
    thread::park_timeout(std::time::Duration::from_millis(500));
    assert!(descriptors() >= 48, "it still runs");
    drop(burst);
    echoed(local);
}
