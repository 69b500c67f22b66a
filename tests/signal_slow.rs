//! Who joins and does not read what it is sent is closed, and the server holds little for it
//! meanwhile.

mod signal_support;
mod support;

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use signal_support::{LIMIT, Socket, initiator, pair, receiver, with};
use support::{Config, Server};
use turnserver::pairing::MAX_BLOB;

/// How much of it the kernel takes at this end, in bytes.
const WINDOW: usize = 4096;

/// One for whom the kernel holds little, so that the server has to.
fn narrow(server: SocketAddr) -> TcpStream {
    let domain = socket2::Domain::for_address(server);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(WINDOW).expect("taken");
    socket.connect(&server.into()).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

#[test]
fn hosts_that_never_read_are_closed_and_hold_little() {
    const HOSTS: usize = 4;
    const GUESTS: usize = 8;
    // As many as a session takes in one go.
    const SIGNALS: usize = 128;
    let server = Server::with(Config {
        ops: true,
        signaling: Some("joins_per_minute = 0".to_owned()),
        ..Config::default()
    });
    let hosts: Vec<Socket> = (0..HOSTS)
        .map(|host| {
            let mut socket = Socket::over(narrow(server.signaling()), server.signaling());
            let join = with(initiator(&format!("host {host}")), json!({"host": true}));
            socket.join(join);
            socket.expect("waiting");
            socket
        })
        .collect();
    let mut guests: Vec<(Socket, Value)> = (0..HOSTS * GUESTS)
        .map(|guest| {
            let mut socket = Socket::open(server.signaling());
            socket.join(receiver(&format!("host {}", guest % HOSTS)));
            let session = socket.expect("paired")["session"].clone();
            (socket, session)
        })
        .collect();

    let before = server.settled_kib();
    let mut most = before;
    let blob = "x".repeat(MAX_BLOB);
    for (guest, session) in &mut guests {
        let signal = json!({"type": "signal", "session": session, "blob": blob});
        for _ in 0..SIGNALS {
            guest.say(&signal);
        }
        most = most.max(server.resident_kib());
    }
    for (guest, session) in &mut guests {
        let left = guest.expect("peer_left");
        assert_eq!(left["session"], *session);
        most = most.max(server.resident_kib());
    }
    let sent = HOSTS * GUESTS * SIGNALS * MAX_BLOB / 1024;
    println!("of {sent} KiB the server held {} KiB", most - before);
    // 256 KiB for each host; the rest is what its guests' messages pass through.
    assert!(most - before < 3 * 1024, "{} KiB", most - before);

    for (number, host) in hosts.into_iter().enumerate() {
        let answer = pair(server.signaling(), &receiver(&format!("host {number}")));
        assert_eq!(answer.body["code"], "nobody_waits");
        let mut stream = host.0.get_ref();
        let mut taken = 0;
        let mut some = [0; 4096];
        // What the kernel held comes, and then the end, in order or not.
        while let Ok(len @ 1..) = stream.read(&mut some) {
            taken += len;
        }
        let end = stream.read(&mut some).map_err(|error| error.kind());
        assert_ne!(end, Err(std::io::ErrorKind::WouldBlock), "it stays open");
        assert!(taken < 256 << 10, "{taken} bytes");
    }
    let mut other = Socket::open(server.signaling());
    other.join(initiator("another"));
    other.expect("waiting");
    let answer = pair(server.signaling(), &receiver("another"));
    assert_eq!(answer.status, 200);
}
