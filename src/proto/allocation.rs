//! One allocation: a 5-tuple, its owner, one or two relayed transport addresses, and the peers.

use std::net::SocketAddr;
use std::sync::Arc;

use super::audit::Traffic;
use super::bucket::TokenBucket;
use super::pairs::{PairId, PairScope};
use super::peers::Peers;
use super::places::Held;
use super::quota::QuotaGuard;
use super::types::{Family, Flow, Mono, OpenError, OpenedRelay, ReservationToken};
use crate::wire::{ErrorCode, Integrity, Key, PasswordAlgorithm, TransactionId};

/// A relayed transport address of an allocation. A dual allocation has two, of which each
/// expires by itself (RFC 8656 section 6).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    pub(crate) local: SocketAddr,
    pub(crate) public: SocketAddr,
    /// When it ends; zero once it is closed, when only the final summary still needs it.
    pub(crate) expires: Mono,
}

impl Half {
    pub(crate) fn family(&self) -> Family {
        Family::of(&self.public.ip())
    }

    pub(crate) fn is_live(&self, now: Mono) -> bool {
        self.expires > now
    }

    pub(crate) fn is_open(&self) -> bool {
        self.expires != Mono(0)
    }
}

/// How answers to one user's request are protected.
#[derive(Clone)]
pub(crate) struct Protection {
    pub(crate) key: Arc<Key>,
    /// The algorithm that the request used (RFC 8489 section 9.2.4).
    pub(crate) integrity: Integrity,
    /// Whether the request carried FINGERPRINT: whoever multiplexes by it gets it back.
    pub(crate) fingerprint: bool,
}

/// What an Allocate was answered with, for its retransmissions (RFC 8656 section 7.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) transaction: TransactionId,
    pub(crate) lifetime: u32,
    pub(crate) token: Option<ReservationToken>,
    /// The family of a dual request that could not be had, and why (ADDRESS-ERROR-CODE).
    pub(crate) missing: Option<(Family, ErrorCode)>,
}

/// Token buckets of an allocation with limited bandwidth.
pub(crate) struct Bandwidth {
    up: TokenBucket,
    down: TokenBucket,
}

impl Bandwidth {
    /// `None` when the rate is 0: no limit.
    fn new(bytes_per_second: u64) -> Option<Self> {
        // A second's worth may come at once, and never less than one datagram.
        let burst = bytes_per_second.max(65_536);
        (bytes_per_second > 0).then(|| Self {
            up: TokenBucket::new(bytes_per_second, burst),
            down: TokenBucket::new(bytes_per_second, burst),
        })
    }
}

/// What only allocations have that are limited more than others.
pub(crate) struct Limited {
    bandwidth: Option<Bandwidth>,
    /// Of one of a pair, freed with the allocation.
    _place: Option<Held>,
}

impl Limited {
    /// `None` when there is nothing to keep, as for most. A rate of 0 is no limit.
    pub(crate) fn new(bytes_per_second: u64, place: Option<Held>) -> Option<Box<Self>> {
        let bandwidth = Bandwidth::new(bytes_per_second);
        (bandwidth.is_some() || place.is_some()).then(|| {
            Box::new(Self {
                bandwidth,
                _place: place,
            })
        })
    }
}

/// What proved the owner of an allocation. Later requests are tried with it first: deriving the
/// key of a time-limited user from its secret costs as much again as the rest of a Refresh.
#[derive(Clone)]
pub(crate) struct Proof {
    pub(crate) key: Arc<Key>,
    /// When a time-limited credential ends, in Unix seconds; `u64::MAX` for one that does not.
    pub(crate) expires: u64,
    pub(crate) algorithm: PasswordAlgorithm,
    /// The number of the policy that it was proven under: no other one vouches for it.
    pub(crate) policy: u32,
}

/// Who owns an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) username: Arc<str>,
    pub(crate) user_id: Arc<str>,
    /// Whom its allocations may talk to; `None`: whomever the gate lets them.
    pub(crate) pair: Option<Arc<PairScope>>,
}

impl Owner {
    /// Whether both are the same side of one pair: its credentials can be renewed, and a renewed
    /// name is another one.
    pub(crate) fn is_side_of(&self, other: &Self) -> bool {
        let pair = self.pair();
        pair.is_some() && (pair, &self.user_id) == (other.pair(), &other.user_id)
    }

    pub(crate) fn pair(&self) -> Option<PairId> {
        self.pair.as_ref().map(|scope| scope.pair)
    }

    /// Whether it waits for the other side of this pair.
    pub(crate) fn waits_as(&self, pair: PairId) -> bool {
        let mut scope = self.pair.iter();
        scope.any(|scope| scope.pair == pair && scope.is_waiting())
    }
}

/// A live allocation.
pub(crate) struct Allocation {
    pub(crate) flow: Flow,
    pub(crate) halves: [Option<Half>; 2],
    pub(crate) peers: Peers,
    pub(crate) limited: Option<Box<Limited>>,
    pub(crate) traffic: Traffic,
    /// When the timer that stands for this allocation is due.
    pub(crate) armed: Mono,
    pub(crate) owner: Owner,
    pub(crate) proof: Proof,
    pub(crate) created: Mono,
    pub(crate) origin: Origin,
    /// Different peers that had permissions, for the summary.
    pub(crate) peers_seen: u32,
    /// Frees the user's quota when the allocation is gone, whichever way it goes.
    pub(crate) _quota: QuotaGuard,
}

impl Allocation {
    /// The index of the live relayed transport address of a family.
    pub(crate) fn half_of(&self, now: Mono, family: Family) -> Option<u8> {
        let matches = |half: &Option<Half>| {
            half.as_ref()
                .is_some_and(|half| half.is_live(now) && half.family() == family)
        };
        (0_u8..)
            .zip(&self.halves)
            .find_map(|(index, half)| matches(half).then_some(index))
    }

    pub(crate) fn half(&self, index: u8) -> Option<&Half> {
        self.halves.get(usize::from(index))?.as_ref()
    }

    /// Whether any relayed transport address is live.
    pub(crate) fn is_live(&self, now: Mono) -> bool {
        self.halves.iter().flatten().any(|half| half.is_live(now))
    }

    /// When the first of the open halves expires.
    pub(crate) fn next_expiry(&self) -> Option<Mono> {
        let open = self.halves.iter().flatten().filter(|half| half.is_open());
        open.map(|half| half.expires).min()
    }

    /// The relayed transport addresses as the client was told them.
    pub(crate) fn relayed(&self) -> Vec<SocketAddr> {
        self.halves
            .iter()
            .flatten()
            .map(|half| half.public)
            .collect()
    }

    /// Has another bandwidth from now on, in bytes a second; 0: no limit.
    pub(crate) fn set_bandwidth(&mut self, bytes_per_second: u64) {
        match &mut self.limited {
            Some(limited) => limited.bandwidth = Bandwidth::new(bytes_per_second),
            None => self.limited = Limited::new(bytes_per_second, None),
        }
    }

    /// Takes bytes from the client; false when they are over the bandwidth.
    pub(crate) fn count_up(&mut self, now: Mono, bytes: usize) -> bool {
        if let Some(limited) = &mut self.limited
            && let Some(bandwidth) = &mut limited.bandwidth
            && !bandwidth.up.take(now, bytes)
        {
            self.traffic.dropped += 1;
            return false;
        }
        self.traffic.packets_up += 1;
        self.traffic.bytes_up += bytes as u64;
        true
    }

    /// Takes bytes from a peer; false when they are over the bandwidth.
    pub(crate) fn count_down(&mut self, now: Mono, bytes: usize) -> bool {
        if let Some(limited) = &mut self.limited
            && let Some(bandwidth) = &mut limited.bandwidth
            && !bandwidth.down.take(now, bytes)
        {
            self.traffic.dropped += 1;
            return false;
        }
        self.traffic.packets_down += 1;
        self.traffic.bytes_down += bytes as u64;
        true
    }
}

/// A relay socket that an Allocate waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opening {
    Asked(Option<Family>),
    Done(Option<Family>, Result<OpenedRelay, OpenError>),
}

/// An Allocate that passed every check and waits for its relay sockets.
pub(crate) struct Pending {
    pub(crate) flow: Flow,
    pub(crate) owner: Owner,
    pub(crate) proof: Proof,
    pub(crate) protection: Protection,
    pub(crate) origin: Origin,
    pub(crate) openings: [Option<Opening>; 2],
    pub(crate) quota: QuotaGuard,
    pub(crate) place: Option<Held>,
    /// Held along with an EVEN-PORT R=1 request, so that churning reservations cannot take more
    /// ports than the quota has.
    pub(crate) reserved_quota: Option<QuotaGuard>,
    /// The token of somebody's reservation that it claims.
    pub(crate) presented: Option<ReservationToken>,
}

/// An entry of the table of allocations.
pub(crate) enum Entry {
    Pending(Box<Pending>),
    Live(Box<Allocation>),
}

impl Entry {
    pub(crate) fn flow(&self) -> &Flow {
        match self {
            Self::Pending(pending) => &pending.flow,
            Self::Live(allocation) => &allocation.flow,
        }
    }

    pub(crate) fn owner(&self) -> &Owner {
        match self {
            Self::Pending(pending) => &pending.owner,
            Self::Live(allocation) => &allocation.owner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_stays_small() {
        assert!(
            size_of::<Allocation>() <= 472,
            "{} {} {}",
            size_of::<Allocation>(),
            size_of::<Half>(),
            size_of::<Origin>()
        );
    }
}
