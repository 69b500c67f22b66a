//! When to dial whom, without sockets.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// The most addresses of a peer that are dialled.
pub(super) const MAX_TARGETS: usize = 16;

/// How often a refused dial to one address is repeated before it counts as any other.
pub(super) const REFUSALS: u32 = 1000;
/// The pause in front of some of those.
const PAUSE: Duration = Duration::from_millis(1);
/// How long the first dial may take: the kernel repeats a lost SYN only after 1 s. Each next one
/// may take so much longer again, for a dial that is broken off too early spoils the answer that
/// is on its way.
const PATIENCE: Duration = Duration::from_millis(300);
const MOST_PATIENCE: Duration = Duration::from_secs(4);

/// One connection to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dial {
    /// To whom.
    pub(super) address: SocketAddr,
    /// When to break it off.
    pub(super) patience: Duration,
}

struct Target {
    address: SocketAddr,
    dials: u32,
    /// Dials that were refused and soon repeated. They are not counted.
    refused: u32,
    /// `None` while a dial is under way: there can be only one with the same addresses.
    next: Option<Instant>,
}

/// Repeats dials to each address of the peer, spaced, one at a time.
///
/// Some routers refuse a SYN that comes before their host's own, and the one that is refused closes
/// its own NAT again. Two SYNs get through when they leave within the time that one is under way,
/// and a NAT is open for twice that time in each round: so a refused dial is repeated almost at
/// once, many times, and on any real distance one of the next few meets the peer's. Where there is
/// hardly any distance, two that go on in the same time would miss each other for ever; hence a
/// short pause at random. A SYN with a low TTL would not be refused, but spoil the answer: the own NAT
/// remembers its sequence number, to which that of another socket, the listener above all, does
/// not belong, and drops what does not.
pub(super) struct Schedule {
    targets: Vec<Target>,
    tries: u32,
    spacing: Duration,
}

impl Schedule {
    /// Dials each address `tries` times at most, not more often than each `spacing`.
    pub(super) const fn new(tries: u32, spacing: Duration) -> Self {
        Self {
            targets: Vec::new(),
            tries,
            spacing,
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
            refused: 0,
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
        Some(Dial {
            address: target.address,
            patience: (PATIENCE * target.dials).min(MOST_PATIENCE),
        })
    }

    /// A dial that began at `began` led to nothing.
    pub(super) fn ended(&mut self, address: SocketAddr, began: Instant, now: Instant) {
        let next = now.max(began + self.spacing);
        if let Some(target) = self.find(address) {
            target.next = Some(next);
        }
    }

    /// A dial that began at `began` was refused. A `random` number decides about the pause.
    pub(super) fn refused(
        &mut self,
        address: SocketAddr,
        began: Instant,
        now: Instant,
        random: u32,
    ) {
        let pause = match random % 4 {
            0 => PAUSE,
            _ => Duration::ZERO,
        };
        match self.find(address) {
            Some(target) if target.refused < REFUSALS => {
                target.refused += 1;
                target.dials -= 1;
                target.next = Some(now + pause);
            }
            _ => self.ended(address, began, now),
        }
    }

    fn find(&mut self, address: SocketAddr) -> Option<&mut Target> {
        self.targets
            .iter_mut()
            .find(|target| target.address == address)
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
        let dials = |target: &Target| target.dials + target.refused;
        self.targets.iter().map(dials).sum()
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
        let mut schedule = Schedule::new(4, SPACING);
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
            // No way there, at once.
            schedule.ended(peer, now, now + SPACING / 4);
        }
        let times: Vec<_> = dials.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [Duration::ZERO, SPACING, SPACING * 2, SPACING * 3]);
        let patience = dials.iter().map(|(_, dial)| dial.patience);
        assert!(patience.is_sorted(), "later dials wait longer");
        assert_eq!(schedule.dials(), 4);
    }

    #[test]
    fn a_refused_dial_is_soon_repeated_but_not_for_ever() {
        let start = Instant::now();
        let round_trip = Duration::from_micros(50);
        let mut schedule = Schedule::new(3, SPACING);
        let peer = address("192.0.2.1:1");
        schedule.add(peer, start);
        let mut times = Vec::new();
        while let Some(now) = schedule.next() {
            times.push(now);
            assert_eq!(schedule.due(now).map(|dial| dial.address), Some(peer));
            schedule.refused(peer, now, now + round_trip, times.len() as u32);
        }
        assert_eq!(times.len(), 3 + REFUSALS as usize);
        let steps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (soon, later) = steps.split_at(REFUSALS as usize);
        let paused = soon.iter().filter(|&&step| step == round_trip + PAUSE);
        assert_eq!(paused.count() as u32, REFUSALS / 4);
        assert!(soon.iter().all(|&step| step <= round_trip + PAUSE));
        assert_eq!(later, [SPACING; 2]);
    }

    #[test]
    fn a_slow_dial_is_repeated_at_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(9, SPACING);
        let peer = address("[2001:db8::1]:1");
        schedule.add(peer, start);
        let dial = schedule.due(start).expect("due");
        assert_eq!(dial.address, peer);
        schedule.ended(peer, start, start + dial.patience);
        assert_eq!(schedule.next(), Some(start + dial.patience));
    }

    #[test]
    fn what_nobody_has_is_not_dialled_nor_too_many() {
        let now = Instant::now();
        let mut schedule = Schedule::new(1, SPACING);
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
