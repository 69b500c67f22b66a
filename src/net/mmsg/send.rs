//! Where datagrams wait, and how they go out.

use std::os::fd::AsFd;

use super::{BOUNCES_START, Mmsg, QUEUE, REPLIES_START, REPLY_SIZE, Socket, slot_start};
use crate::net::bind::set_mtu_discovery;
use crate::net::outbox::{Line, NONE, Queued, Run};
use crate::net::plane::{DataPlane, Payload};

impl Mmsg {
    pub(super) fn queue(&mut self, socket: Socket, mut queued: Queued) {
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
    pub(super) fn wrap(&mut self, payload: &Payload<'_>) -> (usize, usize) {
        let mut start = slot_start(payload.slot) + payload.start;
        let prefix = payload.prefix.map_or(&[][..], |prefix| prefix.as_slice());
        let padding = usize::from(payload.padding);
        if !payload.alone && (!prefix.is_empty() || padding > 0) {
            // The bytes around this payload belong to other datagrams that wait.
            let taken = prefix.len() + payload.len + padding;
            if self.bounced + taken > REPLIES_START - BOUNCES_START {
                self.flush();
            }
            let bounce = BOUNCES_START + self.bounced + prefix.len();
            self.bounced += taken;
            self.memory.copy_within(start..start + payload.len, bounce);
            start = bounce;
        }
        let end = start + payload.len;
        self.memory[end..end + padding].fill(0);
        self.memory[start - prefix.len()..start].copy_from_slice(prefix);
        (start - prefix.len(), prefix.len() + payload.len + padding)
    }

    pub(super) fn make_room(&mut self) {
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

    pub(super) fn reply_range(&self) -> std::ops::Range<usize> {
        let start = REPLIES_START + self.used_replies * REPLY_SIZE;
        start..start + REPLY_SIZE
    }

    pub(super) fn flush_keeping_replies(&mut self) {
        for index in 0..self.dirty.len() {
            self.flush_socket(self.dirty[index]);
        }
        self.dirty.clear();
        self.queue.clear();
        self.bounced = 0;
    }
}
