//! Where a batch comes from, and in what order.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::{Arrived, ERRORS, Listener, MERGED_SHARE, Mmsg, SHARE, SLOTS, Socket, WATCHED};
use crate::net::bind;
use crate::net::merged::Merged;
use crate::net::plane::{Event, Origin, Slot};
use crate::net::sys::{self, QueuedError};
use crate::proto::RelayId;

impl Mmsg {
    /// See [`DataPlane::next`](crate::net::plane::DataPlane::next).
    pub(super) fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.merged.as_mut().and_then(Merged::next) {
                return Some(event);
            }
            if let Some(merged) = self.arrival() {
                self.merged = Some(merged);
                continue;
            }
            if let Some(event) = self.error() {
                return Some(event);
            }
            if self.arrived.is_some() {
                continue;
            }
            if self.used_slots == SLOTS {
                return None;
            }
            // Listeners first in every batch: there are few of them, and one would wait for
            // hundreds of relay sockets otherwise.
            let hot = self
                .listeners
                .iter()
                .position(|listener| listener.hot && !listener.served);
            if let Some(index) = hot {
                self.receive(Socket::Listener(index as u32));
                continue;
            }
            if let Some(index) = self.events.next() {
                let (token, readiness) = self.epoll.event(index);
                let id = RelayId::from_bits(token);
                if id.generation != 0 {
                    if self.relay(id).is_none() {
                        // Closed since it was reported.
                    } else if readiness.error() {
                        self.errors = Some((id, ERRORS));
                    } else {
                        self.receive(Socket::Relay(id.index));
                    }
                } else if token & WATCHED != 0 {
                    let token = (token & !WATCHED) as u32;
                    return Some(Event::Ready { token, readiness });
                } else {
                    self.listeners[token as usize].hot = true;
                    self.listeners[token as usize].served = false;
                }
                continue;
            }
            if self.due == 0 {
                return None;
            }
            self.due -= 1;
            let id = self.pending.pop_front()?;
            if let Some(relay) = self.relay(id) {
                relay.pending = false;
                self.receive(Socket::Relay(id.index));
            }
        }
    }

    /// Receives from a socket into the free slots.
    fn receive(&mut self, from: Socket) {
        let (fd, bursts) = match from {
            Socket::Listener(index) => {
                let listener = &self.listeners[index as usize];
                (listener.socket.socket.as_fd(), &listener.bursts)
            }
            Socket::Relay(index) => match &self.relays[index as usize] {
                Some(relay) => (relay.socket.as_fd(), &relay.bursts),
                None => return,
            },
        };
        let share = match bursts.merges() {
            true => MERGED_SHARE,
            false => SHARE,
        };
        let asked = share.min(SLOTS - self.used_slots);
        let mut received = 0;
        let mut more = true;
        // A queued ICMP error ends a receive once; what follows it is received then.
        for _ in 0..4 {
            let result = self
                .receiver
                .receive(fd, &mut self.memory, self.used_slots, asked);
            match result {
                Ok(count) => {
                    received = count;
                    more = count == asked;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(_) => {}
            }
        }
        match from {
            Socket::Listener(index) => {
                let listener = &mut self.listeners[index as usize];
                listener.hot = more;
                listener.served = true;
            }
            Socket::Relay(index) if more => self.postpone(index),
            Socket::Relay(_) => {}
        }
        if received > 0 {
            self.arrived = Some(Arrived {
                from,
                next: self.used_slots,
                end: self.used_slots + received,
            });
            self.used_slots += received;
        }
    }

    /// Comes back to a relay socket in the next batch.
    fn postpone(&mut self, index: u32) {
        if let Some(Some(relay)) = self.relays.get_mut(index as usize)
            && !relay.pending
        {
            relay.pending = true;
            self.pending.push_back(RelayId {
                index,
                generation: relay.generation,
            });
        }
    }

    /// The next of the datagrams that were received.
    fn arrival(&mut self) -> Option<Merged> {
        loop {
            let arrived = self.arrived.as_mut()?;
            let (from, slot) = (arrived.from, arrived.next);
            arrived.next += 1;
            if arrived.next == arrived.end {
                self.arrived = None;
            }
            let Some(received) = self.receiver.received(slot) else {
                continue;
            };
            let (origin, bursts, fd) = match from {
                Socket::Listener(listener) => {
                    let Listener { socket, bursts, .. } = &mut self.listeners[listener as usize];
                    let bound = socket.address;
                    let local = match received.local {
                        None => bound,
                        Some(Some(ip)) => SocketAddr::new(ip, bound.port()),
                        // Sent to a broadcast or multicast address: there is no address from
                        // which an answer could come.
                        Some(None) => continue,
                    };
                    let origin = Origin::Listener { listener, local };
                    (origin, bursts, socket.socket.as_fd())
                }
                Socket::Relay(index) => match &mut self.relays[index as usize] {
                    Some(relay) => {
                        let id = RelayId {
                            index,
                            generation: relay.generation,
                        };
                        (Origin::Relay(id), &mut relay.bursts, relay.socket.as_fd())
                    }
                    None => continue,
                },
            };
            let merged = Merged::new(origin, Slot(slot as u32), &received);
            if bursts.note(self.merged.as_ref(), &merged) {
                bind::merge(fd);
            }
            return Some(merged);
        }
    }

    /// Reads one entry of the error queue that is being read.
    fn error(&mut self) -> Option<Event> {
        loop {
            let (id, left) = self.errors?;
            let Some(relay) = self.relay(id) else {
                self.errors = None;
                return None;
            };
            let entry = if left > 0 {
                sys::queued_error(relay.socket.as_fd())
            } else {
                // The kernel reports the socket again for those that are left: it does so
                // whenever one is taken and another follows.
                Ok(None)
            };
            match entry {
                Ok(Some(QueuedError::Icmp(error))) => {
                    self.errors = Some((id, left - 1));
                    return Some(Event::Icmp { relay: id, error });
                }
                Ok(Some(QueuedError::Local)) => self.errors = Some((id, left - 1)),
                Ok(None) | Err(_) => {
                    self.errors = None;
                    // Datagrams may lie behind the errors.
                    if self.used_slots < SLOTS {
                        self.receive(Socket::Relay(id.index));
                    } else {
                        self.postpone(id.index);
                    }
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::UdpSocket;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::Duration;

    use rand_chacha::ChaCha12Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::net::Service;
    use crate::net::bind::UdpListener;
    use crate::net::descriptors::Descriptors;
    use crate::net::merged::Bursts;
    use crate::net::merged::tests::{send_in_one, shared_slots};
    use crate::net::plane::DataPlane;
    use crate::net::relays::{RelayOpener, Reservations};
    use crate::net::sys::Interest;
    use crate::proto::ports::RelayAddresses;
    use crate::proto::{Family, Mono, OpenSpec};

    /// A plane with one relay socket, and another descriptor of that.
    fn plane(segments: bool) -> (Mmsg, OwnedFd, SocketAddr) {
        let local = [127, 0, 0, 1].into();
        let mut opener = RelayOpener::new(
            RelayAddresses::new(vec![(local, local)], 20_000..=29_999),
            Arc::new(Reservations::default()),
            ChaCha12Rng::from_seed([1; 32]),
            1 << 16,
            Descriptors::new(1 << 20),
        );
        let family = Family::V4;
        let socket = opener.open(OpenSpec::Any { family }).expect("opened");
        let fd = socket.as_fd().try_clone_to_owned().expect("cloned");
        let address = socket.opened().local;
        let mut plane = Mmsg::new(Vec::new(), segments).expect("made");
        let relay = RelayId {
            index: 0,
            generation: 1,
        };
        plane.open(relay, socket).expect("watched");
        (plane, fd, address)
    }

    #[test]
    fn bursts_come_as_one_and_are_handed_out_one_by_one() {
        let shared = |segments| {
            let (mut plane, _, address) = plane(segments);
            shared_slots(&mut plane, address)
        };
        assert!(shared(true) > 0);
        assert_eq!(shared(false), 0);
    }

    /// What comes in one takes a slot, and many of them leave room for the others.
    #[test]
    fn a_flood_of_bursts_does_not_keep_the_rest_waiting() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let address = socket.local_addr().expect("bound");
        bind::merge(socket.as_fd());
        let listener = UdpListener {
            socket: socket.into(),
            address,
            service: Service::Turn,
        };
        let mut plane = Mmsg::new(vec![listener], true).expect("made");
        plane.listeners[0].bursts = Bursts::merging();
        let near = UdpSocket::bind("127.0.0.1:0").expect("bound");
        for _ in 0..2 * MERGED_SHARE {
            send_in_one(&near, address, &vec![vec![0; 100]; 60]);
        }
        let (here, mut there) = UnixStream::pair().expect("a pair");
        there.write_all(b"x").expect("written");
        plane
            .watch(here.as_fd(), 7, Interest::READ)
            .expect("watched");
        plane.wait(Some(Duration::ZERO), Mono(0)).expect("no sleep");
        let events: Vec<_> = std::iter::from_fn(|| plane.next()).collect();
        let ready = |event: &&Event| matches!(event, Event::Ready { token: 7, .. });
        assert_eq!(events.iter().filter(ready).count(), 1);
        assert_eq!(events.len(), 60 * MERGED_SHARE + 1, "the rest comes later");
    }

    #[test]
    fn a_long_error_queue_is_read_to_its_end() {
        let (mut plane, fd, _) = plane(true);
        let open = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let closed = open.local_addr().expect("bound");
        drop(open);
        for _ in 0..2 * ERRORS + 5 {
            // The error of the one before may stop a send; the one after it goes out.
            let _ = sys::send_to(fd.as_fd(), b"x", &closed);
            let _ = sys::send_to(fd.as_fd(), b"x", &closed);
        }
        let mut seen = 0;
        for _ in 0..10 {
            plane.wait(Some(Duration::ZERO), Mono(0)).expect("no sleep");
            while let Some(event) = plane.next() {
                assert!(matches!(event, Event::Icmp { error, .. } if error.destination == closed));
                seen += 1;
            }
        }
        assert!(seen > ERRORS, "only {seen}");
        assert_eq!(sys::queued_error(fd.as_fd()).expect("readable"), None);
    }
}
