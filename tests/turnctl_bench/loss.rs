//! Loss, duplicates and damage that a test makes are counted one by one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, scope, spawn};
use std::time::Duration;

use serde_json::Value;
use turnserver::client::datagrams;

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

/// A datagram that passes a [`Vandal`].
struct Passing<'a> {
    bytes: &'a mut [u8],
    /// From the server to the client.
    down: bool,
    client: SocketAddr,
    /// Sends where it was going to.
    send: &'a dyn Fn(&[u8]),
}

impl Passing<'_> {
    /// How much is in front of the payload; nothing when there is none.
    fn overhead(&self) -> Option<usize> {
        match self.bytes {
            [0x40, ..] => Some(4),
            // Send and Data indications: header, XOR-PEER-ADDRESS of IPv4, header of DATA.
            [0x00, 0x16 | 0x17, ..] => Some(36),
            _ => None,
        }
    }
}

/// A box in the way of one client's datagrams that does with them what it is told.
struct Vandal {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Vandal {
    fn before(server: SocketAddr, meddle: impl FnMut(Passing<'_>) + Send + 'static) -> Self {
        // With room for all that comes while it does not run: nothing is lost by itself.
        let socket = || {
            let socket = datagrams::bind(([127, 0, 0, 1], 0).into(), 4 << 20).expect("a socket");
            socket.set_nonblocking(false).expect("set");
            socket
        };
        let (front, back) = (socket(), socket());
        back.connect(server).expect("a server");
        // Now and then each looks whether it is to end.
        let pause = Some(Duration::from_millis(20));
        front.set_read_timeout(pause).expect("above zero");
        back.set_read_timeout(pause).expect("above zero");
        let address = front.local_addr().expect("bound");
        let stop: Arc<AtomicBool> = Arc::default();
        let end = Arc::clone(&stop);
        let up_and_down = move || {
            let last = Mutex::new(None);
            let meddle = Mutex::new(meddle);
            let meddle = |passing: Passing<'_>| (meddle.lock().expect("no panic"))(passing);
            scope(|threads| {
                threads.spawn(|| {
                    let mut packet = [0; 2000];
                    while !end.load(SeqCst) {
                        let Ok((len, client)) = front.recv_from(&mut packet) else {
                            continue;
                        };
                        *last.lock().expect("no panic") = Some(client);
                        meddle(Passing {
                            bytes: &mut packet[..len],
                            down: false,
                            client,
                            send: &|bytes| assert!(back.send(bytes).is_ok()),
                        });
                    }
                });
                let mut packet = [0; 2000];
                while !end.load(SeqCst) {
                    let Ok(len) = back.recv(&mut packet) else {
                        continue;
                    };
                    let client = last.lock().expect("no panic").expect("it asked first");
                    meddle(Passing {
                        bytes: &mut packet[..len],
                        down: true,
                        client,
                        send: &|bytes| assert!(front.send_to(bytes, client).is_ok()),
                    });
                }
            });
        };
        let thread = spawn(up_and_down);
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Vandal {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

/// Damages a datagram and says how long it is then.
type Damage = fn(&mut [u8]) -> usize;

/// What a client can notice of ChannelData, its header included.
const OF_CHANNEL_DATA: [Damage; 9] = [
    |bytes| flip(bytes, 0, 0x80),
    // As if it were STUN.
    |bytes| flip(bytes, 0, 0x40),
    |bytes| flip(bytes, 0, 0x20),
    |bytes| flip(bytes, 1, 0x01),
    // Longer and shorter than it is.
    |bytes| flip(bytes, 2, 0x01),
    |bytes| flip(bytes, 3, 0x20),
    |bytes| bytes.len() - 1,
    |_| 3,
    |_| 0,
];

/// And of a Data indication.
const OF_INDICATIONS: [Damage; 12] = [
    |bytes| flip(bytes, 0, 0x80),
    |bytes| flip(bytes, 0, 0x40),
    // A response, a request, a Send indication.
    |bytes| flip(bytes, 0, 0x01),
    |bytes| flip(bytes, 1, 0x10),
    |bytes| flip(bytes, 1, 0x01),
    |bytes| flip(bytes, 3, 0x04),
    |bytes| flip(bytes, 4, 0x01),
    // Type and value of XOR-PEER-ADDRESS, type and length of DATA.
    |bytes| flip(bytes, 21, 0x01),
    |bytes| flip(bytes, 31, 0x01),
    |bytes| flip(bytes, 33, 0x01),
    |bytes| flip(bytes, 35, 0x20),
    |bytes| bytes.len() - 1,
];

fn flip(bytes: &mut [u8], at: usize, bits: u8) -> usize {
    bytes[at] ^= bits;
    bytes.len()
}

/// Dropped, doubled, damaged in the payload, damaged in the framing.
type Done = Arc<[AtomicU64; 4]>;

/// Drops, doubles and damages data, and counts what it does. The framing is damaged only on the
/// way to the client: a server drops what it does not understand.
fn mischief(done: &Done, damages: &'static [Damage]) -> impl FnMut(Passing<'_>) + use<> {
    let done = Arc::clone(done);
    let mut nth = 0_u64;
    move |passing| {
        let overhead = passing.overhead();
        let Passing {
            bytes, down, send, ..
        } = passing;
        let Some(overhead) = overhead else {
            return send(bytes);
        };
        nth += 1;
        let count = |index: usize| done[index].fetch_add(1, SeqCst);
        if nth.is_multiple_of(10) {
            count(0);
        } else if nth.is_multiple_of(7) {
            count(1);
            send(bytes);
            send(bytes);
        } else if nth.is_multiple_of(11) {
            count(2);
            let at = overhead + nth as usize * 13 % (bytes.len() - overhead);
            bytes[at] ^= 0x10;
            send(bytes);
        } else if down && nth.is_multiple_of(3) {
            let damage = damages[count(3) as usize % damages.len()];
            let len = damage(bytes);
            send(&bytes[..len]);
        } else {
            send(bytes);
        }
    }
}

/// 1,000 packets/s through one allocation.
fn through(vandal: &Vandal, more: &[&str]) -> (i32, Value) {
    let address = vandal.address.to_string();
    let mut arguments = vec![address.as_str(), "-n", "1", "-r", "1000"];
    arguments.extend(credentials());
    arguments.extend(more);
    measured(&arguments)
}

const A_SECOND: [&str; 4] = ["--duration", "1", "--warm-up", "0"];

#[test]
fn loss_duplicates_and_damage_are_counted_one_by_one() {
    let server = Server::start();
    for (damages, more) in [
        (&OF_CHANNEL_DATA[..], &[][..]),
        (&OF_INDICATIONS, &["--indications"]),
        // One socket for all clients.
        (&OF_CHANNEL_DATA, &["--bind", "127.4.0.0/16"]),
    ] {
        let done = Done::default();
        let vandal = Vandal::before(server.udp(), mischief(&done, damages));
        let (code, json) = through(&vandal, &[&A_SECOND, more].concat());
        assert_eq!(code, 1, "{json:#}");
        let result = &json["result"];
        assert_sums(result);
        let [dropped, doubled, payload, framing] =
            [0, 1, 2, 3].map(|index| done[index].load(SeqCst));
        assert!(dropped > 5 && doubled > 5 && payload > 5);
        assert!(framing as usize >= damages.len(), "each of them");
        let damaged = payload + framing;
        assert_eq!(number(&result["duplicated"]), doubled, "{json:#}");
        assert_eq!(number(&result["corrupted"]), damaged, "{json:#}");
        assert_eq!(number(&result["lost"]), dropped + damaged, "{json:#}");
    }
}

/// One damaged header is far below what may be lost, and is no loss.
#[test]
fn damage_is_not_forgiven_as_loss_is() {
    let server = Server::start();
    let short = ["--duration", "0.2", "--warm-up", "0", "--max-loss", "50"];
    for (index, damage) in OF_CHANNEL_DATA.into_iter().enumerate() {
        let mut first = true;
        let vandal = Vandal::before(server.udp(), move |passing| {
            let hit = passing.down && passing.overhead().is_some() && std::mem::take(&mut first);
            let len = match hit {
                true => damage(passing.bytes),
                false => passing.bytes.len(),
            };
            (passing.send)(&passing.bytes[..len]);
        });
        let (code, json) = through(&vandal, &short);
        let result = &json["result"];
        let counts = (number(&result["corrupted"]), number(&result["lost"]));
        assert_eq!((code, counts), (1, (1, 1)), "{index}: {json:#}");
    }
}

#[test]
fn a_server_that_sends_everything_twice_fails() {
    let server = Server::start();
    let vandal = Vandal::before(server.udp(), |passing| {
        (passing.send)(passing.bytes);
        if passing.down && passing.overhead().is_some() {
            (passing.send)(passing.bytes);
        }
    });
    let run = |limit: &str| {
        let mut how = vec!["--direction", "down", "--max-loss", limit];
        how.extend(["--duration", "0.5", "--warm-up", "0.3"]);
        let (code, json) = through(&vandal, &how);
        let result = &json["result"];
        // Those of the warm-up count as little as what they are duplicates of.
        assert_eq!(result["duplicated"], result["sent"], "{json:#}");
        let wrong = ["lost", "corrupted"].map(|key| number(&result[key]));
        assert_eq!(wrong, [0, 0], "{json:#}");
        code
    };
    assert_eq!(run("99"), 1);
    assert_eq!(run("100"), 0, "the limit");

    let how = [
        "--search-from",
        "200",
        "--search-to",
        "400",
        "--max-loss",
        "1",
    ];
    let address = vandal.address.to_string();
    let mut arguments = vec![
        address.as_str(),
        "-n",
        "1",
        "--search",
        "--direction",
        "down",
    ];
    arguments.extend(["--duration", "0.1", "--warm-up", "0"]);
    arguments.extend(how.into_iter().chain(credentials()));
    let (code, json) = measured(&arguments);
    assert_eq!(code, 1, "{json:#}");
    let steps = json["steps"].as_array().expect("steps");
    // Down from the first rate, and never up.
    let offered = |step: &Value| step["offered_per_second"].as_f64().expect("a number");
    assert!(steps.iter().all(|step| offered(step) <= 200.0), "{json:#}");
}

/// A socket that serves many clients is not connected: what others send to it is not the server's.
#[test]
fn what_strangers_send_is_not_damage() {
    let server = Server::start();
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let vandal = Vandal::before(server.udp(), move |passing| {
        (passing.send)(passing.bytes);
        if passing.down && passing.overhead().is_some() {
            let sent = stranger.send_to(b"neither STUN nor ChannelData", passing.client);
            assert!(sent.is_ok());
        }
    });
    let how = [&A_SECOND[..], &["--bind", "127.5.0.0/16"]].concat();
    let (code, json) = through(&vandal, &how);
    assert_clean(code, &json);
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
    // The last ones come after more silence than anything else is waited for.
    for hold in [half, 5 * half] {
        let (code, json) = run(hold, &["-r", "100", "--max-delay", "20"]);
        assert_clean(code, &json);
    }

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
