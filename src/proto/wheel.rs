//! Timers: a wheel whose next deadline is known at once.
//!
//! Time is cut into ticks of about half a second. Each of the next 4096 ticks has a list of
//! entries, and a bitmap with a summary word says which lists are not empty, so that inserting,
//! finding the next deadline and popping take the same few steps however many timers there are.
//! What lies further ahead (about 36 minutes) waits in the last list and is put in again when its
//! turn comes. An entry cannot be cancelled: its owner looks when it pops whether it still means
//! anything.

use super::types::Mono;

/// A tick is 2^19 microseconds: 0.524 s.
const TICK_SHIFT: u32 = 19;
const SLOTS: usize = 4096;
const WORDS: usize = SLOTS / 64;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    tick: u64,
    item: T,
    /// Next entry of the same list, or of the free list.
    next: u32,
}

/// Deadlines with a small item each. Nothing pops before its deadline, and nothing more than a
/// second after it if [`Wheel::pop_due`] is called when [`Wheel::next`] says.
#[derive(Clone, Debug)]
pub struct Wheel<T> {
    /// The earliest tick whose list may hold anything; all entries lie in the 4096 from here.
    cursor: u64,
    heads: Box<[u32; SLOTS]>,
    /// One bit a list, set while it holds anything.
    occupied: [u64; WORDS],
    /// One bit a word of `occupied`.
    summary: u64,
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
}

impl<T: Copy> Default for Wheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel.
    pub fn new() -> Self {
        Self {
            cursor: 0,
            heads: Box::new([NONE; SLOTS]),
            occupied: [0; WORDS],
            summary: 0,
            entries: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets `item` pop at `at`; at the next [`Wheel::pop_due`] when that is past.
    pub fn insert(&mut self, at: Mono, item: T) {
        // Rounded up, so that nothing is early.
        let tick = at.0.div_ceil(1 << TICK_SHIFT);
        let index = if self.free == NONE {
            self.entries.push(Entry {
                tick,
                item,
                next: NONE,
            });
            (self.entries.len() - 1) as u32
        } else {
            let index = self.free;
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            entry.tick = tick;
            entry.item = item;
            index
        };
        self.len += 1;
        self.link(index, tick);
    }

    /// When to call [`Wheel::pop_due`] next.
    pub fn next(&self) -> Option<Mono> {
        self.first().map(|tick| Mono(tick << TICK_SHIFT))
    }

    /// Takes one entry that is due, or `None` when no more is.
    pub fn pop_due(&mut self, now: Mono) -> Option<T> {
        let today = now.0 >> TICK_SHIFT;
        loop {
            let Some(tick) = self.first().filter(|&tick| tick <= today) else {
                self.cursor = self.cursor.max(today);
                return None;
            };
            self.cursor = tick;
            let slot = slot_of(tick);
            let index = self.heads[slot];
            let entry = self.entries[index as usize];
            self.heads[slot] = entry.next;
            if entry.next == NONE {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
                if self.occupied[slot / 64] == 0 {
                    self.summary &= !(1 << (slot / 64));
                }
            }
            if entry.tick <= today {
                self.entries[index as usize].next = self.free;
                self.free = index;
                self.len -= 1;
                return Some(entry.item);
            }
            self.link(index, entry.tick);
        }
    }

    fn link(&mut self, index: u32, tick: u64) {
        let tick = tick.clamp(self.cursor, self.cursor.saturating_add(SLOTS as u64 - 1));
        let slot = slot_of(tick);
        self.entries[index as usize].next = self.heads[slot];
        self.heads[slot] = index;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.summary |= 1 << (slot / 64);
    }

    /// The first tick from the cursor on whose list holds anything.
    fn first(&self) -> Option<u64> {
        if self.summary == 0 {
            return None;
        }
        let start = slot_of(self.cursor);
        let (word, bit) = (start / 64, start % 64);
        let ahead = self.occupied[word] >> bit << bit;
        let slot = if ahead != 0 {
            word * 64 + ahead.trailing_zeros() as usize
        } else {
            // The words behind this one, then around to it again: its lower bits come last.
            let turned = self.summary.rotate_right(word as u32 + 1 & 63);
            let next = (word + 1 + turned.trailing_zeros() as usize) % WORDS;
            next * 64 + self.occupied[next].trailing_zeros() as usize
        };
        let distance = (slot + SLOTS - start) % SLOTS;
        Some(self.cursor + distance as u64)
    }
}

fn slot_of(tick: u64) -> usize {
    tick as usize % SLOTS
}
