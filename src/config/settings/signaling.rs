//! The settings of the pairing endpoint.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use super::Certificate;

/// `[signaling]`: the pairing endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signaling {
    /// Where it listens, by TCP. Default: port 8080 of all addresses.
    pub addresses: Vec<SocketAddr>,
    /// With it, HTTPS and secure WebSockets are spoken, and nothing in clear but what
    /// [`Signaling::stunturn`] needs. Default: none.
    pub certificate: Option<Certificate>,
    /// The longest wait of an initiator: 1 to 3600 s, default 30 s.
    pub max_wait: Duration,
    /// Joins of one source address a minute; 0 lifts it. Default 300, which leaves room for
    /// several users behind one NAT.
    pub joins_per_minute: u32,
    /// Waiting initiators and hosts in all, and sessions: 1 to 10000000, default 100000.
    pub waiting: u32,
    /// Connections from one source address: 1 to 10000000, default 2048.
    pub connections_per_source: u32,
    /// Seconds that the TURN credentials of a pair are valid: 1 to 31536000, default 3600.
    pub credential_ttl: u64,
    /// Seconds that a pair may keep its relay by renewing its credentials, from its first ones
    /// on: 1 to 31536000, default 2592000 (30 days).
    pub pair_lifetime: u64,
    /// Percent of the relay ports of each family that all pairs together may hold: 1 to 100,
    /// default 75. Without users and secrets they may have all.
    pub relay_share: u8,
    /// Relay ports of each family that pairs may hold from one source address; 0 lifts it, up to
    /// half of what all pairs may hold. Default 128.
    pub allocations_per_source: u32,
    /// Bytes a second of one allocation of a pair, each direction by itself; 0: as for others.
    /// Default 12500000 (100 Mbit/s).
    pub bandwidth_per_allocation: u64,
    /// Clients of stunturn are served on the same port numbers, by TCP and UDP, in clear. Default
    /// false.
    pub stunturn: bool,
    /// Where clients of Fractal are served, by TCP and UDP. Default: nowhere.
    pub fractal: Vec<SocketAddrV4>,
    /// Where clients of its first generation are served, by UDP. Default: nowhere.
    pub fractal_first: Vec<SocketAddrV4>,
}

impl Default for Signaling {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            certificate: None,
            max_wait: Duration::from_secs(30),
            joins_per_minute: 300,
            waiting: 100_000,
            connections_per_source: 2048,
            credential_ttl: 3600,
            pair_lifetime: 2_592_000,
            relay_share: 75,
            allocations_per_source: 128,
            bandwidth_per_allocation: 12_500_000,
            stunturn: false,
            fractal: Vec::new(),
            fractal_first: Vec::new(),
        }
    }
}
