//! Two agents, their NATs and the network between them, in virtual time.

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

pub(crate) struct Side {
    pub(crate) agent: Agent,
    /// Inner to outer, as indices into the world's NATs.
    nats: Vec<usize>,
    /// For IPv6, which is not translated.
    firewall: Option<usize>,
    pub(crate) sockets: Vec<(u16, SocketAddr)>,
    blocked: bool,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) hint: Option<NatHint>,
    pub(crate) path: Option<Path>,
    pub(crate) selected_at: Option<Instant>,
    pub(crate) lost_at: Option<Instant>,
    pub(crate) gave_up: Option<(Instant, Reason)>,
    pub(crate) moves: u32,
    pub(crate) asked_sockets: u16,
    /// Data that arrived: when, which way.
    pub(crate) received: Vec<(Instant, Via, Option<SocketAddr>)>,
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
            let timers = self
                .sides
                .iter()
                .filter_map(|side| side.agent.poll_timeout());
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
                    if side.agent.poll_timeout().is_some_and(|at| at <= now) {
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

    /// To whom a packet comes in the end.
    fn route_in(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        mut ttl: u8,
    ) -> Option<(usize, SocketAddr)> {
        for at in [0, 1] {
            let side = &self.sides[at];
            if side.blocked {
                continue;
            }
            let owns = |address| side.sockets.iter().any(|(_, own)| *own == address);
            let chain = side.chain(to);
            let here = match chain.last() {
                Some(&outer) if to.is_ipv4() => self.nats[outer].external == to.ip(),
                _ => owns(to),
            };
            if !here {
                continue;
            }
            let mut to = to;
            for nat in chain.into_iter().rev() {
                to = self.nats[nat].inbound(self.now, from, to)?;
                ttl = ttl.checked_sub(1).filter(|ttl| *ttl > 0)?;
            }
            let owner = |at: &usize| self.sides[*at].sockets.iter().any(|(_, own)| *own == to);
            return (0..2).find(owner).map(|owner| (owner, to));
        }
        None
    }

    fn deliver(&mut self, side: usize, to: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let side = &mut self.sides[side];
        let socket = side.sockets.iter().find(|(_, own)| *own == to);
        let Some(&(number, _)) = socket else { return };
        let via = Via::Socket(number);
        if bytes == DATA {
            side.received.push((now, via, Some(from)));
            side.agent.note_received(now, via, from);
        } else {
            assert_eq!(side.agent.handle(now, via, from, bytes), Handled::Consumed);
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
                Event::Lost(_) => {
                    let side = &mut self.sides[at];
                    side.path = None;
                    side.lost_at = Some(now);
                }
                Event::GaveUp(reason) => self.sides[at].gave_up = Some((now, reason)),
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        // Two states; `loss` of the time is spent in the losing one.
        let leave = 1.0 / self.net.burst;
        let enter = self.net.loss / (1.0 - self.net.loss) * leave;
        self.losing = if self.losing {
            !self.dice.chance(leave)
        } else {
            self.dice.chance(enter)
        };
        self.losing
    }

    fn send(&mut self, at: usize, transmit: Transmit) {
        let Transmit {
            via,
            to,
            ttl,
            bytes,
        } = transmit;
        let Via::Socket(number) = via else {
            panic!("nothing goes over the relay");
        };
        let side = &self.sides[at];
        let socket = side.sockets.iter().find(|(own, _)| *own == number);
        let mut from = socket.expect("a socket that is open").1;
        if let Some(tap) = &mut self.tap {
            tap.push((from, to, bytes.clone()));
        }
        let mut ttl = ttl.unwrap_or(64);
        if self.together == Together::Near
            && to.is_ipv4()
            && self.sides[1 - at].sockets.iter().any(|(_, own)| *own == to)
        {
            let side = 1 - at;
            let soon = self.now + Duration::from_millis(1);
            return self.push(
                soon,
                Item::Near {
                    side,
                    from,
                    to,
                    bytes,
                },
            );
        }
        if self.sides[at].blocked || from.is_ipv4() != to.is_ipv4() {
            return;
        }
        for nat in self.sides[at].chain(to) {
            ttl -= 1;
            if ttl == 0 {
                return;
            }
            from = self.nats[nat].outbound(self.now, from, to, &mut self.dice);
            if self.nats[nat].external == to.ip() {
                if self.together == Together::Hairpin
                    && let Some(inside) = self.nats[nat].inbound(self.now, from, to)
                {
                    let side = 1 - at;
                    let soon = self.now + Duration::from_millis(1);
                    let to = inside;
                    self.push(
                        soon,
                        Item::Near {
                            side,
                            from,
                            to,
                            bytes,
                        },
                    );
                }
                return;
            }
        }
        // The router between the two.
        ttl -= 1;
        if ttl == 0 || self.cut || self.is_lost() {
            return;
        }
        let jitter = Duration::from_micros(self.dice.below(2000));
        let arrives = self.now + self.net.latency + jitter;
        self.push(
            arrives,
            Item::Arrive {
                from,
                to,
                ttl,
                bytes,
            },
        );
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

impl Side {
    fn new(
        at: usize,
        kind: Kind,
        ipv6: bool,
        shared: bool,
        nats: &mut Vec<Nat>,
        dice: &mut Dice,
    ) -> Self {
        let role = [Role::Initiator, Role::Receiver][at];
        let agent = Agent::new(Config::new(role, SECRET), dice.seed());
        let number = at + 1;
        let (public, inside) = (format!("203.0.113.{number}"), format!("10.{number}.0.2"));
        let port = 30_000 + dice.below(20_000) as u16;
        let mut sockets = Vec::new();
        let mut chain = Vec::new();
        let mut firewall = None;
        let mut nat = |external: &str, ports, lets, strays| {
            nats.push(Nat::new(ip(external), ports, lets, strays, dice));
            nats.len() - 1
        };
        let own = match kind {
            Kind::N0 => public.clone(),
            _ if shared => "10.1.0.3".to_owned(),
            _ => inside,
        };
        match kind {
            _ if shared => chain.push(0),
            Kind::N0 | Kind::N8 => {}
            Kind::N1 => chain.push(nat(&public, Ports::Keep, Lets::In, false)),
            Kind::N2 => chain.push(nat(&public, Ports::Keep, Lets::KnownAddresses, false)),
            Kind::N3 | Kind::N6 | Kind::N9 => {
                chain.push(nat(&public, Ports::Keep, Lets::KnownEnds, false));
            }
            Kind::N3b => chain.push(nat(&public, Ports::Keep, Lets::KnownEnds, true)),
            Kind::N4(delta, cross) => {
                chain.push(nat(
                    &public,
                    Ports::Count { delta, cross },
                    Lets::KnownEnds,
                    false,
                ));
            }
            Kind::N5 => chain.push(nat(&public, Ports::Random, Lets::KnownEnds, false)),
            Kind::N7 => {
                chain.push(nat(
                    &format!("100.64.{number}.2"),
                    Ports::Keep,
                    Lets::KnownEnds,
                    false,
                ));
                chain.push(nat(&public, Ports::Keep, Lets::KnownEnds, false));
            }
        }
        if kind != Kind::N8 {
            sockets.push((0, SocketAddr::new(ip(&own), port)));
        }
        if ipv6 {
            // Addresses of IPv6 are not translated, but only answers come in.
            let own = Ipv6Addr::new(0x2001, 0xdb8, number as u16, 0, 0, 0, 0, 2);
            sockets.push((1, SocketAddr::new(own.into(), port)));
            firewall = Some(nat(
                &own.to_string(),
                Ports::Untouched,
                Lets::KnownEnds,
                false,
            ));
        }
        let candidates = sockets
            .iter()
            .map(|(_, own)| Candidate::new(CandidateKind::Host, *own));
        let candidates = candidates.collect();
        Self {
            agent,
            nats: chain,
            firewall,
            sockets,
            blocked: kind == Kind::N6,
            candidates,
            hint: None,
            path: None,
            selected_at: None,
            lost_at: None,
            gave_up: None,
            moves: 0,
            asked_sockets: 0,
            received: Vec::new(),
        }
        .with_mapping(kind, nats)
    }

    /// What a packet to or from this address passes, from inside to outside.
    fn chain(&self, address: SocketAddr) -> Vec<usize> {
        match address {
            SocketAddr::V4(_) => self.nats.clone(),
            SocketAddr::V6(_) => self.firewall.into_iter().collect(),
        }
    }

    fn with_mapping(mut self, kind: Kind, nats: &mut [Nat]) -> Self {
        if kind == Kind::N9 {
            let nat = &mut nats[self.nats[0]];
            let port = self.sockets[0].1.port().wrapping_add(7);
            nat.forwards.insert(port, self.sockets[0].1);
            let mapped = SocketAddr::new(nat.external, port);
            self.candidates
                .push(Candidate::new(CandidateKind::Mapped, mapped));
        }
        self
    }

    /// Asks both server ports from the main socket and, where they saw different ports, from
    /// another one.
    fn gather(&mut self, now: Instant, nats: &mut [Nat], dice: &mut Dice, refines: bool) {
        let main = self.sockets.iter().find(|(_, own)| own.is_ipv4());
        let Some(&(_, main)) = main else { return };
        if self.blocked {
            return;
        }
        let mut ask = |own: SocketAddr, server: &str| {
            let server = server.parse().expect("an address");
            let chain = self.nats.iter();
            chain.fold(own, |from, &nat| {
                nats[nat].outbound(now, from, server, dice)
            })
        };
        let mut seen: Vec<_> = SERVERS.iter().map(|server| ask(main, server)).collect();
        let hint = classify(&seen).expect("two observations");
        for &address in &seen {
            let candidate = Candidate::new(CandidateKind::ServerReflexive, address);
            if !self.candidates.contains(&candidate) {
                self.candidates.push(candidate);
            }
        }
        if refines && seen[0] != seen[1] {
            let other = SocketAddr::new(main.ip(), main.port() + 1);
            seen.extend(SERVERS.iter().map(|server| ask(other, server)));
        }
        self.hint = Some(refine(hint, &seen));
    }
}
