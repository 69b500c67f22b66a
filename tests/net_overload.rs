//! A load over the capacity of a shard: late data is dropped and counted, requests are answered
//! all the same, and nothing is left of it when it ends.

#![allow(
    clippy::disallowed_methods,
    reason = "loads a running process in real time"
)]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use support::random::Random;
use support::stun::{Client, LIFETIME, Message, REFRESH, Wire};
use support::{Config, Server, USER, wait_until};

const CHANNEL: u16 = 0x4000;

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// More than one shard keeps up with, however many cores there are.
const LOADERS: u64 = 4;

/// The most datagrams of one of them: more than it can send before the deadline.
const MOST: u64 = 100_000_000;

/// Application data on the channel.
fn frame(data: &[u8]) -> Vec<u8> {
    let mut frame = CHANNEL.to_be_bytes().to_vec();
    let len = u16::try_from(data.len()).expect("a short one");
    frame.extend(len.to_be_bytes());
    frame.extend(data);
    frame
}

/// Threads that send two kinds of datagrams on a client's socket as fast as they can, about as
/// many of each. They end when dropped.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(socket: &UdpSocket, kinds: [&[u8]; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..LOADERS).map(|seed| {
            let (stop, socket) = (Arc::clone(&stop), socket.try_clone().expect("a clone"));
            let kinds = kinds.map(<[u8]>::to_vec);
            let mut random = Random(seed);
            let end = Instant::now() + DEADLINE * 3;
            spawn(move || {
                for sent in 0..MOST {
                    let over = sent % 64 == 0 && Instant::now() > end;
                    if over || stop.load(Relaxed) {
                        return;
                    }
                    // A datagram that finds no room is part of the overload.
                    let _ = socket.send(&kinds[random.below(2)]);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

/// How many datagrams were dropped because they were late.
fn late(server: &Server) -> u64 {
    let line = "turnserver_dropped_packets_total{reason=\"late\"}";
    server.metric(line).expect("every reason has its line")
}

/// How many Refresh requests were successful.
fn refreshed(server: &Server) -> u64 {
    let line = "turnserver_requests_total{method=\"refresh\",result=\"success\"}";
    server.metric(line).expect("every method has its line")
}

/// The next datagram, or `None` when there is none for a while.
fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..len].to_vec(), from))
}

/// Whether this passes from the client to the peer and back.
fn passes(client: &UdpSocket, peer: &UdpSocket, data: &[u8]) -> bool {
    client.send(&frame(data)).expect("sent");
    // What is left of the load comes before.
    let at_peer = std::iter::from_fn(|| receive(peer)).find(|(bytes, _)| bytes == data);
    let Some((_, relayed)) = at_peer else {
        return false;
    };
    peer.send_to(data, relayed).expect("sent");
    std::iter::from_fn(|| receive(client)).any(|(bytes, _)| bytes == frame(data))
}

#[test]
fn late_data_is_dropped_while_requests_are_answered() {
    let server = Server::with(Config {
        ops: true,
        extra: "[runtime]\nthreads = 1\n".to_owned(),
        ..Config::default()
    });
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let limit = Some(Duration::from_secs(1));
    peer.set_read_timeout(limit).expect("above zero");
    let mut client = Client::new(Wire::udp(server.udp()).expect("a socket"), USER);
    client.allocated();
    let to = peer.local_addr().expect("bound");
    assert!(client.bind(CHANNEL, to).is_success());
    let Wire::Udp(socket) = &client.wire else {
        unreachable!("it was made so");
    };
    let socket = socket.try_clone().expect("a clone");
    assert_eq!(late(&server), 0, "nothing has waited yet");

    let refresh = Message::new(REFRESH).attr(LIFETIME, &600_u32.to_be_bytes());
    let refresh = client.authenticate(refresh);
    let load = Load::start(&socket, [&frame(&[0; 100]), refresh.bytes()]);
    let dropping = wait_until(DEADLINE, || late(&server) > 0);
    assert!(dropping, "all has waited, and nothing was dropped");
    let before = (refreshed(&server), late(&server));
    let drops = wait_until(DEADLINE, || late(&server) >= before.1 + 10_000);
    let dropped = late(&server) - before.1;
    let answered = refreshed(&server) - before.0;
    assert!(drops, "{dropped} were dropped");
    // As many requests came as data, of which not all was late.
    assert!(
        answered > dropped / 2,
        "{answered} requests were answered, {dropped} datagrams dropped"
    );
    let answer = client.wire.receive_message().expect("they were answered");
    assert!(answer.is_success(), "{:?}", answer.error());
    drop(load);
    client.wire.set_timeout(Duration::from_secs(1));

    // A machine that stands still now and then may make this late, too, but not each time.
    let mut round = 0_u32;
    let recovered = wait_until(DEADLINE, || {
        let before = late(&server);
        round += 1;
        (0..100_u32).all(|number| {
            let data = [round.to_be_bytes(), number.to_be_bytes()].concat();
            passes(&socket, &peer, &data)
        }) && late(&server) == before
    });
    assert!(recovered, "{} rounds, {} late", round, late(&server));
    assert!(client.refresh(600).is_success());
}
