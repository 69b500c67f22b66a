//! What completes, and in what order it is handed out.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::{BATCH, EPOLL, ERRORS, KIND, LARGE_BATCH, LISTENER, SEND, Uring};
use crate::net::bind;
use crate::net::merged::Merged;
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
        loop {
            if let Some(event) = self.merged.as_mut().and_then(Merged::next) {
                self.handed_out += 1;
                return Some(event);
            }
            if self.is_full() {
                break;
            }
            let Some(arrived) = self.arrived.pop_front() else {
                break;
            };
            self.used.push(arrived.slot);
            if let Some(merged) = self.arrival(arrived) {
                self.note_burst(&merged);
                self.merged = Some(merged);
            }
        }
        if let Some(event) = self.next_error() {
            return Some(event);
        }
        let index = self.events.next()?;
        self.readied += 1;
        let (token, readiness) = self.epoll.event(index);
        let token = token as u32;
        Some(Event::Ready { token, readiness })
    }

    /// Whether the batch has as many datagrams as it may have.
    fn is_full(&self) -> bool {
        let most = match self.runs.pays() {
            true => LARGE_BATCH,
            false => BATCH,
        };
        self.handed_out >= most
    }

    fn arrival(&mut self, arrived: super::Arrived) -> Option<Merged> {
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
        let slot = Slot(u32::from(arrived.slot));
        Some(Merged::new(origin, slot, &received))
    }

    fn note_burst(&mut self, merged: &Merged) {
        let (bursts, fd) = match merged.origin {
            Origin::Relay(id) => match &mut self.relays[id.index as usize] {
                Some(relay) => (&mut relay.bursts, relay.socket.as_fd()),
                None => return,
            },
            Origin::Listener { listener, .. } => {
                let index = listener as usize;
                let fd = self.listeners[index].socket.as_fd();
                (&mut self.listener_bursts[index], fd)
            }
        };
        if bursts.note(self.merged.as_ref(), merged) {
            bind::merge(fd);
        }
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rand_chacha::ChaCha12Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::net::descriptors::Descriptors;
    use crate::net::merged::tests::shared_slots;
    use crate::net::plane::{DataPlane, Payload};
    use crate::net::relays::{RelayOpener, Reservations};
    use crate::net::sys::uring::SUBMISSIONS;
    use crate::net::uring::new_ring;
    use crate::proto::ports::RelayAddresses;
    use crate::proto::{Family, Mono, OpenSpec};

    /// A plane with one relay socket.
    fn plane() -> (Uring, RelayId, SocketAddr, Arc<RelayAddresses>) {
        plane_with(true)
    }

    fn plane_with(segments: bool) -> (Uring, RelayId, SocketAddr, Arc<RelayAddresses>) {
        let ring = new_ring(64).expect("the tests of this data path need io_uring (Linux 6.1)");
        let local = [127, 0, 0, 1].into();
        let ports = RelayAddresses::new(vec![(local, local)], 20_000..=29_999);
        // A test beside this one is not to draw the port that this one has just closed.
        static SEED: AtomicU64 = AtomicU64::new(0);
        let seed = SEED.fetch_add(1, Ordering::Relaxed);
        let mut opener = RelayOpener::new(
            Arc::clone(&ports),
            Arc::new(Reservations::default()),
            ChaCha12Rng::seed_from_u64(seed),
            1 << 16,
            Descriptors::new(1 << 20),
        );
        let family = Family::V4;
        let socket = opener.open(OpenSpec::Any { family }).expect("opened");
        let address = socket.opened().local;
        let mut plane = Uring::new(ring, Vec::new(), segments).expect("made");
        let relay = RelayId {
            index: 0,
            generation: 1,
        };
        plane.open(relay, socket).expect("watched");
        plane.wait(Some(Duration::ZERO), Mono(0)).expect("no sleep");
        (plane, relay, address, ports)
    }

    #[test]
    fn a_long_error_queue_is_read_to_its_end() {
        let (mut plane, relay, ..) = plane();
        let socket = plane.relay(relay).expect("open").socket.as_fd();
        let fd = socket.try_clone_to_owned().expect("cloned");
        // Connected to itself: to all others the port is closed, and nobody gets its number.
        let closed_to_others = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let closed = closed_to_others.local_addr().expect("bound");
        closed_to_others.connect(closed).expect("connected");
        let slot = plane.acquire().expect("free");
        for number in 0..2 * ERRORS + 5 {
            // The error of the one before stops each send but the first, which is repeated.
            // Equal ones would leave in one.
            let payload = Payload::new(slot, 0, 0..1 + number % 2, true);
            assert!(plane.send_to_peer(relay, closed, false, payload));
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
        assert_eq!(plane.take_failures(), 0);
        assert_eq!(sys::queued_error(fd.as_fd()).expect("readable"), None);
    }

    /// Two equal datagrams that wait to leave in one, and who they are for.
    fn waiting() -> (Uring, RelayId, UdpSocket) {
        let (mut plane, relay, ..) = plane();
        let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
        peer.set_nonblocking(true).expect("set");
        let to = peer.local_addr().expect("bound");
        let slot = plane.acquire().expect("free");
        for _ in 0..2 {
            let payload = Payload::new(slot, 0, 0..9, true);
            assert!(plane.send_to_peer(relay, to, false, payload));
        }
        assert_eq!(plane.runs.len(), 1);
        (plane, relay, peer)
    }

    /// An ICMP error that is queued on the socket has the same code as a run that is too large.
    #[test]
    fn a_refused_run_leaves_apart_and_the_error_queue_is_looked_at() {
        let (mut plane, relay, peer) = waiting();
        let submission = u64::from(plane.submission) * SUBMISSIONS as u64;
        plane.refused(SEND | submission & !KIND, -libc::EMSGSIZE);
        assert_eq!(plane.erring, [relay]);
        assert_eq!(plane.take_failures(), 0);
        let arrived = (0..3).filter(|_| peer.recv(&mut [0; 20]).is_ok());
        assert_eq!(arrived.count(), 2);
    }

    /// What lies in the queue since then would get the addresses of what comes later.
    #[test]
    fn nothing_is_sent_after_a_failed_enter() {
        let (mut plane, _, peer) = waiting();
        plane.stuck = true;
        plane.wait(Some(Duration::ZERO), Mono(0)).expect("no sleep");
        assert_eq!(plane.take_failures(), 2);
        let error = peer.recv(&mut [0; 20]).expect_err("nothing came");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn equal_datagrams_arrive_each_for_itself_also_where_they_cannot_leave_in_one() {
        for refused in [false, true] {
            let (mut plane, relay, ..) = plane();
            let fd = plane.relay(relay).expect("open").socket.as_fd();
            if refused {
                // A checksum is what cutting is built on.
                sys::set_option(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("set");
            }
            let peers = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").expect("bound"));
            let to = [0, 1].map(|at: usize| peers[at].local_addr().expect("bound"));
            // More than fit one, then others in between, other sizes, and empty ones.
            let datagrams: Vec<(usize, usize)> = std::iter::repeat_n((0, 1), 150)
                .chain((0..20).map(|number| (number % 2, 1)))
                .chain((0..20).map(|number| (1, number / 3)))
                .chain([(0, 0), (0, 0)])
                // More than 64 KiB.
                .chain(std::iter::repeat_n((1, 1400), 60))
                .collect();
            let slot = plane.acquire().expect("free");
            for (number, byte) in plane.slot_mut(slot)[..1800].iter_mut().enumerate() {
                *byte = number as u8;
            }
            for (number, &(peer, len)) in datagrams.iter().enumerate() {
                let payload = Payload::new(slot, 0, number..number + len, true);
                assert!(plane.send_to_peer(relay, to[peer], false, payload));
            }
            for _ in 0..3 {
                plane.wait(Some(Duration::ZERO), Mono(0)).expect("no sleep");
            }
            assert_eq!(plane.take_failures(), 0);
            let untouched = plane.sender.segments == sys::Segments::new(true);
            assert_eq!(untouched, !refused);
            for (at, peer) in peers.iter().enumerate() {
                peer.set_nonblocking(true).expect("set");
                let mut buffer = [0; 2048];
                let mut seen: Vec<Vec<u8>> = std::iter::from_fn(|| {
                    let len = peer.recv(&mut buffer).ok()?;
                    Some(buffer[..len].to_vec())
                })
                .collect();
                let mut wanted: Vec<Vec<u8>> = datagrams
                    .iter()
                    .enumerate()
                    .filter(|(_, (peer, _))| *peer == at)
                    .map(|(number, &(_, len))| {
                        (number..number + len).map(|byte| byte as u8).collect()
                    })
                    .collect();
                if refused {
                    // What is sent again comes behind the rest of its batch.
                    seen.sort();
                    wanted.sort();
                }
                assert_eq!(seen, wanted);
            }
        }
    }

    #[test]
    fn bursts_come_as_one_and_are_handed_out_one_by_one() {
        let shared = |segments| {
            let (mut plane, _, address, _) = plane_with(segments);
            shared_slots(&mut plane, address)
        };
        assert!(shared(true) > 0);
        assert_eq!(shared(false), 0);
    }

    #[test]
    fn receives_that_ran_out_of_slots_start_again() {
        let (mut plane, relay, address, _) = plane();
        let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
        // More than there are slots, in portions that the socket's buffer holds, and none of
        // them is taken before the last one is sent.
        let portions = 2 * usize::from(super::super::RELAY_SLOTS) / 32;
        for portion in 0..portions {
            for number in 0..32 {
                peer.send_to(&[portion as u8, number], address)
                    .expect("sent");
            }
            plane
                .enter(crate::net::sys::uring::Wait::Poll)
                .expect("no sleep");
        }
        let mut seen = 0;
        for _ in 0..20 {
            plane.wait(Some(Duration::ZERO), Mono(0)).expect("no sleep");
            while let Some(event) = plane.next() {
                let Event::Datagram {
                    origin,
                    slot,
                    len: 2,
                    // The kernel's clock is ours: the age of what waits can be told.
                    arrived: Some(1..),
                    ..
                } = event
                else {
                    panic!("{event:?}");
                };
                assert_eq!(origin, Origin::Relay(relay));
                assert_eq!(
                    plane.slot_mut(slot)[..2],
                    [(seen / 32) as u8, (seen % 32) as u8]
                );
                seen += 1;
            }
        }
        assert!(seen > usize::from(super::super::RELAY_SLOTS), "only {seen}");
        // And the socket is not left deaf.
        peer.send_to(b"!!", address).expect("sent");
        plane
            .wait(Some(Duration::from_secs(5)), Mono(0))
            .expect("waited");
        assert!(matches!(plane.next(), Some(Event::Datagram { len: 2, .. })));
    }

    #[test]
    fn a_closed_socket_is_silent_and_its_port_free() {
        let (mut plane, relay, address, ports) = plane();
        let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
        peer.send_to(b"too late", address).expect("sent");
        plane.close(relay);
        assert!(plane.settle(), "a receive was under way");
        assert!(!plane.settle());
        assert_eq!(ports.in_use(), 0);
        UdpSocket::bind(address).expect("nothing holds the socket");
        plane.wait(Some(Duration::ZERO), Mono(0)).expect("no sleep");
        assert!(plane.next().is_none());
    }
}
