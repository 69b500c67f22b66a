//! What arrives: checks of the peer are answered and learned from, answers prove a pair.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::check::{Heard, Open};
use super::pairs::{Ends, Pair};
use super::{Agent, CandidateKind, Handled, Via};
use crate::pairing::Role;
use crate::wire::TransactionId;

/// A check in return is not sent when one is this young: it may just be on its way.
const JUST_SENT: Duration = Duration::from_millis(20);

/// A pair on which the peer was heard gets at least so many more checks.
const AFTER_HEARD: u32 = 10;

impl Agent {
    /// Takes a datagram that arrived on a socket. What is [`Handled::NotMine`] is no check of
    /// this session, but may be anything else, also a STUN message for another client on the
    /// same socket.
    pub fn handle(&mut self, now: Instant, via: Via, from: SocketAddr, bytes: &[u8]) -> Handled {
        let ends = (via, from);
        let checks = self.checks.as_mut().filter(|_| via != Via::Relay);
        let heard = checks.map_or(Heard::NotMine, |checks| checks.read(now, ends, bytes));
        match heard {
            Heard::NotMine => return Handled::NotMine,
            Heard::Replay => self.stats.replays += 1,
            Heard::Reflection => self.stats.reflections += 1,
            Heard::Check {
                id,
                priority,
                nominates,
            } => self.heard_check(now, ends, id, priority, nominates),
            Heard::Answer {
                open,
                mapped,
                confirms,
            } => self.heard_answer(now, open, mapped, confirms),
        }
        Handled::Consumed
    }

    /// The pair of these ends, a new one (RFC 8445 section 7.3.1.3) where there is none.
    fn learn(&mut self, ends: Ends, remote_priority: u32) -> Option<&mut Pair> {
        if self.pairs.get(ends).is_none() {
            let pair = Pair::new(
                ends,
                CandidateKind::PeerReflexive,
                self.pair_priority(remote_priority, ends.1),
                false,
                self.config.tries,
            );
            self.pairs.insert(pair, self.selected_ends());
        }
        self.pairs.get_mut(ends)
    }

    fn heard_check(
        &mut self,
        now: Instant,
        ends: Ends,
        id: TransactionId,
        priority: u32,
        nominates: bool,
    ) {
        self.stats.heard += 1;
        self.alive(now, ends);
        let nominates = nominates && self.config.role == Role::Receiver;
        let Some(pair) = self.learn(ends, priority) else {
            return;
        };
        pair.heard = true;
        let confirms = nominates && pair.valid;
        pair.nominated = nominates && !pair.valid;
        let just_sent = pair
            .sent_at
            .is_some_and(|at| now.saturating_duration_since(at) < JUST_SENT);
        let check_too = !pair.valid && !just_sent;
        if !pair.valid {
            pair.left = pair.left.max(AFTER_HEARD);
            let soon = now + JUST_SENT;
            pair.due = Some(pair.due.map_or(soon, |due| due.min(soon)));
        }
        let checks = self.checks.as_ref();
        if let Some(answer) = checks.map(|checks| checks.answer(id, ends.1, confirms)) {
            self.transmit(ends, None, answer);
        }
        if confirms {
            self.select(now, ends);
        }
        if check_too {
            self.check(now, ends, false);
        }
    }

    fn heard_answer(
        &mut self,
        now: Instant,
        open: Open,
        mapped: Option<SocketAddr>,
        confirms: bool,
    ) {
        self.stats.answers += 1;
        let ends = (open.via, open.to);
        self.alive(now, ends);
        self.answered(now, ends);
        let priority = super::Candidate::new(CandidateKind::PeerReflexive, open.to).priority();
        let Some(pair) = self.learn(ends, priority) else {
            return;
        };
        pair.measured(now.saturating_duration_since(open.at));
        pair.unanswered = 0;
        pair.worked = true;
        pair.mapped = mapped.or(pair.mapped);
        let first = !pair.valid;
        pair.valid = true;
        let nominated = std::mem::take(&mut pair.nominated);
        if first {
            self.rest(now, ends);
        }
        match self.config.role {
            Role::Receiver if nominated => self.select(now, ends),
            Role::Receiver => {}
            Role::Initiator if confirms && self.is_nominating(ends) => self.select(now, ends),
            Role::Initiator => self.evaluate(now),
        }
    }
}
