//! The data plane that works on every Linux: epoll, recvmmsg and sendmmsg.
//!
//! A batch is as many datagrams as there are slots. They are received where they stay until
//! they are sent: prefixes are written into the head room in front of them. Sends wait in one
//! list per socket, so that a batch costs one call for each socket and not one for each datagram.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::bind::{UdpListener, set_mtu_discovery};
use super::plane::{
    DataPlane, Event, HEAD_ROOM, Origin, Payload, SLOT_SIZE, Slot, TAIL_ROOM, leave_from,
};
use super::relays::RelaySocket;
use super::sys::{self, Epoll, Interest, Outgoing, QueuedError, Receiver, Sender};
use crate::proto::{Flow, RelayId};

/// Slots: the most datagrams and stream reads in one batch.
const SLOTS: usize = 64;

/// The most datagrams of a batch that one listener, or one relay socket, may fill: the two
/// directions share a batch evenly however unequal their number of sockets is.
const SHARE: usize = 32;

/// An odd number of cache lines, so that the starts of the slots do not fall into one set.
const STRIDE: usize = HEAD_ROOM + SLOT_SIZE + TAIL_ROOM;
const _: () = assert!(STRIDE.is_multiple_of(64) && !(STRIDE / 64).is_multiple_of(2));

/// One slot more than a batch has: where a payload is copied to that cannot be wrapped in place.
const BOUNCE: u32 = SLOTS as u32;

/// Replies that wait to be sent, and the room for each.
const REPLIES: usize = 64;
const REPLY_SIZE: usize = 1536;
const REPLIES_START: usize = (SLOTS + 1) * STRIDE;

/// The most datagrams that wait to be sent before they are flushed early.
const QUEUE: usize = 256;

/// The most datagrams in one sendmmsg.
const SEND_BATCH: usize = 64;

/// The most entries of one socket's error queue that are handled in a row.
const ERRORS: usize = 16;

/// Events taken from epoll in one round.
const EVENTS: usize = 256;

const NONE: u32 = u32::MAX;

/// A datagram that waits to be sent.
#[derive(Clone, Copy)]
struct Queued {
    start: usize,
    len: usize,
    to: SocketAddr,
    from: Option<IpAddr>,
    dont_fragment: bool,
    next: u32,
}

/// The first and last datagram that wait on one socket.
#[derive(Clone, Copy)]
struct Line {
    first: u32,
    last: u32,
}

impl Line {
    const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };
}

struct Listener {
    socket: UdpListener,
    line: Line,
    /// There may be more to receive.
    hot: bool,
    /// It had its share of this batch.
    served: bool,
}

struct Relay {
    generation: u32,
    socket: RelaySocket,
    line: Line,
    /// The socket sets DF now. It is switched only when a datagram wants the other mode, and
    /// the socket's other datagrams are sent before.
    dont_fragment: bool,
    /// It waits in `pending`.
    pending: bool,
    /// Its error queue was not read to the end.
    faulty: bool,
}

#[derive(Clone, Copy)]
enum Socket {
    Listener(u32),
    Relay(u32),
}

/// Received datagrams that were not handed out yet.
#[derive(Clone, Copy)]
struct Arrived {
    from: Socket,
    next: usize,
    end: usize,
}

/// See the module.
pub(super) struct Mmsg {
    epoll: Epoll,
    memory: Box<[u8]>,
    receiver: Receiver,
    sender: Sender,
    listeners: Vec<Listener>,
    relays: Vec<Option<Relay>>,
    /// Events of the last round that were not looked at yet.
    events: std::ops::Range<usize>,
    arrived: Option<Arrived>,
    /// A relay socket whose error queue is being read, and how many entries more.
    errors: Option<(RelayId, usize)>,
    /// Relay sockets that may have more, and how many of them belong to this batch.
    pending: VecDeque<RelayId>,
    due: usize,
    used_slots: usize,
    used_replies: usize,
    bounce_used: bool,
    queue: Vec<Queued>,
    dirty: Vec<Socket>,
    failures: u64,
}

impl Mmsg {
    /// A plane that receives from these listeners.
    pub(super) fn new(listeners: Vec<UdpListener>) -> io::Result<Self> {
        let epoll = Epoll::new(EVENTS)?;
        for (index, listener) in listeners.iter().enumerate() {
            epoll.add(listener.socket.as_fd(), index as u64, Interest::READ_EDGE)?;
        }
        let listeners: Vec<_> = listeners
            .into_iter()
            .map(|socket| Listener {
                socket,
                line: Line::EMPTY,
                hot: false,
                served: false,
            })
            .collect();
        Ok(Self {
            epoll,
            memory: vec![0; REPLIES_START + REPLIES * REPLY_SIZE].into(),
            receiver: Receiver::new(SLOTS, STRIDE, HEAD_ROOM, SLOT_SIZE),
            sender: Sender::new(SEND_BATCH),
            dirty: Vec::with_capacity(QUEUE),
            listeners,
            relays: Vec::new(),
            events: 0..0,
            arrived: None,
            errors: None,
            pending: VecDeque::with_capacity(EVENTS),
            due: 0,
            used_slots: 0,
            used_replies: 0,
            bounce_used: false,
            queue: Vec::with_capacity(QUEUE),
            failures: 0,
        })
    }

    fn relay(&mut self, id: RelayId) -> Option<&mut Relay> {
        self.relays
            .get_mut(id.index as usize)?
            .as_mut()
            .filter(|relay| relay.generation == id.generation)
    }

    /// Receives from a socket into the free slots.
    fn receive(&mut self, from: Socket) {
        let fd = match from {
            Socket::Listener(index) => self.listeners[index as usize].socket.socket.as_fd(),
            Socket::Relay(index) => match &self.relays[index as usize] {
                Some(relay) => relay.socket.as_fd(),
                None => return,
            },
        };
        let asked = SHARE.min(SLOTS - self.used_slots);
        let mut received = 0;
        let mut more = true;
        // A queued ICMP error ends a receive once; what follows it is received then.
        for _ in 0..4 {
            let result = self
                .receiver
                .receive(fd, &mut self.memory, self.used_slots, asked);
            match result {
                Ok(count) => {
                    received = count;
                    more = count == asked;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(_) => {}
            }
        }
        match from {
            Socket::Listener(index) => {
                let listener = &mut self.listeners[index as usize];
                listener.hot = more;
                listener.served = true;
            }
            Socket::Relay(index) if more => self.postpone(index),
            Socket::Relay(_) => {}
        }
        if received > 0 {
            self.arrived = Some(Arrived {
                from,
                next: self.used_slots,
                end: self.used_slots + received,
            });
            self.used_slots += received;
        }
    }

    /// Comes back to a relay socket in the next batch.
    fn postpone(&mut self, index: u32) {
        if let Some(Some(relay)) = self.relays.get_mut(index as usize)
            && !relay.pending
        {
            relay.pending = true;
            self.pending.push_back(RelayId {
                index,
                generation: relay.generation,
            });
        }
    }

    /// Hands out one of the datagrams that were received.
    fn arrival(&mut self) -> Option<Event> {
        loop {
            let arrived = self.arrived.as_mut()?;
            let (from, slot) = (arrived.from, arrived.next);
            arrived.next += 1;
            if arrived.next == arrived.end {
                self.arrived = None;
            }
            let Some(received) = self.receiver.received(slot) else {
                continue;
            };
            let origin = match from {
                Socket::Listener(listener) => {
                    let bound = self.listeners[listener as usize].socket.address;
                    let local = match received.local {
                        None => bound,
                        Some(Some(ip)) => SocketAddr::new(ip, bound.port()),
                        // Sent to a broadcast or multicast address: there is no address from
                        // which an answer could come.
                        Some(None) => continue,
                    };
                    Origin::Listener { listener, local }
                }
                Socket::Relay(index) => match &self.relays[index as usize] {
                    Some(relay) => Origin::Relay(RelayId {
                        index,
                        generation: relay.generation,
                    }),
                    None => continue,
                },
            };
            return Some(Event::Datagram {
                origin,
                source: received.source,
                slot: Slot(slot as u32),
                len: received.len,
            });
        }
    }

    /// Reads one entry of the error queue that is being read.
    fn error(&mut self) -> Option<Event> {
        loop {
            let (id, left) = self.errors?;
            let Some(relay) = self.relay(id) else {
                self.errors = None;
                return None;
            };
            let entry = if left > 0 {
                sys::queued_error(relay.socket.as_fd())
            } else {
                relay.faulty = true;
                self.postpone(id.index);
                Ok(None)
            };
            match entry {
                Ok(Some(QueuedError::Icmp(error))) => {
                    self.errors = Some((id, left - 1));
                    return Some(Event::Icmp { relay: id, error });
                }
                Ok(Some(QueuedError::Local)) => self.errors = Some((id, left - 1)),
                Ok(None) | Err(_) => {
                    self.errors = None;
                    // Datagrams may lie behind the errors.
                    if self.used_slots < SLOTS {
                        self.receive(Socket::Relay(id.index));
                    } else {
                        self.postpone(id.index);
                    }
                    return None;
                }
            }
        }
    }

    fn queue(&mut self, socket: Socket, mut queued: Queued) {
        queued.next = NONE;
        let index = self.queue.len() as u32;
        self.queue.push(queued);
        let line = match socket {
            Socket::Listener(listener) => &mut self.listeners[listener as usize].line,
            Socket::Relay(relay) => match &mut self.relays[relay as usize] {
                Some(relay) => &mut relay.line,
                None => return,
            },
        };
        if line.first == NONE {
            line.first = index;
            self.dirty.push(socket);
        } else {
            self.queue[line.last as usize].next = index;
        }
        line.last = index;
    }

    /// Puts prefix and padding around a payload; returns where the datagram lies.
    fn wrap(&mut self, payload: &Payload<'_>) -> (usize, usize) {
        let mut start = slot_start(payload.slot) + payload.start;
        let prefix = payload.prefix.map_or(&[][..], |prefix| prefix.as_slice());
        let padding = usize::from(payload.padding);
        if !payload.alone && (!prefix.is_empty() || padding > 0) {
            // The bytes around this payload belong to other datagrams that wait.
            if self.bounce_used {
                self.flush();
            }
            self.bounce_used = true;
            let bounce = slot_start(Slot(BOUNCE));
            self.memory.copy_within(start..start + payload.len, bounce);
            start = bounce;
        }
        let end = start + payload.len;
        self.memory[end..end + padding].fill(0);
        self.memory[start - prefix.len()..start].copy_from_slice(prefix);
        (start - prefix.len(), prefix.len() + payload.len + padding)
    }

    fn make_room(&mut self) {
        if self.queue.len() == QUEUE {
            self.flush();
        }
    }

    /// Sends what waits on one socket.
    fn flush_socket(&mut self, socket: Socket) {
        match socket {
            Socket::Listener(index) => {
                let listener = &mut self.listeners[index as usize];
                let mut next = std::mem::replace(&mut listener.line, Line::EMPTY).first;
                let fd = listener.socket.socket.as_fd();
                while next != NONE {
                    let run = Run::take(&self.queue, &mut next);
                    self.failures += run.send(fd, &self.memory, &mut self.sender);
                }
            }
            Socket::Relay(index) => {
                let Some(relay) = &mut self.relays[index as usize] else {
                    return;
                };
                let mut next = std::mem::replace(&mut relay.line, Line::EMPTY).first;
                let fd = relay.socket.as_fd();
                while next != NONE {
                    let run = Run::take(&self.queue, &mut next);
                    let wanted = run.first().dont_fragment;
                    // RFC 8656 section 11.2: a datagram that cannot get its DF bit is dropped.
                    if wanted != relay.dont_fragment {
                        match set_mtu_discovery(fd, relay.socket.is_ipv6(), wanted) {
                            Ok(()) => relay.dont_fragment = wanted,
                            Err(_) if wanted => {
                                self.failures += run.count as u64;
                                continue;
                            }
                            Err(_) => {}
                        }
                    }
                    self.failures += run.send(fd, &self.memory, &mut self.sender);
                }
            }
        }
    }

    fn reply_range(&self) -> std::ops::Range<usize> {
        let start = REPLIES_START + self.used_replies * REPLY_SIZE;
        start..start + REPLY_SIZE
    }
}

/// Where a slot's data starts.
const fn slot_start(slot: Slot) -> usize {
    slot.0 as usize * STRIDE + HEAD_ROOM
}

/// Datagrams of one socket that can go out together: the same DF bit, and not too many.
struct Run<'q> {
    queue: &'q [Queued],
    start: u32,
    count: usize,
}

impl<'q> Run<'q> {
    /// Cuts a run off a line whose first datagram is `next`, which becomes the one behind it.
    fn take(queue: &'q [Queued], next: &mut u32) -> Self {
        let start = *next;
        let wanted = queue[start as usize].dont_fragment;
        let mut count = 0;
        while *next != NONE && count < SEND_BATCH {
            let queued = &queue[*next as usize];
            if queued.dont_fragment != wanted {
                break;
            }
            *next = queued.next;
            count += 1;
        }
        Self {
            queue,
            start,
            count,
        }
    }

    fn first(&self) -> &'q Queued {
        &self.queue[self.start as usize]
    }

    /// Sends the run and returns how many of its datagrams were lost.
    fn send(&self, fd: BorrowedFd<'_>, memory: &[u8], sender: &mut Sender) -> u64 {
        let first = self.first();
        if self.count == 1 && first.from.is_none() {
            let bytes = &memory[first.start..first.start + first.len];
            let sent = sys::send_to(fd, bytes, &first.to).or_else(|error| match refusal(&error) {
                Refusal::Full => Err(error),
                Refusal::Retry => sys::send_to(fd, bytes, &first.to),
            });
            return u64::from(sent.is_err());
        }
        let mut next = self.start;
        let datagrams = (0..self.count).map(|_| {
            let queued = &self.queue[next as usize];
            next = queued.next;
            Outgoing {
                bytes: &memory[queued.start..queued.start + queued.len],
                to: &queued.to,
                from: queued.from,
            }
        });
        let mut batch = sender.batch(datagrams);
        send_all(batch.len(), |from| batch.send(fd, from))
    }
}

/// What to do about a datagram that the kernel refused.
enum Refusal {
    /// The send buffer is full: this one and those behind it are lost.
    Full,
    /// An ICMP error that was queued on the socket, or a destination that cannot be reached.
    Retry,
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Refusal::Full,
        _ => Refusal::Retry,
    }
}

/// Sends datagrams 0 to `count`, by a function that sends from one on and says how many went
/// out; returns how many were lost.
///
/// An error that was queued on the socket stops a send, also one to another destination than
/// the error's, so the datagram is sent once more; what is refused twice is lost, and only that.
fn send_all(count: usize, mut send: impl FnMut(usize) -> io::Result<usize>) -> u64 {
    let mut next = 0;
    let mut lost = 0;
    let mut retried = NONE as usize;
    while next < count {
        match send(next) {
            Ok(sent) => next += sent.max(1),
            Err(error) => match refusal(&error) {
                Refusal::Full => return lost + (count - next) as u64,
                Refusal::Retry if retried != next => retried = next,
                Refusal::Retry => {
                    lost += 1;
                    next += 1;
                }
            },
        }
    }
    lost
}

impl DataPlane for Mmsg {
    fn watch(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        self.epoll.add(fd, watched(token), interest)
    }

    fn rewatch(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        self.epoll.modify(fd, watched(token), interest)
    }

    fn open(&mut self, id: RelayId, socket: RelaySocket) -> io::Result<()> {
        debug_assert_ne!(
            id.generation, 0,
            "tokens without a generation are not relays"
        );
        self.epoll
            .add(socket.as_fd(), id.to_bits(), Interest::READ_EDGE)?;
        let index = id.index as usize;
        if index >= self.relays.len() {
            self.relays.resize_with(index + 1, || None);
        }
        self.relays[index] = Some(Relay {
            generation: id.generation,
            socket,
            line: Line::EMPTY,
            dont_fragment: false,
            pending: false,
            faulty: false,
        });
        Ok(())
    }

    fn close(&mut self, id: RelayId) {
        let Some(relay) = self.relay(id) else { return };
        if relay.line.first != NONE {
            self.flush();
        }
        // What was received from it and not handed out yet has no receiver any more.
        if let Some(Arrived {
            from: Socket::Relay(index),
            ..
        }) = self.arrived
            && index == id.index
        {
            self.arrived = None;
        }
        self.relays[id.index as usize] = None;
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        debug_assert!(self.queue.is_empty(), "flushed before the slots are reused");
        self.used_slots = 0;
        self.due = self.pending.len();
        let mut hot = false;
        for listener in &mut self.listeners {
            listener.served = false;
            hot |= listener.hot;
        }
        if self.events.is_empty() {
            let busy = hot || !self.pending.is_empty();
            let count = self.epoll.wait(if busy { 0 } else { millis(timeout) })?;
            self.events = 0..count;
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.arrival() {
                return Some(event);
            }
            if let Some(event) = self.error() {
                return Some(event);
            }
            if self.arrived.is_some() {
                continue;
            }
            if self.used_slots == SLOTS {
                return None;
            }
            // Listeners first in every batch: there are few of them, and one would wait for
            // hundreds of relay sockets otherwise.
            let hot = self
                .listeners
                .iter()
                .position(|listener| listener.hot && !listener.served);
            if let Some(index) = hot {
                self.receive(Socket::Listener(index as u32));
                continue;
            }
            if let Some(index) = self.events.next() {
                let (token, readiness) = self.epoll.event(index);
                let id = RelayId::from_bits(token);
                if id.generation != 0 {
                    if self.relay(id).is_none() {
                        // Closed since it was reported.
                    } else if readiness.error() {
                        self.errors = Some((id, ERRORS));
                    } else {
                        self.receive(Socket::Relay(id.index));
                    }
                } else if token & WATCHED != 0 {
                    let token = (token & !WATCHED) as u32;
                    return Some(Event::Ready { token, readiness });
                } else {
                    self.listeners[token as usize].hot = true;
                    self.listeners[token as usize].served = false;
                }
                continue;
            }
            if self.due == 0 {
                return None;
            }
            self.due -= 1;
            let id = self.pending.pop_front()?;
            if let Some(relay) = self.relay(id) {
                relay.pending = false;
                if std::mem::take(&mut relay.faulty) {
                    self.errors = Some((id, ERRORS));
                } else {
                    self.receive(Socket::Relay(id.index));
                }
            }
        }
    }

    fn acquire(&mut self) -> Option<Slot> {
        if self.used_slots == SLOTS {
            return None;
        }
        self.used_slots += 1;
        Some(Slot(self.used_slots as u32 - 1))
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        let start = slot_start(slot);
        &mut self.memory[start..start + SLOT_SIZE]
    }

    fn slot_and_reply(&mut self, slot: Slot, start: usize, len: usize) -> (&[u8], &mut [u8]) {
        if self.used_replies == REPLIES {
            self.flush();
        }
        let reply = self.reply_range();
        let (slots, replies) = self.memory.split_at_mut(REPLIES_START);
        let start = slot_start(slot) + start;
        (
            &slots[start..start + len],
            &mut replies[reply.start - REPLIES_START..reply.end - REPLIES_START],
        )
    }

    fn reply_buffer(&mut self) -> &mut [u8] {
        if self.used_replies == REPLIES {
            self.flush();
        }
        let range = self.reply_range();
        &mut self.memory[range]
    }

    fn send_reply(&mut self, flow: &Flow, len: usize) {
        // A full queue must not be flushed between the writing and the queueing of a reply
        // without keeping its place.
        let start = self.reply_range().start;
        let Some(listener) = self.listeners.get(flow.link as usize) else {
            return;
        };
        let wildcard = listener.socket.address.ip().is_unspecified();
        if self.queue.len() == QUEUE {
            self.flush_keeping_replies();
        }
        self.used_replies += 1;
        self.queue(
            Socket::Listener(flow.link as u32),
            Queued {
                start,
                len: len.min(REPLY_SIZE),
                to: flow.client,
                from: leave_from(wildcard, flow),
                dont_fragment: false,
                next: NONE,
            },
        );
    }

    fn send_to_client(&mut self, flow: &Flow, payload: Payload<'_>) {
        let Some(listener) = self.listeners.get(flow.link as usize) else {
            return;
        };
        let wildcard = listener.socket.address.ip().is_unspecified();
        self.make_room();
        let (start, len) = self.wrap(&payload);
        self.queue(
            Socket::Listener(flow.link as u32),
            Queued {
                start,
                len,
                to: flow.client,
                from: leave_from(wildcard, flow),
                dont_fragment: false,
                next: NONE,
            },
        );
    }

    fn send_to_peer(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        dont_fragment: bool,
        payload: Payload<'_>,
    ) -> bool {
        if self.relay(relay).is_none() {
            return false;
        }
        self.make_room();
        let (start, len) = self.wrap(&payload);
        self.queue(
            Socket::Relay(relay.index),
            Queued {
                start,
                len,
                to: peer,
                from: None,
                dont_fragment,
                next: NONE,
            },
        );
        true
    }

    fn flush(&mut self) {
        self.flush_keeping_replies();
        self.used_replies = 0;
    }

    fn take_failures(&mut self) -> u64 {
        std::mem::take(&mut self.failures)
    }
}

impl Mmsg {
    fn flush_keeping_replies(&mut self) {
        for index in 0..self.dirty.len() {
            self.flush_socket(self.dirty[index]);
        }
        self.dirty.clear();
        self.queue.clear();
        self.bounce_used = false;
    }
}

/// Marks tokens of watched descriptors, as distinct from listeners (small numbers) and relay
/// sockets (a generation in the upper half).
const WATCHED: u64 = 1 << 31;

const fn watched(token: u32) -> u64 {
    token as u64 | WATCHED
}

/// Milliseconds for epoll, rounded up so that it never spins until a deadline; -1 for ever.
fn millis(timeout: Option<Duration>) -> i32 {
    timeout.map_or(-1, |timeout| {
        let millis = timeout.as_micros().div_ceil(1000);
        i32::try_from(millis).unwrap_or(i32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_queued_error_costs_no_datagram() {
        // Five datagrams; a queued error stops the send before the third one, once.
        let mut log = Vec::new();
        let mut queued = true;
        let lost = send_all(5, |from| {
            log.push(from);
            match from {
                0 => Ok(2),
                2 if std::mem::take(&mut queued) => Err(error(libc::ECONNREFUSED)),
                _ => Ok(5 - from),
            }
        });
        assert_eq!((lost, log), (0, vec![0, 2, 2]));
    }

    #[test]
    fn an_unreachable_destination_loses_its_own_datagram_only() {
        for code in [
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
            libc::EPERM,
            libc::ECONNREFUSED,
            libc::EINVAL,
            libc::EMSGSIZE,
        ] {
            let mut sent = Vec::new();
            let lost = send_all(4, |from| {
                if from == 1 {
                    return Err(error(code));
                }
                sent.push(from);
                Ok(1)
            });
            assert_eq!((lost, sent), (1, vec![0, 2, 3]), "errno {code}");
        }
    }

    #[test]
    fn a_full_buffer_ends_the_batch_without_a_retry() {
        let mut calls = 0;
        let lost = send_all(6, |from| {
            calls += 1;
            if from == 0 {
                Ok(2)
            } else {
                Err(error(libc::EAGAIN))
            }
        });
        assert_eq!((lost, calls), (4, 2));
    }

    #[test]
    fn timeouts_are_rounded_up() {
        assert_eq!(millis(None), -1);
        assert_eq!(millis(Some(Duration::ZERO)), 0);
        assert_eq!(millis(Some(Duration::from_micros(1))), 1);
        assert_eq!(millis(Some(Duration::from_micros(1001))), 2);
        assert_eq!(millis(Some(Duration::MAX)), i32::MAX);
    }
}
