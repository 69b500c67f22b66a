//! Datagrams that came as one: equal ones of one sender that followed each other closely, which
//! the kernel puts together where a socket asks for it (UDP_GRO), so that they walk up its stack
//! once. They are taken apart again where they lie.

use std::net::SocketAddr;

use super::plane::{Event, Origin, Slot};
use super::sys::Received;

/// What one receive brought, handed out one datagram after the other.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) origin: Origin,
    source: SocketAddr,
    arrived: Option<u64>,
    slot: Slot,
    /// Where the next datagram starts.
    start: usize,
    /// Where the last one ends.
    end: usize,
    /// The size of each but the last one.
    size: usize,
    done: bool,
}

impl Merged {
    pub(super) fn new(origin: Origin, slot: Slot, received: &Received) -> Self {
        Self {
            origin,
            source: received.source,
            arrived: received.arrived,
            slot,
            start: 0,
            end: received.len,
            size: received.each(),
            done: false,
        }
    }

    /// The next datagram.
    pub(super) fn next(&mut self) -> Option<Event> {
        if self.done {
            return None;
        }
        let start = self.start;
        let len = self.size.min(self.end - start);
        self.start += len;
        self.done = self.start == self.end;
        Some(Event::Datagram {
            origin: self.origin,
            source: self.source,
            slot: self.slot,
            start,
            len,
            alone: len == self.end,
            arrived: self.arrived,
        })
    }

    /// Whether the kernel could have merged the two: equal, of one sender, and close together.
    fn is_close(&self, before: &Self) -> bool {
        let (Some(earlier), Some(later)) = (before.arrived, self.arrived) else {
            return false;
        };
        (before.origin, before.source, before.end) == (self.origin, self.source, self.end)
            && later.saturating_sub(earlier) <= CLOSE
    }
}

/// A socket asks for merging when half of so many datagrams could have come as one.
const ROUND: u8 = 64;

/// Datagrams that are further apart, in microseconds, would not: the kernel merges what one look
/// at the network device brings.
const CLOSE: u64 = 50;

/// Whether the datagrams of a socket come in bursts. Merging costs two or three percent where none
/// is like the one before it, so that only those sockets ask for it that gain. They ask once and
/// for all: whether it had merged what waits, the kernel would not tell any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bursts {
    seen: u8,
    close: u8,
    may_merge: bool,
    merges: bool,
}

impl Bursts {
    /// A socket that may ask for merging, or never does.
    pub(super) const fn new(may_merge: bool) -> Self {
        Self {
            seen: 0,
            close: 0,
            may_merge,
            merges: false,
        }
    }

    /// That of a socket that has asked.
    #[cfg(test)]
    pub(super) const fn merging() -> Self {
        Self {
            merges: true,
            ..Self::new(true)
        }
    }

    /// Something arrived, and before it `before` at any socket. Says once that the socket is to ask
    /// for merging.
    pub(super) fn note(&mut self, before: Option<&Merged>, now: &Merged) -> bool {
        if !self.may_merge || self.merges {
            return false;
        }
        self.seen += 1;
        self.close += u8::from(before.is_some_and(|before| now.is_close(before)));
        if self.seen < ROUND {
            return false;
        }
        self.merges = self.close >= ROUND / 2;
        (self.seen, self.close) = (0, 0);
        self.merges
    }

    /// Whether the socket has asked for merging: each receive may then bring many datagrams.
    pub(super) const fn merges(&self) -> bool {
        self.merges
    }
}

#[cfg(test)]
pub(super) mod tests;
