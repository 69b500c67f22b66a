//! A ring of submissions and completions (io_uring), behind functions that are safe because of
//! three rules: memory that the kernel writes to is lent to it and not touched meanwhile
//! (`Buffers`); memory that it reads is read before [`Ring::enter`] returns, as no send ever
//! blocks; and the ring is closed before its memory goes.

mod area;
mod buffers;
mod sends;

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::control;
use super::datagrams::Received;
use super::name;
use buffers::Buffers;
pub(in crate::net) use buffers::slot_start;
use sends::Sends;
pub(in crate::net) use sends::{Places, Route};

/// Submissions that wait at most for the next [`Ring::enter`]. More would not fit the cache.
pub(in crate::net) const SUBMISSIONS: usize = 256;

/// Datagrams that these send at most.
pub(in crate::net) const DATAGRAMS: usize = 512;

/// Completions that fit the ring. The kernel keeps what does not fit, at a cost.
const COMPLETIONS: u32 = 4096;

/// What the kernel writes in front of a received payload: four numbers, the source, and control
/// messages: when it came, the size of each when several came as one, and for listeners packet
/// info. Behind it the slot's data starts, and all of it is head room for a prefix once it is read.
const RECEIVED: usize = 16;
const NAME: usize = 32;
const TIME: usize = 32;
const MERGED: usize = 24;
const PACKET_INFO: usize = 40;
pub(in crate::net) const HEAD: usize = 192;
const _: () = assert!(RECEIVED + NAME + TIME + MERGED + PACKET_INFO <= HEAD);

/// Bytes behind a slot's data.
const TAIL: usize = 64;

/// From slot to slot: an odd number of cache lines, so that the starts of the slots do not fall
/// into one set of the cache. A slot has room for any datagram: memory is taken only by the
/// pages that were ever written to: one for each slot unless somebody sends jumbo datagrams, or
/// bursts that come as one.
const STRIDE: usize = HEAD + crate::net::plane::SLOT_SIZE + TAIL;
const _: () = assert!(STRIDE.is_multiple_of(64) && !(STRIDE / 64).is_multiple_of(2));

/// How many slots there are: those lent to the kernel for listeners and for relay sockets
/// (powers of two), and our own behind them.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Layout {
    pub(in crate::net) listener_slots: u16,
    pub(in crate::net) relay_slots: u16,
    pub(in crate::net) own_slots: usize,
}

/// Which slots a socket receives into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum SlotGroup {
    /// With room for packet info.
    Listeners = 0,
    Relays = 1,
}

impl SlotGroup {
    /// Room for control messages.
    const fn control(self) -> usize {
        match self {
            Self::Listeners => TIME + MERGED + PACKET_INFO,
            Self::Relays => TIME + MERGED,
        }
    }
}

/// A socket: by its place in the ring's table when it has one.
#[derive(Clone, Copy)]
pub(in crate::net) struct Target<'f> {
    pub(in crate::net) fd: BorrowedFd<'f>,
    pub(in crate::net) place: Option<u32>,
}

/// What a request came to.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Completion {
    /// The request's token.
    pub(in crate::net) token: u64,
    /// A count, or a negated error number.
    pub(in crate::net) result: i32,
    /// The request lives on.
    pub(in crate::net) more: bool,
    /// The slot with what was received; it is ours now.
    pub(in crate::net) slot: Option<u16>,
}

/// How long [`Ring::enter`] waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Wait {
    /// Not at all: it only submits.
    No,
    /// Not at all, but what is there is received.
    Poll,
    /// Until something completes, or for this long; with a gathering time, until several things
    /// have completed or that time is over, whichever is first.
    For(Option<Duration>, Option<Gather>),
}

/// How to wait for several completions when they come in quick succession.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) struct Gather {
    /// So many end the wait at once.
    pub(in crate::net) count: u32,
    /// One is enough when this time has passed since the beginning of the wait.
    pub(in crate::net) micros: u32,
}

/// See the module.
pub(in crate::net) struct Ring {
    /// Dropped, and so closed, before the memory that it knows.
    ring: IoUring,
    receive: Box<[libc::msghdr; 2]>,
    sends: Sends,
    buffers: Buffers,
    places: u32,
    /// Linux 6.12 and later.
    can_gather: bool,
}

impl Ring {
    /// A ring for the calling thread, which alone may use it. `descriptors` bounds its table of
    /// sockets.
    ///
    /// # Errors
    /// Also when the kernel or a container forbids io_uring, or lacks what is needed
    /// (Linux 6.1 has it).
    pub(in crate::net) fn new(layout: &Layout, descriptors: u32) -> io::Result<Self> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS as u32)?;
        let params = ring.params();
        let complete = params.is_feature_nodrop()
            && params.is_feature_ext_arg()
            && params.is_feature_skip_cqe_on_success()
            && params.is_feature_submit_stable();
        if !complete {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let can_gather = params.is_feature_min_timeout();
        // A full table is an optimisation: sockets without a place work by their descriptor.
        let places = match ring.submitter().register_files_sparse(descriptors) {
            Ok(()) => descriptors,
            Err(_) => 0,
        };
        // SAFETY: a msghdr of zeroes has null pointers and zero lengths, which is valid.
        let empty: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut receive = Box::new([empty; 2]);
        for group in [SlotGroup::Listeners, SlotGroup::Relays] {
            receive[group as usize].msg_namelen = NAME as libc::socklen_t;
            receive[group as usize].msg_controllen = group.control() as _;
        }
        let mut buffers = Buffers::new(layout)?;
        // SAFETY: `ring` is a field before `buffers`, so it is closed first; when this fails,
        // `ring` is closed by the return and no request was ever made.
        unsafe { buffers.register(&ring.submitter())? };
        Ok(Self {
            ring,
            receive,
            sends: Sends::new(),
            buffers,
            places,
            can_gather,
        })
    }

    /// Puts a socket into the table. `false`: the table has no such place.
    pub(in crate::net) fn place(&mut self, place: u32, fd: BorrowedFd<'_>) -> bool {
        place < self.places
            && self
                .ring
                .submitter()
                .register_files_update(place, &[fd.as_raw_fd()])
                .is_ok()
    }

    /// Empties a place of the table. Requests that were submitted keep their socket.
    pub(in crate::net) fn vacate(&mut self, place: u32) {
        let _ = self.ring.submitter().register_files_update(place, &[-1]);
    }

    /// Gives up the table, so that no socket is kept open by it.
    pub(in crate::net) fn vacate_all(&mut self) {
        let _ = self.ring.submitter().unregister_files();
        self.places = 0;
    }

    /// The number of slots that are lent to the kernel; our own are behind them.
    pub(in crate::net) const fn shared_slots(&self) -> usize {
        self.buffers.shared()
    }

    /// Gives a slot that a completion named back to the kernel.
    pub(in crate::net) fn lend(&mut self, slot: u16) {
        self.buffers.lend(usize::from(slot));
    }

    /// Bytes that are ours. Panics when they are not.
    pub(in crate::net) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.buffers.bytes(range)
    }

    /// Bytes that are ours. Panics when they are not.
    pub(in crate::net) fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        self.buffers.bytes_mut(range)
    }

    /// Two separate ranges that are ours. Panics when they are not.
    pub(in crate::net) fn bytes_and_mut(
        &mut self,
        read: Range<usize>,
        write: Range<usize>,
    ) -> (&[u8], &mut [u8]) {
        self.buffers.bytes_and_mut(read, write)
    }

    /// Receives from a socket until told otherwise: one completion for each datagram.
    /// `false`: no room, enter first.
    pub(in crate::net) fn receive(
        &mut self,
        target: Target<'_>,
        group: SlotGroup,
        token: u64,
    ) -> bool {
        let header = &raw const self.receive[group as usize];
        // Nothing is there yet when a socket is new or was just drained: wait first.
        let hint = io_uring_poll_first();
        let number = group as u16;
        let entry = match target.place {
            Some(place) => opcode::RecvMsgMulti::new(Fixed(place), header, number)
                .ioprio(hint)
                .build(),
            None => opcode::RecvMsgMulti::new(Fd(target.fd.as_raw_fd()), header, number)
                .ioprio(hint)
                .build(),
        };
        self.push(&entry.user_data(token))
    }

    /// Completes once when a descriptor is readable. `false`: no room, enter first.
    pub(in crate::net) fn poll(&mut self, fd: BorrowedFd<'_>, token: u64) -> bool {
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
        self.push(&entry.user_data(token))
    }

    /// Ends the request with the token `which`, whose last completion tells that it is over.
    /// `false`: no room, enter first.
    pub(in crate::net) fn cancel(&mut self, which: u64, token: u64) -> bool {
        let entry = opcode::AsyncCancel::new(which)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(token);
        self.push(&entry)
    }

    /// Ends all requests. `false`: no room, enter first.
    pub(in crate::net) fn cancel_all(&mut self, token: u64) -> bool {
        let all = CancelBuilder::any();
        self.push(&opcode::AsyncCancel2::new(all).build().user_data(token))
    }

    /// Sends bytes of the slots: one datagram, or several of one size that the kernel cuts from
    /// one. There is a completion only when it fails, and then it is about all of them.
    /// `false`: no room, enter first.
    pub(in crate::net) fn send(
        &mut self,
        target: Target<'_>,
        datagrams: impl ExactSizeIterator<Item = Range<usize>>,
        route: Route<'_>,
        places: Places,
        token: u64,
    ) -> bool {
        let buffers = &self.buffers;
        let datagrams = datagrams.map(|range| buffers.bytes(range));
        let entry = self.sends.entry(target, datagrams, route, places);
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(token);
        self.push(&entry)
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: what a receive names are `receive`, which is never moved or changed, and
        // slots that are lent; what a send names are `sends`, which is never moved and whose
        // places are used once between two enters, and bytes of slots, which the kernel copies
        // inside of `enter` (MSG_DONTWAIT). All of it outlives the ring.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// How many submissions more there is room for.
    pub(in crate::net) fn room(&mut self) -> usize {
        let queue = self.ring.submission();
        queue.capacity() - queue.len()
    }

    /// Whether everything that was queued is submitted.
    pub(in crate::net) fn is_submitted(&mut self) -> bool {
        self.ring.submission().is_empty()
    }

    /// Submits what is queued, and waits. An interrupted or timed-out wait is none; when the
    /// kernel is short of memory or completions must be taken first, some of the queue stays.
    pub(in crate::net) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let queued = self.ring.submission().len() as u32;
        let mut flags = EnterFlags::EXT_ARG;
        let mut time = Timespec::new();
        let mut args = SubmitArgs::new();
        let mut want = 0;
        match wait {
            Wait::No => {}
            Wait::Poll => flags |= EnterFlags::GETEVENTS,
            Wait::For(timeout, gather) => {
                flags |= EnterFlags::GETEVENTS;
                want = 1;
                if let Some(gather) = gather.filter(|_| self.can_gather) {
                    want = gather.count;
                    args = args.min_wait_usec(gather.micros);
                }
                if let Some(timeout) = timeout {
                    time = Timespec::from(timeout);
                    args = args.timespec(&time);
                }
            }
        }
        // SAFETY: the arguments are as io_uring_enter wants them with EXT_ARG, and live until
        // it returns; for the submissions see `push`.
        let entered = unsafe {
            let submitter = self.ring.submitter();
            submitter.enter(queued, want, flags.bits(), Some(&args))
        };
        let _ = &time;
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => {
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Takes the next completion.
    pub(in crate::net) fn completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let slot = cqueue::buffer_select(entry.flags());
        if let Some(slot) = slot {
            self.buffers.returned(usize::from(slot));
        }
        Some(Completion {
            token: entry.user_data(),
            result: entry.result(),
            more: cqueue::more(entry.flags()),
            slot,
        })
    }

    /// What a slot that came with a receive's completion holds; `None` when its source is of an
    /// unknown family or it was cut off.
    pub(in crate::net) fn received(&self, slot: u16) -> Option<Received> {
        let slot = usize::from(slot);
        let data = slot_start(slot);
        let room = self.buffers.group_of(slot).control();
        let head = self.buffers.bytes(data - room - NAME - RECEIVED..data);
        let number = |at: usize| {
            let bytes: [u8; 4] = head[at..at + 4].try_into().expect("four bytes");
            u32::from_ne_bytes(bytes) as usize
        };
        let (name_len, control_len, len, flags) = (number(0), number(4), number(8), number(12));
        if flags & libc::MSG_TRUNC as usize != 0 {
            return None;
        }
        let name = &head[RECEIVED..RECEIVED + NAME.min(name_len)];
        let mut local = None;
        let mut arrived = None;
        let mut segment = None;
        if control_len > 0 {
            let control = &head[RECEIVED + NAME..][..room.min(control_len)];
            control::each_control(control, |level, kind, data| {
                if let Some(found) = control::packet_info(level, kind, data) {
                    local = Some(found);
                }
                arrived = arrived.or_else(|| control::arrival_time(level, kind, data));
                segment = segment.or_else(|| control::merged_size(level, kind, data));
            });
        }
        Some(Received {
            len,
            source: name::parse(name)?,
            local,
            arrived,
            segment,
        })
    }
}

/// IORING_RECVSEND_POLL_FIRST.
const fn io_uring_poll_first() -> u16 {
    1
}
