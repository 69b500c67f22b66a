//! What completes, and in what order it is handed out.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::{BATCH, EPOLL, ERRORS, KIND, LISTENER, SEND, Uring};
use crate::net::plane::{Event, Origin, Slot};
use crate::net::sys::uring::Completion;
use crate::net::sys::{self, QueuedError};
use crate::proto::RelayId;

/// Whether a receive that ended like this is not worth another try: it was asked for wrongly.
fn is_hopeless(result: i32) -> bool {
    matches!(
        -result,
        libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT
    )
}

impl Uring {
    /// Takes all completions.
    pub(super) fn absorb(&mut self) {
        while let Some(done) = self.ring.completion() {
            let id = RelayId::from_bits(done.token);
            if id.generation != 0 {
                self.relay_completed(id, done);
                continue;
            }
            match done.token & KIND {
                LISTENER => self.listener_completed(done),
                SEND => self.refused(done.token, done.result),
                EPOLL => {
                    self.in_flight -= 1;
                    self.epoll_ready = true;
                }
                _ => {}
            }
        }
    }

    fn listener_completed(&mut self, done: Completion) {
        self.datagram(done);
        if done.more {
            return;
        }
        self.in_flight -= 1;
        if is_hopeless(done.result) {
            let error = std::io::Error::from_raw_os_error(-done.result);
            self.broken.get_or_insert(error);
        } else {
            self.stopped.push(done.token);
        }
    }

    fn relay_completed(&mut self, id: RelayId, done: Completion) {
        let Some(relay) = self.relay(id) else {
            if let Some(slot) = done.slot {
                self.ring.lend(slot);
            }
            if !done.more {
                self.in_flight -= 1;
                // Nothing holds the socket any more: it is closed, and its port free.
                self.closing.remove(&done.token);
            }
            return;
        };
        if !done.more {
            relay.armed = false;
            self.in_flight -= 1;
            if is_hopeless(done.result) {
                let error = std::io::Error::from_raw_os_error(-done.result);
                tracing::error!(%error, "a relay socket cannot be received from");
            } else {
                self.stopped.push(done.token);
            }
            // Running out of slots is no error of the socket.
            if done.result < 0 && done.result != -libc::ENOBUFS {
                self.note_error(id);
            }
        }
        self.datagram(done);
    }

    fn datagram(&mut self, done: Completion) {
        let Some(slot) = done.slot else { return };
        if done.result < 0 {
            return self.ring.lend(slot);
        }
        let token = done.token;
        self.arrived.push_back(super::Arrived { token, slot });
    }

    /// The error queue of a relay socket may have entries.
    pub(super) fn note_error(&mut self, id: RelayId) {
        let Some(relay) = self.relay(id) else { return };
        if !relay.erring {
            relay.erring = true;
            self.erring.push_back(id);
        }
    }

    /// Gives the slots of the batch before back to the kernel.
    pub(super) fn recycle(&mut self) {
        for index in 0..self.used.len() {
            self.ring.lend(self.used[index]);
        }
        self.used.clear();
    }

    /// See [`DataPlane::next`](crate::net::plane::DataPlane::next).
    pub(super) fn next_event(&mut self) -> Option<Event> {
        while self.handed_out < BATCH
            && let Some(arrived) = self.arrived.pop_front()
        {
            self.used.push(arrived.slot);
            if let Some(event) = self.arrival(arrived) {
                self.handed_out += 1;
                return Some(event);
            }
        }
        if let Some(event) = self.next_error() {
            return Some(event);
        }
        let index = self.events.next()?;
        let (token, readiness) = self.epoll.event(index);
        let token = token as u32;
        Some(Event::Ready { token, readiness })
    }

    fn arrival(&mut self, arrived: super::Arrived) -> Option<Event> {
        let id = RelayId::from_bits(arrived.token);
        let is_relay = id.generation != 0;
        if is_relay {
            // It may have been closed in the meantime.
            self.relay(id)?;
        }
        let received = self.ring.received(arrived.slot)?;
        let origin = if is_relay {
            Origin::Relay(id)
        } else {
            let listener = (arrived.token & !KIND) as u32;
            let bound = self.listeners[listener as usize].address;
            let local = match received.local {
                None => bound,
                Some(Some(ip)) => SocketAddr::new(ip, bound.port()),
                // Sent to a broadcast or multicast address: there is no address from which an
                // answer could come.
                Some(None) => return None,
            };
            Origin::Listener { listener, local }
        };
        Some(Event::Datagram {
            origin,
            source: received.source,
            slot: Slot(u32::from(arrived.slot)),
            len: received.len,
        })
    }

    /// Reads one entry of an error queue.
    fn next_error(&mut self) -> Option<Event> {
        loop {
            let Some((id, left)) = self.error else {
                if self.due == 0 {
                    return None;
                }
                self.due -= 1;
                let id = self.erring.pop_front()?;
                if let Some(relay) = self.relay(id) {
                    relay.erring = false;
                    self.error = Some((id, ERRORS));
                }
                continue;
            };
            self.error = None;
            if left == 0 {
                // Others first.
                self.note_error(id);
                continue;
            }
            let Some(relay) = self.relay(id) else {
                continue;
            };
            match sys::queued_error(relay.socket.as_fd()) {
                Ok(Some(QueuedError::Icmp(error))) => {
                    self.error = Some((id, left - 1));
                    return Some(Event::Icmp { relay: id, error });
                }
                Ok(Some(QueuedError::Local)) => self.error = Some((id, left - 1)),
                Ok(None) | Err(_) => {}
            }
        }
    }
}
