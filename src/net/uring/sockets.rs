//! The sockets of a plane: which ones requests name, how they are started and ended.

use std::os::fd::AsFd;
use std::time::Duration;

use super::{CANCEL, EPOLL, KIND, LISTENER, Relay, Uring};
use crate::net::bind::{UdpListener, set_mtu_discovery};
use crate::net::sys::uring::{SlotGroup, Target, Wait};
use crate::proto::RelayId;

impl Uring {
    /// Switches a relay socket's DF bit. `false`: it must be set and cannot.
    pub(super) fn switch(&mut self, id: RelayId, dont_fragment: bool) -> bool {
        let Some(relay) = self.relay(id) else {
            return false;
        };
        let fd = relay.socket.as_fd();
        match set_mtu_discovery(fd, relay.socket.is_ipv6(), dont_fragment) {
            Ok(()) => {
                relay.dont_fragment = dont_fragment;
                true
            }
            Err(_) => !dont_fragment,
        }
    }
}

impl Drop for Uring {
    /// Sends what is queued and ends every request, so that all sockets are closed, and their
    /// ports free, when this returns.
    fn drop(&mut self) {
        let _ = self.enter(Wait::No);
        self.ring.cancel_all(CANCEL);
        let mut stalls = 0;
        while self.in_flight > 0 && stalls < 10 {
            let before = self.in_flight;
            if self
                .enter(Wait::For(Some(Duration::from_millis(100)), None))
                .is_err()
            {
                break;
            }
            stalls += u32::from(self.in_flight == before);
        }
        self.ring.vacate_all();
    }
}

/// The socket that a target names, by its place when it has one.
pub(super) fn listener_target(
    listeners: &[UdpListener],
    placed: usize,
    index: usize,
) -> Option<Target<'_>> {
    Some(Target {
        fd: listeners.get(index)?.socket.as_fd(),
        place: (index < placed).then_some(index as u32),
    })
}

pub(super) fn relay_target(relays: &[Option<Relay>], id: RelayId) -> Option<Target<'_>> {
    let relay = relays.get(id.index as usize)?.as_ref()?;
    (relay.generation == id.generation).then(|| Target {
        fd: relay.socket.as_fd(),
        place: relay.place,
    })
}

impl Uring {
    /// Starts a receive, or the watching of epoll, with the next submission.
    pub(super) fn arm(&mut self, token: u64) {
        self.make_room();
        let id = RelayId::from_bits(token);
        let armed = if id.generation != 0 {
            let Some(target) = relay_target(&self.relays, id) else {
                return;
            };
            self.ring.receive(target, SlotGroup::Relays, token)
        } else if token & KIND == LISTENER {
            let index = (token & !KIND) as usize;
            let target = listener_target(&self.listeners, self.placed, index);
            let Some(target) = target else { return };
            self.ring.receive(target, SlotGroup::Listeners, token)
        } else {
            self.ring.poll(self.epoll.as_fd(), EPOLL)
        };
        if !armed {
            // There was room: this is to be tried again with the next batch.
            return self.stopped.push(token);
        }
        self.in_flight += 1;
        let submission = self.submission;
        if let Some(relay) = self.relay(id) {
            relay.armed = true;
            relay.submission = submission;
        }
    }
}

#[cfg(test)]
mod tests;
