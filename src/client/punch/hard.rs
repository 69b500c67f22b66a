//! NATs whose next port is not the one that a server saw: prediction and birthday probing.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use rand_core::Rng;

use super::pairs::Ends;
use super::rounds::Phase;
use super::{Agent, CandidateKind, Event, Mapping, Via};
use crate::pairing::Role;

/// Plain checks have so much time before sockets are opened for random ports.
const PLAIN_FIRST: Duration = Duration::from_millis(400);

/// The hard side's sockets, besides the main one.
const MORE_SOCKETS: u16 = 255;

/// Between two openers of the hard side, and between two probes of the easy side.
const OPENER_PACE: Duration = Duration::from_micros(500);
const PROBE_PACE: Duration = Duration::from_micros(950);

/// Probes of random ports in one burst, which so lasts less than a second.
const PROBES: u16 = 1024;

/// Bursts in a session, and how long the hard side waits for the first before it asks for the
/// second.
const BURSTS: u8 = 2;
const BURST: Duration = Duration::from_millis(950);

/// The easy side begins by itself when the hard side did not say that it has opened.
const PROBE_ANYWAY: Duration = Duration::from_millis(1200);

/// Ports that a NAT gives.
const FIRST_PORT: u16 = 1024;

/// Predicted ports: for a peer with a fixed port these cost nothing, see [`window`].
const WINDOW: i16 = 48;

/// Predicted ports between two NATs that count, see [`in_order`].
const IN_ORDER: i16 = 48;

/// Between two predicted ports, and between two passes over them.
const SWEEP_PACE: Duration = Duration::from_millis(3);
const PASS: Duration = Duration::from_millis(250);
const PASSES: u8 = 8;

/// What is to be done, from what both NATs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing but checks of pairs.
    Plain,
    /// The peer's ports come one after the other.
    Window { peer: Counting },
    /// The ports of both do.
    InOrder(Counting),
    /// The own ports are random: open many for this address of the peer.
    Open(SocketAddr),
    /// The peer's ports are random: probe them.
    Probe(IpAddr),
    /// No port can be known.
    Hopeless,
}

/// A NAT that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counting {
    ip: IpAddr,
    delta: i16,
    next: u16,
}

impl Counting {
    /// The port after so many others; negative: before.
    fn after(self, others: i16) -> SocketAddr {
        let ahead = self.delta.wrapping_mul(others);
        SocketAddr::new(self.ip, self.next.wrapping_add_signed(ahead))
    }
}

/// Where a peer with ports in order may be, for a side that has one port for all destinations:
/// the next ports by the known step first, then all around them, should the step be wrong.
fn window(peer: Counting) -> Vec<SocketAddr> {
    let around = (0..WINDOW + 8).map(|at| {
        let ahead = (at - 8).wrapping_mul(peer.delta.signum());
        SocketAddr::new(peer.ip, peer.next.wrapping_add_signed(ahead))
    });
    let mut targets = Vec::new();
    for target in (0..16)
        .chain(-8..0)
        .map(|others| peer.after(others))
        .chain(around)
    {
        if target.port() != 0 && !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

/// Where a peer with ports in order may be, for a side whose own port moves on with each of these.
///
/// The n-th packet of one side leaves from its n-th next port, so the n-th packets of both meet
/// when each goes to the other's n-th next port. When others took `s` ports of one NAT and `t` of
/// the other before, then the receiver's packet number m must go `s + t` ports further to meet
/// the initiator's packet number m + t. So the initiator goes straight on, and the receiver leaves
/// out every second port: its lead grows by one with each packet, until it is `s + t`. It must
/// grow faster than others take ports meanwhile; while it does they meet, whatever `s + t` is.
fn in_order(peer: Counting, role: Role) -> Vec<SocketAddr> {
    let (count, place): (_, fn(i16) -> i16) = match role {
        Role::Initiator => (IN_ORDER, |at| at),
        Role::Receiver => (IN_ORDER * 2 / 3, |at| at * 2),
    };
    let targets = (0..count).map(|at| peer.after(place(at)));
    targets.filter(|target| target.port() != 0).collect()
}

/// Predicted ports, tried again and again in one order.
#[derive(Debug)]
struct Sweep {
    targets: Vec<SocketAddr>,
    at: usize,
    pass: u8,
    due: Instant,
}

/// The hard side's openers.
#[derive(Debug)]
struct Openers {
    at: u16,
    due: Instant,
}

/// The easy side's probes.
#[derive(Debug)]
struct Burst {
    left: u16,
    due: Instant,
}

/// What is under way for hard NATs.
#[derive(Debug, Default)]
pub(super) struct Hard {
    /// Since when both sides are what they are, or since when this attempt lasts.
    since: Option<(Plan, Instant)>,
    sweep: Option<Sweep>,
    /// The plan that the sweep belongs to; it is made once in an attempt.
    swept: Option<Plan>,
    /// Sockets were asked for.
    asked: bool,
    sockets: Range<u16>,
    openers: Option<Openers>,
    /// The peer has opened its sockets, and waits for probes.
    invited: bool,
    burst: Option<Burst>,
    /// Bursts begun, or openers sent for.
    bursts: u8,
    /// A bit for each port that was probed.
    probed: Vec<u64>,
}

impl Hard {
    /// The driver opened sockets.
    pub(super) fn opened_sockets(&mut self, sockets: Range<u16>, now: Instant) {
        if self.asked && self.sockets.is_empty() && !sockets.is_empty() {
            self.sockets =
                sockets.start..sockets.end.min(sockets.start.saturating_add(MORE_SOCKETS));
            self.openers = Some(Openers {
                at: self.sockets.start,
                due: now,
            });
        }
    }

    pub(super) fn peer_opened_sockets(&mut self) {
        self.invited = true;
    }

    /// Packets may go all the way: no need to wait with the next pass.
    pub(super) fn peer_opened(&mut self, now: Instant) {
        if let Some(sweep) = &mut self.sweep
            && sweep.pass > 0
            && sweep.at == 0
        {
            sweep.due = now;
        }
    }

    /// Whether some predicted port was not tried yet.
    pub(super) fn in_first_pass(&self) -> bool {
        self.sweep.as_ref().is_some_and(|sweep| sweep.pass == 0)
    }

    pub(super) fn new_round(&mut self, now: Instant) {
        self.stop();
        self.swept = None;
        self.since = self.since.map(|(plan, _)| (plan, now));
    }

    /// A pair is valid, or the attempt is over.
    pub(super) fn stop(&mut self) {
        self.abandon();
        self.invited = false;
    }

    /// What is under way belongs to a plan that no longer holds.
    fn abandon(&mut self) {
        self.sweep = None;
        self.openers = None;
        self.burst = None;
    }

    /// Whether sockets are open that will send nothing any more.
    pub(super) fn is_spent(&self) -> bool {
        self.bursts >= BURSTS && !self.sockets.is_empty()
    }

    /// The network changed: what was probed says nothing any more.
    pub(super) fn forget(&mut self) {
        self.stop();
        self.asked = false;
        self.bursts = 0;
        self.probed.clear();
    }

    /// A port that was not probed before.
    fn pick(&mut self, rng: &mut impl Rng) -> Option<u16> {
        if self.probed.is_empty() {
            self.probed = vec![0; 1024];
        }
        for _ in 0..64 {
            let port = rng.next_u32() as u16;
            let (word, bit) = (usize::from(port / 64), port % 64);
            if port >= FIRST_PORT && self.probed[word] >> bit & 1 == 0 {
                self.probed[word] |= 1 << bit;
                return Some(port);
            }
        }
        None
    }
}

impl Agent {
    /// What both NATs ask for. While nothing is known of one of them, nothing: with ports in
    /// order, what is sent too soon spoils what comes.
    pub(super) fn plan(&self) -> Plan {
        let (Some(ours), Some(theirs)) = (self.local_nat, self.remote_nat) else {
            return Plan::Plain;
        };
        let Some(peer) = self.peer_behind_nat() else {
            return Plan::Plain;
        };
        let (ours, theirs) = (ours.mapping, theirs.mapping);
        let ip = peer.ip();
        let counting = |delta, next| Counting { ip, delta, next };
        match (ours, theirs) {
            (Mapping::Independent, Mapping::Independent)
            | (Mapping::Sequential { .. }, Mapping::Independent) => Plan::Plain,
            (Mapping::Independent, Mapping::Sequential { delta, next }) => Plan::Window {
                peer: counting(delta, next),
            },
            (Mapping::Sequential { .. }, Mapping::Sequential { delta, next }) => {
                Plan::InOrder(counting(delta, next))
            }
            (Mapping::Random, Mapping::Independent) if self.config.birthday => Plan::Open(peer),
            (Mapping::Independent, Mapping::Random) if self.config.birthday => Plan::Probe(ip),
            (Mapping::Random, _) | (_, Mapping::Random) => Plan::Hopeless,
        }
    }

    /// The peer's address as a server saw it, the preferred one.
    fn peer_behind_nat(&self) -> Option<SocketAddr> {
        let seen = self.remotes.iter().filter(|candidate| {
            candidate.address.is_ipv4()
                && matches!(
                    candidate.kind,
                    CandidateKind::ServerReflexive | CandidateKind::Mapped
                )
        });
        let best = seen.max_by_key(|candidate| candidate.priority());
        best.map(|candidate| candidate.address)
    }

    /// What is to be done, and since when that is known.
    pub(super) fn planned(&self) -> (Plan, Option<Instant>) {
        let plan = self.plan();
        let since = self.hard.since.filter(|(known, _)| *known == plan);
        (plan, since.map(|(_, since)| since))
    }

    /// Something was learned about either side.
    pub(super) fn plan_again(&mut self, now: Instant) {
        if let (plan, None) = self.planned() {
            self.hard.since = Some((plan, now));
            self.hard.abandon();
        }
    }

    /// While there is hope and need.
    fn is_trying(&self) -> Option<(Plan, Instant, Via)> {
        let (plan, since) = self.planned();
        let promising = self.pairs.iter().any(|pair| pair.valid);
        let punching = matches!(self.phase, Phase::Punching { .. });
        Some((plan, since?, self.main_via()?)).filter(|_| punching && !promising)
    }

    pub(super) fn hard_due(&self) -> Option<Instant> {
        let (plan, since, _) = self.is_trying()?;
        let hard = &self.hard;
        let (begin, next) = match plan {
            Plan::Window { .. } | Plan::InOrder(_) => (
                (hard.swept != Some(plan)).then_some(since),
                hard.sweep.as_ref().map(|sweep| sweep.due),
            ),
            Plan::Open(_) => (
                (!hard.asked).then_some(since + PLAIN_FIRST),
                hard.openers.as_ref().map(|openers| openers.due),
            ),
            Plan::Probe(_) => (
                self.burst_begins(since),
                hard.burst.as_ref().map(|burst| burst.due),
            ),
            Plan::Plain | Plan::Hopeless => (None, None),
        };
        begin.into_iter().chain(next).min()
    }

    /// When the easy side may begin with a burst.
    fn burst_begins(&self, since: Instant) -> Option<Instant> {
        let hard = &self.hard;
        if hard.burst.is_some() || hard.bursts >= BURSTS {
            None
        } else if hard.invited {
            Some(since)
        } else {
            (hard.bursts == 0).then_some(since + PROBE_ANYWAY)
        }
    }

    pub(super) fn hard_timeout(&mut self, now: Instant) {
        let Some((plan, since, via)) = self.is_trying() else {
            return;
        };
        match plan {
            Plan::Plain | Plan::Hopeless => {}
            Plan::Window { peer } => {
                self.begin_sweep(now, plan, || window(peer));
                self.sweep(now, via);
            }
            Plan::InOrder(peer) => {
                let role = self.config.role;
                self.begin_sweep(now, plan, || in_order(peer, role));
                self.sweep(now, via);
            }
            Plan::Open(_) if !self.hard.asked => {
                if now >= since + PLAIN_FIRST {
                    self.hard.asked = true;
                    self.events.push_back(Event::OpenSockets(MORE_SOCKETS));
                }
            }
            Plan::Open(peer) => self.send_openers(now, peer),
            Plan::Probe(ip) => {
                if self.burst_begins(since).is_some_and(|at| at <= now) {
                    self.hard.invited = false;
                    self.hard.bursts += 1;
                    self.hard.burst = Some(Burst {
                        left: PROBES,
                        due: now,
                    });
                }
                self.probe(now, via, ip);
            }
        }
    }

    /// In another attempt ports in order are further on: both sides look again before they send.
    pub(super) fn measure_again(&mut self) {
        if matches!(self.plan(), Plan::InOrder(_)) {
            self.local_nat = None;
            self.remote_nat = None;
            self.events.push_back(Event::Measure);
        }
    }

    fn begin_sweep(&mut self, now: Instant, plan: Plan, targets: impl FnOnce() -> Vec<SocketAddr>) {
        if self.hard.swept != Some(plan) {
            self.hard.swept = Some(plan);
            self.hard.sweep = Some(Sweep {
                targets: targets(),
                at: 0,
                pass: 0,
                due: now,
            });
        }
    }

    fn sweep(&mut self, now: Instant, via: Via) {
        while let Some(sweep) = &mut self.hard.sweep
            && sweep.due <= now
        {
            let Some(&to) = sweep.targets.get(sweep.at) else {
                sweep.at = 0;
                sweep.pass += 1;
                sweep.due = now + if self.peer_opened { SWEEP_PACE } else { PASS };
                if sweep.pass == PASSES {
                    self.hard.sweep = None;
                }
                return;
            };
            sweep.at += 1;
            sweep.due += SWEEP_PACE;
            // The first pass opens the own NAT, and stays away from the peer's.
            let ttl = (sweep.pass == 0).then_some(2);
            self.send_check(now, (via, to), ttl, false);
        }
    }

    fn send_openers(&mut self, now: Instant, peer: SocketAddr) {
        let sockets = self.hard.sockets.clone();
        while let Some(openers) = &mut self.hard.openers
            && openers.due <= now
        {
            let socket = openers.at;
            if socket == sockets.end {
                self.hard.bursts += 1;
                openers.at = sockets.start;
                openers.due = now + BURST;
                if self.hard.bursts >= BURSTS {
                    self.hard.openers = None;
                }
                if !self.opened.contains(&peer) {
                    self.opened.push(peer);
                }
                return self.signal_opened(u32::from(sockets.end - sockets.start) + 1);
            }
            openers.at += 1;
            openers.due += OPENER_PACE;
            // A packet that gets to the peer's NAT may spoil the port that it comes from. But
            // where there is a second NAT on this side, a low TTL opens nothing.
            let low = self.hard.bursts == 0 || socket % 2 == 0;
            let ends: Ends = (Via::Socket(socket), peer);
            self.send_check(now, ends, low.then_some(2), false);
        }
    }

    fn probe(&mut self, now: Instant, via: Via, ip: IpAddr) {
        while let Some(burst) = &mut self.hard.burst
            && burst.due <= now
        {
            let port = self.hard.pick(&mut self.rng);
            let (Some(port), Some(burst)) = (port, &mut self.hard.burst) else {
                return;
            };
            burst.left -= 1;
            burst.due += PROBE_PACE;
            if burst.left == 0 {
                self.hard.burst = None;
            }
            self.stats.probes += 1;
            self.send_check(now, (via, SocketAddr::new(ip, port)), None, false);
        }
    }

    /// Closes the sockets that were opened for random ports, but for the one of the path.
    pub(super) fn close_sockets(&mut self, via: Via) {
        let sockets = std::mem::take(&mut self.hard.sockets);
        if sockets.is_empty() {
            return;
        }
        let number = |via| match via {
            Via::Socket(number) => number,
            Via::Relay => 0,
        };
        let kept = Some(number(via)).filter(|kept| sockets.contains(kept));
        self.pairs.retain(|pair| {
            let of = number(pair.ends.0);
            !sockets.contains(&of) || Some(of) == kept
        });
        self.events
            .push_back(Event::CloseSocketsExcept(kept.unwrap_or(0)));
    }
}
