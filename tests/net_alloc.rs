//! The relayed path allocates no memory: counted over the whole process while the shard's real
//! loop relays, so nothing can hide in a layer.

mod net_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use net_support::{Client, Link, Server, Setup, channel_frame, listener, peer};
use turnserver::net::Protocol;

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static ON: AtomicBool = AtomicBool::new(false);

fn count() {
    if ON.load(SeqCst) {
        COUNT.fetch_add(1, SeqCst);
    }
}

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sends `packets` each way in bursts, and takes them on the other side.
fn exchange(
    packets: usize,
    client: &UdpSocket,
    frame: &[u8],
    peer: &UdpSocket,
    relayed: std::net::SocketAddr,
) {
    let mut buf = [0; 2048];
    for _ in 0..packets / 10 {
        for _ in 0..10 {
            client.send(frame).expect("sent");
            peer.send_to(&frame[4..], relayed).expect("sent");
        }
        for _ in 0..10 {
            peer.recv(&mut buf).expect("relayed");
            client.recv(&mut buf).expect("relayed");
        }
    }
}

// One test in this file: nothing else may allocate while it counts.
#[test]
fn relaying_allocates_nothing() {
    let server = Server::start(Setup {
        threads: 1,
        listeners: vec![listener(Protocol::Udp, "127.0.0.1:0")],
        ..Setup::default()
    });
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
    let peer = peer("127.0.0.1");
    client.bind_channel(0x4000, peer.local_addr().expect("bound"));
    // Data indications and relay-to-relay inside the shard: a second allocation, on which the
    // first one's relayed address is a peer with a permission only.
    let mut other = Client::udp(server.address(0));
    let other_relayed = other.allocate();
    other.permit(relayed);
    client.bind_channel(0x4001, other_relayed);
    let (Link::Udp(socket), Link::Udp(other)) = (&client.link, &other.link) else {
        unreachable!("UDP clients");
    };
    let frame = channel_frame(0x4000, &[42; 172]);
    let across = channel_frame(0x4001, &[43; 172]);
    let mut buf = [0; 2048];
    let mut between = |packets: usize| {
        for _ in 0..packets {
            socket.send(&across).expect("sent");
            let len = other.recv(&mut buf).expect("relayed");
            assert_eq!(len, 36 + 172);
        }
    };
    exchange(1000, socket, &frame, &peer, relayed);
    between(100);
    ON.store(true, SeqCst);
    exchange(1000, socket, &frame, &peer, relayed);
    between(1000);
    ON.store(false, SeqCst);
    assert_eq!(COUNT.load(SeqCst), 0, "memory was allocated while relaying");
    // The counter does count.
    ON.store(true, SeqCst);
    drop(std::hint::black_box(Box::new(1)));
    ON.store(false, SeqCst);
    assert_eq!(COUNT.load(SeqCst), 1);
}
