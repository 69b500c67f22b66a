//! Making allocations, binding their channels, keeping and releasing them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use turnserver::client::turn::{Client, Event, Failure, Ids, MAX_REQUEST};
use turnserver::wire::{CHANNELS, ChannelData, ErrorCode, Method};

use super::clients::Clients;
use super::options::Plan;
use super::peers::Peers;
use super::poll::{Poll, now};

/// How often timers are looked at while requests are under way.
const TICK: Duration = Duration::from_millis(20);
/// Releasing is a courtesy; the server's timers do it otherwise.
const RELEASE: Duration = Duration::from_secs(3);

/// How many more ports than there are clients may be found to have an allocation already.
const MOVES: usize = 64;

/// What an allocation is to the other end.
pub(super) struct Far {
    pub(super) relayed: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) peer_index: usize,
    pub(super) channel: u16,
    /// In front of each payload.
    pub(super) channel_header: [u8; 4],
}

/// One thread's allocations.
pub(super) struct Allocations {
    /// Number of the first one among all threads'.
    pub(super) first: usize,
    pub(super) far: Vec<Far>,
    pub(super) ids: Ids,
    pub(super) scratch: Box<[u8]>,
    turn: Vec<Client>,
    ready: Vec<usize>,
}

impl Allocations {
    pub(super) fn new(plan: &Plan, first: usize, count: usize) -> Result<Self, String> {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let numbers = CHANNELS.clone().cycle().skip(first % CHANNELS.len());
        let far = numbers.take(count).map(|channel| Far {
            relayed: nowhere,
            peer: nowhere,
            peer_index: 0,
            channel,
            channel_header: ChannelData::header(channel, plan.size as u16),
        });
        let client = || Client::new(plan.credentials.clone(), plan.reliable());
        Ok(Self {
            first,
            far: far.collect(),
            ids: new_ids()?,
            scratch: vec![0; plan.size.max(MAX_REQUEST)].into(),
            turn: std::iter::repeat_with(client).take(count).collect(),
            ready: Vec::new(),
        })
    }

    /// Makes all allocations.
    pub(super) fn allocate(
        &mut self,
        plan: &Plan,
        clients: &mut Clients,
        poll: &mut Poll,
    ) -> Result<(), String> {
        let start = |client: &mut Client, _: &Far, at, ids: &mut Ids| client.allocate(at, ids);
        self.each(plan, clients, poll, start)?;
        for (far, client) in self.far.iter_mut().zip(&self.turn) {
            let allocation = client.allocation();
            far.relayed = allocation.ok_or("an allocation ended at once")?.relayed;
        }
        Ok(())
    }

    /// Gives each allocation its peer, or its partner.
    pub(super) fn bind(
        &mut self,
        plan: &Plan,
        clients: &mut Clients,
        peers: &Peers,
        poll: &mut Poll,
    ) -> Result<(), String> {
        for index in 0..self.far.len() {
            if plan.options.pairs {
                self.far[index].peer = self.far[index ^ 1].relayed;
            } else {
                let (peer_index, peer) = peers.of(index);
                let relayed = self.far[index].relayed;
                if relayed.is_ipv4() != peer.is_ipv4() {
                    return Err(format!(
                        "the server relays from {}, and the peer {} is of the other address \
                         family: choose one with --peer-bind",
                        relayed.ip(),
                        peer.ip()
                    ));
                }
                (self.far[index].peer_index, self.far[index].peer) = (peer_index, peer);
            }
        }
        let indications = plan.options.indications;
        let start = |client: &mut Client, far: &Far, at, ids: &mut Ids| match indications {
            true => client.permit(far.peer, at, ids),
            false => client.bind_channel(far.channel, far.peer, at, ids),
        };
        self.each(plan, clients, poll, start)
    }

    /// Releases all allocations, as far as the server answers in time.
    pub(super) fn release(&mut self, clients: &mut Clients, poll: &mut Poll) {
        let at = now();
        // Somebody may be about to get one, where there is a server.
        let answers = self.turn.iter().any(|turn| turn.allocation().is_some());
        for index in 0..self.turn.len() {
            let turn = &self.turn[index];
            if turn.allocation().is_some() || turn.is_busy() && answers {
                self.turn[index].release(at, &mut self.ids);
                self.transmit(index, clients);
            }
            if index % 64 == 63 {
                let _ = self.receive(clients, poll, Duration::ZERO);
            }
        }
        while self.turn.iter().any(Client::is_busy) && now() - at < RELEASE {
            if self.receive(clients, poll, TICK).is_err() {
                return;
            }
            self.tick(clients);
        }
    }

    /// Has each client do one thing, --concurrency of them at a time.
    fn each(
        &mut self,
        plan: &Plan,
        clients: &mut Clients,
        poll: &mut Poll,
        start: impl Fn(&mut Client, &Far, Instant, &mut Ids),
    ) -> Result<(), String> {
        let count = self.turn.len();
        let at_once = (plan.options.concurrency as usize).div_ceil(plan.threads);
        let mut started = 0;
        let mut done = 0;
        let mut moved = 0;
        let mut progress = now();
        let mut tick = progress + TICK;
        while done < count {
            let at = now();
            while started < count && started - done < at_once {
                let client = &mut self.turn[started];
                start(client, &self.far[started], at, &mut self.ids);
                self.transmit(started, clients);
                started += 1;
            }
            for client in self.receive(clients, poll, TICK)? {
                while let Some(event) = self.turn[client].poll_event() {
                    match event {
                        Event::Failed(Method::ALLOCATE, failure)
                            if is_mismatch(&failure) && moved < count + MOVES =>
                        {
                            moved += 1;
                            clients.renew(plan, client, poll)?;
                            let turn = &mut self.turn[client];
                            start(turn, &self.far[client], at, &mut self.ids);
                            self.transmit(client, clients);
                        }
                        Event::Failed(method, failure) => {
                            let far = &self.far[client];
                            return Err(explain(method, &failure, far.peer, plan));
                        }
                        _ => done += 1,
                    }
                }
                progress = at;
            }
            if at >= tick {
                self.tick(clients);
                tick = at + TICK;
            }
            if at - progress > plan.options.timeout {
                return Err(silence(plan, done, count));
            }
        }
        Ok(())
    }

    /// Takes what has come; returns the clients whose requests were answered.
    fn receive(
        &mut self,
        clients: &mut Clients,
        poll: &mut Poll,
        timeout: Duration,
    ) -> Result<Vec<usize>, String> {
        let waited = poll.wait(timeout, &mut self.ready);
        waited.map_err(|error| error.to_string())?;
        let at = now();
        let mut touched = Vec::new();
        let Self {
            ready, turn, ids, ..
        } = self;
        // Nothing is to be had from peers yet.
        let count = turn.len();
        for &token in ready.iter().filter(|&&token| token < count) {
            clients.receive(token, |client, bytes| {
                turn[client].handle(at, bytes, ids);
                touched.push(client);
            })?;
        }
        for &client in &touched {
            self.transmit(client, clients);
        }
        Ok(touched)
    }

    fn tick(&mut self, clients: &mut Clients) {
        let at = now();
        for index in 0..self.turn.len() {
            if self.turn[index].poll_timeout().is_some_and(|due| due <= at) {
                self.turn[index].handle_timeout(at, &mut self.ids);
                self.transmit(index, clients);
            }
        }
    }

    fn transmit(&mut self, index: usize, clients: &mut Clients) {
        let at = now();
        while let Some(len) = self.turn[index].poll_transmit(at, &mut self.scratch) {
            clients.send(index, |room| {
                room[..len].copy_from_slice(&self.scratch[..len]);
                len
            });
            // Not a packet that counts.
            clients.flush();
        }
    }

    /// The answer to a refresh.
    pub(super) fn answered(&mut self, client: usize, bytes: &[u8]) -> Result<(), String> {
        let turn = &mut self.turn[client];
        turn.handle(now(), bytes, &mut self.ids);
        self.check(client)
    }

    /// Refreshes what is due.
    pub(super) fn keep(&mut self, clients: &mut Clients) -> Result<(), String> {
        for index in 0..self.turn.len() {
            self.check(index)?;
            // An answer may have made the next request ready.
            self.transmit(index, clients);
        }
        self.tick(clients);
        Ok(())
    }

    fn check(&mut self, client: usize) -> Result<(), String> {
        match self.turn[client].poll_event() {
            Some(Event::Failed(method, failure)) => {
                Err(format!("{method:?} failed during the run: {failure}"))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the allocations until `until`, without any load.
    pub(super) fn hold(
        &mut self,
        clients: &mut Clients,
        poll: &mut Poll,
        until: Instant,
    ) -> Result<(), String> {
        while now() < until {
            self.receive(clients, poll, Duration::from_millis(200))?;
            self.keep(clients)?;
        }
        Ok(())
    }
}

pub(super) fn new_ids() -> Result<Ids, String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(Ids::new(seed))
}

/// Whether a port still has an allocation of somebody who had it before and did not release it:
/// another port is to be tried (RFC 8656 section 7.4).
fn is_mismatch(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(ErrorCode::ALLOCATION_MISMATCH, _))
}

fn silence(plan: &Plan, done: usize, count: usize) -> String {
    let seconds = plan.options.timeout.as_secs_f64();
    if done == 0 {
        return format!(
            "no answer from {} over {} within {seconds} s: is it running, and does a firewall \
             let it be reached?",
            plan.server, plan.transport
        );
    }
    format!(
        "{} stopped answering for {seconds} s after {done} of {count}: it may limit how much it \
         answers to one address (this server: `[limits] unauthenticated_replies`)",
        plan.server
    )
}

/// What a refusal means, in plain words.
pub(super) fn explain(method: Method, failure: &Failure, peer: SocketAddr, plan: &Plan) -> String {
    let Failure::Refused(code, _) = failure else {
        if *failure == Failure::TimedOut {
            return silence(plan, 0, 1);
        }
        return format!("{method:?} failed: {failure}");
    };
    let ip = peer.ip();
    let meaning = match (code.value(), method) {
        (300, _) => "the server sends clients elsewhere".into(),
        (401, _) => format!(
            "wrong user name or password for {:?}",
            plan.credentials.username()
        ),
        (403, Method::CREATE_PERMISSION | Method::CHANNEL_BIND) => format!(
            "the server denies the peer {ip}: allow it there (`[peers] allow = [\"{ip}\"]`; \
             coturn: `allowed-peer-ip={ip}`, and `allow-loopback-peers` for this machine), or \
             choose another one with --peer-bind"
        ),
        (437, _) => "the server still has an allocation for this client's address".into(),
        (441, _) => "the credentials are not those that the allocation was made with".into(),
        (443, _) => format!(
            "the server has no relayed address of the family of the peer {ip}: choose another \
             one with --peer-bind"
        ),
        (486, _) => "the user may not have that many allocations (`[limits] \
                     allocations_per_user`; coturn: `user-quota`)"
            .into(),
        (508, _) => "the server has no more relayed addresses to give (`[relay] ports`)".into(),
        _ => String::new(),
    };
    match meaning.as_str() {
        "" => format!("{method:?} was refused: {failure}"),
        meaning => format!("{method:?} was refused: {failure}: {meaning}"),
    }
}
