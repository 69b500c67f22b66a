//! The data plane on a completion ring (io_uring): one system call submits what a batch sends
//! and receives the next batch, of however many sockets.
//!
//! Every socket has one receive that lives as long as it does. The kernel puts each datagram
//! into a slot of its own choice, lent to it before; the number of slots bounds what waits
//! between kernel and core. Prefixes are written into the head room in front of a payload.
//! Sends are carried out inside of the call that submits them and complete only when they fail,
//! so a slot goes back to the kernel right after that call.
//!
//! Stream sockets and the eventfd stay in an epoll instance whose descriptor the ring watches:
//! closing a connection's descriptor then closes the connection, which a request in the ring
//! would keep open, and a turn costs one call more only when a stream is ready.

mod pace;
mod probe;
mod receive;
mod runs;
mod send;
mod sockets;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::bind::UdpListener;
use super::merged::{Bursts, Merged};
use super::plane::{DataPlane, Event, Payload, SLOT_SIZE, Slot, leave_from};
use super::relays::RelaySocket;
use super::sys::uring::{HEAD, Layout, Ring, SUBMISSIONS, Wait, slot_start};
use super::sys::{self, Epoll, Interest, Segments, Sender};
use crate::proto::{Flow, MAX_PREFIX, Mono, RelayId};
use pace::Pace;
pub(super) use probe::probe;
use runs::Runs;

const _: () = assert!(HEAD >= MAX_PREFIX);

/// Slots that the kernel fills from listeners, and from relay sockets: each direction has its
/// own, so that neither starves the other.
const LISTENER_SLOTS: u16 = 512;
const RELAY_SLOTS: u16 = 512;

/// The most datagrams in one batch, so that timers and connections never wait long.
const BATCH: usize = 256;

/// The same where many of them leave in one, which takes less time for each.
const LARGE_BATCH: usize = 512;

/// Slots for reads of streams.
const STREAM_SLOTS: usize = 32;

/// The room, in slots, where payloads are copied to that cannot be wrapped in place.
const BOUNCES: usize = 8;

/// Replies that wait to be sent, and the room for each.
const REPLIES: usize = 128;
const REPLY_SIZE: usize = 1536;

const LAYOUT: Layout = Layout {
    listener_slots: LISTENER_SLOTS,
    relay_slots: RELAY_SLOTS,
    own_slots: STREAM_SLOTS + BOUNCES + (REPLIES * REPLY_SIZE).div_ceil(SLOT_SIZE),
};

/// The most places of the ring's table of sockets: 8 bytes of kernel memory each. Relay sockets
/// beyond it cost a look-up more.
const MOST_PLACES: u32 = 1 << 17;

/// The most entries of one socket's error queue that are handled in a row.
const ERRORS: usize = 16;

/// Events taken from epoll in one round.
const EVENTS: usize = 256;

/// Tokens: a relay socket's has a generation in its upper half. The others have a kind.
const KIND: u64 = 0xF << 28;
const LISTENER: u64 = 1 << 28;
const EPOLL: u64 = 2 << 28;
const SEND: u64 = 3 << 28;
const CANCEL: u64 = 4 << 28;

struct Relay {
    generation: u32,
    socket: RelaySocket,
    /// Its place in the ring's table, if it got one.
    place: Option<u32>,
    /// The submission that requests of this socket were queued for last.
    submission: u32,
    /// A receive is under way.
    armed: bool,
    /// The socket sets DF now. It is switched only when a datagram wants the other mode, and
    /// the socket's other datagrams are sent before.
    dont_fragment: bool,
    /// It waits in `erring`.
    erring: bool,
    bursts: Bursts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Listener(u32),
    Relay(RelayId),
}

/// A received datagram that was not handed out yet.
#[derive(Clone, Copy)]
struct Arrived {
    token: u64,
    slot: u16,
}

/// A send that was queued for the next submission.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    socket: Socket,
    bytes: Range<usize>,
    to: SocketAddr,
    from: Option<IpAddr>,
}

/// See the module.
pub(super) struct Uring {
    ring: Ring,
    epoll: Epoll,
    listeners: Vec<UdpListener>,
    listener_bursts: Vec<Bursts>,
    /// Listeners that have a place in the ring's table: the first ones.
    placed: usize,
    relays: Vec<Option<Relay>>,
    /// Closed relay sockets whose receive is still being cancelled: until then the kernel keeps
    /// the socket, and so the port must stay leased.
    closing: HashMap<u64, RelaySocket>,
    /// Receives and polls that the kernel holds.
    in_flight: usize,
    /// Tokens of receives that came to an end and are to be started again.
    stopped: Vec<u64>,
    arrived: VecDeque<Arrived>,
    /// What is being handed out, or was last.
    merged: Option<Merged>,
    /// Slots that were handed out in this batch.
    used: Vec<u16>,
    /// Relay sockets whose error queues are to be read, and how many of them in this batch.
    erring: VecDeque<RelayId>,
    due: usize,
    /// The one that is being read, and how many entries more.
    error: Option<(RelayId, usize)>,
    epoll_ready: bool,
    events: Range<usize>,
    /// Number of the submission that is being filled, and its sends.
    submission: u32,
    runs: Runs,
    /// Which of them may leave in one; and for sends that are repeated.
    sender: Sender,
    /// Datagrams, and readiness of descriptors, that were handed out in this batch.
    handed_out: usize,
    readied: usize,
    used_streams: usize,
    /// Bytes of the room for what is copied.
    bounced: usize,
    used_replies: usize,
    failures: u64,
    pace: Pace,
    /// An enter has failed; nothing more is sent.
    stuck: bool,
    /// What went wrong where nothing could be returned.
    broken: Option<io::Error>,
}

/// A ring with its slots, before it has sockets.
pub(super) fn new_ring(descriptors: u64) -> io::Result<Ring> {
    let places = u32::try_from(descriptors).unwrap_or(u32::MAX);
    Ring::new(&LAYOUT, places.min(MOST_PLACES))
}

impl Uring {
    /// A plane that receives from these listeners. The calling thread must be the one that uses
    /// it, and the one that made the ring.
    /// With `segments`, equal datagrams of one flow leave in one, which the kernel cuts, and come
    /// in one.
    pub(super) fn new(ring: Ring, listeners: Vec<UdpListener>, segments: bool) -> io::Result<Self> {
        let slots = usize::from(LISTENER_SLOTS) + usize::from(RELAY_SLOTS);
        let mut plane = Self {
            ring,
            epoll: Epoll::new(EVENTS)?,
            listener_bursts: vec![Bursts::new(segments); listeners.len()],
            listeners,
            placed: 0,
            relays: Vec::new(),
            closing: HashMap::new(),
            in_flight: 0,
            stopped: Vec::new(),
            arrived: VecDeque::with_capacity(slots),
            merged: None,
            used: Vec::with_capacity(slots),
            erring: VecDeque::new(),
            due: 0,
            error: None,
            epoll_ready: false,
            events: 0..0,
            submission: 0,
            runs: Runs::new(),
            sender: Sender::new(SUBMISSIONS, Segments::new(segments)),
            handed_out: 0,
            readied: 0,
            used_streams: 0,
            bounced: 0,
            used_replies: 0,
            failures: 0,
            pace: Pace::default(),
            stuck: false,
            broken: None,
        };
        // The short waits of `Pace` would be doubled otherwise.
        let _ = sys::set_timer_slack(1000);
        for (index, listener) in (0..).zip(&plane.listeners) {
            if !plane.ring.place(index, listener.socket.as_fd()) {
                break;
            }
            plane.placed += 1;
        }
        plane.reserve();
        for index in 0..plane.listeners.len() {
            plane.arm(LISTENER | index as u64);
        }
        plane.arm(EPOLL);
        plane.enter(Wait::No)?;
        Ok(plane)
    }

    fn relay(&mut self, id: RelayId) -> Option<&mut Relay> {
        self.relays
            .get_mut(id.index as usize)?
            .as_mut()
            .filter(|relay| relay.generation == id.generation)
    }

    /// Makes room for whatever may wait, so that nothing is allocated later.
    fn reserve(&mut self) {
        let most = self.relays.len() + self.listeners.len() + 1;
        self.stopped.reserve(most - self.stopped.len().min(most));
        self.erring.reserve(most - self.erring.len().min(most));
    }

    /// Where our own slots start.
    fn own(&self, number: usize) -> usize {
        slot_start(self.ring.shared_slots() + number)
    }
}

impl DataPlane for Uring {
    fn watch(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        self.epoll.add(fd, u64::from(token), interest)
    }

    fn rewatch(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        self.epoll.modify(fd, u64::from(token), interest)
    }

    fn open(&mut self, id: RelayId, socket: RelaySocket) -> io::Result<()> {
        debug_assert_ne!(
            id.generation, 0,
            "tokens without a generation are not relays"
        );
        let index = id.index as usize;
        if index >= self.relays.len() {
            self.relays.resize_with(index + 1, || None);
            self.reserve();
        }
        let place = (self.listeners.len() + index) as u32;
        let placed = self.ring.place(place, socket.as_fd());
        let may_merge = self.sender.segments.is_on();
        self.relays[index] = Some(Relay {
            generation: id.generation,
            socket,
            place: placed.then_some(place),
            submission: self.submission,
            armed: false,
            dont_fragment: false,
            erring: false,
            bursts: Bursts::new(may_merge),
        });
        self.arm(id.to_bits());
        Ok(())
    }

    fn close(&mut self, id: RelayId) {
        let Some(relay) = self.relay(id) else { return };
        relay.socket.set_live(false);
        if relay.submission == self.submission {
            self.submit();
        }
        let Some(relay) = self.relays[id.index as usize].take() else {
            return;
        };
        if let Some(place) = relay.place {
            self.ring.vacate(place);
        }
        if relay.armed {
            self.closing.insert(id.to_bits(), relay.socket);
            self.make_room();
            self.ring.cancel(id.to_bits(), CANCEL);
        }
    }

    fn settle(&mut self) -> bool {
        let mut left = self.closing.len();
        let any = left > 0;
        while left > 0 && self.enter(Wait::Poll).is_ok() {
            if self.closing.len() == left {
                break;
            }
            left = self.closing.len();
        }
        any
    }

    fn wait(&mut self, timeout: Option<Duration>, now: Mono) -> io::Result<()> {
        self.pace
            .note(now, self.handed_out, self.readied, &self.runs);
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if !self.stopped.is_empty() {
            // Slots go back first: a receive that ran out of them would run out again.
            self.enter(Wait::No)?;
            self.recycle();
            let count = self.stopped.len();
            for index in 0..count {
                self.arm(self.stopped[index]);
            }
            self.stopped.drain(..count);
        }
        let idle = self.arrived.is_empty()
            && self.erring.is_empty()
            && self.error.is_none()
            && self.events.is_empty()
            && self.stopped.is_empty()
            && timeout != Some(Duration::ZERO);
        self.enter(match idle {
            true => Wait::For(timeout, self.pace.gather()),
            false => Wait::Poll,
        })?;
        self.recycle();
        self.handed_out = 0;
        self.readied = 0;
        self.used_streams = 0;
        self.due = self.erring.len();
        if self.epoll_ready && self.events.is_empty() {
            self.epoll_ready = false;
            let count = self.epoll.wait(0)?;
            self.events = 0..count;
            // What is still ready then completes at once.
            self.arm(EPOLL);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Event> {
        self.next_event()
    }

    fn acquire(&mut self) -> Option<Slot> {
        if self.used_streams == STREAM_SLOTS {
            return None;
        }
        self.used_streams += 1;
        let slot = self.ring.shared_slots() + self.used_streams - 1;
        Some(Slot(slot as u32))
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut [u8] {
        let start = slot_start(slot.0 as usize);
        self.ring.bytes_mut(start..start + SLOT_SIZE)
    }

    fn slot_and_reply(&mut self, slot: Slot, start: usize, len: usize) -> (&[u8], &mut [u8]) {
        let reply = self.reply();
        let start = slot_start(slot.0 as usize) + start;
        self.ring.bytes_and_mut(start..start + len, reply)
    }

    fn reply_buffer(&mut self) -> &mut [u8] {
        let reply = self.reply();
        self.ring.bytes_mut(reply)
    }

    fn send_reply(&mut self, flow: &Flow, len: usize) {
        let place = self.used_replies;
        let start = self.reply_range(place).start;
        let Some(listener) = self.listeners.get(flow.link as usize) else {
            return;
        };
        let wildcard = listener.address.ip().is_unspecified();
        self.make_room();
        self.queue(Sent {
            socket: Socket::Listener(flow.link as u32),
            bytes: start..start + len.min(REPLY_SIZE),
            to: flow.client,
            from: leave_from(wildcard, flow),
        });
        // Also when making room has freed those before.
        self.used_replies = place + 1;
    }

    fn send_to_client(&mut self, flow: &Flow, payload: Payload<'_>) {
        let Some(listener) = self.listeners.get(flow.link as usize) else {
            return;
        };
        let wildcard = listener.address.ip().is_unspecified();
        self.make_room();
        let bytes = self.wrap(&payload);
        self.queue(Sent {
            socket: Socket::Listener(flow.link as u32),
            bytes,
            to: flow.client,
            from: leave_from(wildcard, flow),
        });
    }

    fn send_to_peer(
        &mut self,
        id: RelayId,
        peer: SocketAddr,
        dont_fragment: bool,
        payload: Payload<'_>,
    ) -> bool {
        self.make_room();
        let submission = self.submission;
        let Some(relay) = self.relay(id) else {
            return false;
        };
        if relay.dont_fragment != dont_fragment {
            if relay.submission == submission {
                self.submit();
            }
            // RFC 8656 section 11.2: a datagram that cannot get its DF bit is dropped.
            if !self.switch(id, dont_fragment) {
                self.failures += 1;
                return true;
            }
        }
        let bytes = self.wrap(&payload);
        self.queue(Sent {
            socket: Socket::Relay(id),
            bytes,
            to: peer,
            from: None,
        });
        true
    }

    fn flush(&mut self) {
        // The next wait submits and waits in one call.
    }

    fn take_failures(&mut self) -> u64 {
        std::mem::take(&mut self.failures)
    }
}
