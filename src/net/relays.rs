//! Opening relay sockets: a leased port, bound, with everything set that RFC 8656 asks of the
//! socket. A reserved socket (EVEN-PORT with R=1) waits here until some shard claims it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use arrayvec::ArrayVec;
use rand_chacha::ChaCha12Rng;
use socket2::{Domain, Protocol, Socket, Type};

use super::descriptors::Descriptors;
use super::{bind, clock, sys};
use crate::proto::ports::{PortLease, RelayAddresses};
use crate::proto::throttle::Throttle;
use crate::proto::{Family, OpenError, OpenSpec, OpenedRelay, ReservationToken};

/// How many ports are tried when other processes of the host sit on ports of the range.
const ATTEMPTS: usize = 32;

/// Any client can make this fail as often as it likes.
static WARNED: Throttle = Throttle::new();

/// A bound relay socket and the lease of its port.
///
/// The fields are dropped in this order: the port is free for others only once the socket is
/// closed, so that its next owner's bind succeeds and no datagram reaches the wrong one.
pub(super) struct RelaySocket {
    socket: Socket,
    lease: PortLease,
}

impl RelaySocket {
    pub(super) fn opened(&self) -> OpenedRelay {
        OpenedRelay {
            local: self.lease.local(),
            public: self.lease.public(),
        }
    }

    /// Whether allocations of this server may reach it, and it them, past the deny list.
    pub(super) fn set_live(&self, live: bool) {
        self.lease.set_live(live);
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.lease.local().is_ipv6()
    }
}

impl AsFd for RelaySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sockets held under a RESERVATION-TOKEN, of all shards: whichever shard the client's second
/// Allocate reaches claims the socket.
#[derive(Default)]
pub(super) struct Reservations(Mutex<HashMap<ReservationToken, RelaySocket>>);

impl Reservations {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<ReservationToken, RelaySocket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the socket held under a token, if it still is.
    pub(super) fn release(&self, token: &ReservationToken) {
        let socket = self.table().remove(token);
        // Closed here, after the lock is free again.
        drop(socket);
    }
}

/// Opens relay sockets for one shard.
pub(super) struct RelayOpener {
    relays: Arc<RelayAddresses>,
    reservations: Arc<Reservations>,
    rng: ChaCha12Rng,
    receive_buffer: usize,
    pub(super) descriptors: Descriptors,
}

impl RelayOpener {
    pub(super) fn new(
        relays: Arc<RelayAddresses>,
        reservations: Arc<Reservations>,
        rng: ChaCha12Rng,
        receive_buffer: usize,
        descriptors: Descriptors,
    ) -> Self {
        Self {
            relays,
            reservations,
            rng,
            receive_buffer,
            descriptors,
        }
    }

    /// Opens what the core asks for; nothing is left behind when that fails.
    pub(super) fn open(&mut self, spec: OpenSpec) -> Result<RelaySocket, OpenError> {
        match spec {
            OpenSpec::Any { family } => self.single(family, false, None),
            OpenSpec::At { family, place } => self.single(family, false, Some(place)),
            OpenSpec::Even { family } => self.single(family, true, None),
            OpenSpec::EvenAndReserve { family, token } => self.pair(family, token),
            OpenSpec::Reserved { token } => self
                .reservations
                .table()
                .remove(&token)
                .ok_or(OpenError::NoReservation),
        }
    }

    pub(super) fn release(&self, token: &ReservationToken) {
        self.reservations.release(token);
    }

    fn single(
        &mut self,
        family: Family,
        even: bool,
        mut place: Option<u64>,
    ) -> Result<RelaySocket, OpenError> {
        // Ports that another process has stay leased until the search is over, so that it
        // does not come across them again.
        let mut taken = ArrayVec::<PortLease, ATTEMPTS>::new();
        while !taken.is_full() {
            let own = place.take();
            let lease = own
                .and_then(|place| self.relays.lease_at(family, place))
                .or_else(|| self.relays.lease(family, even, &mut self.rng))
                .ok_or(OpenError::NoPort)?;
            match self.bind(lease.local()) {
                Ok(socket) => return Ok(RelaySocket { socket, lease }),
                Err(error) => taken.push(Self::in_use(lease, &error)?),
            }
        }
        Err(OpenError::NoPort)
    }

    /// EVEN-PORT with R=1: both ports are bound, so that nobody can come between
    /// (RFC 8656 section 7.2).
    fn pair(&mut self, family: Family, token: ReservationToken) -> Result<RelaySocket, OpenError> {
        let mut taken = ArrayVec::<(PortLease, PortLease), ATTEMPTS>::new();
        while !taken.is_full() {
            let (even, odd) = self
                .relays
                .lease_pair(family, &mut self.rng)
                .ok_or(OpenError::NoPort)?;
            let bound = self
                .bind(even.local())
                .and_then(|first| Ok((first, self.bind(odd.local())?)));
            match bound {
                Ok((first, second)) => {
                    let held = RelaySocket {
                        socket: second,
                        lease: odd,
                    };
                    self.reservations.table().insert(token, held);
                    return Ok(RelaySocket {
                        socket: first,
                        lease: even,
                    });
                }
                Err(error) => taken.push(Self::in_use((even, odd), &error)?),
            }
        }
        Err(OpenError::NoPort)
    }

    /// Keeps the lease when another process has its port, else gives up.
    fn in_use<T>(lease: T, error: &io::Error) -> Result<T, OpenError> {
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Ok(lease),
            _ => {
                if let Some(suppressed) = WARNED.pass(clock::now().mono) {
                    tracing::warn!(%error, suppressed, "could not open a relay socket");
                }
                Err(OpenError::Exhausted)
            }
        }
    }

    fn bind(&self, local: SocketAddr) -> io::Result<Socket> {
        let domain = Domain::for_address(local);
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(domain, kind, Some(Protocol::UDP))?;
        let socket = self.descriptors.admit(socket)?;
        let fd = socket.as_fd();
        // RFC 8656 section 11.5: ICMP errors come through the error queue.
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        } else {
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        }
        bind::never_fragment_bit(fd, local.is_ipv6());
        bind::tell_arrival(fd);
        bind::receive_buffer(fd, self.receive_buffer);
        socket.bind(&local.into())?;
        Ok(socket)
    }
}
