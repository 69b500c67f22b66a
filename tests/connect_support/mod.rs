//! A pairing endpoint with a relay behind it, and devices that meet there.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test crate compiles this module and uses its own part of it"
)]

pub mod by_hand;
pub mod hops;
pub mod minting;
pub mod rebinding;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use turnserver::client::connect::{ConnectError, Connector, PathChanges, PathInfo, PunchedConn};
use turnserver::pairing::{AccessKey, IceServer, PathKind, Protocol};
use turnserver::signal::{self, Asking, Fallback};

use crate::support::{self, Server};

/// How long anything may take before a test has failed. Nothing is expected to.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Tells of a relay by these URLs; `None`: of no server at all.
struct Relays(Vec<String>);

impl Fallback for Relays {
    fn ice_servers(&self, _: Asking<'_>) -> Vec<IceServer> {
        let (username, credential) = support::USER;
        vec![IceServer {
            urls: self.0.clone(),
            username: Some(username.to_owned()),
            credential: Some(credential.to_owned()),
        }]
    }

    fn ttl_s(&self) -> u64 {
        3600
    }
}

/// How the devices are told to reach the relay.
#[derive(Clone, Copy, Debug)]
pub enum By {
    Udp,
    Tcp,
    Tls,
    /// By UDP, at this address.
    At(SocketAddr),
    Nothing,
}

/// A pairing endpoint and a relay.
pub struct World {
    pub relay: Server,
    pub pairing: Option<signal::Handle>,
    pub address: SocketAddr,
}

impl World {
    pub fn new(by: By) -> Self {
        Self::with(Server::start(), by)
    }

    pub fn with(relay: Server, by: By) -> Self {
        let pairing = Self::pairing(&relay, by, (Ipv4Addr::LOCALHOST, 0).into());
        let address = pairing.addresses()[0];
        Self {
            relay,
            pairing: Some(pairing),
            address,
        }
    }

    fn pairing(relay: &Server, by: By, address: SocketAddr) -> signal::Handle {
        let url = match by {
            By::Udp => Some(format!("turn:{}?transport=udp", relay.udp())),
            By::Tcp => Some(format!("turn:{}?transport=tcp", relay.tcp())),
            By::Tls => Some(format!("turns:{}?transport=tcp", relay.tls())),
            By::At(address) => Some(format!("turn:{address}?transport=udp")),
            By::Nothing => None,
        };
        let stun = matches!(by, By::Udp).then(|| format!("stun:{}", relay.udp()));
        let config = signal::Config {
            fallback: Arc::new(Relays(url.into_iter().chain(stun).collect())),
            ..signal::Config::new([address])
        };
        signal::serve(config).expect("a pairing endpoint")
    }

    /// Ends the pairing endpoint and starts another one at the same address.
    pub fn restart_pairing(&mut self, by: By) {
        drop(self.pairing.take());
        self.pairing = Some(Self::pairing(&self.relay, by, self.address));
    }

    /// A receiver.
    pub fn device(&self, key: &str) -> Connector {
        let server = self.address.to_string().parse().expect("a server");
        Connector::new(server, AccessKey::new(key).expect("a key"))
    }

    /// Two connected devices: initiator, receiver.
    pub async fn pair(
        &self,
        protocol: Protocol,
        with: impl Fn(Connector) -> Connector,
    ) -> (PunchedConn, PunchedConn) {
        let key = fresh_key();
        let initiator = with(self.device(&key).protocol(protocol));
        let receiver = with(self.device(&key));
        let (initiator, receiver) = tokio::join!(initiator.connect(), meet(receiver));
        let initiator = initiator.expect("the initiator is connected");
        (initiator, receiver.expect("the receiver is connected"))
    }
}

/// A key that no other test has.
pub fn fresh_key() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("key {}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A receiver that comes again until somebody waits.
pub async fn meet(receiver: Connector) -> Result<PunchedConn, ConnectError> {
    let meeting = async {
        loop {
            match receiver.clone().connect().await {
                Err(ConnectError::NobodyWaits) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return other,
            }
        }
    };
    in_time("an initiator comes", meeting).await
}

/// Fails when something takes far too long.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Waits for a path of this kind.
pub async fn becomes(changes: &mut PathChanges, path: PathKind) -> PathInfo {
    let waiting = async {
        let mut now = changes.current();
        while now.path != path {
            now = changes.next().await.expect("the session goes on");
        }
        now
    };
    in_time(&format!("{path:?}"), waiting).await
}

/// Bytes that are nowhere the same.
pub fn content(len: usize) -> Vec<u8> {
    let mut random = support::random::Random(len as u64 | 1);
    random.bytes(len)
}
