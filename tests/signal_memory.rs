//! What one that waits costs: the room in virtual time, a connection on the heap, and thousands of
//! them in the memory of the built server.

#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe to write; this one forwards everything and counts"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

mod signal_support;
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use signal_support::{Socket, connect_from, initiator, pair, receiver, with};
use support::{Config, Server};
use tokio_tungstenite::tungstenite;
use turnserver::pairing::{Protocol, RendezvousId};
use turnserver::proto::Mono;
use turnserver::signal;
use turnserver::signal::room::{Event, Gone, Mailbox, Room, RoomLimits, Seat, Wait};

struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by one test at a time: the count is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// A mailbox that is never written to here.
struct Nobody;

impl Mailbox for Nobody {
    fn deliver(&self, _: Event) -> Result<(), Gone> {
        Err(Gone)
    }
}

/// A WebSocket by hand, so that this end takes no heap.
fn raw_socket(server: SocketAddr, join: &str) -> TcpStream {
    let mut stream = signal_support::connect(server);
    let request = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = [0; 1024];
    let mut len = 0;
    // The hello is the last thing that comes, and the only JSON.
    while !head[..len].ends_with(b"}") {
        len += stream.read(&mut head[len..]).expect("an answer");
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    let join = join.as_bytes();
    assert!(join.len() < 126);
    // A text frame, masked with zeros.
    let mut frame = [0; 132];
    frame[0] = 0x81;
    frame[1] = 0x80 | join.len() as u8;
    frame[6..6 + join.len()].copy_from_slice(join);
    stream.write_all(&frame[..6 + join.len()]).expect("sent");
    let mut answer = [0; 1024];
    let len = stream.read(&mut answer).expect("an answer");
    assert!(answer[..len].windows(9).any(|word| word == b"\"waiting\""));
    stream
}

#[test]
fn a_hundred_thousand_that_wait_and_a_connection_take_little_heap() {
    const IDS: usize = 100_000;
    const HALF: usize = 125;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let room = Room::new(RoomLimits::default(), [7; 32], Box::new(|_: &_| ()));
    let before = LIVE.load(Relaxed);
    let seats: Vec<Seat<Nobody, ()>> = (0..IDS)
        .map(|n| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_le_bytes());
            let source = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 9));
            let seat = room.seat(Nobody, source, true);
            let wait = Wait {
                id: RendezvousId(id),
                protocol: Protocol::Udp,
                target_ip: None,
                wait_s: 30,
                host: false,
                endpoints: Vec::new(),
            };
            seat.wait(Mono(1), wait).expect("it waits");
            seat
        })
        .collect();
    let each = (LIVE.load(Relaxed) - before) as usize / IDS;
    println!("an entry of the room takes {each} bytes of heap");
    assert!(each < 450, "{each} bytes each");
    drop(seats);
    room.handle_timeout(Mono(2));
    assert!(room.is_empty());
    let left = LIVE.load(Relaxed) - before;
    assert!(left < 1 << 20, "{left} bytes are left");

    let handle = signal::serve(SocketAddr::from(([127, 0, 0, 1], 0))).expect("it serves");
    let server = handle.addresses()[0];
    let mut waiting = Vec::with_capacity(2 * HALF);
    let mut more = |count: usize| {
        for _ in 0..count {
            let n = waiting.len();
            let join =
                format!("{{\"type\":\"join\",\"role\":\"initiator\",\"access_key\":\"{n}\"}}");
            waiting.push(raw_socket(server, &join));
        }
        LIVE.load(Relaxed)
    };
    // From so many to twice as many, so that every table doubles once, wherever it is full. No
    // more than the 300 joins a minute of one source.
    let before = more(HALF);
    let after = more(HALF);
    let each = (after - before) / HALF as isize;
    println!("a WebSocket that waits takes {each} bytes of heap");
    assert!(each < 1500, "{each} bytes each");
    drop(waiting);
}

/// Reads what there is, as one does who waits: without an answer to pings it would be over.
fn answer_pings(socket: &mut Socket) {
    socket.0.get_ref().set_nonblocking(true).expect("set");
    let end = loop {
        match socket.0.read() {
            Ok(tungstenite::Message::Ping(_)) => {}
            other => break other,
        }
    };
    let nothing_more = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(
        matches!(&end, Err(tungstenite::Error::Io(error)) if nothing_more(error)),
        "{end:?}"
    );
    socket.0.get_ref().set_nonblocking(false).expect("set");
}

#[test]
fn ten_thousand_that_wait_take_little_memory() {
    const SOCKETS: usize = 10_000;
    /// So many are opened well within the time that a ping has.
    const PORTION: usize = 2000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::with(Config {
        ops: true,
        signaling: Some(
            "joins_per_minute = 0\nconnections_per_source = 1000\nmax_wait = 600".to_owned(),
        ),
        ..Config::default()
    });
    let before = server.settled_kib();
    let mut waiting: Vec<Socket> = Vec::new();
    for n in 0..SOCKETS {
        if n % PORTION == 0 {
            waiting.iter_mut().for_each(answer_pings);
        }
        let source = [127, 0, 1 + (n / 1000) as u8, 1];
        let stream = connect_from(source.into(), server.signaling());
        let mut socket = Socket::over(stream, server.signaling());
        // The first one still waits when the last one has come, however slow the machine is.
        let join = with(initiator(&format!("key {n}")), json!({"wait_s": 600}));
        socket.join(join);
        waiting.push(socket);
        if (n + 1) % PORTION == 0 {
            for socket in &mut waiting[n + 1 - PORTION..] {
                socket.expect("waiting");
            }
        }
    }
    waiting.iter_mut().for_each(answer_pings);
    let grown = server.resident_kib() - before;
    println!("{SOCKETS} waiting WebSockets take {grown} KiB");
    // A tenth of 200 MiB, which 100,000 of them may take.
    assert!(grown < 20 * 1024, "{grown} KiB");
    // The last and the first are paired like any.
    for n in [0, SOCKETS - 1] {
        let answer = pair(server.signaling(), &receiver(&format!("key {n}")));
        assert_eq!(answer.status, 200);
    }
    drop(waiting);
    let wait = with(initiator("last"), json!({"wait_s": 1}));
    assert_eq!(pair(server.signaling(), &wait).status, 408);
}

#[test]
fn a_thousand_that_wait_over_tls_take_little_memory() {
    const SOCKETS: usize = 1000;
    // What is made once, for the first ones.
    const FIRST: usize = 100;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = "joins_per_minute = 0\ncertificate = \"cert.pem\"\nkey = \"key.pem\"";
    let server = Server::with(Config {
        ops: true,
        signaling: Some(lines.to_owned()),
        ..Config::default()
    });
    server.settled_kib();
    let versions = &[&rustls::version::TLS13];
    let mut waiting = Vec::new();
    let mut more = |count| {
        for _ in 0..count {
            let stream = support::tls::connect(server.signaling(), &server.certificate, versions);
            let url = format!("ws://{}/v1/ws", server.signaling());
            let opened = tungstenite::client(url, stream.expect("TLS"));
            let (mut socket, _) = opened.expect("a WebSocket");
            let hello = socket.read().expect("a hello").to_string();
            assert!(hello.contains("\"hello\""), "{hello}");
            let join = with(
                initiator(&waiting.len().to_string()),
                json!({"type": "join"}),
            );
            let join = tungstenite::Message::text(join.to_string());
            socket.send(join).expect("it is taken");
            let answer = socket.read().expect("an answer").to_string();
            assert!(answer.contains("\"waiting\""), "{answer}");
            waiting.push(socket);
        }
        server.resident_kib()
    };
    let before = more(FIRST);
    let grown = more(SOCKETS) - before;
    println!("{SOCKETS} waiting WebSockets over TLS take {grown} KiB");
    assert!(grown < 14 * 1024, "{grown} KiB");
}
