//! The free ports of one address: a bit for each port, and counts above the bits, by which the
//! n-th free port is found in as many steps whether few or many are free.
//!
//! No locks. A count is never below what the bits say: taking a port changes the bits first,
//! giving one back raises the counts first. So a count of nothing is true, and one that is ahead
//! of its bits only costs the reader another try.

use std::ops::Range;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

/// Even ports are the even bits of a word, since every word starts at an even port.
const EVEN: u64 = 0x5555_5555_5555_5555;
/// Words that are counted together: the square root of how many a full range has.
const GROUP: usize = 32;

/// What a lease needs to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Any,
    Even,
    /// An even port and the one above it.
    Pair,
}

impl Shape {
    pub(super) const ALL: [Self; 3] = [Self::Any, Self::Even, Self::Pair];

    /// The bits of a word of taken ports at which a lease of this shape can start.
    const fn starts(self, taken: u64) -> u64 {
        let free = !taken;
        match self {
            Self::Any => free,
            Self::Even => free & EVEN,
            Self::Pair => free & (free >> 1) & EVEN,
        }
    }

    const fn bits(self, bit: u32) -> u64 {
        match self {
            Self::Any | Self::Even => 1 << bit,
            Self::Pair => 0b11 << bit,
        }
    }

    /// Where the count of this shape is among those of all; 21 bits hold every one of them.
    const fn shift(self) -> u32 {
        match self {
            Self::Any => 0,
            Self::Even => 21,
            Self::Pair => 42,
        }
    }

    const fn of(self, counts: u64) -> u64 {
        counts >> self.shift() & 0x1F_FFFF
    }
}

/// How many leases of each shape can start in a word of taken ports: three numbers in one, so
/// that they change together.
fn counts(taken: u64) -> u64 {
    let count = |shape: Shape| u64::from(shape.starts(taken).count_ones()) << shape.shift();
    Shape::ALL.map(count).iter().sum()
}

/// See the module.
#[derive(Debug)]
pub(super) struct FreePorts {
    /// One bit a port, set while leased; bits of ports outside the range are always set.
    taken: Box<[AtomicU64]>,
    groups: Box<[AtomicU64]>,
    all: AtomicU64,
}

impl FreePorts {
    /// The ports that these bits stand for, all free.
    pub(super) fn new(bits: &Range<u32>) -> Self {
        let word = |start: u32| {
            let outside = |bit: &u32| !bits.contains(&(start + bit));
            (0..64)
                .filter(outside)
                .fold(0_u64, |word, bit| word | 1 << bit)
        };
        let taken: Vec<u64> = (0..bits.end).step_by(64).map(word).collect();
        let sum = |words: &[u64]| AtomicU64::new(words.iter().copied().map(counts).sum());
        Self {
            groups: taken.chunks(GROUP).map(sum).collect(),
            all: sum(&taken),
            taken: taken.into_iter().map(AtomicU64::new).collect(),
        }
    }

    /// How many leases of a shape can start.
    pub(super) fn free(&self, shape: Shape) -> u64 {
        shape.of(self.all.load(Relaxed))
    }

    /// Takes the bits of the `n`th possible lease, counted from 0, and returns its first one.
    /// `None` when another thread was faster.
    pub(super) fn take_nth(&self, shape: Shape, mut n: u64) -> Option<u32> {
        let mut within = |here: u64| {
            let found = n < here;
            n -= if found { 0 } else { here };
            found
        };
        let group = self
            .groups
            .iter()
            .position(|group| within(shape.of(group.load(Relaxed))))?;
        let words = self.taken.iter().enumerate().skip(group * GROUP);
        let (index, starts) = words
            .take(GROUP)
            .map(|(index, word)| (index, shape.starts(word.load(Relaxed))))
            .find(|(_, starts)| within(u64::from(starts.count_ones())))?;
        let bit = nth_set(starts, n as u32);
        self.claim(index, shape, bit)
    }

    /// Takes this port, if it is free.
    pub(super) fn take(&self, bit: u32) -> bool {
        self.claim(bit as usize / 64, Shape::Any, bit % 64)
            .is_some()
    }

    /// Takes the first possible lease, in as many steps as there are words.
    pub(super) fn take_first(&self, shape: Shape) -> Option<u32> {
        let mut words = self.taken.iter().enumerate();
        words.find_map(|(index, word)| {
            loop {
                let starts = shape.starts(word.load(Relaxed));
                if starts == 0 {
                    return None;
                }
                let claimed = self.claim(index, shape, starts.trailing_zeros());
                if claimed.is_some() {
                    return claimed;
                }
            }
        })
    }

    /// Sets all bits of a lease, or none when one of them is set already.
    fn claim(&self, index: usize, shape: Shape, bit: u32) -> Option<u32> {
        let bits = shape.bits(bit);
        let before = self.taken[index]
            .fetch_update(AcqRel, Relaxed, |taken| {
                (taken & bits == 0).then_some(taken | bits)
            })
            .ok()?;
        self.lower(index, counts(before) - counts(before | bits));
        Some(index as u32 * 64 + bit)
    }

    /// Frees one port.
    pub(super) fn give_back(&self, bit: u32) {
        let (index, bit) = (bit as usize / 64, 1 << (bit % 64));
        // Whether it makes a pair depends on its neighbour at the moment that it is freed.
        let most = counts(!bit) | 1 << Shape::Pair.shift();
        self.groups[index / GROUP].fetch_add(most, Relaxed);
        self.all.fetch_add(most, Relaxed);
        let before = self.taken[index].fetch_and(!bit, AcqRel);
        self.lower(index, most - (counts(before & !bit) - counts(before)));
    }

    fn lower(&self, index: usize, by: u64) {
        if by > 0 {
            self.groups[index / GROUP].fetch_sub(by, Relaxed);
            self.all.fetch_sub(by, Relaxed);
        }
    }
}

/// The position of the `n`th set bit, counted from 0; there are more than `n`.
fn nth_set(bits: u64, mut n: u32) -> u32 {
    let mut at = 0;
    for width in [32, 16, 8, 4, 2, 1] {
        let low = (bits >> at & ((1 << width) - 1)).count_ones();
        if n >= low {
            n -= low;
            at += width;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recounted(ports: &FreePorts) -> (Vec<u64>, u64) {
        let words: Vec<u64> = ports.taken.iter().map(|word| word.load(Relaxed)).collect();
        let sum = |words: &[u64]| words.iter().copied().map(counts).sum::<u64>();
        (words.chunks(GROUP).map(sum).collect(), sum(&words))
    }

    #[track_caller]
    fn assert_counts_agree(ports: &FreePorts) {
        let groups = ports.groups.iter().map(|group| group.load(Relaxed));
        let shown = (groups.collect(), ports.all.load(Relaxed));
        assert_eq!(shown, recounted(ports));
    }

    #[test]
    fn the_nth_set_bit() {
        for bits in [1, 1 << 63, u64::MAX, EVEN, 0x8000_0001_0040_0800] {
            let set = (0..64).filter(|bit| bits >> bit & 1 == 1);
            for (n, bit) in (0..).zip(set) {
                assert_eq!(nth_set(bits, n), bit, "{bits:x}");
            }
        }
    }

    #[test]
    fn every_number_is_one_place_in_order() {
        for shape in Shape::ALL {
            let ports = FreePorts::new(&(3..5001));
            let places = ports.free(shape);
            for n in [0, 1, 17, 2047, 2048, places - 1] {
                let Some(bit) = ports.take_nth(shape, n) else {
                    assert!(n >= places);
                    continue;
                };
                let place = match shape {
                    Shape::Any => 3 + n,
                    Shape::Even | Shape::Pair => 4 + 2 * n,
                };
                assert_eq!(u64::from(bit), place, "{shape:?}");
                assert_counts_agree(&ports);
                ports.give_back(bit);
                if shape == Shape::Pair {
                    ports.give_back(bit + 1);
                }
            }
            assert_eq!(ports.take_nth(shape, places), None);
            assert_eq!(ports.free(shape), places);
        }
    }

    #[test]
    fn counts_follow_the_bits_until_nothing_is_left() {
        let ports = FreePorts::new(&(1..4501));
        assert_eq!(
            Shape::ALL.map(|shape| ports.free(shape)),
            [4500, 2250, 2249]
        );
        let mut held = Vec::new();
        // Neighbours of all kinds: every third by number, then the rest from the front.
        for n in (0..1500).map(|n| n * 2) {
            held.extend(ports.take_nth(Shape::Any, n));
            assert_counts_agree(&ports);
        }
        while let Some(bit) = ports.take_first(Shape::Pair) {
            held.extend([bit, bit + 1]);
            assert_counts_agree(&ports);
        }
        assert_eq!(ports.free(Shape::Pair), 0);
        while let Some(bit) = ports.take_first(Shape::Any) {
            held.push(bit);
        }
        assert_eq!(ports.all.load(Relaxed), 0);
        held.sort_unstable();
        assert_eq!(held, (1..=4500).collect::<Vec<_>>());
        for bit in held {
            ports.give_back(bit);
            assert_counts_agree(&ports);
        }
        assert_eq!(
            Shape::ALL.map(|shape| ports.free(shape)),
            [4500, 2250, 2249]
        );
    }
}
