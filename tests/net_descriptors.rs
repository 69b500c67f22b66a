//! What happens when file descriptors run out. Alone in its process, whose limit it lowers.

mod net_support;

use std::fs::File;
use std::io::{Read, Seek};
use std::process::Command;
use std::time::Duration;

use net_support::{Client, Server, Setup, eventually, listener, peer, receive_from};
use turnserver::net::{Protocol, StreamLimits};

/// Processor time of this process so far, from its `stat` file, which is open already.
fn cpu_time(file: &mut File) -> Duration {
    let mut stat = String::new();
    file.rewind().expect("procfs");
    file.read_to_string(&mut stat).expect("procfs");
    let after_name = stat.rsplit(") ").next().expect("fields");
    let fields: Vec<_> = after_name.split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number");
    // In hundredths of a second: user time and system time.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

#[test]
fn running_out_of_descriptors_harms_only_what_is_new() {
    let pid = std::process::id().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=64:64"])
        .status();
    assert!(
        limited
            .expect("prlimit (util-linux) is installed")
            .success()
    );
    let server = Server::start(Setup {
        listeners: vec![
            listener(Protocol::Udp, "127.0.0.1:0"),
            listener(Protocol::Tcp, "127.0.0.1:0"),
        ],
        streams: StreamLimits {
            authenticated: Duration::from_secs(600),
            first_byte: Duration::from_secs(600),
            ..StreamLimits::default()
        },
        ..Setup::default()
    });
    let mut old = Client::udp(server.address(0));
    let relayed = old.allocate();
    let peer = peer("127.0.0.1");
    old.bind_channel(0x4000, peer.local_addr().expect("bound"));
    let mut spare = Client::udp(server.address(0));

    // Calls take every descriptor that they may have; some are kept back for the operator.
    let mut connections = Vec::new();
    while connections.len() < 64 {
        let mut client = Client::udp(server.address(0));
        if client.try_allocate(|_| {}).code() == Some(508) {
            break;
        }
        connections.push(client);
    }
    assert!(connections.len() < 64, "the limit was met");
    let kept: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(kept.len() >= 7, "only {} were left", kept.len());
    drop((kept, connections));

    // The rest goes to files: first an Allocate finds no descriptor...
    let mut stat = File::open("/proc/self/stat").expect("procfs");
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    assert_eq!(spare.try_allocate(|_| {}).code(), Some(508));
    // ...then a connection does, which waits in the backlog.
    files.pop();
    let mut waiting = Client::tcp(server.address(1));
    let request = waiting.binding_request();
    waiting.send(&request);
    for round in 0..50_u8 {
        old.send_channel(0x4000, &[round]);
        assert_eq!(receive_from(&peer), (vec![round], relayed));
        peer.send_to(&[round], relayed).expect("sent");
        assert_eq!(old.receive_channel().1, [round]);
    }
    // Over a second of waiting the accept loop must not spin.
    let before = cpu_time(&mut stat);
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_secs(1));
    let spent = cpu_time(&mut stat) - before;
    assert!(spent < Duration::from_millis(500), "it spins: {spent:?}");
    drop(files);
    assert_eq!(waiting.receive()[8..20], request[8..20]);
    eventually("new allocations work again", || {
        spare.try_allocate(|_| {}).code().is_none()
    });
}
