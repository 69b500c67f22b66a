//! Attempts: when they begin and end, and which pair is checked when.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::candidate::MOST_IN_DESCRIPTION;
use super::hard::Plan;
use super::pairs::{Ends, Pair};
use super::{Agent, Candidate, CandidateKind, Description, Event, Mapping, Reason, Via};

/// How long the way to a peer behind a NAT is opened with a low TTL, when the peer does not say
/// before that it has opened its side.
const OPENING: Duration = Duration::from_millis(400);

/// With ports in order, or where that is not known, how long the first packets wait to learn what
/// both NATs do.
const HOLD: Duration = Duration::from_secs(1);

/// How long an attempt lasts that only other addresses than those behind the NATs can save.
const HOPELESS: Duration = Duration::from_secs(2);

/// Between checks of a pair that worked once, while there is no attempt.
const REMEMBERED: Duration = Duration::from_secs(4);

/// Between looks for a better path.
const IMPROVE: Duration = Duration::from_secs(60);

/// Checks of a pair that may be better than the selected one.
const IMPROVE_TRIES: u32 = 10;

/// Pairs besides the selected one that are kept open.
const BACKUPS: usize = 2;

/// What the agent is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// There is nothing to check yet. As long as an attempt may last after the peer's first word,
    /// it counts as a failed one.
    Idle,
    /// An attempt.
    Punching { started: Instant, ends: Instant },
    /// Between two attempts.
    Waiting { until: Instant },
    /// A path is selected.
    Settled { improve_at: Instant },
}

/// How long to wait after so many failed attempts in a row.
fn backoff(failed: u32) -> Duration {
    Duration::from_secs(5 << failed.saturating_sub(1).min(3)).min(Duration::from_secs(60))
}

/// Between two checks of one pair.
const fn interval(tries: u32) -> Duration {
    Duration::from_millis(match tries {
        0..10 => 50,
        10..20 => 100,
        _ => 200,
    })
}

impl Agent {
    /// Begins when there is something to check.
    pub(super) fn activate(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Idle) && !self.pairs.is_empty() {
            self.start_round(now, 1);
        }
    }

    /// The network changed, or the driver knows that the path died: punches again, and tells the
    /// peer to do so too. A path that is in use stays so while it answers.
    pub fn restart(&mut self, now: Instant) {
        self.failed = 0;
        self.told_at = self.told_at.map(|_| now);
        self.close_sockets(Via::Relay);
        self.hard.forget();
        if !matches!(self.phase, Phase::Idle) {
            self.next_round(now);
        }
    }

    /// Another attempt, in which the peer is to take part.
    pub(super) fn next_round(&mut self, now: Instant) {
        self.start_round(now, self.round.saturating_add(1));
        self.events.push_back(Event::Signal(Description {
            round: self.round,
            ..Description::default()
        }));
    }

    pub(super) fn peer_is_at(&mut self, round: u32, now: Instant) {
        if round > self.round && !matches!(self.phase, Phase::Idle) {
            self.start_round(now, round);
        }
    }

    fn start_round(&mut self, now: Instant, round: u32) {
        self.round = round;
        self.peer_opened = false;
        self.opened.clear();
        self.hard.new_round(now);
        self.nomination = None;
        self.grace = None;
        let selected = self.selected_ends();
        if round > 1 && selected.is_none() {
            self.measure_again();
        }
        let left = match selected {
            Some(_) => IMPROVE_TRIES,
            None => self.config.tries,
        };
        for pair in self.pairs.iter_mut() {
            if Some(pair.ends) != selected {
                pair.reset(now, left);
            }
        }
        self.phase = match selected {
            Some(_) => Phase::Settled {
                improve_at: now + IMPROVE,
            },
            None => Phase::Punching {
                started: now,
                ends: now + self.config.timeout,
            },
        };
        self.suspect(now);
    }

    /// The peer's NAT lets us in now: packets may go all the way.
    pub(super) fn peer_has_opened(&mut self, now: Instant) {
        if std::mem::replace(&mut self.peer_opened, true) {
            return;
        }
        for pair in self.pairs.iter_mut() {
            if pair.guarded && !pair.valid && pair.due.is_some() {
                pair.due = Some(now);
            }
        }
        self.hard.peer_opened(now);
    }

    /// The time to live of a packet to a peer behind a NAT, on a pair that was first checked then.
    fn opening_ttl(&self, now: Instant, first: Instant) -> Option<u8> {
        let elapsed = now.saturating_duration_since(first);
        let punching = matches!(self.phase, Phase::Punching { .. });
        if !punching || self.peer_opened || elapsed >= OPENING {
            return None;
        }
        // One hop more for a second NAT on this side, when the peer has had time to open.
        Some(if elapsed < OPENING / 2 { 2 } else { 3 })
    }

    /// Sends a check on a pair.
    pub(super) fn check(&mut self, now: Instant, ends: Ends, nominates: bool) {
        let selected = self.selected_ends() == Some(ends);
        let (waiting, settled) = (
            matches!(self.phase, Phase::Waiting { .. }),
            matches!(self.phase, Phase::Settled { .. }),
        );
        let Some(pair) = self.pairs.get_mut(ends) else {
            return;
        };
        let first = *pair.first_at.get_or_insert(now);
        pair.tries += 1;
        pair.unanswered += 1;
        pair.sent_at = Some(now);
        if pair.valid && !selected && pair.unanswered > 8 {
            pair.valid = false;
        }
        pair.due = if selected {
            // Its own clock is in `select`.
            None
        } else if pair.valid {
            let kept = settled && pair.unanswered == 1;
            let keepalive = self.config.keepalive;
            Some(now + if kept { keepalive } else { interval(u32::MAX) })
        } else if waiting && pair.worked {
            Some(now + REMEMBERED)
        } else {
            pair.left = pair.left.saturating_sub(1);
            (pair.left > 0).then(|| now + interval(pair.tries))
        };
        let guarded = pair.guarded && !pair.heard && !pair.valid;
        if guarded && !self.opened.contains(&ends.1) && self.opened.len() < MOST_IN_DESCRIPTION {
            self.opened.push(ends.1);
            self.untold = true;
        }
        let ttl = self.opening_ttl(now, first).filter(|_| guarded);
        self.send_check(now, ends, ttl, nominates);
    }

    /// Sends a check to an address, whether it is one of a pair or not.
    pub(super) fn send_check(
        &mut self,
        now: Instant,
        ends: Ends,
        ttl: Option<u8>,
        nominates: bool,
    ) {
        self.stats.checks += 1;
        let priority = Candidate::new(CandidateKind::PeerReflexive, ends.1).priority();
        let Some(checks) = &mut self.checks else {
            return;
        };
        let request = checks.request(now, ends, priority, nominates, &mut self.rng);
        self.transmit(ends, ttl, request);
    }

    /// When a pair may be checked. With ports in order every new destination moves the next port
    /// on, so the first ones must be those that matter.
    fn ready_at(&self, pair: &Pair) -> Option<Instant> {
        let due = pair.due?;
        let Phase::Punching { started, .. } = self.phase else {
            return Some(due);
        };
        if !pair.is_ipv4() || pair.heard {
            return Some(due);
        }
        let held = due.max(started + HOLD);
        match self.local_nat.map(|nat| nat.mapping) {
            // It is not known yet: no packets that the own NAT would have to pass.
            None if pair.guarded || self.is_foreign_host(pair) => Some(held),
            Some(Mapping::Sequential { .. }) if self.remote_nat.is_none() => Some(held),
            Some(Mapping::Sequential { .. }) => {
                let in_order = matches!(self.plan(), Plan::InOrder(_));
                (!in_order || !self.hard.in_first_pass()).then_some(due)
            }
            _ => Some(due),
        }
    }

    /// Whether the pair leads to a private address in a network that does not look like an own.
    fn is_foreign_host(&self, pair: &Pair) -> bool {
        let SocketAddr::V4(remote) = pair.ends.1 else {
            return false;
        };
        let network = |ip: Ipv4Addr| [ip.octets()[0], ip.octets()[1]];
        let alike = |candidate: &Candidate| match candidate.address {
            SocketAddr::V4(own) => network(*own.ip()) == network(*remote.ip()),
            SocketAddr::V6(_) => false,
        };
        remote.ip().is_private() && !self.locals.iter().any(alike)
    }

    /// The pair to check next, and when.
    fn next_check(&self) -> Option<(Instant, Ends)> {
        let ready = self.pairs.iter().filter_map(|pair| {
            let at = self.ready_at(pair)?;
            Some((at, u64::MAX - pair.priority, pair.ends))
        });
        let (at, _, ends) = ready.min()?;
        Some((self.pace.map_or(at, |pace| pace.max(at)), ends))
    }

    /// A pair has just become valid: it needs no more than to be kept so.
    pub(super) fn rest(&mut self, now: Instant, ends: Ends) {
        if let Some(pair) = self.pairs.get_mut(ends) {
            pair.due = Some(now + interval(u32::MAX));
        }
        self.hard.stop();
    }

    /// A path was selected: most of the others need no more checks.
    pub(super) fn settle(&mut self, now: Instant, selected: Ends) {
        self.failed = 0;
        self.hard.stop();
        if !matches!(self.phase, Phase::Settled { .. }) {
            self.phase = Phase::Settled {
                improve_at: now + IMPROVE,
            };
        }
        let Some(priority) = self.pairs.get(selected).map(|pair| pair.priority) else {
            return;
        };
        let keepalive = self.config.keepalive;
        let mut backups = 0;
        for pair in self.pairs.iter_mut() {
            if pair.ends == selected {
                pair.due = None;
            } else if pair.valid && backups < BACKUPS {
                backups += 1;
                pair.due = Some(now + keepalive);
            } else if pair.valid || pair.priority < priority {
                pair.due = None;
            } else {
                pair.left = pair.left.min(IMPROVE_TRIES);
            }
        }
    }

    /// Looks at pairs that may be better than the selected one.
    fn improve(&mut self, now: Instant) {
        let priority = self.selected_ends().and_then(|ends| self.pairs.get(ends));
        let Some(priority) = priority.map(|pair| pair.priority) else {
            return;
        };
        for pair in self.pairs.iter_mut() {
            if !pair.valid && (pair.worked || pair.priority > priority) {
                pair.left = IMPROVE_TRIES;
                pair.tries = 0;
                pair.due = Some(now);
            }
        }
    }

    fn give_up(&mut self, now: Instant) {
        self.failed += 1;
        let reason = self.reason();
        self.hard.stop();
        if self.hard.is_spent() {
            self.close_sockets(Via::Relay);
        }
        self.phase = Phase::Waiting {
            until: now + backoff(self.failed),
        };
        for pair in self.pairs.iter_mut() {
            pair.due = pair.worked.then_some(now + REMEMBERED);
        }
        self.events.push_back(Event::GaveUp(reason));
    }

    /// There was nothing to check. It begins as soon as there is.
    pub(super) fn give_up_idle(&mut self) {
        if matches!(self.phase, Phase::Idle) && self.failed == 0 {
            self.failed = 1;
            self.events.push_back(Event::GaveUp(self.reason()));
        }
    }

    /// Until when there may be nothing to check.
    fn idle_until(&self) -> Option<Instant> {
        let told_at = self.told_at.filter(|_| self.failed == 0)?;
        Some(told_at + self.config.timeout)
    }

    /// Why the attempt failed.
    fn reason(&self) -> Reason {
        if matches!(self.phase, Phase::Idle) {
            return match self.remotes.is_empty() {
                true => Reason::NothingTold,
                false => Reason::NothingInCommon,
            };
        }
        if !self.locals.iter().any(Candidate::was_seen) {
            return Reason::NothingSeenHere;
        }
        if !self.seen_there {
            return Reason::NothingSeenThere;
        }
        match self.plan() {
            Plan::Hopeless => Reason::BothHard,
            Plan::Open(_) | Plan::Probe(_) => Reason::ProbingFailed,
            Plan::Plain | Plan::Window { .. } | Plan::InOrder(_) => Reason::Unanswered,
        }
    }

    /// Tells the peer what was opened, once the first packets to all its addresses are out.
    fn tell_opened(&mut self) {
        let pending = |pair: &Pair| pair.guarded && pair.tries == 0 && pair.due.is_some();
        if !self.untold || self.hard.in_first_pass() || self.pairs.iter().any(pending) {
            return;
        }
        self.untold = false;
        self.signal_opened(0);
    }

    pub(super) fn signal_opened(&mut self, sockets: u32) {
        self.events.push_back(Event::Signal(Description {
            round: self.round,
            opened: self.opened.clone(),
            sockets,
            ..Description::default()
        }));
    }

    /// When an attempt ends that would end then.
    fn ends_at(&self, ends: Instant) -> Instant {
        match self.planned() {
            (Plan::Hopeless, Some(since)) => ends.min(since + HOPELESS),
            _ => ends,
        }
    }

    /// When to call [`Agent::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Idle => self.idle_until(),
            Phase::Punching { ends, .. } => Some(self.ends_at(ends)),
            Phase::Waiting { until } => Some(until),
            Phase::Settled { improve_at } => Some(improve_at),
        };
        let check = self.next_check().map(|(at, _)| at);
        let others = [phase, check, self.hard_due(), self.select_due()];
        others.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.hard_timeout(now);
        self.select_timeout(now);
        match self.phase {
            Phase::Idle if self.idle_until().is_some_and(|until| now >= until) => {
                self.give_up_idle();
            }
            Phase::Punching { ends, .. } if now >= self.ends_at(ends) => self.give_up(now),
            Phase::Waiting { until } if now >= until => self.next_round(now),
            Phase::Settled { improve_at } if now >= improve_at => {
                self.phase = Phase::Settled {
                    improve_at: now + IMPROVE,
                };
                self.improve(now);
            }
            _ => {}
        }
        if let Some((at, ends)) = self.next_check()
            && at <= now
        {
            self.pace = Some(now + self.config.pace);
            self.check(now, ends, false);
        }
        self.tell_opened();
    }

    /// The socket from which addresses behind NATs are tried.
    pub(super) fn main_via(&self) -> Option<Via> {
        let ipv4 = self.bases.iter().filter(|base| base.ipv4);
        ipv4.map(|base| base.via).min()
    }
}
