//! A server on loopback, its certificates and its peers, and a small blocking TURN client for it.
#![allow(dead_code, unreachable_pub, missing_docs)]

mod client;

#[allow(unused_imports, reason = "every test crate uses its own part of it")]
pub use client::{Client, Link, Reply, bind_to_each_other, channel_frame, connect};

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use turnserver::auth::{CredentialStore, RestOptions};
use turnserver::net::tls::Certificates;
use turnserver::net::{
    AuditSink, BoundAddress, DataPath, ListenerConfig, NetConfig, Protocol, Service, Shards,
    StreamLimits, bind,
};
use turnserver::proto::budget::ReplyBudget;
use turnserver::proto::counters::{Counters, Snapshot};
use turnserver::proto::discovery::Discovery;
use turnserver::proto::gate::PeerGate;
use turnserver::proto::nonce::{NonceKey, Nonces};
use turnserver::proto::places::PairPlaces;
use turnserver::proto::ports::RelayAddresses;
use turnserver::proto::quota::Quotas;
use turnserver::proto::reserved::ReservedQuotas;
use turnserver::proto::waits::Waits;
use turnserver::proto::{DefaultFamily, Family, Limits, Policy, Relay, Shared};

/// Longer than anything takes on a busy machine: only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const USER: &str = "user";
pub const PASSWORD: &str = "pass";
pub const REALM: &str = "example.org";

/// What a test's server is like.
pub struct Setup {
    pub threads: usize,
    pub listeners: Vec<ListenerConfig>,
    pub streams: StreamLimits,
    pub relays: Vec<(IpAddr, IpAddr)>,
    pub ports: std::ops::RangeInclusive<u16>,
    pub audit: AuditSink,
    pub data_path: DataPath,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            threads: 1,
            listeners: vec![listener(Protocol::Udp, "127.0.0.1:0")],
            streams: StreamLimits::default(),
            relays: vec![same("127.0.0.1"), same("::1")],
            ports: 20_000..=29_999,
            audit: Arc::new(|_| {}),
            data_path: data_path(),
        }
    }
}

fn same(ip: &str) -> (IpAddr, IpAddr) {
    let ip = ip.parse().expect("an address");
    (ip, ip)
}

pub fn listener(protocol: Protocol, address: &str) -> ListenerConfig {
    ListenerConfig {
        protocol,
        address: address.parse().expect("an address"),
        tls: None,
        service: Service::Turn,
    }
}

/// The data plane under test: what TURNSERVER_DATA_PATH says, as for the server itself.
pub fn data_path() -> DataPath {
    match std::env::var("TURNSERVER_DATA_PATH").as_deref() {
        Ok("mmsg") => DataPath::Mmsg,
        Ok("io_uring") => DataPath::IoUring,
        Ok("auto" | "") | Err(_) => DataPath::Auto,
        Ok(other) => panic!("TURNSERVER_DATA_PATH={other}"),
    }
}

pub struct Server {
    shards: Option<Shards>,
    pub addresses: Vec<BoundAddress>,
    pub counters: Vec<Arc<Counters>>,
    pub relays: Arc<RelayAddresses>,
    pub shared: Arc<Shared>,
}

pub fn policy() -> Arc<Policy> {
    let credentials = CredentialStore::new(REALM, [(USER, PASSWORD)], [], RestOptions::default());
    let everywhere = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network"));
    Arc::new(Policy {
        credentials: Arc::new(credentials.expect("a store")),
        gate: PeerGate::new(everywhere.into(), Vec::new(), Vec::new(), Vec::new()),
        limits: Limits::default(),
        default_family: DefaultFamily::Fixed(Family::V4),
        password_algorithms: false,
        match_user_id: false,
        rfc5766_channels: true,
        software: None,
    })
}

impl Server {
    pub fn start(setup: Setup) -> Self {
        let relays = RelayAddresses::new(setup.relays, setup.ports);
        let shared = Arc::new(Shared {
            nonces: Nonces::new(NonceKey::new([7; 32]), 600),
            budget: ReplyBudget::new(0, 1),
            reserved: ReservedQuotas::new(),
            waits: Waits::new(),
            places: PairPlaces::new(),
            discovery: Discovery::default(),
            quotas: Quotas::new(),
            relays: Arc::clone(&relays),
        });
        let bound = bind(NetConfig {
            threads: setup.threads,
            listeners: setup.listeners,
            streams: setup.streams,
            data_path: setup.data_path,
            ..NetConfig::default()
        })
        .expect("bound");
        let addresses = bound.addresses().to_vec();
        let mut counters = Vec::new();
        let policy = policy();
        let make = |shard: usize| {
            let mine = Arc::new(Counters::new());
            counters.push(Arc::clone(&mine));
            let seed = [shard as u8 + 1; 32];
            Relay::new(seed, Arc::clone(&shared), Arc::clone(&policy), mine)
        };
        let shards = bound
            .start(make, Arc::clone(&relays), setup.audit)
            .expect("started");
        Self {
            shards: Some(shards),
            addresses,
            counters,
            relays,
            shared,
        }
    }

    pub fn shards(&self) -> &Shards {
        self.shards.as_ref().expect("it runs until it is dropped")
    }

    /// The address of the `index`th listener.
    pub fn address(&self, index: usize) -> SocketAddr {
        self.addresses[index].address
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for counters in &self.counters {
            sum += counters.snapshot();
        }
        sum
    }

    pub fn stop(mut self) {
        if let Some(shards) = self.shards.take() {
            shards.stop();
        }
    }
}

/// Waits for something that another thread is about to do.
#[allow(
    clippy::disallowed_methods,
    reason = "polls state of other threads, with a bound that only a hang reaches"
)]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A certificate for localhost, in files.
pub struct Pem {
    dir: tempfile::TempDir,
}

impl Pem {
    pub fn new() -> Self {
        let pem = Self {
            dir: tempfile::tempdir().expect("a directory"),
        };
        pem.renew();
        pem
    }

    /// Writes another certificate and key over the old ones.
    pub fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        std::fs::write(self.cert(), made.cert.pem()).expect("written");
        std::fs::write(self.key(), made.signing_key.serialize_pem()).expect("written");
    }

    pub fn cert(&self) -> std::path::PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub fn key(&self) -> std::path::PathBuf {
        self.dir.path().join("key.pem")
    }

    pub fn load(&self) -> Arc<Certificates> {
        Certificates::load(&self.cert(), &self.key()).expect("loads")
    }
}

/// A peer's socket.
pub fn peer(ip: &str) -> UdpSocket {
    let ip: IpAddr = ip.parse().expect("an address");
    let socket = UdpSocket::bind(SocketAddr::new(ip, 0)).expect("bound");
    // The default is too small for the bursts that some tests send at once.
    let sock = socket2::SockRef::from(&socket);
    sock.set_recv_buffer_size(4 << 20).expect("set");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

pub fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buf = [0; 65_536];
    let (len, from) = socket.recv_from(&mut buf).expect("a datagram");
    (buf[..len].to_vec(), from)
}
