//! Two devices that have nothing but the relay stay connected for longer than the credentials
//! that they began with are valid, also when the pairing endpoint was started again meanwhile.

mod connect_support;
mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use connect_support::{fresh_key, in_time, meet};
use support::{Config, SECRET, Server};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use turnserver::auth::{PairMint, PairSecrets};
use turnserver::client::connect::{Connector, Progress, PunchedConn};
use turnserver::pairing::{AccessKey, IceServer, PathKind, Protocol, Role, SessionId};
use turnserver::signal::{self, Asking, Fallback, Grant, Renewed, Renewing};

/// How long credentials are good, in seconds.
const TTL: u64 = 3;
/// Several times that.
const LONG: Duration = Duration::from_secs(4 * TTL);

#[expect(
    clippy::disallowed_methods,
    reason = "a real server's credentials go by the wall clock"
)]
fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// Mints for a relay that has the same shared secret.
struct Minting {
    mint: Arc<PairMint>,
    urls: Vec<String>,
    renewals: Arc<AtomicU32>,
}

impl Minting {
    fn servers(&self, (username, password): (String, String)) -> Vec<IceServer> {
        vec![IceServer {
            urls: self.urls.clone(),
            username: Some(username),
            credential: Some(password),
        }]
    }
}

impl Fallback for Minting {
    fn ice_servers(&self, asking: Asking<'_>) -> Vec<IceServer> {
        let Some(session) = asking.session else {
            return Vec::new();
        };
        let initiator = asking.role == Role::Initiator;
        self.servers(self.mint.mint(unix_now(), TTL, &session.0, initiator))
    }

    fn ttl_s(&self) -> u64 {
        TTL
    }

    fn renew(&self, asking: Renewing<'_>) -> Option<Renewed> {
        let shown = (asking.username, asking.credential);
        let made = self.mint.renew(unix_now(), TTL, 3600, shown)?;
        self.renewals.fetch_add(1, Relaxed);
        Some(Renewed {
            session: SessionId(made.session),
            ice_servers: self.servers((made.username, made.password)),
            ttl_s: made.ttl_s,
        })
    }

    fn open(&self, _: &SessionId, _: [IpAddr; 2]) -> Grant {
        Box::new(())
    }
}

/// A relay whose allocations have to be refreshed every second.
fn relay() -> Server {
    let config = Config::default();
    Server::with(Config {
        limits: format!("{}default_lifetime = 2\nmax_lifetime = 2\n", config.limits),
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
        let secrets = PairSecrets::new([SECRET.as_bytes()], &[0; 32]);
        let config = signal::Config {
            fallback: Arc::new(Minting {
                mint: PairMint::new(&secrets),
                urls: vec![format!("turn:{}?transport=udp", self.relay.udp())],
                renewals: Arc::clone(&self.renewals),
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
        limits: format!("{}default_lifetime = 2\nmax_lifetime = 2\n", config.limits),
        signaling: Some(format!("credential_ttl = {TTL}\npair_lifetime = 8\n")),
        ..config
    });
    let (progress, mut told) = mpsc::unbounded_channel();
    let key = AccessKey::new(&fresh_key()).expect("a key");
    let url = server.signaling().to_string().parse().expect("a server");
    let device = Connector::new(url, key).relay_only(true);
    let initiator = device.clone().protocol(Protocol::Udp).progress(progress);
    let (one, two) = tokio::join!(initiator.connect(), meet(device));
    let (one, two) = (one.expect("connected"), two.expect("connected"));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2 * TTL) {
        both_ways(&one, &two).await;
        sleep(Duration::from_millis(500)).await;
    }
    while let Ok(event) = told.try_recv() {
        assert!(!matches!(event, Progress::NoRelay(_)), "{event:?}");
    }
    // Until the pair has reached its age.
    let over = async { while !matches!(told.recv().await, Some(Progress::NoRelay(_))) {} };
    in_time("the end of the pair", over).await;
    assert!(start.elapsed() >= Duration::from_secs(7), "not before");
}
