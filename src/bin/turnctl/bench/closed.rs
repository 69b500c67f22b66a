//! Requests per second: a fixed number of them is under way, and each answer starts the next.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use turnserver::client::turn::{Client, Event, Ids, MAX_REQUEST};
use turnserver::wire::{Builder, Class, Message, Method, TransactionId};

use super::clients::Clients;
use super::options::Plan;
use super::poll::{Poll, now};
use super::setup::{explain, new_ids};
use super::tally::{histogram, merge, record};
use super::worker::Shared;

/// A Binding that is not answered by then is lost, and another one is sent.
const LOST: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(20);

/// What one thread counted, or all of them.
#[derive(Debug)]
pub(super) struct Requests {
    /// Bindings, or whole cycles of allocation and release.
    pub(super) completed: u64,
    pub(super) lost: u64,
    /// Refusals and other failures, by what the server said.
    pub(super) failed: BTreeMap<String, u64>,
    /// From asking to the (last) answer, nanoseconds.
    pub(super) time: Histogram<u32>,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            completed: 0,
            lost: 0,
            failed: BTreeMap::new(),
            time: histogram(),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.completed += other.completed;
        self.lost += other.lost;
        for (what, count) in &other.failed {
            *self.failed.entry(what.clone()).or_default() += count;
        }
        merge(&mut self.time, &other.time);
    }

    fn fail(&mut self, what: String) {
        *self.failed.entry(what).or_default() += 1;
    }
}

/// When counting begins and ends.
struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    fn new(plan: &Plan) -> Self {
        let begin = now() + plan.options.warm_up;
        Self {
            begin,
            end: begin + plan.duration,
        }
    }

    fn counts(&self, at: Instant) -> bool {
        at >= self.begin && at < self.end
    }
}

/// How many requests one thread has under way, and from how many clients.
fn shares(plan: &Plan) -> (usize, usize) {
    let clients = plan.clients / plan.threads;
    let at_once = (plan.options.concurrency as usize).div_ceil(plan.threads);
    (clients, at_once)
}

struct Asked {
    id: TransactionId,
    at: Instant,
}

/// Bindings, from thread `index`.
pub(super) fn bindings(shared: &Shared<'_>, index: usize) -> Result<Requests, String> {
    let plan = shared.plan;
    let (count, at_once) = shares(plan);
    let mut poll = Poll::new().map_err(|error| error.to_string())?;
    let mut clients = Clients::open(plan, index * count, count, &poll)?;
    let mut ids = new_ids()?;
    let window = Window::new(plan);
    let mut requests = Requests::new();
    let mut asked: Vec<Asked> = (0..at_once)
        .map(|slot| ask(slot, count, &mut clients, &mut ids))
        .collect();
    let (mut ready, mut answered) = (Vec::new(), Vec::new());
    let (mut tick, mut heard) = (now() + TICK, now());
    loop {
        clients.flush();
        let waited = poll.wait(TICK, &mut ready);
        waited.map_err(|error| error.to_string())?;
        let at = now();
        if at >= window.end || shared.stop.load(Relaxed) {
            return Ok(requests);
        }
        for &token in &ready {
            clients.receive(token, |_, bytes| {
                if let Some(slot) = binding_answer(bytes, &asked) {
                    answered.push(slot);
                }
            })?;
        }
        for slot in answered.drain(..) {
            if window.counts(at) {
                requests.completed += 1;
                let time = (at - asked[slot].at).as_nanos();
                record(&mut requests.time, time as u64);
            }
            shared.received.fetch_add(1, Relaxed);
            heard = at;
            asked[slot] = ask(slot, count, &mut clients, &mut ids);
        }
        if at >= tick {
            tick = at + TICK;
            for (slot, asked) in asked.iter_mut().enumerate() {
                if at - asked.at > LOST {
                    requests.lost += u64::from(window.counts(at));
                    *asked = ask(slot, count, &mut clients, &mut ids);
                }
            }
        }
        if at - heard > plan.options.timeout {
            let seconds = plan.options.timeout.as_secs_f64();
            let (server, transport) = (plan.server, plan.transport);
            return Err(format!(
                "no answer from {server} over {transport} within {seconds} s"
            ));
        }
    }
}

fn ask(slot: usize, clients_count: usize, clients: &mut Clients, ids: &mut Ids) -> Asked {
    let mut id = ids.next_id();
    // The answer tells which slot it is for; 64 random bits are left.
    id.0[..4].copy_from_slice(&(slot as u32).to_be_bytes());
    clients.send(slot % clients_count, |room| {
        let builder = Builder::new(room, Class::Request, Method::BINDING, id);
        builder.finish().unwrap_or_default()
    });
    Asked { id, at: now() }
}

fn binding_answer(bytes: &[u8], asked: &[Asked]) -> Option<usize> {
    let message = Message::parse(bytes).ok()?;
    let id = message.transaction_id();
    let slot = u32::from_be_bytes(*id.0.first_chunk()?) as usize;
    let mapped = message.unprotected().xor_mapped_address();
    let right = asked.get(slot)?.id == id
        && message.class() == Class::Success
        && mapped.is_ok_and(|address| address.is_some());
    right.then_some(slot)
}

/// One allocation that comes and goes.
struct Cycle {
    client: usize,
    turn: Client,
    began: Instant,
}

/// Cycles of Allocate (401), Allocate, Refresh 0, from thread `index`.
pub(super) fn cycles(shared: &Shared<'_>, index: usize) -> Result<Requests, String> {
    let plan = shared.plan;
    let (count, at_once) = shares(plan);
    let mut poll = Poll::new().map_err(|error| error.to_string())?;
    let mut run = Cycles {
        plan,
        clients: Clients::open(plan, index * count, count, &poll)?,
        ids: new_ids()?,
        scratch: vec![0; MAX_REQUEST].into(),
        cycles: Vec::new(),
        owner: vec![usize::MAX; count],
        // Each client has one cycle at a time.
        at_once: at_once.min(count),
        window: Window::new(plan),
        requests: Requests::new(),
        succeeded: false,
    };
    for slot in 0..run.at_once {
        run.cycles.push(run.fresh(slot));
        run.begin(slot, slot);
    }
    let (mut ready, mut touched) = (Vec::new(), Vec::new());
    let (mut tick, mut heard) = (now() + TICK, now());
    loop {
        run.clients.flush();
        let waited = poll.wait(TICK, &mut ready);
        waited.map_err(|error| error.to_string())?;
        let at = now();
        if at >= run.window.end || shared.stop.load(Relaxed) {
            return Ok(run.requests);
        }
        for &token in &ready {
            let Cycles {
                clients,
                cycles,
                owner,
                ids,
                ..
            } = &mut run;
            clients.receive(token, |client, bytes| {
                if let Some(cycle) = cycles.get_mut(owner[client]) {
                    cycle.turn.handle(at, bytes, ids);
                    touched.push(owner[client]);
                }
            })?;
        }
        for slot in touched.drain(..) {
            heard = at;
            shared
                .received
                .fetch_add(run.go_on(slot, at, &poll)?, Relaxed);
        }
        if at >= tick {
            tick = at + TICK;
            for slot in 0..run.cycles.len() {
                let turn = &mut run.cycles[slot].turn;
                if turn.poll_timeout().is_some_and(|due| due <= at) {
                    turn.handle_timeout(at, &mut run.ids);
                    run.go_on(slot, at, &poll)?;
                }
            }
        }
        if at - heard > plan.options.timeout {
            let seconds = plan.options.timeout.as_secs_f64();
            let (server, transport) = (plan.server, plan.transport);
            return Err(format!(
                "no answer from {server} over {transport} within {seconds} s"
            ));
        }
    }
}

struct Cycles<'p> {
    plan: &'p Plan,
    clients: Clients,
    ids: Ids,
    scratch: Box<[u8]>,
    cycles: Vec<Cycle>,
    /// The slot in `cycles` of each client.
    owner: Vec<usize>,
    at_once: usize,
    window: Window,
    requests: Requests,
    succeeded: bool,
}

impl Cycles<'_> {
    fn fresh(&self, client: usize) -> Cycle {
        Cycle {
            client,
            turn: Client::new(self.plan.credentials.clone(), self.plan.reliable()),
            began: now(),
        }
    }

    /// A new cycle in `slot`, from `client`.
    fn begin(&mut self, slot: usize, client: usize) {
        let mut cycle = self.fresh(client);
        cycle.turn.allocate(cycle.began, &mut self.ids);
        self.owner[self.cycles[slot].client] = usize::MAX;
        self.owner[client] = slot;
        self.cycles[slot] = cycle;
        self.transmit(slot);
    }

    /// Acts on what happened in a slot; returns how many cycles came to their end.
    fn go_on(&mut self, slot: usize, at: Instant, poll: &Poll) -> Result<u64, String> {
        let mut ended = 0;
        while let Some(event) = self.cycles[slot].turn.poll_event() {
            match event {
                Event::Allocated(_) => self.cycles[slot].turn.release(at, &mut self.ids),
                Event::Released => {
                    self.succeeded = true;
                    ended += 1;
                    if self.window.counts(at) {
                        self.requests.completed += 1;
                        let time = (at - self.cycles[slot].began).as_nanos();
                        record(&mut self.requests.time, time as u64);
                    }
                    self.next(slot, poll)?;
                }
                Event::Failed(method, failure) => {
                    if !self.succeeded {
                        let server = self.plan.server;
                        return Err(explain(method, &failure, server, self.plan));
                    }
                    self.requests.fail(format!("{method:?}: {failure}"));
                    self.next(slot, poll)?;
                }
                Event::Permitted(_) | Event::Bound(..) => {}
            }
        }
        self.transmit(slot);
        Ok(ended)
    }

    /// The clients take turns, so that none is back at once.
    fn next(&mut self, slot: usize, poll: &Poll) -> Result<(), String> {
        let count = self.owner.len();
        let mut client = (self.cycles[slot].client + self.at_once) % count;
        while self.owner[client] != usize::MAX && self.owner[client] != slot {
            client = (client + 1) % count;
        }
        self.clients.renew(self.plan, client, poll)?;
        self.begin(slot, client);
        Ok(())
    }

    fn transmit(&mut self, slot: usize) {
        let at = now();
        let cycle = &mut self.cycles[slot];
        while let Some(len) = cycle.turn.poll_transmit(at, &mut self.scratch) {
            self.clients.send(cycle.client, |room| {
                room[..len].copy_from_slice(&self.scratch[..len]);
                len
            });
        }
    }
}
