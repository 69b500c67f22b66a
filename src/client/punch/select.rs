//! Which path is used: nominated by the initiator, confirmed by the receiver, watched by both.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::pairs::{Ends, Pair};
use super::{Agent, Event, Path, Reason, Via};
use crate::pairing::Role;

/// How long the first valid pair waits for a better one.
const GRACE: Duration = Duration::from_millis(40);

/// The shortest time between two moves from one good path to another.
const STAY: Duration = Duration::from_millis(500);

/// Between two nominations, until one is confirmed.
const NOMINATE_EVERY: Duration = Duration::from_millis(50);

/// After so many the peer does not agree to the pair.
const MOST_NOMINATIONS: u32 = 40;

/// After application data was sent or received, data is expected for so long.
const EXPECTED: Duration = Duration::from_secs(2);

/// So much silence while data is expected makes us ask.
const SILENCE: Duration = Duration::from_millis(400);

/// Between two questions while data is expected.
const ASK_FAST: Duration = Duration::from_millis(100);

/// Between two questions on an idle path, when one stayed without an answer.
const ASK: Duration = Duration::from_millis(200);

/// So much silence while data is expected means that the path is dead; see [`dead_after`].
const DEAD: Duration = Duration::from_millis(850);

/// Who looks so much later than it meant to did not run: answers may lie in its sockets.
const STALL: Duration = Duration::from_millis(50);

/// An idle path is dead when it did not answer for so long.
const IDLE_DEAD: Duration = Duration::from_secs(2);

/// A nomination that is not confirmed yet.
#[derive(Debug)]
pub(super) struct Nomination {
    pub(super) ends: Ends,
    tries: u32,
    next: Instant,
}

/// The path in use.
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) ends: Ends,
    since: Instant,
    /// When anything of the peer came this way.
    heard: Instant,
    /// When a check of ours was answered: only that proves that the peer hears us.
    answered: Instant,
    /// The first question since then, and the latest one.
    asked: Option<(Instant, Instant)>,
    /// Whether it was found dead after a stall of our own, and asked once more.
    spared: bool,
    /// Since when data is expected without a break, and when there was some of late.
    active: Option<(Instant, Instant)>,
}

impl Selected {
    /// Since when there is silence that somebody minds.
    fn silent_since(&self) -> Instant {
        self.active
            .map_or(self.heard, |(since, _)| self.heard.max(since))
    }

    /// When data is expected no more.
    fn expected_until(&self) -> Option<Instant> {
        self.active.map(|(_, latest)| latest + EXPECTED)
    }

    fn touch(&mut self, now: Instant) {
        let since = match self.active {
            Some((since, latest)) if now.saturating_duration_since(latest) < EXPECTED => since,
            _ => now,
        };
        self.active = Some((since, now));
    }

    /// When to ask next.
    fn ask_at(&self, keepalive: Duration) -> Instant {
        let until = self.expected_until();
        let idle = match self.asked {
            Some((_, latest)) => latest + ASK,
            None => self.answered + keepalive,
        };
        let mut fast = self.silent_since() + SILENCE;
        if let Some((_, latest)) = self.asked {
            fast = fast.max(latest + ASK_FAST);
        }
        match until {
            Some(until) if fast < until => idle.min(fast),
            _ => idle,
        }
    }

    /// When it is dead unless something comes before.
    fn dead_at(&self, rtt: Duration) -> Option<Instant> {
        let idle = self.asked.map(|(first, _)| first + IDLE_DEAD.max(rtt * 4));
        let mut fast = self.silent_since() + dead_after(rtt);
        if let Some((first, _)) = self.asked.filter(|_| self.spared) {
            fast = fast.max(first + dead_after(rtt) - SILENCE);
        }
        let fast = self
            .expected_until()
            .filter(|until| fast < *until)
            .map(|_| fast);
        idle.into_iter().chain(fast).min()
    }
}

/// Several questions fit in, each with the time for its answer.
fn dead_after(rtt: Duration) -> Duration {
    DEAD.max(SILENCE + rtt * 2)
}

impl Agent {
    pub(super) fn path_of(&self, pair: &Pair) -> Path {
        Path {
            via: pair.ends.0,
            remote: pair.ends.1,
            local: pair.mapped,
            kind: pair.kind,
            rtt: pair.rtt.unwrap_or_default(),
        }
    }

    pub(super) fn is_nominating(&self, ends: Ends) -> bool {
        self.nomination.as_ref().is_some_and(|n| n.ends == ends)
    }

    /// The initiator looks whether there is something to nominate.
    pub(super) fn evaluate(&mut self, now: Instant) {
        if self.config.role != Role::Initiator || self.nomination.is_some() {
            return;
        }
        let valid = self.pairs.iter().filter(|pair| pair.valid);
        let best = valid.reduce(|best, pair| {
            if pair.is_better_than(best) {
                pair
            } else {
                best
            }
        });
        let Some(best) = best else {
            return;
        };
        let ends = best.ends;
        let wait_until = match &self.selected {
            Some(selected) => {
                let current = self.pairs.get(selected.ends);
                if ends == selected.ends || current.is_some_and(|c| !best.is_better_than(c)) {
                    return;
                }
                selected.since + STAY
            }
            None => {
                let pending = |pair: &Pair| pair.due.is_some() && pair.priority > best.priority;
                let better_may_come = self.pairs.iter().any(pending);
                match self.grace {
                    _ if !better_may_come => now,
                    Some(grace) => grace,
                    None => now + GRACE,
                }
            }
        };
        if now < wait_until {
            self.grace = Some(wait_until);
            return;
        }
        self.grace = None;
        self.nomination = Some(Nomination {
            ends,
            tries: 0,
            next: now,
        });
        self.nominate(now);
    }

    fn nominate(&mut self, now: Instant) {
        let Some(nomination) = &mut self.nomination else {
            return;
        };
        let ends = nomination.ends;
        if nomination.tries == MOST_NOMINATIONS || self.pairs.get(ends).is_none() {
            self.nomination = None;
            if let Some(pair) = self.pairs.get_mut(ends) {
                pair.valid = false;
            }
            return self.evaluate(now);
        }
        nomination.tries += 1;
        nomination.next = now + NOMINATE_EVERY;
        self.check(now, ends, true);
    }

    /// Both sides agree on this pair.
    pub(super) fn select(&mut self, now: Instant, ends: Ends) {
        self.nomination = None;
        self.grace = None;
        if self.selected_ends() == Some(ends) {
            return;
        }
        let Some(pair) = self.pairs.get(ends) else {
            return;
        };
        let path = self.path_of(pair);
        let active = self.selected.take().and_then(|before| before.active);
        self.selected = Some(Selected {
            ends,
            since: now,
            heard: now,
            answered: now,
            asked: None,
            spared: false,
            active,
        });
        self.settle(now, ends);
        self.events.push_back(Event::Selected(path));
        self.close_sockets(ends.0);
    }

    /// There is no path any more.
    pub(super) fn lose(&mut self, reason: Reason, now: Instant) {
        let Some(selected) = self.selected.take() else {
            return;
        };
        if let Some(pair) = self.pairs.get_mut(selected.ends) {
            pair.valid = false;
        }
        self.events.push_back(Event::Lost(reason));
        self.next_round(now);
    }

    /// Something of the peer came.
    pub(super) fn alive(&mut self, now: Instant, ends: Ends) {
        if let Some(selected) = &mut self.selected
            && selected.ends == ends
        {
            selected.heard = now;
            selected.spared = false;
        }
    }

    /// A check was answered.
    pub(super) fn answered(&mut self, now: Instant, ends: Ends) {
        if let Some(selected) = &mut self.selected
            && selected.ends == ends
        {
            selected.answered = now;
            selected.asked = None;
            selected.spared = false;
        }
    }

    /// Makes sure of the path soon.
    pub(super) fn suspect(&mut self, now: Instant) {
        if let Some(selected) = &mut self.selected {
            selected.touch(now);
        }
    }

    /// Application data of the peer came, and was found authentic: a sign of life of that path.
    /// Data over the relay while a direct path is selected means that the peer may have lost it.
    pub fn note_received(&mut self, now: Instant, via: Via, from: SocketAddr) {
        self.alive(now, (via, from));
        let Some(selected) = &mut self.selected else {
            return;
        };
        if selected.ends == (via, from) || (via == Via::Relay && now > selected.since + STAY) {
            selected.touch(now);
        }
    }

    /// Application data was sent on the selected path: something is expected back. Only with this
    /// a path that dies is noticed within a second by a side that receives nothing but answers.
    pub fn note_sent(&mut self, now: Instant) {
        self.suspect(now);
    }

    pub(super) fn select_due(&self) -> Option<Instant> {
        let nomination = self.nomination.as_ref().map(|nomination| nomination.next);
        let selected = self.selected.as_ref().map(|selected| {
            let ask = selected.ask_at(self.config.keepalive);
            let dead = selected.dead_at(self.rtt(selected.ends));
            dead.map_or(ask, |dead| dead.min(ask))
        });
        let due = [nomination, selected, self.grace];
        due.into_iter().flatten().min()
    }

    fn rtt(&self, ends: Ends) -> Duration {
        let pair = self.pairs.get(ends);
        pair.and_then(|pair| pair.rtt).unwrap_or_default()
    }

    pub(super) fn select_timeout(&mut self, now: Instant) {
        if self.grace.is_some_and(|grace| grace <= now) {
            self.evaluate(now);
            // What it was for may be gone.
            self.grace = self.grace.filter(|grace| *grace > now);
        }
        if self.nomination.as_ref().is_some_and(|n| n.next <= now) {
            self.nominate(now);
        }
        let Some(ends) = self.selected_ends() else {
            return;
        };
        let rtt = self.rtt(ends);
        let Some(selected) = &mut self.selected else {
            return;
        };
        let ask_at = selected.ask_at(self.config.keepalive);
        if let Some(dead) = selected.dead_at(rtt).filter(|at| *at <= now) {
            if selected.spared || now < dead.min(ask_at) + STALL {
                return self.lose(Reason::Silent, now);
            }
            selected.spared = true;
            selected.asked = None;
        } else if ask_at > now {
            return;
        }
        let first = selected.asked.map_or(now, |(first, _)| first);
        selected.asked = Some((first, now));
        // The initiator nominates each time, should the receiver have lost it.
        let nominates = self.config.role == Role::Initiator;
        self.check(now, ends, nominates);
    }
}
