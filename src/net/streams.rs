//! The connections of one shard: a table, their timers, and what is still to be done for them
//! in this batch.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Limits;
use super::admission::{Admission, Place};
use super::connection::{Connection, Phase};
use super::{Protocol, tls};
use crate::proto::Mono;
use crate::proto::counters::Counters;
use crate::wire::{Kind, classify};

/// Connections of a shard are numbered below this; tokens above it mean something else.
pub(super) const MAX_CONNECTIONS: u32 = 1 << 24;

#[derive(Default)]
struct Entry {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// See the module.
pub(super) struct Streams {
    shard: usize,
    entries: Vec<Entry>,
    free: Vec<u32>,
    timers: BinaryHeap<Reverse<(Mono, u64)>>,
    dirty: Vec<u64>,
    pending: VecDeque<u64>,
    doomed: Vec<u64>,
    admission: Arc<Admission>,
    pub(super) limits: Limits,
    counters: Arc<Counters>,
    pub(super) queue_drops: u64,
}

/// A connection's handle: `link` of its flow.
const fn link(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | index as u64
}

impl Streams {
    pub(super) fn new(
        shard: usize,
        admission: Arc<Admission>,
        limits: Limits,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            shard,
            entries: Vec::new(),
            free: Vec::new(),
            timers: BinaryHeap::with_capacity(256),
            dirty: Vec::with_capacity(256),
            pending: VecDeque::with_capacity(256),
            doomed: Vec::with_capacity(256),
            admission,
            limits,
            counters,
            queue_drops: 0,
        }
    }

    /// Takes in a connection. Returns its handle, and the connection (of any shard) that must
    /// be closed for it.
    pub(super) fn add(
        &mut self,
        now: Mono,
        socket: OwnedFd,
        client: SocketAddr,
        listener: (SocketAddr, Protocol, Option<Arc<tls::Certificates>>),
    ) -> Option<(u64, Option<Place>)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < MAX_CONNECTIONS as usize => {
                self.entries.push(Entry::default());
                self.entries.len() as u32 - 1
            }
            None => return None,
        };
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        let link = link(index, entry.generation);
        let (bound, protocol, certificates) = listener;
        let tls_only = protocol == Protocol::Tls;
        let made = Connection::new(socket, client, bound, tls_only, certificates, link, now);
        let Ok(mut connection) = made else {
            self.free.push(index);
            return None;
        };
        let place = Place {
            shard: self.shard,
            link,
        };
        let (ticket, victim) = self.admission.admit(client.ip(), place);
        connection.ticket = Some(ticket);
        entry.connection = Some(Box::new(connection));
        self.counters.connection_accepted();
        self.arm(link);
        Some((link, victim))
    }

    pub(super) fn get(&mut self, link: u64) -> Option<&mut Connection> {
        let entry = self.entries.get_mut(link as u32 as usize)?;
        if entry.generation != (link >> 32) as u32 {
            return None;
        }
        entry.connection.as_deref_mut()
    }

    /// The handle of the connection that has a number now.
    pub(super) fn link_of(&self, index: u32) -> Option<u64> {
        let entry = self.entries.get(index as usize)?;
        entry.connection.as_ref()?;
        Some(link(index, entry.generation))
    }

    pub(super) fn fd(&self, link: u64) -> Option<BorrowedFd<'_>> {
        let entry = self.entries.get(link as u32 as usize)?;
        entry.connection.as_deref().map(Connection::fd)
    }

    /// A request on the connection carried a valid credential.
    pub(super) fn prove(&mut self, link: u64) {
        let Some(connection) = self.get(link) else {
            return;
        };
        if connection.phase == Phase::Unproven {
            connection.phase = Phase::Proven;
        }
        if let Some(ticket) = connection.ticket.take() {
            self.admission.release(ticket);
        }
    }

    /// Whether this first byte of a frame comes too early: ChannelData needs a channel, and a
    /// channel a proven client. The `GET` of a strayed web browser looks like ChannelData, and
    /// would be waited for.
    pub(super) fn is_premature(&mut self, link: u64, first: Option<&u8>) -> bool {
        let channel_data = first.is_some_and(|first| classify(*first) == Kind::ChannelData);
        channel_data
            && self
                .get(link)
                .is_some_and(|connection| connection.phase == Phase::Unproven)
    }

    /// Queues a message. `false`: there is no room for an answer, so the connection must go.
    pub(super) fn queue(&mut self, now: Mono, link: u64, parts: [&[u8]; 3], answer: bool) -> bool {
        let (limit, age) = (self.limits.write_queue_bytes, self.limits.write_queue_age);
        let Some(connection) = self.get(link) else {
            return true;
        };
        if connection.phase == Phase::Closing {
            return true;
        }
        let stale = if connection.blocked {
            let oldest = Mono(now.0.saturating_sub(age));
            connection.queue.drop_older(oldest)
        } else {
            0
        };
        let pushed = connection.queue.push(now, parts, answer, limit);
        self.queue_drops += stale + pushed.unwrap_or(0);
        self.touch(link);
        pushed.is_ok()
    }

    /// Drops what went stale while the socket had no room.
    pub(super) fn drop_stale(&mut self, now: Mono, link: u64) {
        let oldest = Mono(now.0.saturating_sub(self.limits.write_queue_age));
        if let Some(connection) = self.get(link) {
            let dropped = connection.queue.drop_older(oldest);
            self.queue_drops += dropped;
        }
    }

    /// Writes to the connection at the end of the batch.
    pub(super) fn touch(&mut self, link: u64) {
        if let Some(connection) = self.get(link)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(link);
        }
    }

    /// Comes back to the connection in the next batch.
    pub(super) fn postpone(&mut self, link: u64) {
        if let Some(connection) = self.get(link)
            && !connection.pending
        {
            connection.pending = true;
            self.pending.push_back(link);
        }
    }

    /// Closes the connection at the end of the batch.
    pub(super) fn doom(&mut self, link: u64) {
        if let Some(connection) = self.get(link)
            && !connection.doomed
        {
            connection.doomed = true;
            self.doomed.push(link);
        }
    }

    /// Closes the connection at the end of the batch, whatever is queued for it.
    pub(super) fn abandon(&mut self, link: u64) {
        if let Some(connection) = self.get(link) {
            connection.abandoned = true;
        }
        self.doom(link);
    }

    pub(super) fn pop_dirty(&mut self) -> Option<u64> {
        let link = self.dirty.pop()?;
        if let Some(connection) = self.get(link) {
            connection.dirty = false;
        }
        Some(link)
    }

    pub(super) fn pop_doomed(&mut self) -> Option<u64> {
        self.doomed.pop()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn pop_pending(&mut self) -> Option<u64> {
        let link = self.pending.pop_front()?;
        if let Some(connection) = self.get(link) {
            connection.pending = false;
        }
        Some(link)
    }

    /// Sets the timer of a connection when its deadline is earlier than the one that is set.
    pub(super) fn arm(&mut self, link: u64) {
        let limits = self.limits;
        let Some(connection) = self.get(link) else {
            return;
        };
        if let Some(deadline) = connection.deadline(&limits)
            && connection.armed.is_none_or(|armed| deadline < armed)
        {
            connection.armed = Some(deadline);
            self.timers.push(Reverse((deadline, link)));
        }
    }

    /// When the next timer is due.
    pub(super) fn next_timer(&self) -> Option<Mono> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// A connection that missed its deadline, if there is one. Timers whose connection got
    /// further in the meantime are set again.
    pub(super) fn pop_late(&mut self, now: Mono) -> Option<u64> {
        loop {
            let &Reverse((at, link)) = self.timers.peek()?;
            if at > now {
                return None;
            }
            self.timers.pop();
            let limits = self.limits;
            let Some(connection) = self.get(link) else {
                continue;
            };
            if connection.armed != Some(at) {
                continue;
            }
            connection.armed = None;
            // Who says nothing more is not written to either.
            connection.trim(now);
            match connection.deadline(&limits) {
                Some(deadline) if deadline <= now => return Some(link),
                _ => self.arm(link),
            }
        }
    }

    /// Forgets a connection; dropping what is returned closes it.
    pub(super) fn remove(&mut self, link: u64) -> Option<Box<Connection>> {
        self.get(link)?;
        let entry = &mut self.entries[link as u32 as usize];
        let connection = entry.connection.take()?;
        self.free.push(link as u32);
        if let Some(ticket) = connection.ticket {
            self.admission.release(ticket);
        }
        self.counters.connection_closed();
        Some(connection)
    }
}
