//! The connections' part of a shard's turn: accepting, reading, writing, closing.

use std::os::fd::AsFd;

use super::{ACCEPT, ACCEPT_PAUSE, ACCEPTS, FRAMES, Handled, Shard};
use crate::net::connection::{Phase, READ_SIZE, Reading, Writing};
use crate::net::control::Command;
use crate::net::plane::{DataPlane, SLOT_SIZE, Slot};
use crate::net::sys::{self, Interest};
use crate::proto::throttle::Throttle;
use crate::proto::{Disposition, DropReason, Mono};
use crate::wire::StreamFramer;

/// Any client can make accepting fail as often as it likes.
static WARNED: Throttle = Throttle::new();

impl<P: DataPlane> Shard<P> {
    /// A connection missed its deadline.
    pub(super) fn late(&mut self, link: u64) {
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

    pub(super) fn accept(&mut self, number: u32) {
        let Some(acceptor) = self.acceptors.get_mut(number as usize) else {
            return;
        };
        let listener = &acceptor.listener;
        let mut accepted = Vec::new();
        for _ in 0..ACCEPTS {
            let connection = sys::accept(listener.socket.as_fd())
                .and_then(|(socket, client)| Ok((self.opener.descriptors.admit(socket)?, client)));
            match connection {
                Ok(connection) => accepted.push(connection),
                Err(error) => match error.raw_os_error() {
                    // The connection stays in the backlog, and would wake the loop at once.
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        let token = ACCEPT + number;
                        let fd = listener.socket.as_fd();
                        if self.plane.rewatch(fd, token, Interest::NONE).is_ok() {
                            acceptor.paused = Some(Mono(self.now.mono.0 + ACCEPT_PAUSE));
                        }
                        if let Some(suppressed) = WARNED.pass(self.now.mono) {
                            tracing::warn!(address = %listener.address, %error, suppressed,
                                "cannot accept connections for want of file descriptors");
                        }
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
    pub(super) fn read(&mut self, link: u64) {
        let Some(connection) = self.streams.get(link) else {
            return;
        };
        if connection.phase == Phase::Closing || connection.doomed {
            return;
        }
        let carried = connection.carried();
        let Some((slot, from)) = self.room(carried) else {
            return self.streams.postpone(link);
        };
        let Some(connection) = self.streams.get(link) else {
            return;
        };
        let data = &mut self.plane.slot_mut(slot)[from..];
        let (len, reading) = connection.fill(self.now.mono, data, &mut self.scratch);
        let flow = connection.flow;
        if connection.wants_write() {
            self.streams.touch(link);
        }
        let end = from + len;
        self.reading = Some((slot, end));
        let mut start = from;
        let mut frames = 0;
        let mut malformed = false;
        let backlog = loop {
            let rest = &self.plane.slot_mut(slot)[start..end];
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
            let waiting = matches!(answer, Disposition::Waiting);
            self.dispose(answer, Some(handled));
            if waiting {
                // What was sent behind an Allocate relies on its answer.
                self.effects();
            }
            start += frame.padded_len;
            frames += 1;
        };
        if malformed {
            // RFC 8489 section 6.2.2: the stream cannot be synchronised again.
            self.counters.dropped(DropReason::Malformed);
            return self.streams.doom(link);
        }
        let rest = &self.plane.slot_mut(slot)[start..end];
        let Some(connection) = self.streams.get(link) else {
            return;
        };
        connection.keep(self.now.mono, rest, backlog, frames > 0);
        match reading {
            _ if backlog => self.streams.postpone(link),
            Reading::More => self.streams.postpone(link),
            Reading::Drained => {}
            Reading::End | Reading::Broken => return self.streams.doom(link),
        }
        self.streams.arm(link);
    }

    /// Where to read a connection into, and behind what: most reads are short, so many of them
    /// share a slot. There is room for a read behind what was carried over.
    fn room(&mut self, carried: usize) -> Option<(Slot, usize)> {
        let wanted = carried + READ_SIZE;
        if let Some((slot, used)) = self.reading
            && used + wanted <= SLOT_SIZE
        {
            return Some((slot, used));
        }
        Some((self.plane.acquire()?, 0))
    }

    /// Writes what the batch queued, one call for each connection.
    pub(super) fn write_streams(&mut self) {
        while let Some(link) = self.streams.pop_dirty() {
            let Some(connection) = self.streams.get(link) else {
                continue;
            };
            let blocked = match connection.write(self.now.mono) {
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
    pub(super) fn close_streams(&mut self) {
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
            match connection.write(self.now.mono) {
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
    pub(super) fn close(&mut self, link: u64) {
        if let Some(connection) = self.streams.remove(link)
            && connection.phase != Phase::Closing
        {
            self.relay.flow_closed(self.now, &connection.flow);
        }
    }
}
