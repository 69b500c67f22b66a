//! Where datagrams wait, how they go out, and what becomes of those that the kernel refuses.

use std::io;
use std::ops::Range;

use super::runs::Run;
use super::sockets::{listener_target, relay_target};
use super::{BOUNCES, KIND, REPLIES, REPLY_SIZE, SEND, STREAM_SLOTS, Sent, Socket, Uring};
use crate::net::outbox::{is_full, send_all};
use crate::net::plane::Payload;
use crate::net::sys::Outgoing;
use crate::net::sys::uring::{Places, Route, SUBMISSIONS, Wait, slot_start};

/// How often the kernel may leave submissions in the queue before the shard gives up.
const STALLS: usize = 10_000;

const _: () = assert!(SUBMISSIONS.is_power_of_two());

impl Uring {
    /// Submits everything that is queued, waits, and takes all completions.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        // Requests of an enter that failed may still lie in the queue, and have their places.
        match self.stuck {
            false => self.push_runs(),
            true => self.failures += self.runs.datagrams() as u64,
        }
        let entered = self.enter_pushed(wait);
        self.submission = self.submission.wrapping_add(1);
        self.runs.clear();
        self.bounced = 0;
        self.used_replies = 0;
        self.stuck |= entered.is_err();
        entered
    }

    fn enter_pushed(&mut self, wait: Wait) -> io::Result<()> {
        self.ring.enter(wait)?;
        self.absorb();
        for _ in 0..STALLS {
            if self.ring.is_submitted() {
                return Ok(());
            }
            self.ring.enter(Wait::Poll)?;
            self.absorb();
        }
        Err(io::ErrorKind::OutOfMemory.into())
    }

    /// Submits everything that is queued. An error is reported by the next wait.
    pub(super) fn submit(&mut self) {
        if let Err(error) = self.enter(Wait::No) {
            self.broken.get_or_insert(error);
        }
    }

    /// Makes room for one submission, beside those of the datagrams that wait.
    pub(super) fn make_room(&mut self) {
        if self.ring.room() < self.runs.len() + 2 || !self.runs.has_room() {
            self.submit();
        }
    }

    /// Queues a send; there is room.
    pub(super) fn queue(&mut self, send: Sent) {
        let submission = self.submission;
        if let Socket::Relay(id) = send.socket
            && let Some(relay) = self.relay(id)
        {
            relay.submission = submission;
        }
        self.runs.add(send, &mut self.sender.segments);
    }

    /// Puts what waits into the ring; [`make_room`](Self::make_room) has left room for it.
    fn push_runs(&mut self) {
        let mut part = 0;
        for (number, run) in (0..).zip(self.runs.all()) {
            let first = self.runs.first(run);
            let target = match first.socket {
                Socket::Listener(index) => {
                    listener_target(&self.listeners, self.placed, index as usize)
                }
                Socket::Relay(id) => relay_target(&self.relays, id),
            };
            let Some(target) = target else { continue };
            let token = u64::from(self.submission) * SUBMISSIONS as u64 + number as u64;
            let token = SEND | token & !KIND & u64::from(u32::MAX);
            let datagrams = self.runs.of(run).map(|send| send.bytes.clone());
            let route = Route {
                to: &first.to,
                from: first.from,
            };
            let places = Places { number, part };
            if !self.ring.send(target, datagrams, route, places, token) {
                self.failures += run.count() as u64;
            }
            part += run.count();
        }
    }

    /// The kernel refused a send of the submission that was just made.
    pub(super) fn refused(&mut self, token: u64, result: i32) {
        let number = token & !KIND;
        let place = (number % SUBMISSIONS as u64) as usize;
        let submission = (u64::from(self.submission) * SUBMISSIONS as u64) & !KIND;
        let current = number - place as u64 == submission & u64::from(u32::MAX);
        let Some(run) = self.runs.get(place).filter(|_| current) else {
            // Of an earlier submission: how many were in one is not known any more.
            self.failures += 1;
            return;
        };
        let first = self.runs.first(run);
        let (socket, len) = (first.socket, first.bytes.len());
        let full = is_full(-result);
        if run.count() > 1 {
            self.sender.segments.refused(-result, len);
        }
        self.failures += match full {
            true => run.count() as u64,
            false => self.send_again(run),
        };
        if let Socket::Relay(id) = socket
            && !full
        {
            self.note_error(id);
        }
    }

    /// Sends refused datagrams again, and returns how many were lost: an error that was queued
    /// on the socket stops the next send, also one to another destination than the error's.
    fn send_again(&mut self, run: Run) -> u64 {
        let target = match self.runs.first(run).socket {
            Socket::Listener(index) => {
                listener_target(&self.listeners, self.placed, index as usize)
            }
            Socket::Relay(id) => relay_target(&self.relays, id),
        };
        let Some(target) = target else {
            return run.count() as u64;
        };
        let ring = &self.ring;
        let datagrams = self.runs.of(run).map(|send| Outgoing {
            bytes: ring.bytes(send.bytes.clone()),
            to: &send.to,
            from: send.from,
        });
        let mut batch = self.sender.batch(datagrams);
        send_all(batch.len(), |from| batch.send(target.fd, from))
    }

    /// Puts prefix and padding around a payload; returns where the datagram lies.
    pub(super) fn wrap(&mut self, payload: &Payload<'_>) -> Range<usize> {
        let mut start = slot_start(payload.slot.0 as usize) + payload.start;
        let prefix = payload.prefix.map_or(&[][..], |prefix| prefix.as_slice());
        let padding = usize::from(payload.padding);
        if prefix.is_empty() && padding == 0 {
            return start..start + payload.len;
        }
        if !payload.alone {
            // The bytes around this payload belong to other datagrams that wait.
            let room = self.own(STREAM_SLOTS)..self.own(STREAM_SLOTS + BOUNCES);
            let taken = prefix.len() + payload.len + padding;
            if self.bounced + taken > room.len() {
                self.submit();
            }
            let bounce = room.start + self.bounced + prefix.len();
            self.bounced += taken;
            let (from, to) = self
                .ring
                .bytes_and_mut(start..start + payload.len, bounce..bounce + payload.len);
            to.copy_from_slice(from);
            start = bounce;
        }
        let whole = start - prefix.len()..start + payload.len + padding;
        let bytes = self.ring.bytes_mut(whole.clone());
        bytes[..prefix.len()].copy_from_slice(prefix);
        bytes[prefix.len() + payload.len..].fill(0);
        whole
    }

    pub(super) fn reply_range(&self, place: usize) -> Range<usize> {
        let start = self.own(STREAM_SLOTS + BOUNCES) + place * REPLY_SIZE;
        start..start + REPLY_SIZE
    }

    /// The buffer for the next reply.
    pub(super) fn reply(&mut self) -> Range<usize> {
        if self.used_replies >= REPLIES {
            self.submit();
        }
        self.reply_range(self.used_replies)
    }
}
