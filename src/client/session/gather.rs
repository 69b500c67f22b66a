//! Which addresses this machine has, which ones servers see, and what follows when they change.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::discovery::Seen;
use super::driver::{Driver, progress};
use super::{Progress, interfaces};
use crate::client::punch::{
    Candidate, CandidateKind, Description, Mapping, NatHint, Via, classify, refine,
};
use crate::client::relay::{Relay, now};

/// Without a direct path the servers are asked this often, which also keeps the own NAT's
/// mapping alive.
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// Sockets that look closer at a NAT that counts, and how long they wait for answers.
const CLOSER: u16 = 2;
/// More of them for a later attempt: each takes ports, so that those that come next lie beyond all
/// that were tried before, and every packet of the new attempt is the first to its destination.
pub(super) const CLOSER_AGAIN: u16 = 8;
const CLOSER_FOR: Duration = Duration::from_millis(500);

/// A closer look at a NAT that counts its ports, from sockets that nothing else uses.
pub(super) struct Closer {
    hint: NatHint,
    sockets: Range<u16>,
    pub(super) until: Instant,
}

impl Driver {
    /// Looks at the machine's addresses. When they have changed, everything begins anew but the
    /// session itself.
    pub(super) fn look(&mut self) {
        let machine = interfaces::addresses(self.bind, self.loopback);
        // Without any address nothing can be done; what comes after is compared with what was before.
        if machine.is_empty() || machine == self.machine {
            return;
        }
        let changed = !self.machine.is_empty();
        self.machine = machine;
        match changed {
            true => self.restart(),
            false => self.gather(),
        }
    }

    /// The network has changed, or somebody says so.
    pub(super) fn restart(&mut self) {
        let gone = self.relay_local.is_some_and(|ip| {
            !ip.is_loopback() && !self.machine.is_empty() && !self.machine.contains(&ip)
        });
        if gone {
            // Its connection leaves from an address that is no more.
            self.relay = Relay::start(&self.ice_servers, self.bind, self.patience);
            self.relay_local = None;
            self.paths.own_relayed(None);
            if let Some(peer) = self.paths.info_of_peer() {
                self.relay.reach(peer);
            }
        } else {
            // Another NAT may be in between.
            self.relay.check();
        }
        self.told.clear();
        self.seen_of_nat = None;
        self.gather();
        if let Some(agent) = &mut self.agent {
            agent.restart(now());
        }
    }

    /// Tells the agent and the peer of the machine's addresses, and asks the servers.
    fn gather(&mut self) {
        if self.agent.is_none() {
            return;
        }
        for (via, local) in self.sockets.mains() {
            for address in interfaces::of_socket(local, &self.machine) {
                self.found(Candidate::new(CandidateKind::Host, address), via);
            }
        }
        self.tell_found();
        self.ask_servers();
    }

    /// Asks the STUN servers for the addresses of the main sockets.
    pub(super) fn ask_servers(&mut self) {
        let now = now();
        self.ask_at = None;
        if self.agent.is_none() || self.stun.is_empty() {
            return;
        }
        for (via, local) in self.sockets.mains() {
            self.discovery.ask(via, local.is_ipv4(), &self.stun, now);
        }
        if !self.paths.is_direct() {
            self.ask_at = Some(now + ASK_AGAIN);
        }
    }

    /// A server has answered.
    pub(super) fn seen(&mut self, seen: Seen) {
        let all = self.discovery.seen(seen.via);
        let candidate = Candidate::new(CandidateKind::ServerReflexive, seen.mapped);
        // The hint comes before the address where both are new: with ports in order every packet
        // of the agent counts.
        if let Some(nat) = classify(&all).filter(|_| seen.mapped.is_ipv4())
            && self.seen_of_nat != Some(nat)
        {
            self.seen_of_nat = Some(nat);
            match nat.mapping {
                Mapping::Sequential { .. } => self.look_closer(CLOSER),
                Mapping::Independent | Mapping::Random => self.know_nat(nat),
            }
        }
        self.add_local(candidate, seen.via);
    }

    /// What the own NAT does: the agent and the peer are told.
    fn know_nat(&mut self, nat: NatHint) {
        self.paths.nat(nat.in_words());
        progress(&self.progress, Progress::Nat(nat));
        if let Some(agent) = &mut self.agent {
            agent.set_local_nat(nat, now());
        }
        let description = Description {
            nat: Some(nat),
            ..Description::default()
        };
        self.tell(description.into());
    }

    /// Asks the servers from fresh sockets, which get the latest ports: two ports tell the step
    /// only if nobody else took one in between.
    pub(super) fn look_closer(&mut self, sockets: u16) {
        let Some(hint) = self.seen_of_nat.filter(|_| self.closer.is_none()) else {
            return;
        };
        let now = now();
        let sockets = self.sockets.open_more(sockets);
        for number in sockets.clone() {
            self.discovery
                .ask(Via::Socket(number), true, &self.stun, now);
        }
        self.closer = Some(Closer {
            hint,
            sockets,
            until: now + CLOSER_FOR,
        });
    }

    /// Whether that was an answer to a closer look, which needs no more.
    pub(super) fn seen_closer(&mut self, via: Via) -> bool {
        let of_it = |closer: &Closer| {
            let mut all = closer.sockets.clone().map(Via::Socket);
            all.any(|own| own == via)
        };
        if !self.closer.as_ref().is_some_and(of_it) {
            return false;
        }
        self.looked_closer(now());
        true
    }

    /// Concludes a closer look when all have answered, or when it has lasted long enough.
    pub(super) fn looked_closer(&mut self, now: Instant) {
        let Some(closer) = &self.closer else {
            return;
        };
        let all = closer.sockets.clone().map(Via::Socket);
        if now < closer.until && all.clone().any(|via| self.discovery.is_waiting(via)) {
            return;
        }
        let seen: Vec<_> = all.flat_map(|via| self.discovery.seen(via)).collect();
        let (nat, sockets) = (refine(closer.hint, &seen), closer.sockets.clone());
        self.closer = None;
        for number in sockets {
            self.discovery.forget(Via::Socket(number));
            self.sockets.close(number);
        }
        self.know_nat(nat);
    }

    /// An own address was found: the agent and the peer are told, once.
    pub(super) fn add_local(&mut self, candidate: Candidate, via: Via) {
        self.found(candidate, via);
        self.tell_found();
    }

    fn found(&mut self, candidate: Candidate, via: Via) {
        let Some(agent) = &mut self.agent else {
            return;
        };
        if self.told.contains(&candidate) || self.fresh.contains(&candidate) {
            return;
        }
        agent.add_local(candidate, via, now());
        self.fresh.push(candidate);
    }

    fn tell_found(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh.is_empty() {
            return;
        }
        self.told.extend_from_slice(&fresh);
        let description = Description {
            candidates: fresh,
            ..Description::default()
        };
        self.tell(description.into());
    }
}

/// Two forms of one address are one: sockets of both families may tell an IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
