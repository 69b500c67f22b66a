//! Loss, duplicates and damage that a test makes are counted one by one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use super::{assert_clean, assert_sums, credentials, measured, number};
use crate::support::{Config, Server};

#[test]
fn loss_by_a_limit_is_counted() {
    let mut config = Config::default();
    config.limits += "bandwidth_per_allocation = 20000\n";
    let server = Server::with(config);
    let address = server.udp().to_string();
    let mut arguments = vec![address.as_str(), "-n", "2", "-r", "2000"];
    arguments.extend(["--size", "1000", "--duration", "2", "--warm-up", "0"]);
    arguments.extend(credentials());
    let (code, json) = measured(&arguments);
    let result = &json["result"];
    assert_eq!(code, 1, "{json:#}");
    assert_sums(result);
    // Two allocations may carry 40 of the 2,000 packets of a second, and a burst at first.
    let loss = result["loss_percent"].as_f64().expect("a number");
    assert!((50.0..100.0).contains(&loss), "{json:#}");
    assert_eq!(
        number(&result["duplicated"]) + number(&result["corrupted"]),
        0
    );
}

/// A box in the way that drops, doubles and damages ChannelData, and counts what it does.
struct Vandal {
    address: SocketAddr,
    /// Dropped, doubled, damaged.
    done: Arc<[AtomicU64; 3]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Vandal {
    fn before(server: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let back = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        back.connect(server).expect("a server");
        let pause = Some(Duration::from_micros(100));
        front.set_read_timeout(pause).expect("above zero");
        back.set_read_timeout(pause).expect("above zero");
        let address = front.local_addr().expect("bound");
        let done: Arc<[AtomicU64; 3]> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (counts, end) = (Arc::clone(&done), Arc::clone(&stop));
        let thread = spawn(move || {
            let mut client = None;
            let mut packet = [0; 2000];
            let mut nth = 0_u64;
            while !end.load(SeqCst) {
                if let Ok((len, from)) = front.recv_from(&mut packet) {
                    client = Some(from);
                    meddle(&mut packet[..len], &mut nth, &counts, |bytes| {
                        back.send(bytes).expect("sent");
                    });
                }
                if let (Ok(len), Some(client)) = (back.recv(&mut packet), client) {
                    meddle(&mut packet[..len], &mut nth, &counts, |bytes| {
                        front.send_to(bytes, client).expect("sent");
                    });
                }
            }
        });
        Self {
            address,
            done,
            stop,
            thread: Some(thread),
        }
    }
}

fn meddle(packet: &mut [u8], nth: &mut u64, done: &[AtomicU64; 3], send: impl Fn(&[u8])) {
    if packet[0] != 0x40 {
        return send(packet);
    }
    *nth += 1;
    let count = |index: usize| done[index].fetch_add(1, SeqCst);
    if nth.is_multiple_of(10) {
        count(0);
        return;
    }
    if nth.is_multiple_of(7) {
        count(1);
        send(packet);
    } else if nth.is_multiple_of(11) {
        count(2);
        // Somewhere in header and pattern, never the channel's own four bytes.
        let at = 4 + *nth as usize * 13 % (packet.len() - 4);
        packet[at] ^= 0x10;
    }
    send(packet);
}

impl Drop for Vandal {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn loss_duplicates_and_damage_are_counted_one_by_one() {
    let server = Server::start();
    let vandal = Vandal::before(server.udp());
    let address = vandal.address.to_string();
    let mut arguments = vec![address.as_str(), "-n", "1", "-r", "1000"];
    arguments.extend(["--duration", "1", "--warm-up", "0"]);
    arguments.extend(credentials());
    let (code, json) = measured(&arguments);
    assert_eq!(code, 1, "{json:#}");
    let result = &json["result"];
    assert_sums(result);
    let [dropped, doubled, damaged] = [0, 1, 2].map(|index| vandal.done[index].load(SeqCst));
    assert!(dropped > 5 && doubled > 5 && damaged > 5);
    assert_eq!(number(&result["duplicated"]), doubled, "{json:#}");
    assert_eq!(number(&result["corrupted"]), damaged, "{json:#}");
    assert_eq!(number(&result["lost"]), dropped + damaged, "{json:#}");
}

/// A box in the way of one TCP connection that stops reading when the first ChannelData comes, for
/// some time or for good.
struct Dam {
    address: SocketAddr,
    /// Dropped to end a wait for good.
    opener: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Dam {
    fn before(server: SocketAddr, hold: Duration) -> Self {
        let front = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let front = front.expect("a socket");
        // Little fits in before its sender has to wait.
        front.set_recv_buffer_size(4096).expect("taken");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        front.bind(&any.into()).expect("a free port");
        front.listen(1).expect("listening");
        let front = TcpListener::from(front);
        let address = front.local_addr().expect("bound");
        let (opener, opened) = channel();
        let thread = spawn(move || {
            let (mut client, _) = front.accept().expect("a client");
            let mut back = TcpStream::connect(server).expect("a server");
            let ends = (back.try_clone(), client.try_clone());
            let (mut from, mut to) = (ends.0.expect("a clone"), ends.1.expect("a clone"));
            // What comes back is never held; it ends when either end does.
            let returning = spawn(move || drop(io::copy(&mut from, &mut to)));
            let mut bytes = [0; 65_536];
            let mut held = false;
            while let Ok(len @ 1..) = client.read(&mut bytes) {
                if !held && (0x40..0x50).contains(&bytes[0]) {
                    held = true;
                    let _ = opened.recv_timeout(hold);
                }
                if back.write_all(&bytes[..len]).is_err() {
                    break;
                }
            }
            let _ = back.shutdown(Shutdown::Both);
            returning.join().expect("ended");
        });
        Self {
            address,
            opener: Some(opener),
            thread: Some(thread),
        }
    }
}

impl Drop for Dam {
    fn drop(&mut self) {
        drop(self.opener.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

/// A stream loses nothing by itself: what it holds back for too long, or never takes, is lost all
/// the same.
#[test]
fn what_a_stream_holds_back_is_lost() {
    let server = Server::start();
    let run = |hold: Duration, more: &[&str]| {
        let dam = Dam::before(server.tcp(), hold);
        let address = dam.address.to_string();
        let mut arguments = vec![
            address.as_str(),
            "-t",
            "tcp",
            "-n",
            "1",
            "--direction",
            "up",
        ];
        arguments.extend(["--warm-up", "0", "--duration", "1"]);
        arguments.extend(credentials());
        arguments.extend(more);
        measured(&arguments)
    };
    let half = Duration::from_millis(500);
    let (code, json) = run(half, &["-r", "100", "--max-delay", "20"]);
    assert_clean(code, &json);

    let (code, json) = run(half, &["-r", "100", "--max-delay", "0.2"]);
    let result = &json["result"];
    assert_eq!(code, 1, "{json:#}");
    assert_sums(result);
    assert!(number(&result["overdue"]) > 0, "{json:#}");
    assert_eq!(number(&result["overdue"]), number(&result["lost"]));

    // Far more than all buffers on the way take.
    let for_good = Duration::from_secs(60);
    let (code, json) = run(for_good, &["-r", "3000", "--size", "9000"]);
    let result = &json["result"];
    assert_eq!(code, 1, "{json:#}");
    assert!(number(&result["not_taken"]) > 0, "{json:#}");
    assert_eq!(number(&result["received"]), 0, "{json:#}");
}
