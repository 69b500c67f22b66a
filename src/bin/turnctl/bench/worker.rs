//! One thread's share of the load: its allocations, and the loop that sends and receives.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use turnserver::client::datagrams::Flushed;
use turnserver::client::turn::{Incoming, send_indication};

use super::clients::Clients;
use super::heard::{Heard, heard};
use super::options::{Direction, Mode, Plan};
use super::pace::{Pace, Pause};
use super::payload::{Header, Pattern};
use super::peers::{FIRST_TOKEN, Peers};
use super::poll::{Poll, now, sleep};
use super::setup::Allocations;
use super::tally::{Arrival, Tally, Window, record};

/// What all threads share.
pub(super) struct Shared<'p> {
    pub(super) plan: &'p Plan,
    pub(super) pattern: Pattern,
    /// Time zero of the time stamps.
    pub(super) start: Instant,
    /// Packets so far, for the progress line.
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Set when the run is to end early.
    pub(super) stop: AtomicBool,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Told apart from all others by this.
    pub(super) tag: u32,
    /// Packets per second of one thread.
    pub(super) rate: f64,
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
}

/// After so much silence no packet that is missing is expected any more, unless --max-delay is
/// longer.
const QUIET: Duration = Duration::from_secs(1);
/// How long a measurement waits at the most for packets that are still on their way, as above.
const DRAIN: Duration = Duration::from_secs(5);
/// After so much silence none is expected that was there before: nothing is missing.
const TWICE: Duration = Duration::from_millis(10);
/// The most packets sent before the sockets are looked at.
pub(super) const BURST: u64 = 64;
/// How often refreshes are looked for.
const KEEP: Duration = Duration::from_secs(1);

const UP: usize = 0;
const DOWN: usize = 1;

/// The two flows of one allocation.
struct Flow {
    sequence: [u32; 2],
    window: [Window; 2],
    /// Where its packets come from at the peer. A NAT in front of the server may make this
    /// another address than the relayed one, but it stays the same.
    source: Option<std::net::SocketAddr>,
}

const IDLE: Flow = Flow {
    sequence: [0; 2],
    window: [Window::EMPTY, Window::EMPTY],
    source: None,
};

pub(super) struct Worker<'s, 'p> {
    pub(super) shared: &'s Shared<'p>,
    clients: Clients,
    peers: Peers,
    poll: Poll,
    allocations: Allocations,
    flows: Vec<Flow>,
    /// What is sent in turn: allocation and way.
    turns: Vec<(u32, usize)>,
    next_turn: usize,
    /// What is left of the burst of this turn.
    left: u8,
    tally: Tally,
    ready: Vec<usize>,
}

impl<'s, 'p> Worker<'s, 'p> {
    /// Opens the sockets of thread `index`.
    pub(super) fn open(shared: &'s Shared<'p>, index: usize) -> Result<Self, String> {
        let plan = shared.plan;
        // The first threads take one more when it does not come out even.
        let (share, rest) = (plan.clients / plan.threads, plan.clients % plan.threads);
        let count = share + usize::from(index < rest);
        let first = share * index + rest.min(index);
        let poll = Poll::new().map_err(|error| error.to_string())?;
        let clients = Clients::open(plan, first, count, &poll)?;
        let peers = Peers::open(plan, &poll)?;
        let turns = (0..count as u32).flat_map(|flow| {
            let ways: &[usize] = match (plan.options.pairs, plan.options.direction) {
                (true, Direction::Up) if flow % 2 == 1 => &[],
                (true, Direction::Down) if flow % 2 == 0 => &[],
                (true, _) | (false, Direction::Up) => &[UP],
                (false, Direction::Down) => &[DOWN],
                (false, Direction::Both) => &[UP, DOWN],
            };
            ways.iter().map(move |&way| (flow, way))
        });
        Ok(Self {
            shared,
            clients,
            peers,
            poll,
            allocations: Allocations::new(plan, first, count)?,
            flows: std::iter::repeat_with(|| IDLE).take(count).collect(),
            turns: turns.collect(),
            next_turn: 0,
            left: plan.options.burst,
            tally: Tally::new(),
            ready: Vec::new(),
        })
    }

    /// Makes its allocations and, but for idle ones, binds their peers.
    pub(super) fn prepare(&mut self) -> Result<(), String> {
        let plan = self.shared.plan;
        let (clients, poll) = (&mut self.clients, &mut self.poll);
        self.allocations.allocate(plan, clients, poll)?;
        if plan.mode != Mode::Hold {
            self.allocations.bind(plan, clients, &self.peers, poll)?;
        }
        Ok(())
    }

    /// Releases the allocations.
    pub(super) fn release(mut self) {
        self.allocations.release(&mut self.clients, &mut self.poll);
    }

    /// Keeps the allocations, without any load.
    pub(super) fn hold(&mut self, duration: Duration) -> Result<Tally, String> {
        let until = now() + duration;
        let (clients, poll) = (&mut self.clients, &mut self.poll);
        self.allocations.hold(clients, poll, until)?;
        Ok(Tally::new())
    }

    /// Makes one measurement.
    pub(super) fn step(&mut self, step: Step) -> Result<Tally, String> {
        self.flows.fill_with(|| IDLE);
        self.next_turn = 0;
        self.left = self.shared.plan.options.burst;
        self.tally = Tally::new();
        if !step.warm_up.is_zero() {
            self.phase(step, true, step.warm_up)?;
        }
        let drops = self.clients.drops() + self.peers.drops();
        let not_taken = self.clients.not_taken();
        self.phase(step, false, step.duration)?;
        self.tally.not_taken = self.clients.not_taken() - not_taken;
        self.drain(step)?;
        self.tally.own_drops = self.clients.drops() + self.peers.drops() - drops;
        Ok(std::mem::replace(&mut self.tally, Tally::new()))
    }

    fn phase(&mut self, step: Step, warm_up: bool, duration: Duration) -> Result<(), String> {
        let start = now();
        let end = start + duration;
        let burst = u64::from(self.shared.plan.options.burst);
        let mut pace = Pace::new(start, step.rate / burst as f64);
        let mut keep = start + KEEP;
        loop {
            let at = now();
            if at >= end || self.shared.stop.load(Relaxed) {
                break;
            }
            let due = pace.take(at, BURST / burst);
            for _ in 0..due * burst {
                self.send_next(step.tag, warm_up);
            }
            self.flush(warm_up);
            if at >= keep {
                self.keep()?;
                keep = at + KEEP;
            }
            let wait = match pace.pause(now()) {
                _ if self.clients.is_stuck() => Duration::ZERO,
                Pause::Wait(wait) => wait.min(end - at),
                Pause::Nap(nap) => {
                    sleep(nap);
                    Duration::ZERO
                }
            };
            self.receive(step.tag, wait)?;
        }
        if !warm_up {
            self.tally.skipped += pace.skipped() * burst;
        }
        Ok(())
    }

    /// Takes what is still on its way.
    fn drain(&mut self, step: Step) -> Result<(), String> {
        let patience = self.shared.plan.options.max_delay;
        let start = now();
        let (mut last, mut keep) = (start, start + KEEP);
        let mut seen = self.tally.missing();
        loop {
            self.flush(false);
            self.receive(step.tag, TWICE)?;
            let complete = self.tally.missing() == 0 && !self.clients.is_stuck();
            if complete && self.ready.is_empty() {
                break;
            }
            let at = now();
            if seen != self.tally.missing() {
                (seen, last) = (self.tally.missing(), at);
            }
            let over = at - start > DRAIN.max(patience) || at - last > QUIET.max(patience);
            if over || self.shared.stop.load(Relaxed) {
                break;
            }
            if at >= keep {
                self.keep()?;
                keep = at + KEEP;
            }
        }
        Ok(())
    }

    fn send_next(&mut self, tag: u32, warm_up: bool) {
        let (index, way) = self.turns[self.next_turn];
        self.left -= 1;
        if self.left == 0 {
            self.left = self.shared.plan.options.burst;
            self.next_turn = (self.next_turn + 1) % self.turns.len();
        }
        let local = index as usize;
        let flow = &mut self.flows[local];
        let header = Header {
            tag,
            down: way == DOWN,
            warm_up,
            flow: self.allocations.first as u32 + index,
            sequence: flow.sequence[way],
            sent: (now() - self.shared.start).as_nanos() as u64,
        };
        flow.sequence[way] = header.sequence.wrapping_add(1);
        let size = self.shared.plan.size;
        let pattern = &self.shared.pattern;
        let far = &self.allocations.far[local];
        if way == DOWN {
            self.peers.send(local, &far.relayed, |room| {
                pattern.write(&mut room[..size], &header);
                size
            });
        } else if self.shared.plan.options.indications {
            let ids = &mut self.allocations.ids;
            let scratch = &mut self.allocations.scratch;
            pattern.write(&mut scratch[..size], &header);
            self.clients.send(local, |room| {
                // 36 bytes of overhead, 48 with IPv6, and padding fit into every room.
                send_indication(room, far.peer, &scratch[..size], ids).unwrap_or_default()
            });
        } else {
            let channel = far.channel_header;
            self.clients.send(local, |room| {
                room[..4].copy_from_slice(&channel);
                pattern.write(&mut room[4..4 + size], &header);
                4 + size
            });
        }
    }

    fn flush(&mut self, warm_up: bool) {
        let flushed = [self.clients.flush(), self.peers.flush()];
        if !warm_up {
            for (
                way,
                Flushed {
                    sent,
                    refused,
                    error,
                },
            ) in flushed.into_iter().enumerate()
            {
                self.tally.sent[way] += sent as u64;
                self.tally.refused += refused as u64;
                self.tally.refusal = self.tally.refusal.or(error);
            }
        }
        let sent: usize = flushed.iter().map(|flushed| flushed.sent).sum();
        if sent > 0 {
            self.shared.sent.fetch_add(sent as u64, Relaxed);
        }
    }

    /// Waits for packets, at most for `timeout`, and counts them.
    fn receive(&mut self, tag: u32, timeout: Duration) -> Result<(), String> {
        let waited = self.poll.wait(timeout, &mut self.ready);
        waited.map_err(|error| error.to_string())?;
        let mut arrived = 0;
        for index in 0..self.ready.len() {
            let token = self.ready[index];
            let mut arrivals = Arrivals {
                shared: self.shared,
                allocations: &self.allocations,
                flows: &mut self.flows,
                tally: &mut self.tally,
                arrived: &mut arrived,
                tag,
            };
            if token >= FIRST_TOKEN {
                let peer = token - FIRST_TOKEN;
                self.peers.receive(peer, |source, bytes| {
                    arrivals.at_peer(peer, source, bytes);
                });
                continue;
            }
            let mut answers = Vec::new();
            self.clients.receive(token, |client, bytes| {
                if !arrivals.at_client(client, bytes) {
                    answers.push((client, bytes.to_vec()));
                }
            })?;
            for (client, bytes) in answers {
                self.allocations.answered(client, &bytes)?;
            }
        }
        if arrived > 0 {
            self.shared.received.fetch_add(arrived, Relaxed);
        }
        Ok(())
    }

    /// Keeps the allocations alive.
    fn keep(&mut self) -> Result<(), String> {
        self.allocations.keep(&mut self.clients)
    }
}

/// What counts packets while they are borrowed from the sockets.
struct Arrivals<'a, 'p> {
    shared: &'a Shared<'p>,
    allocations: &'a Allocations,
    flows: &'a mut [Flow],
    tally: &'a mut Tally,
    /// New packets, for the progress line: those of the warm-up, too.
    arrived: &'a mut u64,
    tag: u32,
}

impl Arrivals<'_, '_> {
    /// A packet at a peer: it must be of an allocation that has this peer.
    fn at_peer(&mut self, peer: usize, source: std::net::SocketAddr, bytes: &[u8]) {
        let Some(header) = self.read(bytes) else {
            return;
        };
        let local = (header.flow as usize).wrapping_sub(self.allocations.first);
        let far = self.allocations.far.get(local);
        let right = !header.down && far.is_some_and(|far| far.peer_index == peer);
        if right && *self.flows[local].source.get_or_insert(source) == source {
            self.count(local, UP, &header);
        } else {
            self.tally.corrupted += 1;
        }
    }

    /// Data at a client: it must be of its own allocation, or of its partner's. Says whether that
    /// was all there is to it: an answer is the client's.
    fn at_client(&mut self, client: usize, bytes: &[u8]) -> bool {
        let own = &self.allocations.far[client];
        let (data, right) = match heard(bytes, self.shared.plan.reliable()) {
            Heard::Data(Incoming::Channel(number, data)) => (data, number == own.channel),
            Heard::Data(Incoming::Indication(peer, data)) => (data, peer == own.peer),
            Heard::Answer => return false,
            Heard::Damaged => {
                self.tally.corrupted += 1;
                return true;
            }
        };
        let Some(header) = self.read(data) else {
            return true;
        };
        let pairs = self.shared.plan.options.pairs;
        let from = if pairs { client ^ 1 } else { client };
        let way = if pairs { UP } else { DOWN };
        let meant = header.flow as usize == self.allocations.first + from;
        if right && meant && header.down == (way == DOWN) {
            self.count(from, way, &header);
        } else {
            self.tally.corrupted += 1;
        }
        true
    }

    fn read(&mut self, bytes: &[u8]) -> Option<Header> {
        let header = self.shared.pattern.read(bytes, self.shared.plan.size);
        if header.is_none() {
            self.tally.corrupted += 1;
        }
        // Stragglers of an earlier measurement do not count in this one.
        header.filter(|header| header.tag == self.tag)
    }

    fn count(&mut self, flow: usize, way: usize, header: &Header) {
        let arrival = self.flows[flow].window[way].arrive(header.sequence);
        *self.arrived += u64::from(arrival == Arrival::New);
        match arrival {
            _ if header.warm_up => {}
            Arrival::New => {
                let at = (now() - self.shared.start).as_nanos() as u64;
                let delay = at.saturating_sub(header.sent);
                record(&mut self.tally.latency, delay);
                if u128::from(delay) <= self.shared.plan.options.max_delay.as_nanos() {
                    self.tally.received[way] += 1;
                } else {
                    self.tally.overdue += 1;
                }
            }
            Arrival::Duplicate => self.tally.duplicated += 1,
            Arrival::TooLate => self.tally.too_late += 1,
        }
    }
}
