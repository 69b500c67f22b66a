//! What a shard needs of whatever moves its bytes: readiness and datagrams in, datagrams out,
//! payload never copied. One implementation uses a completion ring with provided buffers, whose
//! only sleeping point is its enter; the other one epoll with recvmmsg and sendmmsg.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::relays::RelaySocket;
use super::sys::{Interest, Readiness};
use crate::proto::{Flow, IcmpError, MAX_PREFIX, Mono, Prefix, RelayId};

/// A buffer that the plane owns, holding what was received until the batch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u32);

/// How many bytes a slot holds: more than any datagram and any frame of a stream.
pub(super) const SLOT_SIZE: usize = 65_600;

/// Bytes in front of a slot's data, for prefixes.
pub(super) const HEAD_ROOM: usize = 64;
const _: () = assert!(HEAD_ROOM >= MAX_PREFIX);

/// Bytes behind a slot's data, for padding.
pub(super) const TAIL_ROOM: usize = 64;

/// The socket that a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A UDP listener, with the server address that was reached.
    Listener {
        /// Index of the listener: the `link` of its flows.
        listener: u32,
        /// The address and port that was reached.
        local: SocketAddr,
    },
    /// A relay socket.
    Relay(RelayId),
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A datagram lies in a slot.
    Datagram {
        origin: Origin,
        source: SocketAddr,
        slot: Slot,
        /// Where in the slot it starts.
        start: usize,
        len: usize,
        /// It is all that the slot holds.
        alone: bool,
        /// When the kernel got it, in microseconds of Unix time; `None` when it does not say.
        arrived: Option<u64>,
    },
    /// The network refused a datagram that a relay socket sent.
    Icmp { relay: RelayId, error: IcmpError },
    /// A watched descriptor is ready.
    Ready { token: u32, readiness: Readiness },
}

/// Which bytes to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'a> {
    /// The slot they lie in.
    pub(super) slot: Slot,
    /// Start within the slot.
    pub(super) start: usize,
    /// Length in bytes.
    pub(super) len: usize,
    /// Bytes to put in front.
    pub(super) prefix: Option<&'a Prefix>,
    /// Zero bytes to put behind, at most 3.
    pub(super) padding: u8,
    /// Nothing else in the slot is going to be sent, so that prefix and padding may be written
    /// around the payload in place.
    pub(super) alone: bool,
}

impl<'a> Payload<'a> {
    pub(super) fn new(slot: Slot, base: usize, range: Range<usize>, alone: bool) -> Self {
        Self {
            slot,
            start: base + range.start,
            len: range.len(),
            prefix: None,
            padding: 0,
            alone,
        }
    }

    pub(super) fn wrapped(mut self, prefix: &'a Prefix, padding: u8) -> Self {
        self.prefix = Some(prefix);
        self.padding = padding;
        self
    }
}

/// Moves bytes for one shard. The driving contract:
///
/// 1. [`DataPlane::wait`] begins a batch: slots of the one before are free again.
/// 2. [`DataPlane::next`] until it returns `None`; each event may queue sends.
/// 3. [`DataPlane::flush`], after which a plane has sent what is queued, or does so with the next
///    wait; what is queued when a plane is dropped is sent too. Sends of one flow (socket,
///    destination and source) keep their order, but for one that an error of another held up.
pub(super) trait DataPlane {
    /// Reports readiness of a descriptor under `token` until it is closed.
    fn watch(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()>;

    /// Changes what a watched descriptor is watched for.
    fn rewatch(&mut self, fd: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()>;

    /// Takes over a relay socket and receives from it.
    fn open(&mut self, relay: RelayId, socket: RelaySocket) -> io::Result<()>;

    /// Closes a relay socket, after sending what is queued on it. Its port is free at once, or
    /// with the next wait or [`DataPlane::settle`].
    fn close(&mut self, relay: RelayId);

    /// Ends the closing of sockets; `false` when none was being closed.
    fn settle(&mut self) -> bool;

    /// Begins a batch; sleeps until something happens, at most for `timeout`, and not at all
    /// when more of the last round is left. `now` is when the batch before began.
    fn wait(&mut self, timeout: Option<Duration>, now: Mono) -> io::Result<()>;

    /// The next event of the batch; `None` when there is none or the batch is full.
    fn next(&mut self) -> Option<Event>;

    /// A free slot, for bytes of a stream; `None` when the batch is full.
    fn acquire(&mut self) -> Option<Slot>;

    /// The bytes of a slot, to write into.
    fn slot_mut(&mut self, slot: Slot) -> &mut [u8];

    /// The first `len` bytes from `start` of a slot, and a buffer for a reply.
    fn slot_and_reply(&mut self, slot: Slot, start: usize, len: usize) -> (&[u8], &mut [u8]);

    /// A buffer for a reply that answers no datagram.
    fn reply_buffer(&mut self) -> &mut [u8];

    /// Queues the first `len` bytes of the reply buffer that was handed out last.
    fn send_reply(&mut self, flow: &Flow, len: usize);

    /// Queues a payload to a client on UDP.
    fn send_to_client(&mut self, flow: &Flow, payload: Payload<'_>);

    /// Queues a payload from a relay socket to a peer. `false`: there is no such socket.
    fn send_to_peer(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        dont_fragment: bool,
        payload: Payload<'_>,
    ) -> bool;

    /// Ends the filling of the queue.
    fn flush(&mut self);

    /// How many datagrams the kernel refused since the last call.
    fn take_failures(&mut self) -> u64;
}

/// The address that a datagram to a client must leave from, when its socket does not say.
pub(super) fn leave_from(wildcard: bool, flow: &Flow) -> Option<IpAddr> {
    wildcard.then(|| flow.local.ip())
}
