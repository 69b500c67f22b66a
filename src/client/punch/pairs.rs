//! The table of pairs: one of our sockets and one address of the peer each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{CandidateKind, Via};

/// RFC 8445 section 6.1.2.5: a limit that the configuration could change; nothing here needs
/// more.
pub(super) const MOST_PAIRS: usize = 100;

/// Two round-trip times that differ by less than this, or by less than a fifth, count as equal.
const SAME_RTT: Duration = Duration::from_millis(10);

/// What names a pair.
pub(super) type Ends = (Via, SocketAddr);

/// One way to the peer.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) ends: Ends,
    pub(super) kind: CandidateKind,
    pub(super) priority: u64,
    /// The peer is behind a NAT there: it is opened with a low TTL first.
    pub(super) guarded: bool,
    /// When to send the next check.
    pub(super) due: Option<Instant>,
    /// Checks sent in this attempt.
    pub(super) tries: u32,
    /// Checks that may still be sent.
    pub(super) left: u32,
    /// When the first check of this attempt was sent, and the latest one.
    pub(super) first_at: Option<Instant>,
    pub(super) sent_at: Option<Instant>,
    /// Checks sent since the last answer.
    pub(super) unanswered: u32,
    /// A check of ours was answered, and not refuted by silence since.
    pub(super) valid: bool,
    /// A check of the peer came this way in this attempt.
    pub(super) heard: bool,
    /// It was valid once: worth a look from time to time.
    pub(super) worked: bool,
    /// The peer chose it before our own check was answered.
    pub(super) nominated: bool,
    pub(super) rtt: Option<Duration>,
    /// Our address as the peer sees it.
    pub(super) mapped: Option<SocketAddr>,
}

impl Pair {
    pub(super) fn new(
        ends: Ends,
        kind: CandidateKind,
        priority: u64,
        guarded: bool,
        left: u32,
    ) -> Self {
        Self {
            ends,
            kind,
            priority,
            guarded,
            due: None,
            tries: 0,
            left,
            first_at: None,
            sent_at: None,
            unanswered: 0,
            valid: false,
            heard: false,
            worked: false,
            nominated: false,
            rtt: None,
            mapped: None,
        }
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.ends.1.is_ipv4()
    }

    /// A new attempt: what was found out before may no longer hold.
    pub(super) fn reset(&mut self, now: Instant, left: u32) {
        self.due = Some(now);
        self.tries = 0;
        self.first_at = None;
        self.left = left;
        self.unanswered = 0;
        self.valid = false;
        self.heard = false;
        self.nominated = false;
    }

    /// Smoothed as RFC 6298 does it.
    pub(super) fn measured(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            Some(rtt) => (rtt * 7 + sample) / 8,
            None => sample,
        });
    }

    /// Whether a move from `current` to this pair is worth it: a clearly shorter way, or one of
    /// the same length and a higher priority.
    pub(super) fn is_better_than(&self, current: &Self) -> bool {
        let (Some(mine), Some(theirs)) = (self.rtt, current.rtt) else {
            return self.priority > current.priority;
        };
        let margin = SAME_RTT.max(mine.max(theirs) / 5);
        if mine + margin < theirs {
            true
        } else if theirs + margin < mine {
            false
        } else {
            self.priority > current.priority
        }
    }
}

/// At most [`MOST_PAIRS`] pairs.
#[derive(Debug, Default)]
pub(super) struct Pairs(Vec<Pair>);

impl Pairs {
    pub(super) fn get(&self, ends: Ends) -> Option<&Pair> {
        self.0.iter().find(|pair| pair.ends == ends)
    }

    pub(super) fn get_mut(&mut self, ends: Ends) -> Option<&mut Pair> {
        self.0.iter_mut().find(|pair| pair.ends == ends)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.0.iter_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Pair) -> bool) {
        self.0.retain(keep);
    }

    /// Adds a pair that is not there yet. A full table gives up the least promising pair, unless
    /// the new one is even less so; `keep` is never given up. False when it was not added.
    pub(super) fn insert(&mut self, pair: Pair, keep: Option<Ends>) -> bool {
        // From where the peer was heard, it can be reached.
        let learned = pair.kind == CandidateKind::PeerReflexive;
        if self.0.len() >= MOST_PAIRS {
            let least = self
                .0
                .iter()
                .enumerate()
                .filter(|(_, old)| !old.valid && Some(old.ends) != keep)
                .min_by_key(|(_, old)| (old.heard || old.worked, old.priority));
            match least {
                Some((at, old)) if old.priority < pair.priority || learned => {
                    self.0.swap_remove(at);
                }
                _ => return false,
            }
        }
        self.0.push(pair);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(port: u16, priority: u64) -> Pair {
        let remote = SocketAddr::from(([192, 0, 2, 1], port));
        Pair::new(
            (Via::Socket(0), remote),
            CandidateKind::Host,
            priority,
            false,
            1,
        )
    }

    #[test]
    fn a_full_table_gives_up_the_least_promising() {
        let mut pairs = Pairs::default();
        for port in 1..=100 {
            assert!(pairs.insert(pair(port, 1000 + u64::from(port)), None));
        }
        assert!(!pairs.insert(pair(200, 1), None), "less promising than all");
        assert!(pairs.insert(pair(201, 5000), None));
        assert!(pairs.get(pair(1, 0).ends).is_none(), "the least one went");
        let mut learned = pair(202, 1);
        learned.kind = CandidateKind::PeerReflexive;
        assert!(pairs.insert(learned, Some(pair(2, 0).ends)));
        assert!(pairs.get(pair(2, 0).ends).is_some(), "the kept one stays");
        assert!(pairs.get(pair(3, 0).ends).is_none());
        assert_eq!(pairs.iter().count(), MOST_PAIRS);
    }

    #[test]
    fn better_is_shorter_or_as_short_and_preferred() {
        let with = |priority, ms| {
            let mut pair = pair(1, priority);
            pair.measured(Duration::from_millis(ms));
            pair
        };
        assert!(with(1, 20).is_better_than(&with(9, 50)));
        assert!(!with(9, 50).is_better_than(&with(1, 20)));
        assert!(with(9, 25).is_better_than(&with(1, 20)));
        assert!(!with(1, 20).is_better_than(&with(9, 25)));
        assert!(with(9, 110).is_better_than(&with(1, 100)));
        let same = with(1, 20);
        assert!(!same.is_better_than(&same));
    }
}
