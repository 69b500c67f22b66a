//! The reference: what RFC 8656 and the operator's limits say, in the plainest words there are.
//! It knows nothing of how the core does it: no hashing, no timers, time compared at every look.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Times in microseconds.
pub type Time = u64;

pub const SECOND: Time = 1_000_000;
/// A timer may be this late: only ports and quotas wait for it.
pub const LATE: Time = SECOND + SECOND / 10;
pub const PER_USER: usize = 5;
pub const TOTAL: usize = 11;
pub const PERMISSIONS: usize = 5;
pub const CHANNELS: usize = 3;
pub const PORTS: std::ops::RangeInclusive<u16> = 50_000..=50_009;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

pub fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

#[derive(Clone, Copy, Debug)]
pub struct Half {
    pub relayed: SocketAddr,
    pub expires: Time,
}

#[derive(Clone, Copy, Debug)]
pub struct Permission {
    pub expires: Time,
    /// Granted only because a relayed address of this server is there.
    pub exempt: bool,
}

#[derive(Clone, Debug)]
pub struct Allocation {
    pub user: usize,
    /// The request and its answer, for retransmissions.
    pub request: Vec<u8>,
    pub answer: Vec<u8>,
    pub halves: Vec<Half>,
    pub permissions: BTreeMap<IpAddr, Permission>,
    pub channels: BTreeMap<u16, (SocketAddr, Time, bool)>,
}

impl Allocation {
    pub fn half(&self, now: Time, family: Family) -> Option<&Half> {
        self.halves
            .iter()
            .find(|half| half.expires > now && self::family(half.relayed.ip()) == family)
    }

    pub fn is_live(&self, now: Time) -> bool {
        self.halves.iter().any(|half| half.expires > now)
    }

    pub fn permission(&self, now: Time, ip: IpAddr) -> Option<Permission> {
        let permission = self.permissions.get(&ip).copied();
        permission
            .filter(|permission| permission.expires > now && self.half(now, family(ip)).is_some())
    }

    pub fn channel(&self, now: Time, number: u16) -> Option<(SocketAddr, bool)> {
        let (peer, expires, exempt) = *self.channels.get(&number)?;
        (expires > now && self.half(now, family(peer.ip())).is_some()).then_some((peer, exempt))
    }

    pub fn channel_of(&self, now: Time, peer: SocketAddr) -> Option<u16> {
        let mut numbers = self.channels.keys().copied();
        numbers.find(|number| {
            self.channel(now, *number)
                .is_some_and(|found| found.0 == peer)
        })
    }

    pub fn live_permissions(&self, now: Time) -> BTreeSet<IpAddr> {
        let ips = self.permissions.keys().copied();
        ips.filter(|ip| self.permission(now, *ip).is_some())
            .collect()
    }

    pub fn live_channels(&self, now: Time) -> usize {
        let numbers = self.channels.keys();
        numbers
            .filter(|number| self.channel(now, **number).is_some())
            .count()
    }

    /// Forgets the halves that have expired or were deleted, with all that hangs on them.
    pub fn settle(&mut self, now: Time) {
        self.halves.retain(|half| half.expires > now);
        let families: Vec<_> = self
            .halves
            .iter()
            .map(|half| family(half.relayed.ip()))
            .collect();
        self.permissions
            .retain(|ip, _| families.contains(&family(*ip)));
        self.channels
            .retain(|_, (peer, _, _)| families.contains(&family(peer.ip())));
    }
}

/// A port held under a token.
#[derive(Clone, Debug)]
pub struct Reservation {
    pub token: [u8; 8],
    pub shard: usize,
    pub user: usize,
    /// The held address; `None` once another shard took it.
    pub held: Option<SocketAddr>,
    pub expires: Time,
}

#[derive(Debug, Default)]
pub struct Model {
    pub allocations: BTreeMap<usize, Allocation>,
    pub reservations: Vec<Reservation>,
}

impl Model {
    /// Forgets what has expired, as every timer has by now.
    pub fn settle(&mut self, now: Time) {
        for allocation in self.allocations.values_mut() {
            allocation.settle(now);
        }
        self.allocations
            .retain(|_, allocation| allocation.is_live(now));
        self.reservations
            .retain(|reservation| reservation.expires > now);
    }

    /// Whether something expired so lately that its timer may still be due.
    pub fn is_unsettled(&self, now: Time) -> bool {
        let recent = |at: Time| at <= now && at + LATE > now;
        self.allocations
            .values()
            .flat_map(|allocation| &allocation.halves)
            .any(|half| recent(half.expires))
            || self
                .reservations
                .iter()
                .any(|reservation| recent(reservation.expires))
    }

    /// Every moment at which something ends.
    pub fn deadlines(&self) -> Vec<Time> {
        let mut all = Vec::new();
        for allocation in self.allocations.values() {
            all.extend(allocation.halves.iter().map(|half| half.expires));
            all.extend(
                allocation
                    .permissions
                    .values()
                    .map(|permission| permission.expires),
            );
            all.extend(allocation.channels.values().map(|channel| channel.1));
        }
        all.extend(
            self.reservations
                .iter()
                .map(|reservation| reservation.expires),
        );
        all
    }

    pub fn ports_in_use(&self) -> BTreeSet<SocketAddr> {
        let halves = self
            .allocations
            .values()
            .flat_map(|allocation| &allocation.halves);
        let held = self
            .reservations
            .iter()
            .filter_map(|reservation| reservation.held);
        halves.map(|half| half.relayed).chain(held).collect()
    }

    pub fn quota_of(&self, user: usize) -> usize {
        let own = self
            .allocations
            .values()
            .filter(|allocation| allocation.user == user);
        let reserved = self
            .reservations
            .iter()
            .filter(|reservation| reservation.user == user && reservation.held.is_some());
        own.count() + reserved.count()
    }

    pub fn quota(&self) -> usize {
        let reserved = self.reservations.iter();
        let reserved = reserved.filter(|reservation| reservation.held.is_some());
        self.allocations.len() + reserved.count()
    }

    pub fn has_room(&self, user: usize, places: usize) -> bool {
        self.quota_of(user) + places <= PER_USER && self.quota() + places <= TOTAL
    }

    /// Whether a port can be had on an address.
    pub fn has_port(&self, ip: IpAddr, even: Option<bool>) -> bool {
        let used = self.ports_in_use();
        let free = |port: u16| !used.contains(&SocketAddr::new(ip, port));
        PORTS.clone().any(|port| match even {
            None => free(port),
            Some(false) => port % 2 == 0 && free(port),
            Some(true) => port % 2 == 0 && free(port) && free(port + 1),
        })
    }

    /// The client that a relayed transport address belongs to.
    pub fn owner_of(&self, relayed: SocketAddr) -> Option<usize> {
        let owns =
            |allocation: &Allocation| allocation.halves.iter().any(|half| half.relayed == relayed);
        let mut allocations = self.allocations.iter();
        allocations
            .find(|(_, allocation)| owns(allocation))
            .map(|(client, _)| *client)
    }

    pub fn any_live(&self, ip: IpAddr) -> bool {
        let mut halves = self
            .allocations
            .values()
            .flat_map(|allocation| &allocation.halves);
        halves.any(|half| half.relayed.ip() == ip)
    }
}
