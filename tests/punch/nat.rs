//! NATs and firewalls, as packets see them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::dice::Dice;

/// An unused mapping is forgotten after this (RFC 4787 REQ-5 asks for 120 s or more).
const IDLE: Duration = Duration::from_secs(120);

/// A router remembers a packet that it took for its own for so long (Linux: unreplied UDP).
const STRAY: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ports {
    /// A firewall: addresses stay as they are.
    Untouched,
    /// One port for every destination; the own one where nothing else has it.
    Keep,
    /// The next one for every destination; with this chance somebody else took it before.
    Count { delta: u16, cross: f64 },
    /// Any one for every destination.
    Random,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lets {
    In,
    KnownAddresses,
    KnownEnds,
}

#[derive(Debug)]
struct Flow {
    external: SocketAddr,
    used: Instant,
}

#[derive(Debug)]
pub(crate) struct Nat {
    pub(crate) external: IpAddr,
    ports: Ports,
    lets: Lets,
    /// A packet that nobody expects becomes an entry of the router itself, which takes the port.
    remembers_strays: bool,
    /// What comes to this port goes to this address (PCP).
    pub(crate) forwards: HashMap<u16, SocketAddr>,
    flows: HashMap<(SocketAddr, SocketAddr), Flow>,
    taken: HashMap<(SocketAddr, SocketAddr), SocketAddr>,
    known: HashMap<(SocketAddr, IpAddr), SocketAddr>,
    owner: HashMap<SocketAddr, SocketAddr>,
    strays: HashMap<(SocketAddr, SocketAddr), Instant>,
    next: u16,
}

impl Nat {
    pub(crate) fn new(
        external: IpAddr,
        ports: Ports,
        lets: Lets,
        remembers_strays: bool,
        dice: &mut Dice,
    ) -> Self {
        Self {
            external,
            ports,
            lets,
            remembers_strays,
            forwards: HashMap::new(),
            flows: HashMap::new(),
            taken: HashMap::new(),
            known: HashMap::new(),
            owner: HashMap::new(),
            strays: HashMap::new(),
            next: 20_000 + dice.below(20_000) as u16,
        }
    }

    /// Forgets everything, as after a restart.
    pub(crate) fn forget(&mut self) {
        self.flows.clear();
        self.taken.clear();
        self.known.clear();
        self.owner.clear();
        self.strays.clear();
    }

    /// The source of a packet that goes out.
    pub(crate) fn outbound(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        dice: &mut Dice,
    ) -> SocketAddr {
        let key = (from, to);
        if let Some(flow) = self.flows.get_mut(&key) {
            if now.duration_since(flow.used) < IDLE {
                flow.used = now;
                return flow.external;
            }
            let external = flow.external;
            self.flows.remove(&key);
            self.taken.remove(&(external, to));
        }
        let external = self.map(now, from, to, dice);
        self.flows.insert(
            key,
            Flow {
                external,
                used: now,
            },
        );
        self.taken.insert((external, to), from);
        self.known.insert((external, to.ip()), from);
        self.owner.insert(external, from);
        external
    }

    fn is_free(&self, now: Instant, external: SocketAddr, to: SocketAddr) -> bool {
        let stray = self.strays.get(&(external, to));
        !self.taken.contains_key(&(external, to))
            && stray.is_none_or(|at| now.duration_since(*at) >= STRAY)
    }

    fn map(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        dice: &mut Dice,
    ) -> SocketAddr {
        let at = |port| SocketAddr::new(self.external, port);
        let mapped = self.forwards.iter().find(|(_, inside)| **inside == from);
        if let Some((port, _)) = mapped {
            return at(*port);
        }
        match self.ports {
            Ports::Untouched => from,
            Ports::Keep if self.is_free(now, at(from.port()), to) => at(from.port()),
            Ports::Keep | Ports::Random => loop {
                let external = at(1024 + dice.below(64_512) as u16);
                if self.is_free(now, external, to) {
                    break external;
                }
            },
            Ports::Count { delta, cross } => {
                if dice.chance(cross) {
                    self.next = self.next.wrapping_add(delta);
                }
                let port = self.next;
                self.next = self.next.wrapping_add(delta);
                SocketAddr::new(self.external, port)
            }
        }
    }

    /// Whom a packet from outside is for.
    pub(crate) fn inbound(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        if let Some(inside) = self.forwards.get(&to.port()) {
            return Some(*inside);
        }
        let inside = match self.lets {
            Lets::KnownEnds => self.taken.get(&(to, from)),
            Lets::KnownAddresses => self.known.get(&(to, from.ip())),
            Lets::In => self.owner.get(&to),
        };
        let fresh = inside.filter(|inside| match self.flows.get_mut(&(**inside, from)) {
            Some(flow) if now.duration_since(flow.used) < IDLE => {
                flow.used = now;
                true
            }
            Some(_) => false,
            None => self.lets != Lets::KnownEnds,
        });
        if fresh.is_none() && self.remembers_strays {
            self.strays.insert((to, from), now);
        }
        fresh.copied()
    }
}
