//! Credentials of pairs for a relay that has the same shared secret.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::SystemTime;

use turnserver::auth::{PairMint, PairSecrets};
use turnserver::pairing::{IceServer, Role, SessionId};
use turnserver::signal::{Asking, Bond, Fallback, Renewed, Renewing};

use crate::support::SECRET;

/// How old a pair may get, in seconds.
const LIFETIME: u64 = 3600;

#[expect(
    clippy::disallowed_methods,
    reason = "a real server's credentials go by the wall clock"
)]
fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// What a pairing endpoint has of a relay at these URLs. The relay is another process, which does
/// not know who waits: one that waits gets the credentials of a pair.
pub struct Minting {
    pub mint: Arc<PairMint>,
    pub urls: Vec<String>,
    pub ttl_s: u64,
    pub renewals: Arc<AtomicU32>,
}

impl Minting {
    pub fn new(urls: Vec<String>, ttl_s: u64) -> Self {
        Self {
            mint: PairMint::new(&PairSecrets::new([SECRET.as_bytes()], &[0; 32])),
            urls,
            ttl_s,
            renewals: Arc::default(),
        }
    }

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
        let nowhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED); 2];
        let (session, role, sides) = match asking.bond {
            Bond::Host => return Vec::new(),
            Bond::Wait { session, .. } => (session, Role::Initiator, nowhere),
            Bond::Pair {
                session,
                role,
                sides,
            } => (session, role, sides),
        };
        let (now, initiator) = (unix_now(), role == Role::Initiator);
        let made = self
            .mint
            .mint(now, self.ttl_s, &session.0, initiator, sides);
        self.servers(made)
    }

    fn ttl_s(&self) -> u64 {
        self.ttl_s
    }

    fn renew(&self, asking: Renewing<'_>) -> Option<Renewed> {
        let shown = (asking.username, asking.credential);
        let made = self.mint.renew(unix_now(), self.ttl_s, LIFETIME, shown)?;
        self.renewals.fetch_add(1, Relaxed);
        Some(Renewed {
            session: SessionId(made.session),
            ice_servers: self.servers((made.username, made.password)),
            ttl_s: made.ttl_s,
        })
    }
}
