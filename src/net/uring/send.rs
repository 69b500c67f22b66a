//! Where datagrams wait, how they go out, and what becomes of those that the kernel refuses.

use std::io;
use std::ops::Range;

use super::sockets::{listener_target, relay_target};
use super::{BOUNCES, KIND, REPLIES, REPLY_SIZE, SEND, STREAM_SLOTS, Sent, Socket, Uring};
use crate::net::outbox::{is_full, send_all};
use crate::net::plane::Payload;
use crate::net::sys::uring::{Route, SUBMISSIONS, Wait, slot_start};
use crate::net::sys::{Joined, Outgoing};

/// How often the kernel may leave submissions in the queue before the shard gives up.
const STALLS: usize = 10_000;

const _: () = assert!(SUBMISSIONS.is_power_of_two());

impl Uring {
    /// Submits everything that is queued, waits, and takes all completions.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.push_joined();
        self.ring.enter(wait)?;
        self.absorb();
        for stall in 0.. {
            if self.ring.is_submitted() {
                break;
            }
            if stall == STALLS {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.ring.enter(Wait::Poll)?;
            self.absorb();
        }
        self.submission = self.submission.wrapping_add(1);
        self.sent.clear();
        self.used_bounces = 0;
        self.used_replies = 0;
        Ok(())
    }

    /// Submits everything that is queued. An error is reported by the next wait.
    pub(super) fn submit(&mut self) {
        if let Err(error) = self.enter(Wait::No) {
            self.broken.get_or_insert(error);
        }
    }

    /// Makes room for one submission, beside that of the datagrams that are to leave in one.
    pub(super) fn make_room(&mut self) {
        if self.ring.room() < 2 || self.sent.len() == SUBMISSIONS {
            self.submit();
        }
    }

    /// Queues a send; there is room.
    pub(super) fn queue(&mut self, send: Sent) {
        let place = self.sent.len();
        if !self.continues(&send) {
            self.push_joined();
            self.joined = place..place;
        }
        self.joined.end = place + 1;
        let submission = self.submission;
        if let Socket::Relay(id) = send.socket
            && let Some(relay) = self.relay(id)
        {
            relay.submission = submission;
        }
        self.sent.push(send);
    }

    /// Whether a datagram may leave in one with the last ones.
    fn continues(&mut self, send: &Sent) -> bool {
        let waiting = &self.sent[self.joined.clone()];
        let (Some(first), Some(last)) = (waiting.first(), waiting.last()) else {
            return false;
        };
        let joined = Joined {
            count: self.joined.len(),
            first: first.bytes.len(),
            last: last.bytes.len(),
        };
        (first.socket, first.to, first.from) == (send.socket, send.to, send.from)
            && self.sender.segments.take(joined, send.bytes.len())
    }

    /// Puts those that leave in one into the ring; [`make_room`](Self::make_room) has left
    /// room for them.
    fn push_joined(&mut self) {
        let joined = std::mem::take(&mut self.joined);
        let sent = &mut self.sent[joined.clone()];
        let Some(first) = sent.first() else { return };
        let target = match first.socket {
            Socket::Listener(index) => {
                listener_target(&self.listeners, self.placed, index as usize)
            }
            Socket::Relay(id) => relay_target(&self.relays, id),
        };
        let Some(target) = target else { return };
        let place = joined.start;
        let number = u64::from(self.submission) * SUBMISSIONS as u64 + place as u64;
        let token = SEND | number & !KIND & u64::from(u32::MAX);
        let datagrams = sent.iter().map(|send| send.bytes.clone());
        let route = Route {
            to: &first.to,
            from: first.from,
        };
        if !self.ring.send(target, datagrams, route, place, token) {
            self.failures += joined.len() as u64;
        }
        sent[0].joined = joined.len();
    }

    /// The kernel refused a send of the submission that was just made.
    pub(super) fn refused(&mut self, token: u64, result: i32) {
        let number = token & !KIND;
        let place = (number % SUBMISSIONS as u64) as usize;
        let submission = (u64::from(self.submission) * SUBMISSIONS as u64) & !KIND;
        let current = number - place as u64 == submission & u64::from(u32::MAX);
        let Some(send) = self.sent.get(place).filter(|_| current) else {
            // Of an earlier submission: how many were in one is not known any more.
            self.failures += 1;
            return;
        };
        let (socket, joined, len) = (send.socket, send.joined, send.bytes.len());
        let full = is_full(-result);
        let apart = joined > 1 && self.sender.segments.refused(-result, len);
        self.failures += match full {
            true => joined as u64,
            false => self.send_again(place..place + joined),
        };
        if let Socket::Relay(id) = socket
            && !full
            && !apart
        {
            self.note_error(id);
        }
    }

    /// Sends refused datagrams again, and returns how many were lost: an error that was queued
    /// on the socket stops the next send, also one to another destination than the error's.
    fn send_again(&mut self, places: Range<usize>) -> u64 {
        let sent = &self.sent[places];
        let target = match sent[0].socket {
            Socket::Listener(index) => {
                listener_target(&self.listeners, self.placed, index as usize)
            }
            Socket::Relay(id) => relay_target(&self.relays, id),
        };
        let Some(target) = target else {
            return sent.len() as u64;
        };
        let ring = &self.ring;
        let datagrams = sent.iter().map(|send| Outgoing {
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
            if self.used_bounces == BOUNCES {
                self.submit();
            }
            let bounce = self.own(STREAM_SLOTS + self.used_bounces);
            self.used_bounces += 1;
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
