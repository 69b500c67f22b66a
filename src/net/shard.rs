//! The loop of one shard: one thread, one core, one data plane, nothing shared on the way of a
//! datagram.
//!
//! A turn is one batch: receive, decide, send; then the cold work that the batch caused, timers
//! and connections. A batch is bounded by the plane's slots, so none of these ever waits long.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::bind::StreamListener;
use super::connection::{Phase, READ_SIZE, Reading, Writing};
use super::control::{Command, Mailbox};
use super::plane::{DataPlane, Event, Origin, Payload, Slot};
use super::relays::RelayOpener;
use super::streams::{MAX_CONNECTIONS, Streams};
use super::sys::{self, Interest, Readiness};
use super::{AuditSink, clock};
use crate::proto::counters::Counters;
use crate::proto::{
    Disposition, DropReason, Effect, Flow, Mono, Now, OpenError, OpenSpec, Relay, RelayId,
    Transport,
};
use crate::wire::StreamFramer;

/// Token of the eventfd; those of connections are below [`MAX_CONNECTIONS`].
const WAKE: u32 = 1 << 25;

/// Token of the first stream listener.
const ACCEPT: u32 = 1 << 26;

/// The most connections accepted from one listener in a turn.
const ACCEPTS: usize = 16;

/// The most frames of one connection handled in a turn.
const FRAMES: usize = 64;

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
    acceptors: Vec<Acceptor>,
    opener: RelayOpener,
    mailboxes: Arc<[Mailbox]>,
    audit: AuditSink,
    scratch: Box<[u8; READ_SIZE]>,
    now: Now,
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
        listeners: Vec<StreamListener>,
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
            acceptors: acceptors.collect(),
            opener,
            mailboxes,
            audit,
            scratch: Box::new([0; READ_SIZE]),
            now: clock::now(),
        })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            self.plane.wait(self.timeout())?;
            self.now = clock::now();
            let mut stop = false;
            for _ in 0..self.streams.pending() {
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
                        len,
                    } => self.datagram(origin, source, slot, len),
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

    fn datagram(&mut self, origin: Origin, source: SocketAddr, slot: Slot, len: usize) {
        let answer = match origin {
            Origin::Listener { listener, local } => {
                let flow = Flow {
                    transport: Transport::Udp,
                    client: source,
                    local,
                    link: u64::from(listener),
                };
                let (bytes, reply) = self.plane.slot_and_reply(slot, 0, len);
                self.relay.handle_client(self.now, &flow, bytes, reply)
            }
            Origin::Relay(relay) => self.relay.handle_peer(self.now, relay, source, len),
        };
        let handled = Handled {
            slot,
            start: 0,
            alone: true,
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
                Effect::Audit(audit) => (self.audit)(&audit),
            }
        }
    }

    fn open(
        &mut self,
        relay: RelayId,
        spec: OpenSpec,
    ) -> Result<crate::proto::OpenedRelay, OpenError> {
        let socket = self.opener.open(spec)?;
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

    /// A connection missed its deadline.
    fn late(&mut self, link: u64) {
        let limits = self.streams.limits;
        let Some(connection) = self.streams.get(link) else {
            return;
        };
        if connection.phase == Phase::Proven && self.relay.has_allocation(&connection.flow) {
            connection.excuse_idleness(self.now.mono, &limits);
            let late = connection
                .deadline(&limits)
                .is_some_and(|at| at <= self.now.mono);
            if !late {
                return self.streams.arm(link);
            }
        }
        tracing::debug!(client = %connection.flow.client, phase = ?connection.phase,
            "closing a connection that missed its deadline");
        if connection.phase != Phase::Proven {
            self.counters.connection_refused();
        }
        self.close(link);
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

    fn accept(&mut self, number: u32) {
        let Some(acceptor) = self.acceptors.get_mut(number as usize) else {
            return;
        };
        let listener = &acceptor.listener;
        let mut accepted = Vec::new();
        for _ in 0..ACCEPTS {
            match sys::accept(listener.socket.as_fd()) {
                Ok(connection) => accepted.push(connection),
                Err(error) => match error.raw_os_error() {
                    // The connection stays in the backlog, and would wake the loop at once.
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        let token = ACCEPT + number;
                        let fd = listener.socket.as_fd();
                        if self.plane.rewatch(fd, token, Interest::NONE).is_ok() {
                            acceptor.paused = Some(Mono(self.now.mono.0 + ACCEPT_PAUSE));
                        }
                        tracing::warn!(address = %listener.address, %error,
                            "cannot accept connections for want of file descriptors");
                        break;
                    }
                    Some(libc::EAGAIN) => break,
                    // The client was faster to leave.
                    _ => {}
                },
            }
        }
        let about = (listener.address, listener.protocol, listener.tls.clone());
        for (socket, client) in accepted {
            let added = self
                .streams
                .add(self.now.mono, socket, client, about.clone());
            let Some((link, victim)) = added else {
                self.counters.connection_refused();
                continue;
            };
            if let Some(victim) = victim {
                self.counters.connection_refused();
                if victim.shard == self.index {
                    self.close(victim.link);
                } else {
                    self.mailboxes[victim.shard].post(Command::Close(victim.link));
                }
            }
            let watched = match self.streams.fd(link) {
                Some(fd) => self.plane.watch(fd, link as u32, Interest::READ),
                None => Ok(()),
            };
            if watched.is_err() {
                self.close(link);
            }
        }
    }

    /// Reads a connection and handles the frames that are complete.
    fn read(&mut self, link: u64) {
        let Some(connection) = self.streams.get(link) else {
            return;
        };
        if connection.phase == Phase::Closing || connection.doomed {
            return;
        }
        let Some(slot) = self.plane.acquire() else {
            return self.streams.postpone(link);
        };
        let data = self.plane.slot_mut(slot);
        let (len, reading) = connection.fill(self.now.mono, data, &mut self.scratch);
        let flow = connection.flow;
        if connection.wants_write() {
            self.streams.touch(link);
        }
        let mut start = 0;
        let mut frames = 0;
        let mut malformed = false;
        let backlog = loop {
            let rest = &self.plane.slot_mut(slot)[start..len];
            let frame = StreamFramer::default().next(rest);
            if frame.is_err() || self.streams.is_premature(link, rest.first()) {
                malformed = true;
                break false;
            }
            let Ok(Some(frame)) = frame else { break false };
            if frames == FRAMES {
                break true;
            }
            let (bytes, reply) = self.plane.slot_and_reply(slot, start, frame.len);
            let answer = self.relay.handle_client(self.now, &flow, bytes, reply);
            let handled = Handled {
                slot,
                start,
                alone: false,
            };
            self.dispose(answer, Some(handled));
            start += frame.padded_len;
            frames += 1;
        };
        if malformed {
            // RFC 8489 section 6.2.2: the stream cannot be synchronised again.
            self.counters.dropped(DropReason::Malformed);
            return self.streams.doom(link);
        }
        let rest = &self.plane.slot_mut(slot)[start..len];
        let Some(connection) = self.streams.get(link) else {
            return;
        };
        connection.keep(self.now.mono, rest, backlog, start > 0);
        match reading {
            _ if backlog => self.streams.postpone(link),
            Reading::More => self.streams.postpone(link),
            Reading::Drained => {}
            Reading::End | Reading::Broken => return self.streams.doom(link),
        }
        self.streams.arm(link);
    }

    /// Writes what the batch queued, one call for each connection.
    fn write_streams(&mut self) {
        while let Some(link) = self.streams.pop_dirty() {
            let Some(connection) = self.streams.get(link) else {
                continue;
            };
            let blocked = match connection.write() {
                Writing::Done if connection.phase == Phase::Closing => {
                    connection.shut_down();
                    self.close(link);
                    continue;
                }
                Writing::Done => false,
                Writing::Blocked => true,
                Writing::Broken => {
                    self.close(link);
                    continue;
                }
            };
            if blocked != connection.blocked {
                connection.blocked = blocked;
                let interest = match (connection.phase, blocked) {
                    (Phase::Closing, true) => Interest::WRITE,
                    (Phase::Closing, false) => Interest::NONE,
                    (_, true) => Interest::READ_WRITE,
                    (_, false) => Interest::READ,
                };
                if self
                    .plane
                    .rewatch(connection.fd(), link as u32, interest)
                    .is_err()
                {
                    self.close(link);
                }
            }
        }
    }

    /// Closes the connections that came to their end in this turn, after what was queued for
    /// them is written: a client that closes its sending side may still wait for its answer.
    fn close_streams(&mut self) {
        while let Some(link) = self.streams.pop_doomed() {
            let Some(connection) = self.streams.get(link) else {
                continue;
            };
            let flow = connection.flow;
            if connection.phase == Phase::Closing {
                continue;
            }
            if connection.abandoned {
                self.close(link);
                continue;
            }
            connection.begin_closing(self.now.mono);
            self.relay.flow_closed(self.now, &flow);
            match connection.write() {
                Writing::Done => {
                    connection.shut_down();
                    self.close(link);
                }
                Writing::Broken => self.close(link),
                Writing::Blocked => {
                    connection.blocked = true;
                    let fd = connection.fd();
                    let watched = self.plane.rewatch(fd, link as u32, Interest::WRITE);
                    match watched {
                        Ok(()) => self.streams.arm(link),
                        Err(_) => self.close(link),
                    }
                }
            }
        }
        self.effects();
    }

    /// Closes a connection at once. The core's part of it is done later in the turn.
    fn close(&mut self, link: u64) {
        if let Some(connection) = self.streams.remove(link)
            && connection.phase != Phase::Closing
        {
            self.relay.flow_closed(self.now, &connection.flow);
        }
    }

    fn commands(&mut self) -> ControlFlow<()> {
        let mailboxes = Arc::clone(&self.mailboxes);
        for command in mailboxes[self.index].take() {
            match command {
                Command::SetPolicy(policy) => self.relay.set_policy(policy),
                Command::Drain(alternates) => self.relay.drain(alternates),
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
