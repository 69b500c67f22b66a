//! Slots for datagrams, most of which are lent to the kernel: it picks one for whatever arrives.
//!
//! A slot belongs either to the kernel, which may write to it at any time, or to us. Every
//! access checks that, so that no reference into a slot exists while the kernel has it.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::area::Area;
use super::{HEAD, Layout, NAME, RECEIVED, STRIDE, SlotGroup, TAIL};

/// How much of a slot's data is certain to be used: a voice packet and its surroundings.
const TOUCHED: usize = 512;

/// Where a slot's data starts.
pub(in crate::net) const fn slot_start(slot: usize) -> usize {
    slot * STRIDE + HEAD
}

/// Slots that the kernel takes from for one kind of socket.
struct Group {
    ring: Area,
    entries: u16,
    tail: u16,
    /// Where in a slot the kernel begins to write.
    offset: usize,
}

/// See the module.
pub(super) struct Buffers {
    memory: Area,
    groups: [Group; 2],
    /// Slots of the first group, and of both.
    bounds: [usize; 2],
    lent: Box<[bool]>,
}

impl Buffers {
    pub(super) fn new(layout: &Layout) -> io::Result<Self> {
        let Layout {
            listener_slots,
            relay_slots,
            own_slots,
        } = *layout;
        let group = |entries: u16, control: usize| {
            assert!(entries.is_power_of_two(), "the kernel wants a power of two");
            Ok::<_, io::Error>(Group {
                ring: Area::new(usize::from(entries) * size_of::<BufRingEntry>())?,
                entries,
                tail: 0,
                offset: HEAD - RECEIVED - NAME - control,
            })
        };
        let shared = usize::from(listener_slots) + usize::from(relay_slots);
        Ok(Self {
            memory: Area::new((shared + own_slots) * STRIDE)?,
            groups: [
                group(listener_slots, SlotGroup::Listeners.control())?,
                group(relay_slots, SlotGroup::Relays.control())?,
            ],
            bounds: [usize::from(listener_slots), shared],
            lent: vec![false; shared].into(),
        })
    }

    /// Tells the kernel of the groups and lends it all their slots.
    ///
    /// # Safety
    /// The ring of `submitter` must be closed before `self` is dropped.
    pub(super) unsafe fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        for (number, group) in (0..).zip(&self.groups) {
            let address = group.ring.start() as u64;
            // SAFETY: the area is page-aligned, has room for `entries` entries and lives until
            // after the ring is closed, as the caller promises.
            unsafe { submitter.register_buf_ring_with_flags(address, group.entries, number, 0)? };
        }
        for slot in 0..self.bounds[1] {
            // The pages that every datagram needs are there from the start, so that the first
            // ones are not slower and the server's size does not creep up to them.
            for offset in [0, HEAD + TOUCHED] {
                self.bytes_mut(slot * STRIDE + offset..slot * STRIDE + offset + 1)
                    .fill(0);
            }
            self.lend(slot);
        }
        Ok(())
    }

    /// The number of slots that are lent out at all.
    pub(super) const fn shared(&self) -> usize {
        self.bounds[1]
    }

    /// Gives a slot to the kernel.
    pub(super) fn lend(&mut self, slot: usize) {
        assert!(!self.lent[slot], "lent once");
        self.lent[slot] = true;
        let group = &mut self.groups[usize::from(slot >= self.bounds[0])];
        let base: *mut BufRingEntry = group.ring.start().cast();
        let at = usize::from(group.tail & (group.entries - 1));
        // SAFETY: the slot lies within the memory, as `lent` has no entry for others.
        let start = unsafe { self.memory.start().add(slot * STRIDE + group.offset) };
        // SAFETY: `at` is below the number of entries of the area, entries are plain integers
        // for which zeroes are valid, and the kernel reads an entry only once the tail is past
        // it.
        let entry = unsafe { &mut *base.add(at) };
        entry.set_addr(start as u64);
        entry.set_len((STRIDE - TAIL - group.offset) as u32);
        entry.set_bid(slot as u16);
        group.tail = group.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, in memory that is shared with the kernel
        // and written by this function alone; it is aligned for a u16.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(group.tail, Ordering::Release);
    }

    /// The kernel gave a slot back: it said so in a completion.
    pub(super) fn returned(&mut self, slot: usize) {
        debug_assert!(self.lent[slot], "only what was lent comes back");
        self.lent[slot] = false;
    }

    pub(super) fn group_of(&self, slot: usize) -> SlotGroup {
        if slot < self.bounds[0] {
            SlotGroup::Listeners
        } else {
            SlotGroup::Relays
        }
    }

    /// # Panics
    /// When the range is not ours: it must lie within one slot that is not lent, or behind
    /// all slots that ever are.
    fn check(&self, range: &Range<usize>) {
        let slot = range.start / STRIDE;
        let end = match self.lent.get(slot) {
            Some(false) => (slot + 1) * STRIDE,
            Some(true) => panic!("the kernel has slot {slot}"),
            None => self.memory.len(),
        };
        assert!(range.start <= range.end && range.end <= end);
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.check(&range);
        // SAFETY: the range lies within the memory, which is initialised, and belongs to us,
        // as just checked; the kernel does not write to it before `lend`, which needs `&mut`.
        unsafe { std::slice::from_raw_parts(self.memory.start().add(range.start), range.len()) }
    }

    pub(super) fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        self.check(&range);
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start().add(range.start), range.len()) }
    }

    /// Two ranges that do not overlap, one to read and one to write.
    pub(super) fn bytes_and_mut(
        &mut self,
        read: Range<usize>,
        write: Range<usize>,
    ) -> (&[u8], &mut [u8]) {
        self.check(&read);
        self.check(&write);
        assert!(read.end <= write.start || write.end <= read.start);
        let start = self.memory.start();
        // SAFETY: as in `bytes`; the ranges do not overlap, as just checked, so that the
        // exclusive one is not aliased.
        unsafe {
            (
                std::slice::from_raw_parts(start.add(read.start), read.len()),
                std::slice::from_raw_parts_mut(start.add(write.start), write.len()),
            )
        }
    }
}
