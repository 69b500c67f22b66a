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
            let turned = self.summary.rotate_right((word as u32 + 1) & 63);
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

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BTreeSet, BinaryHeap};

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn never_early_and_at_most_a_second_late() {
        for at in [
            0,
            1,
            524_287,
            524_288,
            524_289,
            300 * SECOND,
            3_600 * SECOND,
            1 << 45,
        ] {
            let mut wheel = Wheel::new();
            wheel.insert(Mono(at), 'x');
            let mut wake_ups = 0;
            let popped_at = loop {
                let now = wheel.next().expect("something waits");
                if wheel.pop_due(now).is_some() {
                    break now.0;
                }
                wake_ups += 1;
            };
            assert!(
                popped_at >= at && popped_at - at <= SECOND,
                "{at}: {popped_at}"
            );
            assert!(
                wake_ups <= at / (2_000 * SECOND) + 1,
                "{at}: {wake_ups} wake-ups"
            );
            assert_eq!(wheel.next(), None);
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn the_next_deadline_is_the_earliest_wherever_the_wheel_stands() {
        let mut wheel = Wheel::<u32>::new();
        for start in (0..4200).map(|tick| tick << TICK_SHIFT) {
            assert_eq!(wheel.pop_due(Mono(start)), None);
            for seconds in [1, 5, 600, 2000] {
                wheel.insert(Mono(start).plus_secs(seconds), 0);
                wheel.insert(Mono(start).plus_secs(2100), 1);
                let next = wheel.next().unwrap();
                assert!(next >= Mono(start).plus_secs(seconds));
                assert!(next <= Mono(start).plus_secs(seconds + 1));
                wheel = Wheel {
                    cursor: wheel.cursor,
                    ..Wheel::new()
                };
            }
        }
    }

    #[test]
    fn past_deadlines_pop_at_once() {
        let mut wheel = Wheel::new();
        let now = Mono(1_000 * SECOND);
        assert_eq!(wheel.pop_due(now), None::<u8>);
        wheel.insert(Mono(3), 7);
        assert!(wheel.next().unwrap() <= now);
        assert_eq!(wheel.pop_due(now), Some(7));
    }

    #[test]
    fn entries_are_reused() {
        let mut wheel = Wheel::new();
        for round in 0..10_000_u64 {
            let now = Mono(round * SECOND);
            for i in 0..4 {
                wheel.insert(now.plus_secs(2), i);
            }
            while wheel.pop_due(now).is_some() {}
        }
        assert!(wheel.entries.len() <= 4 * 4, "{}", wheel.entries.len());
    }

    #[test]
    fn a_month_asleep() {
        let mut wheel = Wheel::new();
        wheel.insert(Mono(40 * 86_400 * SECOND), 'b');
        wheel.insert(Mono(SECOND), 'a');
        let now = Mono(30 * 86_400 * SECOND);
        assert_eq!(wheel.pop_due(now), Some('a'));
        assert_eq!(wheel.pop_due(now), None);
        assert!(wheel.next().unwrap() > now);
        assert_eq!(wheel.pop_due(now.plus_secs(11 * 86_400)), Some('b'));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = prop_oneof![0_u64..3 * SECOND, 0..700 * SECOND, 0..10_000 * SECOND];
        let spans = (any::<bool>(), span);
        spans.prop_map(|(insert, span)| {
            if insert {
                Step::Insert(span)
            } else {
                Step::Advance(span)
            }
        })
    }

    proptest! {
        /// Against a heap that knows every deadline to the microsecond.
        #[test]
        fn agrees_with_a_heap(start in 0_u64..10_000 * SECOND, steps in prop::collection::vec(step(), 1..200)) {
            let mut wheel = Wheel::new();
            let mut heap = BinaryHeap::new();
            let mut waiting = BTreeSet::new();
            let mut now = Mono(start);
            for (id, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(span) => {
                        // Also deadlines that are past already.
                        let at = (now.0 + span).saturating_sub(SECOND);
                        wheel.insert(Mono(at), (at, id));
                        heap.push(Reverse((at, id)));
                        waiting.insert((at, id));
                    }
                    Step::Advance(span) => now.0 += span,
                }
                while let Some((at, id)) = wheel.pop_due(now) {
                    prop_assert!(at <= now.0, "early");
                    prop_assert!(waiting.remove(&(at, id)), "twice");
                }
                while heap.peek().is_some_and(|Reverse(entry)| !waiting.contains(entry)) {
                    heap.pop();
                }
                prop_assert_eq!(wheel.len(), waiting.len());
                match (wheel.next(), heap.peek()) {
                    (None, None) => {}
                    (Some(next), Some(Reverse((at, _)))) => {
                        prop_assert!(at + SECOND > now.0, "late");
                        prop_assert!(next > now, "due, yet not popped");
                        prop_assert!(next.0 <= at + SECOND, "the owner would sleep too long");
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}
