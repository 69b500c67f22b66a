//! When to dial whom, without sockets.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// The most addresses of a peer that are dialled.
pub(super) const MAX_TARGETS: usize = 16;

/// How long the opener may take: it is meant to be lost.
const OPENER_PATIENCE: Duration = Duration::from_millis(250);
/// How long the first full dial may take. Each next one may take so much longer again: a dial
/// that is broken off too early spoils the answer that is on its way.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(4);

/// One connection to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dial {
    /// To whom.
    pub(super) address: SocketAddr,
    /// Hops after which the SYN shall die; `None` for the system's default.
    pub(super) ttl: Option<u32>,
    /// When to break it off.
    pub(super) patience: Duration,
}

struct Target {
    address: SocketAddr,
    dials: u32,
    /// `None` while a dial is under way: there can be only one with the same addresses.
    next: Option<Instant>,
}

/// Repeats dials to each address of the peer, spaced, one at a time.
///
/// The first one is an opener: with few hops to live it makes the own NAT expect the peer,
/// without the peer's NAT seeing something that it would take for a stray and answer with a
/// reset, which many NATs remember.
pub(super) struct Schedule {
    targets: Vec<Target>,
    tries: u32,
    spacing: Duration,
    opener_ttl: Option<u32>,
}

impl Schedule {
    /// Dials each address `tries` times at most, not more often than each `spacing`.
    pub(super) const fn new(tries: u32, spacing: Duration, opener_ttl: Option<u32>) -> Self {
        Self {
            targets: Vec::new(),
            tries,
            spacing,
            opener_ttl,
        }
    }

    /// One more address of the peer; known ones and those that none can have are passed over.
    pub(super) fn add(&mut self, address: SocketAddr, now: Instant) {
        let ip = address.ip().to_canonical();
        let address = SocketAddr::new(ip, address.port());
        let known = self.targets.iter().any(|target| target.address == address);
        let broadcast = matches!(ip, std::net::IpAddr::V4(ip) if ip.is_broadcast());
        let none = address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast;
        if known || none || self.targets.len() == MAX_TARGETS {
            return;
        }
        self.targets.push(Target {
            address,
            dials: 0,
            next: Some(now),
        });
    }

    /// A dial that is due; it counts as under way until [`Schedule::ended`].
    pub(super) fn due(&mut self, now: Instant) -> Option<Dial> {
        let tries = self.tries;
        let mut due = self
            .targets
            .iter_mut()
            .filter(|target| target.dials < tries && target.next.is_some_and(|next| next <= now));
        let target = due.next()?;
        target.next = None;
        target.dials += 1;
        let opener = self.opener_ttl.filter(|_| target.dials == 1);
        let full = target.dials - u32::from(self.opener_ttl.is_some());
        Some(Dial {
            address: target.address,
            ttl: opener,
            patience: match opener {
                Some(_) => OPENER_PATIENCE,
                None => (PATIENCE * full).min(MOST_PATIENCE),
            },
        })
    }

    /// A dial that began at `began` led to nothing.
    pub(super) fn ended(&mut self, address: SocketAddr, began: Instant, now: Instant) {
        let found = self
            .targets
            .iter_mut()
            .find(|target| target.address == address);
        if let Some(target) = found {
            target.next = Some(now.max(began + self.spacing));
        }
    }

    /// When the next dial is due, if any is.
    pub(super) fn next(&self) -> Option<Instant> {
        let left = self
            .targets
            .iter()
            .filter(|target| target.dials < self.tries);
        left.filter_map(|target| target.next).min()
    }

    /// How many dials there were.
    pub(super) fn dials(&self) -> u32 {
        self.targets.iter().map(|target| target.dials).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACING: Duration = Duration::from_millis(200);

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn dials_are_spaced_single_and_counted() {
        let start = Instant::now();
        let mut schedule = Schedule::new(4, SPACING, Some(2));
        assert_eq!(schedule.next(), None);
        let peer = address("192.0.2.1:1");
        schedule.add(peer, start);
        schedule.add(peer, start);
        let mut now = start;
        let mut dials = Vec::new();
        while let Some(next) = schedule.next() {
            now = next.max(now);
            dials.push((now - start, schedule.due(now).expect("due")));
            assert_eq!(schedule.due(now + SPACING), None, "one at a time");
            // Refused at once.
            schedule.ended(peer, now, now + SPACING / 4);
        }
        let times: Vec<_> = dials.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [Duration::ZERO, SPACING, SPACING * 2, SPACING * 3]);
        let ttls: Vec<_> = dials.iter().map(|(_, dial)| dial.ttl).collect();
        assert_eq!(ttls, [Some(2), None, None, None]);
        let patience = dials.iter().map(|(_, dial)| dial.patience);
        assert!(patience.is_sorted(), "later dials wait longer");
        assert_eq!(schedule.dials(), 4);
    }

    #[test]
    fn a_slow_dial_is_repeated_at_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(9, SPACING, None);
        let peer = address("[2001:db8::1]:1");
        schedule.add(peer, start);
        let dial = schedule.due(start).expect("due");
        assert_eq!((dial.address, dial.ttl), (peer, None));
        schedule.ended(peer, start, start + dial.patience);
        assert_eq!(schedule.next(), Some(start + dial.patience));
    }

    #[test]
    fn what_nobody_has_is_not_dialled_nor_too_many() {
        let now = Instant::now();
        let mut schedule = Schedule::new(1, SPACING, None);
        for text in [
            "192.0.2.1:0",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[::]:1",
        ] {
            schedule.add(address(text), now);
        }
        assert_eq!(schedule.next(), None);
        schedule.add(address("[::ffff:192.0.2.1]:1"), now);
        assert_eq!(
            schedule.due(now).map(|d| d.address),
            Some(address("192.0.2.1:1"))
        );
        for port in 1..100 {
            schedule.add(SocketAddr::from(([192, 0, 2, 2], port)), now);
        }
        assert_eq!(
            std::iter::from_fn(|| schedule.due(now)).count(),
            MAX_TARGETS - 1
        );
    }
}
