//! The data plane that works on every Linux: epoll, recvmmsg and sendmmsg.
//!
//! A batch is as many datagrams as there are slots. They are received where they stay until
//! they are sent: prefixes are written into the head room in front of them. Sends wait in one
//! list per socket, so that a batch costs one call for each socket and not one for each datagram.

mod receive;
mod send;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::bind::UdpListener;
use super::merged::{Bursts, Merged};
use super::outbox::{Line, NONE, Queued, SEND_BATCH};
use super::plane::{DataPlane, Event, HEAD_ROOM, Payload, SLOT_SIZE, Slot, TAIL_ROOM, leave_from};
use super::relays::RelaySocket;
use super::sys::{Epoll, Interest, Receiver, Segments, Sender};
use crate::proto::{Flow, Mono, RelayId};

/// Slots: the most datagrams and stream reads in one batch.
const SLOTS: usize = 64;

/// The most datagrams of a batch that one listener, or one relay socket, may fill: the two
/// directions share a batch evenly however unequal their number of sockets is.
const SHARE: usize = 32;

/// The same in slots where each may hold many datagrams that came as one.
const MERGED_SHARE: usize = 8;

/// An odd number of cache lines, so that the starts of the slots do not fall into one set.
const STRIDE: usize = HEAD_ROOM + SLOT_SIZE + TAIL_ROOM;
const _: () = assert!(STRIDE.is_multiple_of(64) && !(STRIDE / 64).is_multiple_of(2));

/// The room, in slots behind those of a batch, where payloads are copied to that cannot be wrapped
/// in place.
const BOUNCES: usize = 4;
const BOUNCES_START: usize = SLOTS * STRIDE;

/// Replies that wait to be sent, and the room for each.
const REPLIES: usize = 64;
const REPLY_SIZE: usize = 1536;
const REPLIES_START: usize = BOUNCES_START + BOUNCES * STRIDE;

/// The most datagrams that wait to be sent before they are flushed early.
const QUEUE: usize = 256;

/// The most entries of one socket's error queue that are handled in a row.
const ERRORS: usize = 16;

/// Events taken from epoll in one round.
const EVENTS: usize = 256;

struct Listener {
    socket: UdpListener,
    line: Line,
    /// There may be more to receive.
    hot: bool,
    /// It had its share of this batch.
    served: bool,
    bursts: Bursts,
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
    bursts: Bursts,
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
    /// What is being handed out, or was last.
    merged: Option<Merged>,
    /// A relay socket whose error queue is being read, and how many entries more.
    errors: Option<(RelayId, usize)>,
    /// Relay sockets that may have more, and how many of them belong to this batch.
    pending: VecDeque<RelayId>,
    due: usize,
    used_slots: usize,
    used_replies: usize,
    /// Bytes of the room for what is copied.
    bounced: usize,
    queue: Vec<Queued>,
    dirty: Vec<Socket>,
    failures: u64,
}

impl Mmsg {
    /// A plane that receives from these listeners. With `segments`, equal datagrams of one flow
    /// leave in one, which the kernel cuts, and come in one.
    pub(super) fn new(listeners: Vec<UdpListener>, segments: bool) -> io::Result<Self> {
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
                bursts: Bursts::new(segments),
            })
            .collect();
        Ok(Self {
            epoll,
            memory: vec![0; REPLIES_START + REPLIES * REPLY_SIZE].into(),
            receiver: Receiver::new(SLOTS, STRIDE, HEAD_ROOM, SLOT_SIZE),
            sender: Sender::new(SEND_BATCH, Segments::new(segments)),
            dirty: Vec::with_capacity(QUEUE),
            listeners,
            relays: Vec::new(),
            events: 0..0,
            arrived: None,
            merged: None,
            errors: None,
            pending: VecDeque::with_capacity(EVENTS),
            due: 0,
            used_slots: 0,
            used_replies: 0,
            bounced: 0,
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
}

/// Where a slot's data starts.
const fn slot_start(slot: Slot) -> usize {
    slot.0 as usize * STRIDE + HEAD_ROOM
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
            bursts: Bursts::new(self.sender.segments.is_on()),
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

    fn settle(&mut self) -> bool {
        false
    }

    fn wait(&mut self, timeout: Option<Duration>, _: Mono) -> io::Result<()> {
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
        self.next_event()
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

    #[test]
    fn timeouts_are_rounded_up() {
        assert_eq!(millis(None), -1);
        assert_eq!(millis(Some(Duration::ZERO)), 0);
        assert_eq!(millis(Some(Duration::from_micros(1))), 1);
        assert_eq!(millis(Some(Duration::from_micros(1001))), 2);
        assert_eq!(millis(Some(Duration::MAX)), i32::MAX);
    }
}
