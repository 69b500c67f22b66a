//! Where datagrams wait, how they go out, and what becomes of those that the kernel refuses.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use super::sockets::{listener_target, relay_target};
use super::{BOUNCES, KIND, REPLIES, REPLY_SIZE, SEND, STREAM_SLOTS, Sent, Socket, Uring};
use crate::net::plane::Payload;
use crate::net::sys::uring::{Route, SUBMISSIONS, Wait, slot_start};
use crate::net::sys::{self, MOST_SEGMENTS, Outgoing, is_segment};

/// How often a datagram is sent again that the kernel refused because of an error of another
/// one: each time takes one such error off the socket.
const RETRIES: usize = 2;

/// How often the kernel may leave submissions in the queue before the shard gives up.
const STALLS: usize = 10_000;

const _: () = assert!(SUBMISSIONS.is_power_of_two());

impl Uring {
    /// Submits everything that is queued, waits, and takes all completions.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        if !self.run.is_empty() && self.ring.is_full() {
            self.ring.enter(Wait::No)?;
        }
        self.end_run();
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

    /// Makes room for one submission.
    pub(super) fn make_room(&mut self) {
        if self.ring.is_full() || self.sent.len() == SUBMISSIONS {
            self.submit();
        }
    }

    /// Queues a send; there is room.
    pub(super) fn queue(&mut self, send: Sent) {
        let place = self.sent.len();
        if !self.continues(&send) {
            self.end_run();
            self.run = place..place;
        }
        self.run.end = place + 1;
        let submission = self.submission;
        if let Socket::Relay(id) = send.socket
            && let Some(relay) = self.relay(id)
        {
            relay.submission = submission;
        }
        self.sent.push(send);
    }

    /// Whether a datagram may leave in one with those of the run.
    fn continues(&self, send: &Sent) -> bool {
        let Some(first) = self.sent.get(self.run.start) else {
            return false;
        };
        self.segments
            && !self.run.is_empty()
            && self.run.len() < MOST_SEGMENTS
            && first.bytes.len() == send.bytes.len()
            && is_segment(send.bytes.len())
            && first.socket == send.socket
            && first.to == send.to
            && first.from == send.from
    }

    /// Puts the run into the ring; there is room.
    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        let sent = &mut self.sent[run.clone()];
        let Some(first) = sent.first() else { return };
        let target = match first.socket {
            Socket::Listener(index) => {
                listener_target(&self.listeners, self.placed, index as usize)
            }
            Socket::Relay(id) => relay_target(&self.relays, id),
        };
        let Some(target) = target else { return };
        let place = run.start;
        let number = u64::from(self.submission) * SUBMISSIONS as u64 + place as u64;
        let token = SEND | number & !KIND & u64::from(u32::MAX);
        let datagrams = sent.iter().map(|send| send.bytes.clone());
        let route = Route {
            to: &first.to,
            from: first.from,
        };
        if !self.ring.send(target, datagrams, route, place, token) {
            self.failures += run.len() as u64;
        }
        sent[0].run = run.len();
    }

    /// The kernel refused a send of the submission that was just made.
    pub(super) fn refused(&mut self, token: u64, result: i32) {
        let number = token & !KIND;
        let place = (number % SUBMISSIONS as u64) as usize;
        let submission = (u64::from(self.submission) * SUBMISSIONS as u64) & !KIND;
        let current = number - place as u64 == submission & u64::from(u32::MAX);
        let Some(send) = self.sent.get(place).filter(|_| current) else {
            self.failures += 1;
            return;
        };
        let (socket, run) = (send.socket, send.run);
        // A full send buffer is no reason to try again at once.
        let full = matches!(-result, libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM);
        if -result == libc::EIO && run > 1 {
            // A network device that cannot do it; the others can do without.
            self.segments = false;
        }
        for place in place..place + run {
            if full || !self.send_again(place) {
                self.failures += 1;
            }
        }
        if let Socket::Relay(id) = socket
            && !full
        {
            self.note_error(id);
        }
    }

    /// Sends a refused datagram again: an error that was queued on the socket stops the next
    /// send, also one to another destination than the error's.
    fn send_again(&mut self, place: usize) -> bool {
        let send = &self.sent[place];
        let target = match send.socket {
            Socket::Listener(index) => {
                listener_target(&self.listeners, self.placed, index as usize)
            }
            Socket::Relay(id) => relay_target(&self.relays, id),
        };
        let Some(target) = target else { return false };
        let bytes = self.ring.bytes(send.bytes.clone());
        (0..RETRIES).any(|_| match send.from {
            None => sys::send_to(target.fd.as_fd(), bytes, &send.to).is_ok(),
            Some(_) => {
                let datagram = Outgoing {
                    bytes,
                    to: &send.to,
                    from: send.from,
                };
                let mut batch = self.sender.batch(std::iter::once(datagram));
                batch.send(target.fd, 0).is_ok()
            }
        })
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
