//! Two devices that have nothing but the relay stay connected for longer than the credentials
//! that they began with are valid, also when the pairing endpoint was started again meanwhile.

mod connect_support;
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use connect_support::minting::Minting;
use connect_support::{fresh_key, in_time, meet};
use support::{Config, Server};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use turnserver::client::connect::{Connector, Progress, PunchedConn};
use turnserver::pairing::{AccessKey, PathKind, Protocol};
use turnserver::signal;

/// How long credentials are good, in whole seconds: up to one less. A third of it is for what may
/// go wrong, which is to be well above that.
const TTL: u64 = 12;
/// Several renewals.
const LONG: Duration = Duration::from_secs(2 * TTL + 2);

/// Allocations have to be refreshed every two seconds, and there are two more for those that stand
/// still meanwhile.
const LIFETIME: &str = "default_lifetime = 4\nmax_lifetime = 4\n";

fn relay() -> Server {
    let config = Config::default();
    Server::with(Config {
        limits: config.limits.clone() + LIFETIME,
        // Without it pairs are strangers.
        signaling: Some(String::new()),
        ..config
    })
}

struct Pairing {
    relay: Server,
    renewals: Arc<AtomicU32>,
}

impl Pairing {
    fn start(&self, address: SocketAddr) -> signal::Handle {
        let urls = vec![format!("turn:{}?transport=udp", self.relay.udp())];
        let config = signal::Config {
            fallback: Arc::new(Minting {
                renewals: Arc::clone(&self.renewals),
                ..Minting::new(urls, TTL)
            }),
            ..signal::Config::new([address])
        };
        signal::serve(config).expect("a pairing endpoint")
    }
}

/// Both directions work at once, not only after something was mended.
async fn both_ways(one: &PunchedConn, two: &PunchedConn) {
    for (from, to) in [(one, two), (two, one)] {
        from.send(b"still here").await.expect("sent");
        let received = timeout(Duration::from_secs(5), to.recv()).await;
        assert_eq!(
            received.expect("in time").as_deref(),
            Some(&b"still here"[..])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_connection_outlives_its_credentials_and_its_pairing_endpoint() {
    let pairing = Pairing {
        relay: relay(),
        renewals: Arc::default(),
    };
    let endpoint = pairing.start((Ipv4Addr::LOCALHOST, 0).into());
    let address = endpoint.addresses()[0];
    let (progress, mut told) = mpsc::unbounded_channel();
    let key = AccessKey::new(&fresh_key()).expect("a key");
    let device = Connector::new(address.to_string().parse().expect("a server"), key)
        .relay_only(true)
        .progress(progress);
    let initiator = device.clone().protocol(Protocol::Udp).connect();
    let (one, two) = tokio::join!(initiator, meet(device));
    let (one, two) = (one.expect("connected"), two.expect("connected"));
    both_ways(&one, &two).await;
    let before = [one.path(), two.path()].map(|path| (path.local, path.remote));
    while told.try_recv().is_ok() {}

    // The connections by which the two were paired are gone.
    drop(endpoint);
    sleep(Duration::from_millis(300)).await;
    let _endpoint = pairing.start(address);

    let until = Instant::now() + LONG;
    while Instant::now() < until {
        both_ways(&one, &two).await;
        sleep(Duration::from_millis(500)).await;
    }
    let after = [one.path(), two.path()].map(|path| (path.local, path.remote));
    assert_eq!(one.path().path, PathKind::Relayed);
    assert_eq!(before, after, "the allocations are the same");
    assert!(pairing.renewals.load(Relaxed) >= 6, "of each side several");
    while let Ok(event) = told.try_recv() {
        assert!(!matches!(event, Progress::NoRelay(_)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_alone_renews() {
    let config = Config::default();
    let server = Server::with(Config {
        limits: config.limits.clone() + LIFETIME,
        signaling: Some(format!(
            "credential_ttl = {TTL}\npair_lifetime = {}\n",
            2 * TTL
        )),
        ..config
    });
    let (progress, mut told) = mpsc::unbounded_channel();
    let key = AccessKey::new(&fresh_key()).expect("a key");
    let url = server.signaling().to_string().parse().expect("a server");
    let device = Connector::new(url, key).relay_only(true);
    let initiator = device.clone().protocol(Protocol::Udp).progress(progress);
    // The pair is younger than this, however long the two take to connect.
    let start = Instant::now();
    let (one, two) = tokio::join!(initiator.connect(), meet(device));
    let (one, two) = (one.expect("connected"), two.expect("connected"));
    while start.elapsed() < Duration::from_secs(TTL + 3) {
        both_ways(&one, &two).await;
        sleep(Duration::from_millis(500)).await;
    }
    while let Ok(event) = told.try_recv() {
        assert!(!matches!(event, Progress::NoRelay(_)), "{event:?}");
    }
    // Until the pair has reached its age.
    let over = async { while !matches!(told.recv().await, Some(Progress::NoRelay(_))) {} };
    in_time("the end of the pair", over).await;
    assert!(
        start.elapsed() >= Duration::from_secs(2 * TTL - 1),
        "not before"
    );
}
