//! Which addresses this machine has, which ones servers see, and what follows when they change.

use std::net::SocketAddr;
use std::time::Duration;

use super::discovery::Seen;
use super::driver::{Driver, progress};
use super::{Progress, interfaces};
use crate::client::punch::{Candidate, CandidateKind, Description, Via, classify};
use crate::client::relay::{Relay, now};

/// Without a direct path the servers are asked this often, which also keeps the own NAT's
/// mapping alive.
const ASK_AGAIN: Duration = Duration::from_secs(20);

impl Driver {
    /// Looks at the machine's addresses. When they have changed, everything begins anew but the
    /// session itself.
    pub(super) fn look(&mut self) {
        let machine = interfaces::addresses(self.bind, self.loopback);
        if machine == self.machine {
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
        }
        self.told.clear();
        self.nat = None;
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
            && self.nat != Some(nat)
        {
            self.nat = Some(nat);
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
        self.add_local(candidate, seen.via);
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
