//! Hole punching without sockets or clocks: an [`Agent`] is told addresses, what arrived and what
//! time it is, and says what to send, when to wake it, and which path to use.
//!
//! # What it does
//!
//! Both sides send STUN Binding requests ("checks") to every address of the other. A path is
//! selected when checks were answered in **both** directions: the initiator nominates, the
//! receiver confirms. While there is none, and when one dies, the driver uses the relay; the agent
//! keeps punching, and moves to a better path when one turns up.
//!
//! The driver, after every call that takes the time: send what [`Agent::poll_transmit`] gives
//! until it gives nothing, act on what [`Agent::poll_event`] gives, and call
//! [`Agent::handle_timeout`] at [`Agent::poll_timeout`]. Everything that arrives on a socket and
//! looks like STUN goes to [`Agent::handle`] first; what is [`Handled::NotMine`] is for others.
//!
//! # Checks
//!
//! A request carries PRIORITY, ICE-CONTROLLING (from the initiator) or ICE-CONTROLLED (from the
//! receiver) with the number of the request from 1 as a 64-bit value, USE-CANDIDATE when it
//! nominates, MESSAGE-INTEGRITY-SHA256 keyed by [`check`](crate::pairing::SessionSecrets::check),
//! and FINGERPRINT. There is no USERNAME: the key belongs to one session, and to the salts that its
//! two sides drew for it. A number is taken once,
//! so a replay is refused; a request with the own role is a reflection and refused. Hence **one
//! agent for each side of a session**: punch again by [`Agent::restart`], never by a second agent.
//!
//! An answer carries XOR-MAPPED-ADDRESS, USE-CANDIDATE when it confirms a nomination, the
//! integrity and FINGERPRINT. It counts only for an open request, on the socket and from the
//! address that the request went to. A path to an address that nobody told of (peer-reflexive) is
//! learned from a valid request, whichever address it comes from.
//!
//! # What the two tell each other
//!
//! [`Description`]s, each a JSON object in a sealed blob that the signalling server forwards. Any
//! number may be sent, in any order, each with what is new; unknown fields are skipped, every
//! field may be missing:
//!
//! | field | value |
//! |---|---|
//! | `candidates` | up to 32 objects of `kind` (`"host"`, `"server_reflexive"`, `"peer_reflexive"`, `"mapped"`, `"predicted"`, `"relayed"`) and `address` (`"192.0.2.1:4000"`, `"[2001:db8::1]:4000"`) |
//! | `nat` | an object: `mapping` is `"independent"`, `"random"` or `{"sequential": {"delta": 1, "next": 4002}}` with the step (-64 to 64, not 0) and the port that the next destination will see; `filtering`, where known, is `"independent"`, `"address"` or `"address_and_port"` |
//! | `end` | `true`: no more candidates will come, but a `relayed` one may |
//! | `round` | the number of the sender's attempt, from 1; one higher than the receiver's own asks it to begin an attempt with that number |
//! | `opened` | up to 32 addresses of the receiver to which the sender has sent in this attempt |
//! | `sockets` | from how many sockets it has sent to them, when from more than one: the time to probe random ports |
//!
//! The driver sends the first three; the agent asks for the others to be sent by
//! [`Event::Signal`]. They make it faster and surer; it works without them.
//!
//! # The order of things
//!
//! An attempt lasts 10 s. Each pair is checked every 50 ms at first, later every 200 ms; all of
//! them together at most every 5 ms. A failed attempt is told, and followed by others after 5, 10,
//! 20 and then every 40 s; paths that worked once are checked every 4 s meanwhile. A selected path
//! is refreshed every 15 s. After 400 ms of silence while data is expected (2 s after
//! [`Agent::note_sent`] or [`Agent::note_received`]) it is asked every 100 ms, and dead after
//! 850 ms, or 400 ms and two round trips. Better pairs are looked for once a minute.
//!
//! # Openers
//!
//! A router whose NAT sees a packet that nobody behind it expects may remember it as addressed to
//! itself, and then has to give the real connection another port. So the first packets to an
//! address behind a NAT have a TTL too low to get there: they only open the own NAT. When the
//! peer says that it has `opened`, or after 400 ms, packets go all the way.
//!
//! # Hard NATs
//!
//! * one port after the other for every destination: the ports that come next are predicted, and
//!   tried in an order in which two such NATs meet although others take ports in between. In each
//!   later attempt both sides measure again where they are, and tell `nat` anew before they send;
//! * random ports on one side: that side opens 255 more sockets and an opener from each, the
//!   other one probes random ports: 1,024 within a second, at most twice;
//! * random ports on one side and no fixed port on the other: given up soon, with the reason.
//!
//! # Why not the crate `is`
//!
//! str0m's ICE agent is sans-IO too, but takes for granted that a check belongs to a pair of two
//! known addresses with one schedule of retransmissions for all (no low TTL, no probes to a
//! thousand ports that are never pairs, packets to unregistered sockets are dropped), that
//! integrity is HMAC-SHA1 under a user name, that an answer counts from wherever it comes, that
//! one answered check of the own side is enough, that a dead path may take seconds to be noticed,
//! and that randomness is the process's own, which leaves no seed for a test.

mod candidate;
mod check;
mod hard;
mod incoming;
mod nat;
mod pairs;
mod rounds;
mod select;
mod types;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

pub use candidate::{Candidate, CandidateKind, Description};
pub use nat::{Filtering, Mapping, NatHint, classify, refine};
pub use types::{Config, Event, Handled, Path, Reason, Stats, Transmit, Via};

use candidate::{MOST_IN_DESCRIPTION, pair_priority};
use check::Checks;
use hard::Hard;
use pairs::{Ends, Pair, Pairs};
use rounds::Phase;
use select::{Nomination, Selected};

use crate::pairing::Role;

/// The most addresses of either side that are kept.
const MOST_CANDIDATES: usize = 32;

/// The most sockets that are paired with the peer's addresses: interfaces and families. The
/// sockets of the birthday probing are not among them.
const MOST_BASES: usize = 8;

/// Times longer than this count as this: they could not be added to a time.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What waits to be sent at most; the rest is dropped, as on a full socket.
const MOST_QUEUED: usize = 1024;

/// A socket, and the family that it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Base {
    via: Via,
    ipv4: bool,
}

/// One side's punching for one session.
pub struct Agent {
    config: Config,
    /// `None` before the key is known.
    checks: Option<Checks>,
    rng: ChaCha12Rng,
    locals: Vec<Candidate>,
    bases: Vec<Base>,
    remotes: VecDeque<Candidate>,
    /// Whether a server or a router has told the peer an address, also one that is its own.
    seen_there: bool,
    /// When the peer first told something.
    told_at: Option<Instant>,
    local_nat: Option<NatHint>,
    remote_nat: Option<NatHint>,
    pairs: Pairs,
    phase: Phase,
    /// The number of the latest attempt, 0 before the first.
    round: u32,
    /// Failed attempts in a row.
    failed: u32,
    /// The peer has opened its NAT for us in this attempt.
    peer_opened: bool,
    /// Addresses behind NATs to which we have sent in this attempt; the latest of them may be
    /// untold to the peer.
    opened: Vec<SocketAddr>,
    untold: bool,
    /// No check before this.
    pace: Option<Instant>,
    hard: Hard,
    nomination: Option<Nomination>,
    /// When the best valid pair is nominated at the latest.
    grace: Option<Instant>,
    selected: Option<Selected>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    stats: Stats,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("role", &self.config.role)
            .field("phase", &self.phase)
            .field("round", &self.round)
            .field("pairs", &self.pairs)
            .field("hard", &self.hard)
            .field("nomination", &self.nomination)
            .field("selected", &self.selected)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent that knows no address yet. The seed must be known to nobody else: transaction ids
    /// come from it.
    pub fn new(mut config: Config, seed: [u8; 32]) -> Self {
        for time in [&mut config.timeout, &mut config.pace, &mut config.keepalive] {
            *time = (*time).min(LONGEST);
        }
        let check = config.check.as_ref();
        Self {
            checks: check.map(|check| Checks::new(check, config.role)),
            config,
            rng: ChaCha12Rng::from_seed(seed),
            locals: Vec::new(),
            bases: Vec::new(),
            remotes: VecDeque::new(),
            seen_there: false,
            told_at: None,
            local_nat: None,
            remote_nat: None,
            pairs: Pairs::default(),
            phase: Phase::Idle,
            round: 0,
            failed: 0,
            peer_opened: false,
            opened: Vec::new(),
            untold: false,
            pace: None,
            hard: Hard::default(),
            nomination: None,
            grace: None,
            selected: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// The peer's salt came, and the key of the checks is known. Later calls change nothing.
    pub fn begin(&mut self, check: &[u8; 32]) {
        let role = self.config.role;
        self.checks.get_or_insert_with(|| Checks::new(check, role));
    }

    /// An own address, and the socket that it belongs to: also those that servers saw, for the
    /// peer names them when it has opened the way. Relayed ones are taken no notice of. At most 32
    /// addresses and 8 sockets; more are left out.
    pub fn add_local(&mut self, candidate: Candidate, via: Via, now: Instant) {
        if via == Via::Relay || candidate.kind == CandidateKind::Relayed {
            return;
        }
        if self.locals.len() < MOST_CANDIDATES && !self.locals.contains(&candidate) {
            self.locals.push(candidate);
        }
        let base = Base {
            via,
            ipv4: candidate.address.is_ipv4(),
        };
        if self.bases.contains(&base) || self.bases.len() == MOST_BASES {
            return;
        }
        self.bases.push(base);
        for at in 0..self.remotes.len() {
            self.pair_up(base, self.remotes[at], now);
        }
        self.activate(now);
    }

    /// A socket is gone: none of its paths works any more.
    pub fn remove_socket(&mut self, via: Via, now: Instant) {
        self.bases.retain(|base| base.via != via);
        self.pairs.retain(|pair| pair.ends.0 != via);
        self.transmits.retain(|transmit| transmit.via != via);
        if self.nomination.as_ref().is_some_and(|n| n.ends.0 == via) {
            self.nomination = None;
        }
        if self.selected.as_ref().is_some_and(|s| s.ends.0 == via) {
            self.lose(Reason::SocketGone, now);
        }
    }

    /// The sockets that [`Event::OpenSockets`] asked for: `Via::Socket` of each number in the
    /// range. They may be fewer.
    pub fn add_sockets(&mut self, sockets: Range<u16>, now: Instant) {
        self.hard.opened_sockets(sockets, now);
    }

    /// What [`classify`] found out about the own NAT. Tell it before the first candidate of the
    /// peer, where possible: with ports in order, every packet counts.
    pub fn set_local_nat(&mut self, nat: NatHint, now: Instant) {
        self.local_nat = Some(nat);
        self.plan_again(now);
    }

    /// What the peer told. Anything may come, any number of times; at most 32 addresses are kept,
    /// the latest ones.
    pub fn add_remote(&mut self, description: &Description, now: Instant) {
        self.told_at.get_or_insert(now);
        self.peer_is_at(description.round, now);
        if let Some(nat) = description.nat {
            self.remote_nat = Some(nat);
        }
        for &candidate in description.candidates.iter().take(MOST_IN_DESCRIPTION) {
            self.add_remote_candidate(candidate, now);
        }
        self.activate(now);
        self.plan_again(now);
        if description.end {
            self.give_up_idle();
        }
        // For an agent that had nothing to check before.
        self.peer_is_at(description.round, now);
        let opened = description.opened.iter().take(MOST_IN_DESCRIPTION);
        let ours = opened.filter(|a| self.locals.iter().any(|local| local.address == **a));
        if ours.count() > 0 {
            self.peer_has_opened(now);
            if description.sockets > 1 {
                self.hard.peer_opened_sockets();
            }
        }
    }

    fn add_remote_candidate(&mut self, candidate: Candidate, now: Instant) {
        if candidate.kind == CandidateKind::Relayed || !self.is_reachable(candidate.address) {
            return;
        }
        self.seen_there |= candidate.was_seen();
        let known = self
            .remotes
            .iter_mut()
            .find(|c| c.address == candidate.address);
        if let Some(known) = known {
            if candidate.priority() <= known.priority() {
                return;
            }
            // A server saw what is also an own address: no NAT there.
            *known = candidate;
            let priority = self.pair_priority(candidate.priority(), candidate.address);
            let same = |pair: &&mut Pair| pair.ends.1 == candidate.address;
            for pair in self.pairs.iter_mut().filter(same) {
                pair.kind = candidate.kind;
                pair.guarded = candidate.is_behind_nat();
                pair.priority = priority;
            }
            return;
        }
        if self.remotes.len() == MOST_CANDIDATES {
            self.remotes.pop_front();
        }
        self.remotes.push_back(candidate);
        for at in 0..self.bases.len() {
            self.pair_up(self.bases[at], candidate, now);
        }
    }

    /// Whether it makes sense to send there.
    fn is_reachable(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let on_this_host = self.locals.iter().any(|c| c.address.ip().is_loopback());
        address.port() != 0
            && !ip.is_unspecified()
            && !ip.is_multicast()
            && !matches!(ip, std::net::IpAddr::V4(ip) if ip.is_broadcast())
            && (!ip.is_loopback() || on_this_host)
    }

    fn pair_up(&mut self, base: Base, remote: Candidate, now: Instant) {
        let ends = (base.via, remote.address);
        if base.ipv4 != remote.address.is_ipv4() {
            return;
        }
        let priority = self.pair_priority(remote.priority(), remote.address);
        if let Some(learned) = self.pairs.get_mut(ends) {
            // The peer was heard before it told the address.
            learned.kind = remote.kind;
            learned.priority = priority;
            return;
        }
        let mut pair = Pair::new(
            ends,
            remote.kind,
            priority,
            remote.is_behind_nat(),
            self.config.tries,
        );
        pair.due = Some(now);
        self.pairs.insert(pair, self.selected_ends());
    }

    /// What was sent from a socket counts as sent from its host address (RFC 8445
    /// section 6.1.2.4).
    fn pair_priority(&self, remote_priority: u32, remote: SocketAddr) -> u64 {
        let host = Candidate::new(CandidateKind::Host, remote).priority();
        match self.config.role {
            Role::Initiator => pair_priority(host, remote_priority),
            Role::Receiver => pair_priority(remote_priority, host),
        }
    }

    fn selected_ends(&self) -> Option<Ends> {
        self.selected.as_ref().map(|selected| selected.ends)
    }

    /// The path that is in use, with its latest round-trip time.
    pub fn selected(&self) -> Option<Path> {
        let pair = self.pairs.get(self.selected_ends()?)?;
        Some(self.path_of(pair))
    }

    /// What happened so far, in numbers.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    fn transmit(&mut self, (via, to): Ends, ttl: Option<u8>, bytes: Vec<u8>) {
        if self.transmits.len() < MOST_QUEUED {
            let transmit = Transmit {
                via,
                to,
                ttl,
                bytes,
            };
            self.transmits.push_back(transmit);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What happened since.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
