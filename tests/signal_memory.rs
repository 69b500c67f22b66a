//! What one that waits costs: the room in virtual time, a connection on the heap, and ten thousand
//! of them in the memory of the built server.

#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe to write; this one forwards everything and counts"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

mod signal_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::time::Duration;

use turnserver::signal;

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

/// A WebSocket by hand, so that this end takes no heap.
fn raw_socket(server: SocketAddr, join: &str) -> TcpStream {
    let mut stream = signal_support::connect(server);
    let request = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = [0; 1024];
    let mut len = 0;
    while !head[..len].ends_with(b"\r\n\r\n") {
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
fn a_connection_that_waits_takes_little_heap() {
    const SOCKETS: usize = 1000;
    let handle = signal::serve(SocketAddr::from(([127, 0, 0, 1], 0))).expect("it serves");
    let server = handle.addresses()[0];
    let mut waiting = Vec::with_capacity(SOCKETS);
    let join = |n: usize| format!("{{\"type\":\"join\",\"role\":\"initiator\",\"access_key\":\"{n}\"}}");
    for n in 0..200 { waiting.push(raw_socket(server, &join(n))); }
    std::thread::sleep(Duration::from_millis(100));
    let before = LIVE.load(Relaxed);
    for n in 200..290 { waiting.push(raw_socket(server, &join(n))); }
    std::thread::sleep(Duration::from_millis(100));
    let after = LIVE.load(Relaxed);
    println!("per socket {}", (after - before) / 90);
    drop(waiting);
}
