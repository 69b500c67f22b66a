//! Two agents, their NATs and the network between them, in virtual time.

#[path = "network.rs"]
mod network;
#[path = "side.rs"]
mod side;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use turnserver::client::punch::{
    Agent, Candidate, CandidateKind, Config, Description, Event, Handled, NatHint, Path, Reason,
    Transmit, Via, classify, refine,
};
use turnserver::pairing::Role;

use crate::dice::Dice;
use crate::nat::{Lets, Nat, Ports};
pub(crate) use side::Side;

/// The kinds of the matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A public address.
    N0,
    /// Full cone.
    N1,
    /// Address restricted.
    N2,
    /// Port restricted, keeps ports.
    N3,
    /// The same on a router that remembers stray packets.
    N3b,
    /// Counts its ports up.
    N4(u16, f64),
    /// Random ports.
    N5,
    /// No UDP.
    N6,
    /// Two port restricted ones, one behind the other.
    N7,
    /// IPv6 only, behind a firewall.
    N8,
    /// Port restricted, with a port mapping.
    N9,
}

impl Kind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::N4(delta, cross) => format!("N4/{delta}{}", if cross > 0.0 { "x" } else { "" }),
            kind => format!("{kind:?}"),
        }
    }
}

/// How the network treats packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    /// One way, the same in both directions.
    pub(crate) latency: Duration,
    pub(crate) loss: f64,
    /// Losses come in runs of this mean length.
    pub(crate) burst: f64,
    /// Whether what agents want to tell each other is forwarded.
    pub(crate) signals: bool,
    /// Whether a side whose ports differ asks the servers from another socket too.
    pub(crate) refines: bool,
}

/// Whether both are behind one NAT.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Together {
    No,
    Near,
    Hairpin,
}

enum Item {
    Arrive {
        from: SocketAddr,
        to: SocketAddr,
        ttl: u8,
        bytes: Vec<u8>,
    },
    Near {
        side: usize,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Ask {
        side: usize,
    },
    Seen {
        side: usize,
    },
    Told {
        side: usize,
        json: String,
    },
    Sockets {
        side: usize,
        count: u16,
    },
    Relayed {
        side: usize,
    },
}

struct Queued(Instant, u64, Item);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub(crate) struct World {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) net: Net,
    pub(crate) sides: [Side; 2],
    pub(crate) nats: Vec<Nat>,
    /// Both sides have the other's addresses since.
    pub(crate) known_at: Instant,
    /// Nothing goes between the two any more, except over the relay.
    pub(crate) cut: bool,
    together: Together,
    queue: BinaryHeap<Reverse<Queued>>,
    count: u64,
    losing: bool,
    pub(crate) dice: Dice,
    /// Every datagram that left a side, for those who listen.
    pub(crate) tap: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
}

pub(crate) const SECRET: [u8; 32] = [0x5C; 32];
const SERVERS: [&str; 2] = ["198.51.100.1:3478", "198.51.100.1:8080"];
const SIGNAL: Duration = Duration::from_millis(2);

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn any_instant() -> Instant {
    Instant::now()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl World {
    /// Two sides that have just been paired. They tell each other their addresses at moments that
    /// differ by up to 100 ms.
    pub(crate) fn new(kinds: [Kind; 2], net: Net, seed: u64) -> Self {
        Self::build(kinds, net, seed, Together::No)
    }

    /// Two devices behind one NAT that does not send packets back in.
    pub(crate) fn same_lan(kind: Kind, net: Net, seed: u64) -> Self {
        Self::build([kind, kind], net, seed, Together::Near)
    }

    /// Two devices in networks of their own behind one NAT that does send packets back in.
    pub(crate) fn hairpin(kind: Kind, net: Net, seed: u64) -> Self {
        Self::build([kind, kind], net, seed, Together::Hairpin)
    }

    fn build(kinds: [Kind; 2], net: Net, seed: u64, together: Together) -> Self {
        let mut dice = Dice::new(seed);
        let start = any_instant();
        let mut nats = Vec::new();
        let ipv6 = kinds.contains(&Kind::N8);
        let sides = [0, 1].map(|at| {
            let shared = together != Together::No && at == 1;
            Side::new(at, kinds[at], ipv6, shared, &mut nats, &mut dice)
        });
        let mut world = Self {
            start,
            now: start,
            net,
            sides,
            nats,
            known_at: start,
            cut: false,
            together,
            queue: BinaryHeap::new(),
            count: 0,
            losing: false,
            dice,
            tap: None,
        };
        world.introduce();
        world
    }

    /// Each side tells its own addresses at once, and those that servers saw a round trip later.
    fn introduce(&mut self) {
        for at in [0, 1] {
            let side = &mut self.sides[at];
            for candidate in side.candidates.clone() {
                let via = Via::Socket(u16::from(candidate.address.is_ipv6()));
                side.agent.add_local(candidate, via, self.start);
            }
            let skew = Duration::from_millis(self.dice.below(100));
            let told = self.tell(at, skew);
            self.known_at = self.known_at.max(told);
            let asked = self.start + skew + self.net.latency;
            self.push(asked, Item::Ask { side: at });
        }
    }

    /// The requests of a side come to its NAT, and the answers half a round trip later. (The
    /// candidates of a side that asks nobody are complete.)
    fn ask(&mut self, at: usize) {
        let side = &mut self.sides[at];
        side.candidates.clear();
        side.gather(self.now, &mut self.nats, &mut self.dice, self.net.refines);
        self.push(self.now + self.net.latency, Item::Seen { side: at });
    }

    fn seen(&mut self, at: usize) {
        let now = self.now;
        let side = &mut self.sides[at];
        if let Some(hint) = side.hint {
            side.agent.set_local_nat(hint, now);
        }
        for candidate in side.candidates.clone() {
            side.agent.add_local(candidate, Via::Socket(0), now);
        }
        let own = |c: &Candidate| side.sockets.iter().any(|(_, own)| *own == c.address);
        let news = !side.candidates.iter().all(own);
        let told = self.tell(at, Duration::ZERO);
        if news {
            self.known_at = self.known_at.max(told);
        }
    }

    fn signal_delay(&mut self) -> Duration {
        self.net.latency + SIGNAL + Duration::from_millis(self.dice.below(10))
    }

    fn push(&mut self, at: Instant, item: Item) {
        self.count += 1;
        self.queue.push(Reverse(Queued(at, self.count, item)));
    }

    /// Runs until `done`, or so long. True when it is done.
    pub(crate) fn run(&mut self, most: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + most;
        let mut stuck = 0;
        loop {
            for at in [0, 1] {
                self.drain(at);
            }
            if done(self) {
                return true;
            }
            let queued = self.queue.peek().map(|Reverse(queued)| queued.0);
            let timers = self.sides.iter().filter_map(Side::due);
            let next = timers.chain(queued).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return false;
            };
            stuck = if next > self.now { 0 } else { stuck + 1 };
            assert!(
                stuck < 10_000,
                "time stands still: {:?}",
                self.sides.each_ref().map(|s| &s.agent)
            );
            self.now = self.now.max(next);
            if queued.is_some_and(|at| at <= self.now) {
                let Some(Reverse(Queued(_, _, item))) = self.queue.pop() else {
                    continue;
                };
                self.handle(item);
            } else {
                let now = self.now;
                for side in &mut self.sides {
                    if side.due().is_some_and(|at| at <= now) {
                        side.agent.handle_timeout(now);
                    }
                }
            }
        }
    }

    fn handle(&mut self, item: Item) {
        match item {
            Item::Near {
                side,
                from,
                to,
                bytes,
            } => self.deliver(side, to, from, &bytes),
            Item::Ask { side } => self.ask(side),
            Item::Seen { side } => self.seen(side),
            Item::Told { side, json } => {
                let description = serde_json::from_str(&json).expect("readable");
                self.sides[side].agent.add_remote(&description, self.now);
            }
            Item::Sockets { side, count } => {
                let here = self.sides[side].sockets[0].1.ip();
                for number in 0..count {
                    let port = 10_000 + 40 * number + self.dice.below(40) as u16;
                    self.sides[side]
                        .sockets
                        .push((10 + number, SocketAddr::new(here, port)));
                }
                self.sides[side].agent.add_sockets(10..10 + count, self.now);
            }
            Item::Relayed { side } => {
                let now = self.now;
                let side = &mut self.sides[side];
                side.received.push((now, Via::Relay, None));
                side.agent.note_received(
                    now,
                    Via::Relay,
                    SocketAddr::from(([198, 51, 100, 1], 50_000)),
                );
            }
            Item::Arrive {
                from,
                to,
                ttl,
                bytes,
            } => {
                if let Some((side, inside)) = self.route_in(from, to, ttl) {
                    self.deliver(side, inside, from, &bytes);
                }
            }
        }
    }

    /// Sends what an agent wants sent, and does what it asks for.
    pub(crate) fn drain(&mut self, at: usize) {
        while let Some(transmit) = self.sides[at].agent.poll_transmit() {
            self.send(at, transmit);
        }
        while let Some(event) = self.sides[at].agent.poll_event() {
            let now = self.now;
            match event {
                Event::Signal(description) => {
                    if self.net.signals {
                        let json = serde_json::to_string(&description).expect("writable");
                        assert!(json.len() < 2900, "fits into a blob");
                        let delay = self.signal_delay();
                        self.push(now + delay, Item::Told { side: 1 - at, json });
                    }
                }
                Event::OpenSockets(count) => {
                    self.sides[at].asked_sockets += count;
                    let soon = now + Duration::from_millis(5);
                    self.push(soon, Item::Sockets { side: at, count });
                }
                Event::CloseSocketsExcept(kept) => {
                    self.sides[at]
                        .sockets
                        .retain(|(number, _)| *number < 10 || *number == kept);
                }
                Event::Selected(path) => {
                    let side = &mut self.sides[at];
                    side.path = Some(path);
                    side.selected_at = Some(now);
                    side.moves += 1;
                }
                Event::Measure => {
                    let asked = now + self.net.latency;
                    self.push(asked, Item::Ask { side: at });
                }
                Event::Lost(_) => {
                    let side = &mut self.sides[at];
                    side.path = None;
                    side.lost_at = Some(now);
                }
                Event::GaveUp(reason) => self.sides[at].gave_up = Some((now, reason)),
            }
        }
    }

    /// An application sends: directly when there is a path, else over the relay.
    pub(crate) fn send_data(&mut self, at: usize) {
        match self.sides[at].path {
            Some(path) => {
                self.sides[at].agent.note_sent(self.now);
                let transmit = Transmit {
                    via: path.via,
                    to: path.remote,
                    ttl: None,
                    bytes: DATA.to_vec(),
                };
                self.send(at, transmit);
            }
            None => {
                let arrives = self.now + self.net.latency;
                self.push(arrives, Item::Relayed { side: 1 - at });
            }
        }
    }

    /// A side comes out of another network: its old socket is gone, it has asked the servers from a
    /// new one, and told the other side.
    pub(crate) fn roam(&mut self, at: usize) {
        let now = self.now;
        let external = ip("203.0.113.77");
        let lets = Lets::KnownEnds;
        self.nats
            .push(Nat::new(external, Ports::Keep, lets, false, &mut self.dice));
        let own = SocketAddr::new(ip("10.7.0.2"), 40_000 + self.dice.below(20_000) as u16);
        let side = &mut self.sides[at];
        let old = std::mem::replace(&mut side.sockets, vec![(2, own)]);
        side.nats = vec![self.nats.len() - 1];
        side.candidates = vec![Candidate::new(CandidateKind::Host, own)];
        side.gather(now, &mut self.nats, &mut self.dice, self.net.refines);
        for (number, _) in old {
            side.agent.remove_socket(Via::Socket(number), now);
        }
        for candidate in side.candidates.clone() {
            side.agent.add_local(candidate, Via::Socket(2), now);
        }
        side.agent.restart(now);
        self.drain(at);
        self.tell(at, Duration::ZERO);
    }

    /// Both sides find out that they have IPv6, without a firewall.
    pub(crate) fn find_ipv6(&mut self) {
        for at in [0, 1] {
            let own = Ipv6Addr::new(0x2001, 0xdb8, at as u16, 0, 0, 0, 0, 2);
            let own = SocketAddr::new(own.into(), 5000);
            let side = &mut self.sides[at];
            side.sockets.push((1, own));
            side.candidates = vec![Candidate::new(CandidateKind::Host, own)];
            let candidate = side.candidates[0];
            side.agent.add_local(candidate, Via::Socket(1), self.now);
            self.tell(at, Duration::ZERO);
        }
    }

    /// Tells the other side the candidates; gives when it knows them.
    fn tell(&mut self, at: usize, skew: Duration) -> Instant {
        let side = &self.sides[at];
        let description = Description {
            candidates: side.candidates.clone(),
            nat: side.hint,
            ..Description::default()
        };
        let json = serde_json::to_string(&description).expect("writable");
        let told = self.now + skew + self.signal_delay();
        self.push(told, Item::Told { side: 1 - at, json });
        told
    }

    pub(crate) fn both_selected(&self) -> bool {
        self.sides.iter().all(|side| side.path.is_some())
    }

    /// Whether what each sends on its path arrives on the path of the other.
    pub(crate) fn agree(&mut self) -> bool {
        let kept = self.net;
        self.net.loss = 0.0;
        self.losing = false;
        for side in &mut self.sides {
            side.received.clear();
        }
        self.send_data(0);
        self.send_data(1);
        self.run(kept.latency * 2 + Duration::from_millis(50), |_| false);
        self.net = kept;
        self.sides.iter().all(|side| {
            side.path.is_some_and(|path| {
                let mut ways = side.received.iter().map(|(_, via, from)| (*via, *from));
                ways.any(|way| way == (path.via, Some(path.remote)))
            })
        })
    }
}

/// What an application sends.
const DATA: &[u8] = &[0xC0, 0xFF, 0xEE];
