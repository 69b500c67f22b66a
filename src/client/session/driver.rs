//! The task of a session: waits for whatever comes next, and lets the parts that decide do so.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use super::alone::Alone;
use super::discovery::Discovery;
use super::gather;
use super::loss::Loss;
use super::note::Note;
use super::outbox::Outbox;
use super::paths::Paths;
use super::proof::Proof;
use super::sockets::{MAIN, Packet, Sockets};
use super::turn::Turn;
use super::{Command, Ended, Letter, OuterPort, PathInfo, Post, Progress, Setup, State};
use crate::client::noise::{self, Secure};
use crate::client::punch::{self, Agent, Candidate, CandidateKind, Event, NatHint, Via};
use crate::client::relay::{Relay, now, stun_servers};
use crate::pairing::{Blobs, IceServer, Outcome, Protocol, Salt, SessionId, SessionSecrets};

/// What is read from the sockets before anything else is looked at.
const BATCH: usize = 64;
/// The interfaces are looked at this often.
const LOOK: Duration = Duration::from_millis(500);
/// How long the peer's repeated closing is confirmed.
const LINGER: Duration = Duration::from_millis(500);

/// Everything that a session has.
pub(super) struct Driver {
    pub(super) secure: Secure,
    pub(super) agent: Option<Agent>,
    pub(super) paths: Paths,
    pub(super) sockets: Sockets,
    pub(super) relay: Relay,
    pub(super) discovery: Discovery,
    pub(super) loss: Loss,
    pub(super) ice_servers: Vec<IceServer>,
    pub(super) relay_local: Option<IpAddr>,
    pub(super) bind: Option<IpAddr>,
    pub(super) patience: Duration,
    pub(super) loopback: bool,
    port_mapping: bool,
    /// Held as long as the session lives.
    outer_port: Option<OuterPort>,
    /// The addresses of STUN servers, once their names are resolved.
    pub(super) stun: Vec<SocketAddr>,
    pub(super) machine: Vec<IpAddr>,
    /// Candidates that the peer was told, and those that it is to be told next.
    pub(super) told: Vec<Candidate>,
    pub(super) fresh: Vec<Candidate>,
    /// What the servers saw of the main socket tells this of the own NAT.
    pub(super) seen_of_nat: Option<NatHint>,
    pub(super) closer: Option<gather::Closer>,
    pub(super) outbox: Outbox,
    /// Who waits for the keys of TCP connections.
    pub(super) keyed: Option<oneshot::Sender<SessionSecrets>>,
    pub(super) proof: Proof,
    pub(super) post: Option<Post>,
    pub(super) turn: Turn,
    pub(super) session: SessionId,
    pub(super) outcome: Outcome,
    /// Where the peer's TCP addresses go.
    pub(super) peers: Option<mpsc::Sender<SocketAddr>>,
    /// Notes that go out as datagrams, and when.
    pub(super) notes: Vec<(Instant, Vec<u8>)>,
    pub(super) progress: Option<mpsc::UnboundedSender<Progress>>,
    pub(super) state: watch::Sender<State>,
    pub(super) to_user: mpsc::Sender<Vec<u8>>,
    pub(super) to_streams: mpsc::Sender<Vec<u8>>,
    /// The path that was told last.
    pub(super) shown: Option<PathInfo>,
    pub(super) plain: Vec<u8>,
    pub(super) sealed: Vec<u8>,
    look_at: Instant,
    pub(super) alone: Option<Alone>,
    pub(super) ask_at: Option<Instant>,
    /// Set when the session is over; the task ends then.
    end_at: Option<Instant>,
}

/// Opens what a session needs and starts its task.
pub(super) fn start(
    setup: Setup,
    orders: (mpsc::Receiver<Command>, Arc<AtomicU8>),
    to_user: mpsc::Sender<Vec<u8>>,
    to_streams: mpsc::Sender<Vec<u8>>,
) -> io::Result<watch::Receiver<State>> {
    let now = now();
    let (packets, arrived) = mpsc::channel(super::QUEUE);
    let sockets = Sockets::open(setup.bind, packets)?;
    let agent = setup.direct.then(|| {
        let mut config = punch::Config::keyless(setup.role);
        config.tries = setup.tries.unwrap_or(config.tries);
        config.timeout = setup.attempt.unwrap_or(config.timeout);
        Ok::<_, io::Error>(Agent::new(config, random()?))
    });
    let agent = agent.transpose()?;
    let paths = Paths::new(match setup.direct {
        true => "no direct path is proven yet",
        false => "only the relay is to be used",
    });
    let (state, watched) = watch::channel(State::new(paths.info()));
    let bind = setup.bind;
    let relay = match setup.relay {
        Some(relay) => {
            // Its credentials are as old as the wait.
            relay.renew(&setup.ice_servers);
            relay
        }
        None => Relay::start(&setup.ice_servers, bind, setup.patience),
    };
    let offer = setup.offer;
    let psk = setup.key.psk(&setup.session);
    let salt = Salt(random()?);
    let blobs = Blobs::new(setup.key, setup.session, setup.role, salt);
    let mut driver = Driver {
        secure: Secure::new(&psk, setup.session, setup.role, now),
        agent,
        paths,
        sockets,
        relay,
        discovery: Discovery::new(random()?),
        loss: Loss::new(random()?),
        ice_servers: setup.ice_servers,
        relay_local: None,
        bind,
        patience: setup.patience,
        loopback: setup.loopback,
        port_mapping: setup.port_mapping,
        outer_port: None,
        stun: Vec::new(),
        machine: Vec::new(),
        told: Vec::new(),
        fresh: Vec::new(),
        seen_of_nat: None,
        closer: None,
        outbox: Outbox::new(blobs, now),
        keyed: setup.keyed,
        proof: Proof::default(),
        post: Some(setup.post),
        turn: Turn::default(),
        session: setup.session,
        outcome: Outcome::Failed,
        peers: setup.peers,
        notes: Vec::new(),
        progress: setup.progress,
        state,
        to_user,
        to_streams,
        shown: None,
        plain: Vec::new(),
        sealed: Vec::new(),
        look_at: now + LOOK,
        alone: None,
        ask_at: None,
        end_at: None,
    };
    if offer.is_some() {
        driver.tell(Note {
            tcp: offer,
            ..Note::default()
        });
    } else if !setup.direct {
        // The peer need not wait for an address to try.
        let description = punch::Description {
            end: true,
            ..punch::Description::default()
        };
        driver.tell(description.into());
    }
    tokio::spawn(driver.run(setup.stun, orders, arrived));
    Ok(watched)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// A wait that never ends where there is nothing to wait for.
async fn next_letter(post: &mut Option<Post>) -> Option<Letter> {
    match post {
        Some(post) => post.incoming.recv().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    async fn run(
        mut self,
        stun: Vec<crate::client::relay::Host>,
        (mut commands, parting): (mpsc::Receiver<Command>, Arc<AtomicU8>),
        mut arrived: mpsc::Receiver<Packet>,
    ) {
        let mut hosts = stun_servers(&self.ice_servers);
        hosts.extend(stun);
        hosts.dedup();
        let direct = self.agent.is_some();
        let resolve = async move {
            let mut found = Vec::new();
            for host in hosts.iter().filter(|_| direct) {
                found.extend(host.resolve().await);
            }
            found.dedup();
            found
        };
        tokio::pin!(resolve);
        let mut resolved = false;
        let mapping = OuterPort::ask(Protocol::Udp, self.local_port());
        tokio::pin!(mapping);
        let mut asked_router = false;
        let mut commanded = true;
        let mut relayed = true;
        let mut batch = Vec::with_capacity(BATCH);
        self.look();
        loop {
            self.act();
            let now = now();
            if self.end_at.is_some() {
                self.give_back();
            }
            if self.end_at.is_some_and(|at| at <= now) {
                return self.farewell().await;
            }
            let due = self.due(now);
            tokio::select! {
                _ = arrived.recv_many(&mut batch, BATCH) => {
                    for packet in batch.drain(..) {
                        self.handle_packet(packet);
                    }
                }
                command = commands.recv(), if commanded => match command {
                    Some(command) => {
                        self.command(command);
                        for _ in 0..BATCH {
                            match commands.try_recv() {
                                Ok(command) => self.command(command),
                                Err(_) => break,
                            }
                        }
                    }
                    None => {
                        commanded = false;
                        self.secure.close(now, parting.load(Relaxed));
                    }
                },
                event = self.relay.next(), if relayed => match event {
                    Some(event) => self.relay_event(event),
                    None => relayed = false,
                },
                letter = next_letter(&mut self.post) => match letter {
                    Some(Letter::Blob(blob)) => self.blob(&blob),
                    Some(Letter::Left { busy }) => {
                        self.alone = Some(Alone::new(now));
                        self.state.send_modify(|state| {
                            state.peer_left = true;
                            state.peer_busy = busy;
                        });
                    }
                    None => {
                        self.alone = Some(Alone::new(now));
                        self.post = None;
                    }
                },
                () = self.turn.come() => {}
                found = &mut resolve, if !resolved => {
                    resolved = true;
                    self.stun = found;
                    self.ask_servers();
                }
                mapped = &mut mapping, if !asked_router => {
                    asked_router = true;
                    if let Some(port) = mapped {
                        let candidate = Candidate::new(CandidateKind::Mapped, port.address());
                        self.add_local(candidate, Via::Socket(MAIN));
                        self.state.send_modify(|state| state.holds_port = true);
                        self.outer_port = Some(port);
                    }
                }
                () = sleep_until(due.into()) => {}
            }
        }
    }

    /// The port that a router is asked to forward to; `None` where that makes no sense.
    fn local_port(&self) -> Option<u16> {
        let wanted = self.port_mapping && self.agent.is_some() && !self.loopback;
        let mains = self.sockets.mains();
        let main = mains.iter().find(|(via, _)| *via == Via::Socket(MAIN));
        main.map(|(_, local)| local.port()).filter(|_| wanted)
    }

    /// Gives the router's port back; who closes the session waits for that.
    fn give_back(&mut self) {
        if let Some(port) = self.outer_port.take() {
            let state = self.state.clone();
            tokio::spawn(async move {
                port.release().await;
                state.send_modify(|state| state.holds_port = false);
            });
        }
    }

    fn due(&self, now: Instant) -> Instant {
        let agent = self.agent.as_ref().and_then(Agent::poll_timeout);
        let secure = self.secure.poll_timeout();
        let discovery = self.discovery.poll_timeout(now);
        let notes = self.notes.iter().map(|note| note.0).min();
        let alone = self.alone.as_ref().map(Alone::due);
        let provable = self.secure.is_ready() && self.paths.is_any();
        let proof = self.proof.poll_timeout().filter(|_| provable);
        let others = [agent, secure, discovery, notes, alone, proof];
        let outbox = self.outbox.poll_timeout().filter(|_| self.is_passed_on());
        let closer = self.closer.as_ref().map(|closer| closer.until);
        let mine = [self.ask_at, self.end_at, outbox, closer];
        let others = others.into_iter().chain(mine).flatten();
        others.fold(self.look_at, Instant::min)
    }

    /// Does what is due, and what the parts want done.
    fn act(&mut self) {
        let now = now();
        self.secure.handle_timeout(now);
        if let Some(agent) = &mut self.agent {
            agent.handle_timeout(now);
        }
        if self.look_at <= now {
            self.look_at = now + LOOK;
            self.look();
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_servers();
        }
        self.ask_whether_alone(now);
        self.looked_closer(now);
        self.agent_events(now);
        while let Some((via, to, bytes)) = self.discovery.poll_transmit(now) {
            self.sockets.send(via, to, None, &bytes);
        }
        self.secure_events(now);
        self.send_own(now);
        self.connected();
        self.send_notes(now);
        self.post_blobs(now);
        self.publish();
    }

    fn agent_events(&mut self, now: Instant) {
        let Some(agent) = &mut self.agent else {
            return;
        };
        let mut told = Vec::new();
        let mut measure = false;
        loop {
            while let Some(transmit) = agent.poll_transmit() {
                let punch::Transmit {
                    via,
                    to,
                    ttl,
                    bytes,
                } = transmit;
                if !self.loss.takes() {
                    self.sockets.send(via, to, ttl, &bytes);
                }
            }
            let Some(event) = agent.poll_event() else {
                break;
            };
            match event {
                Event::Signal(description) => told.push(description),
                Event::OpenSockets(count) => {
                    let opened = self.sockets.open_more(count);
                    agent.add_sockets(opened, now);
                }
                Event::CloseSocketsExcept(keep) => self.sockets.close_except(keep),
                Event::Measure => measure = true,
                Event::Selected(path) => {
                    self.paths.selected(now, path);
                    self.proof.proven();
                    self.outcome = Outcome::Direct;
                    self.secure.path_changed(now);
                    self.ask_at = None;
                }
                Event::Lost(reason) => {
                    self.paths.lost(&reason.to_string());
                    self.secure.path_changed(now);
                    self.ask_at = Some(now);
                }
                Event::GaveUp(reason) => {
                    let reason = reason.to_string();
                    if !self.paths.is_direct() {
                        self.paths.lost(&reason);
                    }
                    self.state.send_modify(|state| state.gave_up = true);
                    progress(&self.progress, Progress::GaveUp(reason));
                }
            }
        }
        if let Some(path) = agent.selected() {
            self.paths.measured(path.rtt);
        }
        for description in told {
            self.tell(description.into());
        }
        if measure {
            self.look_closer(gather::CLOSER_AGAIN);
        }
    }

    fn secure_events(&mut self, now: Instant) {
        while let Some(event) = self.secure.poll_event() {
            match event {
                noise::Event::Ready => {}
                noise::Event::RoundTrip(rtt) => self.paths.round_trip(rtt),
                noise::Event::Closed(code) => {
                    self.end(Ended::ByPeer(code));
                    self.end_at = Some(now + LINGER);
                }
                noise::Event::Left => {
                    self.end(Ended::Here);
                    self.end_at = Some(now);
                }
                noise::Event::Dead => {
                    self.end(Ended::Silent);
                    self.end_at = Some(now);
                }
            }
        }
    }

    pub(super) fn end(&mut self, ended: Ended) {
        self.state.send_modify(|state| {
            state.ended.get_or_insert(ended);
        });
        self.end_at.get_or_insert_with(now);
    }

    fn command(&mut self, command: Command) {
        let now = now();
        match command {
            Command::Send(kind, data) => self.send(now, kind, &data),
            Command::Take(answer) => {
                let path = self.paths.direct().copied();
                let taken = match path {
                    Some(path) => self.sockets.take(path.via, path.remote),
                    None => Err(io::Error::new(
                        io::ErrorKind::NotConnected,
                        "there is no direct path",
                    )),
                };
                let taken = taken.map(|socket| {
                    self.end(Ended::Taken);
                    self.state.send_modify(|state| state.holds_port = false);
                    (socket, self.outer_port.take())
                });
                let _ = answer.send(taken);
            }
            Command::Restart => self.restart(),
            Command::Because(reason) => self.paths.lost(&reason),
            Command::Offer(offer) => self.tell(Note {
                tcp: Some(offer),
                ..Note::default()
            }),
            Command::Outcome(outcome) => self.outcome = outcome,
            Command::Lose(percent) => self.loss.percent = percent,
            Command::Renewed(ice_servers) => {
                self.relay.renew(&ice_servers);
                self.ice_servers = ice_servers;
            }
            Command::Close(code) => self.secure.close(now, code),
        }
    }
}

pub(super) fn progress(to: &Option<mpsc::UnboundedSender<Progress>>, what: Progress) {
    if let Some(to) = to {
        let _ = to.send(what);
    }
}
