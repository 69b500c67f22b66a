//! Sockets that are taken out of a session, where a home router grants a port.

mod connect_support;
mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connect_support::{in_time, meet};
use support::namespace::{ADDRESS, inside};
use turnserver::client::connect::Connector;
use turnserver::pairing::{AccessKey, Protocol};
use turnserver::signal;

/// The default gateway of the namespace.
const ROUTER: &str = "10.77.0.2";
/// Where it says that peers reach it.
const OUTER: [u8; 4] = [203, 0, 113, 5];

/// Seconds by port; 0 where it was given back.
type Leases = Arc<Mutex<BTreeMap<u16, u32>>>;

/// A router that speaks NAT-PMP (RFC 6886) and grants everything.
fn router() -> Leases {
    let added = Command::new("ip")
        .args(["address", "add", &format!("{ROUTER}/32"), "dev", "lo"])
        .status();
    assert!(added.expect("iproute2 is there").success());
    let socket = UdpSocket::bind((ROUTER, 5351)).expect("the address is there");
    let leases = Leases::default();
    let kept = Arc::clone(&leases);
    std::thread::spawn(move || {
        let mut buffer = [0; 1100];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).expect("open");
            let answer = match &buffer[..len] {
                [0, 0] => [&[0, 128, 0, 0, 0, 0, 0, 1][..], &OUTER].concat(),
                [0, 1, _, _, inner @ .., _, _, a, b, c, d] if len == 12 => {
                    let port = u16::from_be_bytes([inner[0], inner[1]]);
                    let seconds = u32::from_be_bytes([*a, *b, *c, *d]);
                    kept.lock().expect("no panic").insert(port, seconds);
                    let head = [0, 129, 0, 0, 0, 0, 0, 1];
                    let outer = port.to_be_bytes();
                    [&head[..], inner, &outer, &seconds.to_be_bytes()].concat()
                }
                // What it is asked in another version (section 9).
                [_, code, ..] => vec![0, code | 0x80, 0, 1, 0, 0, 0, 1],
                _ => continue,
            };
            socket.send_to(&answer, from).expect("sent");
        }
    });
    leases
}

async fn until(leases: &Leases, what: &str, reached: impl Fn(&[u32]) -> bool) {
    let waiting = async {
        loop {
            let now: Vec<_> = leases.lock().expect("no panic").values().copied().collect();
            if reached(&now) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(what, waiting).await;
}

/// The path may lead through it.
#[test]
fn the_port_stays_as_long_as_who_took_the_socket_wants() {
    if !inside("the_port_stays_as_long_as_who_took_the_socket_wants") {
        return;
    }
    let leases = router();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let here: IpAddr = ADDRESS.parse().expect("an address");
        let pairing = signal::serve(signal::Config::new([SocketAddr::new(here, 0)]));
        let pairing = pairing.expect("a pairing endpoint");
        let server = pairing.addresses()[0].to_string();
        let device = || {
            let key = AccessKey::new("k").expect("a key");
            Connector::new(server.parse().expect("a server"), key).raw(true)
        };
        let connecting = device().protocol(Protocol::Udp).connect();
        let (one, two) = tokio::join!(connecting, meet(device()));
        let (one, two) = (one.expect("connected"), two.expect("connected"));
        until(&leases, "a port for each", |leases| leases.len() == 2).await;
        // Who asked has heard it, too, also one that stood still for a while.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (one, two) = tokio::join!(one.into_udp_socket(), two.into_udp_socket());
        let ((one, first), (two, second)) = (one.expect("a socket"), two.expect("a socket"));
        let (first, second) = (first.expect("a port"), second.expect("a port"));
        for port in [&first, &second] {
            assert_eq!(port.address().ip(), IpAddr::from(Ipv4Addr::from(OUTER)));
            let inner = port.address().port();
            assert!(leases.lock().expect("no panic").contains_key(&inner));
        }
        // The sessions are over by now, and the sockets still are what they were.
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(one.peer_addr().ok(), two.local_addr().ok());
        let kept = leases.lock().expect("no panic").clone();
        assert!(kept.values().all(|seconds| *seconds > 0), "{kept:?}");
        drop(first);
        until(&leases, "one is given back", |leases| leases.contains(&0)).await;
        in_time("the other one", second.release()).await;
        let kept = leases.lock().expect("no panic").clone();
        assert!(kept.values().all(|seconds| *seconds == 0), "{kept:?}");
    });
}
