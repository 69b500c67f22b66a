//! The relayed path allocates no memory: counted over the whole process while the shard's real
//! loop relays, so nothing can hide in a layer.

mod net_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
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

/// What is allocated meanwhile, in the whole process.
fn allocated(work: impl FnOnce()) -> u64 {
    let before = COUNT.load(SeqCst);
    ON.store(true, SeqCst);
    work();
    ON.store(false, SeqCst);
    COUNT.load(SeqCst) - before
}

/// Sends `packets` each way in bursts, and takes them on the other side.
fn exchange(
    packets: usize,
    client: &UdpSocket,
    frame: &[u8],
    peer: &UdpSocket,
    relayed: SocketAddr,
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

fn over_udp(server: &Server) {
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
    let count = allocated(|| {
        exchange(1000, socket, &frame, &peer, relayed);
        between(1000);
    });
    assert_eq!(count, 0, "memory was allocated while relaying");
}

/// A client over TCP and its peer.
struct Streamed<'a> {
    client: &'a TcpStream,
    peer: &'a UdpSocket,
    relayed: SocketAddr,
    buf: Vec<u8>,
}

impl Streamed<'_> {
    /// `frames` of `size` bytes of payload in one write.
    fn send(&mut self, frames: &[u8], count: usize, size: usize) {
        let mut client = self.client;
        client.write_all(frames).expect("sent");
        for _ in 0..count {
            let len = self.peer.recv(&mut self.buf).expect("relayed");
            assert_eq!(len, size);
        }
    }

    /// As many datagrams at once.
    fn receive(&mut self, count: usize, size: usize) {
        let mut client = self.client;
        for _ in 0..count {
            let sent = self.peer.send_to(&self.buf[..size], self.relayed);
            sent.expect("sent");
        }
        let expected = count * (4 + size.next_multiple_of(4));
        client
            .read_exact(&mut self.buf[..expected])
            .expect("relayed");
    }
}

/// Also where a turn writes or reads more than a connection keeps when it is idle.
fn over_tcp(server: &Server) {
    let mut client = Client::tcp(server.address(1));
    let relayed = client.allocate();
    let peer = peer("127.0.0.1");
    client.bind_channel(0x4000, peer.local_addr().expect("bound"));
    // To itself, so that what comes in one read leaves in one write.
    client.bind_channel(0x4001, relayed);
    let Link::Tcp(socket) = &client.link else {
        unreachable!("a TCP client");
    };
    let mut streamed = Streamed {
        client: socket,
        peer: &peer,
        relayed,
        buf: vec![42; 1 << 17],
    };
    let frames = |channel, count, size| channel_frame(channel, &vec![42; size]).repeat(count);
    // More frames than a turn handles, so that some are carried over.
    let small = frames(0x4000, 100, 172);
    // One that comes in several reads.
    let large = frames(0x4000, 1, 50_000);
    let across = frames(0x4001, 15, 1000);
    let round = |streamed: &mut Streamed<'_>| {
        streamed.send(&small, 100, 172);
        streamed.send(&large, 1, 50_000);
        streamed.receive(20, 172);
        streamed.receive(1, 8000);
        let mut client = streamed.client;
        client.write_all(&across).expect("sent");
        let back = &mut streamed.buf[..across.len()];
        client.read_exact(back).expect("relayed");
    };
    // More bytes and more messages than any turn has afterwards, whatever comes together.
    let most = frames(0x4000, 1, 60_000);
    let many = frames(0x4001, 60, 20);
    for _ in 0..20 {
        streamed.send(&most, 1, 60_000);
        streamed.receive(1, 60_000);
        let mut client = streamed.client;
        client.write_all(&many).expect("sent");
        client
            .read_exact(&mut streamed.buf[..many.len()])
            .expect("relayed");
        round(&mut streamed);
    }
    let count = allocated(|| {
        for _ in 0..50 {
            round(&mut streamed);
        }
    });
    assert_eq!(count, 0, "memory was allocated while relaying over TCP");
}

// One test in this file: nothing else may allocate while it counts.
#[test]
fn relaying_allocates_nothing() {
    let server = Server::start(Setup {
        threads: 1,
        listeners: [Protocol::Udp, Protocol::Tcp]
            .map(|protocol| listener(protocol, "127.0.0.1:0"))
            .into(),
        ..Setup::default()
    });
    over_udp(&server);
    over_tcp(&server);
    // The counter does count.
    assert_eq!(allocated(|| drop(std::hint::black_box(Box::new(1)))), 1);
}
