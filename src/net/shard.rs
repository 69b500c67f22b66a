//! The loop of one shard: one thread, one core, one data plane, nothing shared on the way of a
//! datagram.
//!
//! A turn is one batch: receive, decide, send; then the cold work that the batch caused, timers
//! and connections. A batch is bounded by the plane's slots, so none of these ever waits long.

mod connections;

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::bind::StreamListener;
use super::connection::READ_SIZE;
use super::control::{Command, Listeners, Mailbox};
use super::plane::{DataPlane, Event, Origin, Payload, Slot};
use super::relays::RelayOpener;
use super::standing::StandingQueue;
use super::streams::{MAX_CONNECTIONS, Streams};
use super::sys::{Interest, Readiness};
use super::{AuditSink, Service, clock};
use crate::proto::audit::Audit;
use crate::proto::counters::Counters;
use crate::proto::{
    Disposition, DropReason, Effect, Flow, Mono, Now, OpenError, OpenSpec, Relay, RelayId,
    Transport,
};
use crate::wire;

/// Token of the eventfd; those of connections are below [`MAX_CONNECTIONS`].
const WAKE: u32 = 1 << 25;

/// Token of the first stream listener.
const ACCEPT: u32 = 1 << 26;

/// The most connections accepted from one listener in a turn.
const ACCEPTS: usize = 16;

/// The most frames of one connection handled in a turn.
const FRAMES: usize = 64;

/// The most connections with a backlog that are come back to in a turn: each takes a slot, and
/// datagrams need some, too.
const BACKLOGS: usize = 16;

/// How long a listener rests when there are no file descriptors, in microseconds.
const ACCEPT_PAUSE: u64 = 100_000;

/// Where the bytes that were handled lie.
#[derive(Clone, Copy)]
struct Handled {
    slot: Slot,
    start: usize,
    /// They are all that the slot holds.
    alone: bool,
}

struct Acceptor {
    listener: StreamListener,
    /// It rests until then.
    paused: Option<Mono>,
}

/// See the module.
pub(super) struct Shard<P> {
    index: usize,
    plane: P,
    relay: Relay,
    counters: Arc<Counters>,
    streams: Streams,
    /// What each UDP listener is for.
    services: Vec<Service>,
    acceptors: Vec<Acceptor>,
    opener: RelayOpener,
    mailboxes: Arc<[Mailbox]>,
    audit: AuditSink,
    scratch: Box<[u8; READ_SIZE]>,
    /// The slot that connections are read into in this batch, and how much of it they took.
    reading: Option<(Slot, usize)>,
    now: Now,
    /// When this batch began, by the kernel's clock of arrivals.
    unix_micros: u64,
    standing: StandingQueue,
}

impl<P: DataPlane> Shard<P> {
    #[allow(
        clippy::too_many_arguments,
        reason = "assembled in one place, from parts that nothing else groups"
    )]
    pub(super) fn new(
        index: usize,
        mut plane: P,
        relay: Relay,
        streams: Streams,
        (services, listeners): Listeners,
        opener: RelayOpener,
        mailboxes: Arc<[Mailbox]>,
        audit: AuditSink,
    ) -> io::Result<Self> {
        plane.watch(mailboxes[index].wake_fd(), WAKE, Interest::READ)?;
        for (number, listener) in (0..).zip(&listeners) {
            plane.watch(listener.socket.as_fd(), ACCEPT + number, Interest::READ)?;
        }
        let acceptors = listeners.into_iter().map(|listener| Acceptor {
            listener,
            paused: None,
        });
        Ok(Self {
            index,
            plane,
            counters: Arc::clone(relay.counters()),
            relay,
            streams,
            services,
            acceptors: acceptors.collect(),
            opener,
            mailboxes,
            audit,
            scratch: Box::new([0; READ_SIZE]),
            reading: None,
            now: clock::now(),
            unix_micros: clock::unix_micros(),
            standing: StandingQueue::default(),
        })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            self.plane.wait(self.timeout(), self.now.mono)?;
            self.reading = None;
            self.now = clock::now();
            self.unix_micros = clock::unix_micros();
            let mut stop = false;
            for _ in 0..self.streams.pending().min(BACKLOGS) {
                if let Some(link) = self.streams.pop_pending() {
                    self.read(link);
                }
            }
            while let Some(event) = self.plane.next() {
                match event {
                    Event::Datagram {
                        origin,
                        source,
                        slot,
                        start,
                        len,
                        alone,
                        arrived,
                    } => {
                        let handled = Handled { slot, start, alone };
                        let waited = arrived.map_or(0, |at| self.unix_micros.saturating_sub(at));
                        if self.standing.is_late(self.now.mono, waited)
                            && self.is_data(origin, handled, len)
                        {
                            self.counters.dropped(DropReason::Late);
                        } else {
                            self.datagram(origin, source, handled, len);
                        }
                    }
                    Event::Icmp { relay, error } => {
                        let reply = self.plane.reply_buffer();
                        let answer = self.relay.handle_icmp(self.now, relay, &error, reply);
                        self.dispose(answer, None);
                    }
                    Event::Ready { token: WAKE, .. } => stop |= self.commands().is_break(),
                    Event::Ready { token, readiness } => self.ready(token, readiness),
                }
            }
            self.timers();
            self.plane.flush();
            self.effects();
            if stop {
                self.relay.close_all(self.now);
                self.effects();
            }
            self.write_streams();
            self.close_streams();
            self.plane.flush();
            self.count();
            if stop {
                return Ok(());
            }
        }
    }

    /// How long there is nothing to do unless something comes.
    fn timeout(&self) -> Option<Duration> {
        if self.streams.pending() > 0 {
            return Some(Duration::ZERO);
        }
        let paused = self.acceptors.iter().filter_map(|acceptor| acceptor.paused);
        let next = [self.relay.poll_timeout(), self.streams.next_timer()];
        let at = next.into_iter().flatten().chain(paused).min()?;
        Some(Duration::from_micros(at.micros_since(self.now.mono)))
    }

    /// Whether a datagram is application data, which is worth nothing when it is late; requests
    /// are answered also then.
    fn is_data(&mut self, origin: Origin, handled: Handled, len: usize) -> bool {
        let bytes = &self.plane.slot_mut(handled.slot)[handled.start..handled.start + len];
        matches!(origin, Origin::Relay(_)) || wire::is_application_data(bytes)
    }

    fn datagram(&mut self, origin: Origin, source: SocketAddr, handled: Handled, len: usize) {
        let answer = match origin {
            Origin::Listener { listener, local } => {
                let flow = Flow {
                    transport: Transport::Udp,
                    client: source,
                    local,
                    link: u64::from(listener),
                };
                let Handled { slot, start, .. } = handled;
                let (bytes, reply) = self.plane.slot_and_reply(slot, start, len);
                match self.services.get(listener as usize) {
                    Some(Service::Discovery { echo }) => self
                        .relay
                        .handle_discovery(self.now, &flow, bytes, reply, *echo),
                    Some(Service::TurnAndEcho) => self
                        .relay
                        .handle_client_or_echo(self.now, &flow, bytes, reply),
                    _ => self.relay.handle_client(self.now, &flow, bytes, reply),
                }
            }
            Origin::Relay(relay) => self.relay.handle_peer(self.now, relay, source, len),
        };
        self.dispose(answer, Some(handled));
    }

    /// Does what the core said about the bytes that were handled.
    fn dispose(&mut self, answer: Disposition, handled: Option<Handled>) {
        match (answer, handled) {
            (
                Disposition::ToPeer {
                    relay,
                    peer,
                    payload,
                    dont_fragment,
                },
                Some(Handled { slot, start, alone }),
            ) => {
                let payload = Payload::new(slot, start, payload, alone);
                if !self.plane.send_to_peer(relay, peer, dont_fragment, payload) {
                    self.counters.dropped(DropReason::NoRelay);
                }
            }
            (
                Disposition::ToClient {
                    flow,
                    prefix,
                    payload,
                    padding,
                },
                Some(Handled { slot, start, alone }),
            ) => {
                if flow.transport.is_stream() {
                    let range = start + payload.start..start + payload.end;
                    let data = &self.plane.slot_mut(slot)[range];
                    let padding = &[0; 3][..usize::from(padding)];
                    let parts = [prefix.as_slice(), data, padding];
                    // Data that finds no room is dropped, and nothing else happens.
                    self.streams.queue(self.now.mono, flow.link, parts, false);
                } else {
                    let payload = Payload::new(slot, start, payload, alone);
                    self.plane
                        .send_to_client(&flow, payload.wrapped(&prefix, padding));
                }
            }
            (
                Disposition::Reply {
                    flow,
                    len,
                    authenticated,
                },
                _,
            ) => self.reply(&flow, len, authenticated),
            (Disposition::Waiting | Disposition::Drop(_), _) => {}
            (Disposition::ToPeer { .. } | Disposition::ToClient { .. }, None) => {
                debug_assert!(false, "only handled bytes can be relayed");
            }
        }
    }

    fn reply(&mut self, flow: &Flow, len: usize, authenticated: bool) {
        if !flow.transport.is_stream() {
            return self.plane.send_reply(flow, len);
        }
        let reply = &self.plane.reply_buffer()[..len];
        let parts = [reply, &[], &[]];
        if !self.streams.queue(self.now.mono, flow.link, parts, true) {
            // RFC 8489 section 6.2.2: a stream loses no answer; the client will notice.
            self.counters.dropped(DropReason::QueueFull);
            self.streams.abandon(flow.link);
        }
        if authenticated {
            self.streams.prove(flow.link);
            self.streams.arm(flow.link);
        }
    }

    /// Does the cold work that the core asked for.
    fn effects(&mut self) {
        while let Some(effect) = self.relay.poll_effect() {
            match effect {
                Effect::OpenRelay { relay, spec } => {
                    let result = self.open(relay, spec);
                    let reply = self.plane.reply_buffer();
                    let answer = self.relay.relay_opened(self.now, relay, result, reply);
                    self.dispose(answer, None);
                }
                Effect::CloseRelay { relay } => self.plane.close(relay),
                Effect::ReleaseReserved { token } => self.opener.release(&token),
                Effect::CloseFlow { flow } => self.streams.doom(flow.link),
                Effect::AuthenticationFailed { flow } => {
                    (self.audit)(&Audit::AuthenticationFailed { flow });
                }
                Effect::Audit(audit) => (self.audit)(&audit),
            }
        }
    }

    fn open(
        &mut self,
        relay: RelayId,
        spec: OpenSpec,
    ) -> Result<crate::proto::OpenedRelay, OpenError> {
        let socket = match self.opener.open(spec) {
            // A socket that is being closed may have the last port, or the last descriptor.
            Err(OpenError::NoPort | OpenError::Exhausted) if self.plane.settle() => {
                self.opener.open(spec)?
            }
            opened => opened?,
        };
        let opened = socket.opened();
        socket.set_live(true);
        match self.plane.open(relay, socket) {
            Ok(()) => Ok(opened),
            Err(_) => {
                if let OpenSpec::EvenAndReserve { token, .. } = spec {
                    self.opener.release(&token);
                }
                Err(OpenError::Exhausted)
            }
        }
    }

    fn timers(&mut self) {
        let now = self.now.mono;
        if self.relay.poll_timeout().is_some_and(|at| at <= now) {
            self.relay.handle_timeout(self.now);
        }
        while let Some(link) = self.streams.pop_late(now) {
            self.late(link);
        }
        for (number, acceptor) in (0..).zip(&mut self.acceptors) {
            if acceptor.paused.is_some_and(|until| until <= now) {
                acceptor.paused = None;
                let fd = acceptor.listener.socket.as_fd();
                let watched = self.plane.rewatch(fd, ACCEPT + number, Interest::READ);
                if watched.is_err() {
                    acceptor.paused = Some(Mono(now.0 + ACCEPT_PAUSE));
                }
            }
        }
    }

    fn ready(&mut self, token: u32, readiness: Readiness) {
        if token >= ACCEPT {
            return self.accept(token - ACCEPT);
        }
        debug_assert!(token < MAX_CONNECTIONS);
        let Some(link) = self.streams.link_of(token) else {
            return;
        };
        if readiness.writable() {
            self.streams.drop_stale(self.now.mono, link);
            self.streams.touch(link);
        }
        if readiness.readable() {
            self.read(link);
        }
    }

    fn commands(&mut self) -> ControlFlow<()> {
        let mailboxes = Arc::clone(&self.mailboxes);
        for command in mailboxes[self.index].take() {
            match command {
                Command::SetPolicy(policy) => self.relay.set_policy(policy),
                Command::Drain(alternates) => self.relay.drain(alternates),
                Command::WaitOver(pair, flow) => self.relay.wait_over(self.now, pair, &flow),
                Command::Close(link) => self.close(link),
                Command::Stop => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    /// Publishes what the turn changed.
    fn count(&mut self) {
        let failures = self.plane.take_failures();
        if failures > 0 {
            self.counters.dropped_many(DropReason::SendFailed, failures);
        }
        let queue_drops = std::mem::take(&mut self.streams.queue_drops);
        if queue_drops > 0 {
            self.counters
                .dropped_many(DropReason::QueueFull, queue_drops);
        }
        let allocations = self.relay.allocations();
        let published = &self.mailboxes[self.index].allocations;
        // Written only when it changes: other shards' numbers are on the same cache line.
        if published.load(Relaxed) != allocations {
            published.store(allocations, Relaxed);
        }
    }
}
