//! What the operator decides, as one immutable snapshot that a reload replaces.

use std::net::SocketAddr;
use std::sync::Arc;

use super::budget::ReplyBudget;
use super::credentials::Credentials;
use super::discovery::Discovery;
use super::gate::PeerGate;
use super::nonce::Nonces;
use super::places::{PairLimits, PairPlaces};
use super::ports::RelayAddresses;
use super::quota::Quotas;
use super::reserved::ReservedQuotas;
use super::types::Family;
use super::waits::Waits;

/// The reloadable part of the configuration. Existing allocations live on under a new one.
pub struct Policy {
    /// Who may allocate.
    pub credentials: Arc<dyn Credentials>,
    /// Which peers may be reached.
    pub gate: PeerGate,
    /// How much.
    pub limits: Limits,
    /// The family of an Allocate that names none.
    pub default_family: DefaultFamily,
    /// Whether challenges offer PASSWORD-ALGORITHMS, and with it SHA-256 (RFC 8489 section 9.2).
    pub password_algorithms: bool,
    /// Accept another username of the same user on an allocation: the same time-limited user
    /// with a newer expiry. The standard asks for the very same username (RFC 8656 section 5).
    pub match_user_id: bool,
    /// Let clients of RFC 5766 bind its channel numbers, up to 0x7FFF. Coturn's client draws
    /// from all of them.
    pub rfc5766_channels: bool,
    /// SOFTWARE for answers to proven users; never sent unauthenticated.
    pub software: Option<Arc<str>>,
}

/// The family of the relayed transport address when a request names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultFamily {
    /// Always this one. RFC 8656 section 7.2 asks for IPv4.
    Fixed(Family),
    /// That of the client's address.
    Client,
}

/// Limits; 0 lifts one where it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Allocations of one user id, 0: no limit. Beyond it: 486.
    pub allocations_per_user: u32,
    /// Allocations of the whole server, 0: no limit. Beyond it: 486.
    pub allocations: u32,
    /// Permissions of one allocation, 0: no limit. Beyond it: 508.
    pub permissions_per_allocation: usize,
    /// Channels of one allocation, 0: no limit. Beyond it: 508.
    pub channels_per_allocation: usize,
    /// Application bytes a second of one allocation, each direction by itself, 0: no limit.
    /// What is beyond is dropped and counted.
    pub bandwidth_per_allocation: u64,
    /// The longest lifetime granted, in seconds.
    pub max_lifetime: u32,
    /// The lifetime of whoever asks for less or nothing, in seconds.
    pub default_lifetime: u32,
    /// What pairs may have besides.
    pub pairs: PairLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations_per_user: 0,
            allocations: 0,
            permissions_per_allocation: 1024,
            channels_per_allocation: 1024,
            bandwidth_per_allocation: 0,
            max_lifetime: 3600,
            default_lifetime: 600,
            pairs: PairLimits::default(),
        }
    }
}

impl Limits {
    /// The time-to-expiry of an allocation in seconds: a request for less than the default is
    /// raised to it, one for more than the maximum is clamped (RFC 8656 sections 7.2 and 8.2).
    pub fn lifetime(&self, requested: Option<u32>) -> u32 {
        let requested = requested.unwrap_or(self.default_lifetime);
        requested.min(self.max_lifetime).max(self.default_lifetime)
    }

    /// Application bytes a second of an allocation, 0: no limit.
    pub(super) fn bandwidth(&self, of_pair: bool) -> u64 {
        match (self.bandwidth_per_allocation, self.pairs.bandwidth) {
            (all, 0) => all,
            (all, _) if !of_pair => all,
            (0, pairs) => pairs,
            (all, pairs) => all.min(pairs),
        }
    }
}

/// What all shards of a process have in common.
pub struct Shared {
    /// Makes and checks nonces.
    pub nonces: Nonces,
    /// Bounds answers to sources that have proven nothing.
    pub budget: ReplyBudget,
    /// Allocations by user.
    pub quotas: Arc<Quotas>,
    /// The relayed transport addresses of this server.
    pub relays: Arc<RelayAddresses>,
    /// What reserved ports take of the quotas.
    pub reserved: ReservedQuotas,
    /// Who waits for the other side of a pair.
    pub waits: Arc<Waits>,
    /// What allocations of pairs hold.
    pub places: Arc<PairPlaces>,
    /// The addresses that NAT behaviour discovery is answered from.
    pub discovery: Discovery,
}

/// Where a draining server sends new clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    pub(crate) alternates: Vec<SocketAddr>,
}

impl Drain {
    /// The sibling for a client: of the family of its request, and never the address that it
    /// used (RFC 8489 section 10).
    pub(crate) fn alternate(&self, client: SocketAddr, reached: SocketAddr) -> Option<SocketAddr> {
        let same_family = |sibling: &&SocketAddr| sibling.is_ipv4() == client.is_ipv4();
        let mut siblings = self.alternates.iter().filter(same_family);
        siblings.find(|sibling| **sibling != reached).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_bandwidth_counts() {
        for (all, pairs, user, paired) in [
            (0, 0, 0, 0),
            (9, 0, 9, 9),
            (0, 5, 0, 5),
            (9, 5, 9, 5),
            (5, 9, 5, 5),
        ] {
            let mut limits = Limits {
                bandwidth_per_allocation: all,
                ..Limits::default()
            };
            limits.pairs.bandwidth = pairs;
            assert_eq!(
                (limits.bandwidth(false), limits.bandwidth(true)),
                (user, paired)
            );
        }
    }

    #[test]
    fn lifetime_is_raised_to_the_default_and_clamped_to_the_maximum() {
        let limits = Limits::default();
        for (requested, granted) in [
            (None, 600),
            (Some(0), 600),
            (Some(1), 600),
            (Some(599), 600),
            (Some(601), 601),
            (Some(3600), 3600),
            (Some(3601), 3600),
            (Some(u32::MAX), 3600),
        ] {
            assert_eq!(limits.lifetime(requested), granted, "{requested:?}");
        }
    }
}
