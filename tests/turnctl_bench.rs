//! `turnctl bench` against the built server and against coturn's: what it counts is what
//! happened.

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use serde_json::Value;
use support::tools::{Background, Output, need, run};
use support::{Config, OTHER_USER, Ports, REALM, SECRET, Server, USER, stun, wait_until};

fn bench(arguments: &[&str]) -> Output {
    let mut command = vec![env!("CARGO_BIN_EXE_turnctl"), "bench"];
    command.extend(arguments);
    run(&command, Duration::from_secs(60))
}

/// Runs with `--json` and returns the exit code and what was printed.
fn measured(arguments: &[&str]) -> (i32, Value) {
    let mut all = arguments.to_vec();
    all.push("--json");
    let output = bench(&all);
    let json = serde_json::from_str(&output.stdout);
    let json = json.unwrap_or_else(|error| panic!("{error}:\n{}", output.text));
    (output.code, json)
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// The fields add up, and nothing was lost, duplicated or corrupted.
fn assert_clean(code: i32, json: &Value) {
    let result = &json["result"];
    for key in ["lost", "duplicated", "corrupted", "too_late", "overdue"] {
        assert_eq!(number(&result[key]), 0, "{key}: {json:#}");
    }
    assert_sums(result);
    assert!(number(&result["received"]) > 0, "{json:#}");
    assert_eq!((code, &json["passed"]), (0, &Value::Bool(true)), "{json:#}");
}

fn assert_sums(result: &Value) {
    for key in ["sent", "received", "lost"] {
        let ways = number(&result["up"][key]) + number(&result["down"][key]);
        assert_eq!(number(&result[key]), ways, "{key}: {result:#}");
    }
    assert_eq!(
        number(&result["sent"]),
        number(&result["received"]) + number(&result["lost"]),
        "{result:#}"
    );
    let latency = &result["latency_us"];
    assert_eq!(
        number(&latency["count"]),
        number(&result["received"]) + number(&result["overdue"])
    );
    let order = ["p50", "p90", "p99", "p99.9", "max"];
    let values = order.map(|key| latency[key].as_f64().expect("a number"));
    assert!(values.is_sorted() && values[0] > 0.0, "{latency}");
}

const LOAD: [&str; 8] = [
    "-n",
    "4",
    "-r",
    "400",
    "--duration",
    "1",
    "--warm-up",
    "0.1",
];

fn credentials() -> [&'static str; 4] {
    ["--user", USER.0, "--password", USER.1]
}

#[test]
fn every_transport_is_clean() {
    let server = Server::start();
    let (plain, tls) = (server.udp().to_string(), server.tls().to_string());
    let ca = server.dir.path().join("cert.pem");
    let ca = ca.to_str().expect("UTF-8");
    for (transport, address) in [("udp", &plain), ("tcp", &plain), ("tls", &tls)] {
        for framing in [None, Some("--indications")] {
            let mut arguments = vec![address.as_str(), "-t", transport, "--ca", ca];
            arguments.extend(LOAD);
            arguments.extend(credentials());
            arguments.extend(framing);
            let (code, json) = measured(&arguments);
            assert_clean(code, &json);
            assert_eq!(json["transport"], transport);
            let up = number(&json["result"]["up"]["sent"]);
            let down = number(&json["result"]["down"]["sent"]);
            assert!(up.abs_diff(down) <= 1 && up > 20, "{json:#}");
        }
    }
}

#[test]
fn an_untrusted_certificate_is_refused_unless_told() {
    let server = Server::start();
    let other = Server::start();
    let address = server.tls().to_string();
    let ca = other.dir.path().join("cert.pem");
    let ca = ca.to_str().expect("UTF-8");
    let mut arguments = vec![address.as_str(), "-t", "tls", "--ca", ca];
    arguments.extend(LOAD);
    arguments.extend(credentials());
    let refused = bench(&arguments);
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("certificate"), "{}", refused.text);
    arguments.push("--insecure");
    let (code, json) = measured(&arguments);
    assert_clean(code, &json);
}

#[test]
fn directions_pairs_threads_networks_and_sizes() {
    let server = Server::start();
    let (v4, v6) = (server.udp().to_string(), server.udp6().to_string());
    // Time-limited credentials, and one socket for a network of clients.
    let base = |address, more: &[&'static str]| {
        let mut arguments: Vec<&str> = vec![address, "--secret", SECRET];
        arguments.extend(LOAD);
        arguments.extend(more);
        measured(&arguments)
    };
    for (more, up, down) in [
        (&["--direction", "up"][..], true, false),
        (&["--direction", "down"], false, true),
        (&["--pairs"], true, false),
        (&["--threads", "2"], true, true),
        (&["--threads", "2", "--pairs", "--indications"], true, false),
        (&["--bind", "127.3.0.0/16"], true, true),
        (
            &["--bind", "127.0.0.7", "--peer-bind", "127.0.0.9"],
            true,
            true,
        ),
        (&["--size", "24", "--peers", "1"], true, true),
        (&["--size", "1473"], true, true),
    ] {
        let (code, json) = base(&v4, more);
        assert_clean(code, &json);
        let result = &json["result"];
        let went = |way: &str| number(&result[way]["sent"]) > 0;
        assert_eq!((went("up"), went("down")), (up, down), "{more:?}: {json:#}");
    }
    // The server relays from its IPv4 address, and says so before anything is sent.
    let refused = bench(&[&v6, "--secret", SECRET]);
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("--peer-bind"), "{}", refused.text);
    let (code, json) = base(&v6, &["--peer-bind", "127.0.0.1"]);
    assert_clean(code, &json);
}

#[test]
fn one_socket_serves_an_ipv6_network_of_clients() {
    if !support::namespace::inside("one_socket_serves_an_ipv6_network_of_clients") {
        return;
    }
    let route = [
        "ip",
        "-6",
        "route",
        "add",
        "local",
        "fd00:9::/64",
        "dev",
        "lo",
    ];
    let routed = run(&route, Duration::from_secs(5));
    assert_eq!(routed.code, 0, "{}", routed.text);
    let server = Server::start();
    let address = server.udp6().to_string();
    let mut arguments: Vec<&str> = vec![&address, "--secret", SECRET];
    arguments.extend(LOAD);
    arguments.extend(["--bind", "fd00:9::/64", "--peer-bind", "127.0.0.1"]);
    let (code, json) = measured(&arguments);
    assert_clean(code, &json);
}

#[test]
fn a_search_finds_a_rate_and_is_bounded() {
    let server = Server::start();
    let address = server.udp().to_string();
    let mut arguments = vec![address.as_str(), "-n", "4", "--search"];
    arguments.extend(["--search-from", "200", "--search-to", "800"]);
    arguments.extend(["--duration", "0.3", "--warm-up", "0.1", "--max-loss", "1"]);
    arguments.extend(credentials());
    let (code, json) = measured(&arguments);
    assert_eq!(code, 0, "{json:#}");
    let steps = json["steps"].as_array().expect("steps");
    let offered = |step: &Value| step["offered_per_second"].as_f64().expect("a number");
    let rates: Vec<f64> = steps.iter().map(offered).collect();
    assert_eq!(rates[0], 200.0, "{json:#}");
    assert!(rates.len() <= 40 && rates.iter().all(|&rate| rate <= 800.0));
    assert!(offered(&json["result"]) >= 200.0, "{json:#}");
    steps.iter().for_each(assert_sums);
}

#[test]
fn requests_per_second() {
    let server = Server::start();
    let address = server.udp().to_string();
    for mode in ["binding", "allocate"] {
        let mut arguments = vec![address.as_str(), "-m", mode, "-n", "20"];
        arguments.extend(["--duration", "0.5", "--concurrency", "8"]);
        arguments.extend(credentials());
        let (code, json) = measured(&arguments);
        assert_eq!(code, 0, "{json:#}");
        assert!(number(&json["completed"]) > 20, "{json:#}");
        assert_eq!(json["failed"], serde_json::json!({}), "{json:#}");
        let count = &json["time_us"]["count"];
        assert_eq!(number(count), number(&json["completed"]));
    }
}

#[test]
fn throttled_replies_are_explained() {
    let mut config = Config::default();
    config.limits = config.limits.replace("unauthenticated_replies = 0\n", "");
    config.limits += "unauthenticated_replies = 1\n";
    let server = Server::with(config);
    let address = server.udp().to_string();
    let output = bench(&[&address, "-m", "binding", "--duration", "1.5"]);
    assert_eq!(output.code, 1, "{}", output.text);
    assert!(output.text.contains("unauthenticated_replies = 0"));
}

#[test]
fn idle_allocations_are_held_and_released() {
    let mut config = Config::default();
    config.limits += "allocations_per_user = 30\n";
    config.limits = config.limits.replace("allocations_per_user = 0\n", "");
    let server = Server::with(config);
    let address = server.udp().to_string();
    // Twice: the second run finds none of the first one's allocations in its way.
    for _ in 0..2 {
        let mut arguments = vec![address.as_str(), "-m", "hold", "-n", "30"];
        arguments.extend(["--duration", "0.2"]);
        arguments.extend(credentials());
        let output = bench(&arguments);
        assert_eq!(output.code, 0, "{}", output.text);
        assert!(output.text.contains("30 allocations held"));
    }
    let mut arguments = vec![address.as_str(), "-m", "hold", "-n", "31"];
    arguments.extend(credentials());
    let output = bench(&arguments);
    assert_eq!(output.code, 1, "{}", output.text);
    assert!(output.text.contains("allocations_per_user"));
}

#[test]
fn failures_are_told_in_plain_words() {
    let config = Config {
        peers: "allow = [\"127.0.0.0/8\"]\ndeny = [\"127.0.0.66\"]\n".to_owned(),
        ..Config::default()
    };
    let server = Server::with(config);
    let address = server.udp().to_string();
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let silent = nobody.local_addr().expect("bound").to_string();
    let cases: [(&[&str], i32, &str); 8] = [
        (
            &[&address, "-u", USER.0, "-p", OTHER_USER.1],
            1,
            "wrong user name or password",
        ),
        (
            &[&address, "--secret", "wrong"],
            1,
            "wrong user name or password",
        ),
        (
            &[&address, "--secret", SECRET, "--peer-bind", "127.0.0.66"],
            1,
            "[peers] allow",
        ),
        (
            &["127.0.0.1:9", "--secret", SECRET],
            1,
            "nothing listens there",
        ),
        (
            &[&silent, "--secret", SECRET, "--timeout", "0.3"],
            1,
            "no answer",
        ),
        (
            &[&silent, "-m", "binding", "--timeout", "0.3"],
            1,
            "no answer",
        ),
        (&[&address], 2, "credentials are missing"),
        (
            &[&address, "--secret", SECRET, "--size", "23"],
            2,
            "23 is not in 24..=9000",
        ),
    ];
    for (arguments, code, text) in cases {
        let output = bench(arguments);
        assert_eq!(output.code, code, "{arguments:?}: {}", output.text);
        assert!(output.text.contains(text), "{arguments:?}: {}", output.text);
    }
}

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

/// coturn's server with the test's user.
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

struct Coturn {
    _process: Background,
    address: SocketAddr,
    _ports: Ports,
    _dir: tempfile::TempDir,
}

impl Coturn {
    fn start() -> Self {
        let ports = Ports::claim();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let in_dir = |name: &str| -> String {
            let path: &Path = dir.path();
            path.join(name).to_string_lossy().into_owned()
        };
        let (first, last) = ports.relay();
        let user = format!("{}:{}", USER.0, USER.1);
        let process = Background::start(&[
            &need("turnserver", "coturn"),
            "-n",
            "--no-cli",
            "--no-tls",
            "--no-dtls",
            "--lt-cred-mech",
            "--allow-loopback-peers",
            "--listening-ip=127.0.0.1",
            "--relay-ip=127.0.0.1",
            &format!("--listening-port={}", ports.plain()),
            &format!("--min-port={first}"),
            &format!("--max-port={last}"),
            &format!("--realm={REALM}"),
            &format!("--user={user}"),
            &format!("--pidfile={}", in_dir("pid")),
            &format!("--userdb={}", in_dir("db")),
            &format!("--log-file={}", in_dir("log")),
        ]);
        let address = SocketAddr::from(([127, 0, 0, 1], ports.plain()));
        let up = wait_until(Duration::from_secs(15), || {
            stun::binding_udp(address, Duration::from_millis(100)).is_some()
        });
        assert!(up, "coturn does not answer");
        Self {
            _process: process,
            address,
            _ports: ports,
            _dir: dir,
        }
    }
}

#[test]
fn coturn_is_measured_too() {
    let coturn = Coturn::start();
    let address = coturn.address.to_string();
    // An address of its own for each run: coturn remembers the ports of clients for a while, and
    // the system may hand out one of them again.
    for more in [
        &["-t", "udp", "--bind", "127.0.1.1"][..],
        &["-t", "tcp", "--bind", "127.0.1.2"],
        &["-t", "udp", "--indications", "--bind", "127.0.1.3"],
        &["-t", "udp", "--pairs", "--bind", "127.0.1.4"],
    ] {
        let mut arguments = vec![address.as_str()];
        arguments.extend(LOAD);
        arguments.extend(credentials());
        arguments.extend(more);
        let (code, json) = measured(&arguments);
        assert_clean(code, &json);
    }
    for (mode, bind) in [("binding", "127.0.1.5"), ("allocate", "127.0.1.6")] {
        let mut arguments = vec![address.as_str(), "-m", mode, "--concurrency", "2"];
        arguments.extend(["--bind", bind]);
        // coturn does not use a relay port again at once, and here it has 450 of them.
        arguments.extend(["--warm-up", "0", "--duration", "0.05"]);
        arguments.extend(credentials());
        let (code, json) = measured(&arguments);
        assert_eq!(code, 0, "{json:#}");
        assert!(number(&json["completed"]) > 5, "{json:#}");
    }
    let wrong = bench(&[&address, "-u", USER.0, "-p", "wrong", "--bind", "127.0.1.7"]);
    assert_eq!(wrong.code, 1, "{}", wrong.text);
    assert!(wrong.text.contains("wrong user name or password"));
}
