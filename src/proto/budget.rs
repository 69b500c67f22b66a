//! How much the server says to sources that have proven nothing.
//!
//! A UDP source address can be forged, and then an answer hits its victim. So answers to
//! unauthenticated sources are counted in bytes against a budget for each source and one for its
//! prefix, in tables of fixed size: a flood from a million addresses grows nothing. Sources whose
//! hashes collide share a budget; the hash is seeded, so nobody can choose with whom.
//!
//! The arithmetic, with the default of 10: an answer costs its length, an error at least 64
//! bytes; a source has 640 bytes in any one second, of which Bindings take half at the most. So
//! it gets no more than 10 Bindings (4 with all that RFC 5780 adds) or 10 errors a second, and no more than 5,760 bytes in any
//! 10 s, while 30 of the smallest requests (20 bytes) a second are 6,000: the server never
//! amplifies such a flood. And as Bindings leave half, nobody who forges them keeps a client
//! from its challenge.
//!
//! A source from which somebody proved a password lately has 100 times that: an office or a
//! carrier's NAT full of honest users, each of whom needs one 401 to begin with, and a busy
//! program that allocates by the hundred, would wait for retransmissions otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use ahash::RandomState;

use super::types::Mono;

/// The least that an error response costs, in bytes.
pub const MIN_COST: usize = 64;
/// What a Binding costs of the half that is for Bindings, whichever the address family; longer
/// answers than [`PLAIN_BINDING`] cost what they are.
pub const BINDING_COST: usize = 32;
/// The longest plain answer to a Binding.
pub const PLAIN_BINDING: usize = 44;
/// The budget of a prefix (/24, /56), in budgets of one source.
pub const SOURCES_PER_PREFIX: u32 = 20;

/// What a source that has proven itself may spend, in budgets of one that has not.
pub const PROVEN_FACTOR: u32 = 100;
/// How long a proof counts, in seconds: clients that stay prove themselves again by then, since
/// permissions last 300 s and channels and default allocations 600 s.
pub const PROVEN_SECONDS: u64 = 600;

const SOURCE_BUCKETS: usize = 4096;
const PREFIX_BUCKETS: usize = 4096;
const FAILURE_BUCKETS: usize = 1024;
const PROVEN_SLOTS: usize = 4096;
/// A window is the running stretch and the seven before it. As any second touches at most eight
/// stretches of a seventh, what fits the window fits every second.
const SLOTS: usize = 8;
const STRETCH_MICROS: u64 = 1_000_000 / 7 + 1;

/// Bytes spent in the last second by everybody who shares this bucket: one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; SLOTS]);

/// A slot holds the number of its stretch and the bytes spent in it: a slot of a past round is
/// known by its number and counts as empty, so nothing ever has to be swept.
const fn pack(stretch: u32, bytes: u32) -> u64 {
    (stretch as u64) << 32 | bytes as u64
}

impl Bucket {
    fn spent(&self, stretch: u32) -> u64 {
        let recent = |slot: &AtomicU64| {
            let value = slot.load(Relaxed);
            let age = stretch.wrapping_sub((value >> 32) as u32);
            // Another shard's clock reading may be one stretch ahead of this one's.
            let counts = age < SLOTS as u32 || age == u32::MAX;
            if counts { value & 0xFFFF_FFFF } else { 0 }
        };
        self.0.iter().map(recent).sum()
    }

    fn fits(&self, stretch: u32, cost: u32, budget: u64) -> bool {
        // One answer always fits a whole second, however small the budget and long the answer.
        let spent = self.spent(stretch);
        spent == 0 || spent + u64::from(cost) <= budget
    }

    /// Spends `cost` if it fits. Shards that spend in the same stretch meet at one slot, and the
    /// one that lost looks at the sum again.
    fn spend(&self, stretch: u32, cost: u32, budget: u64) -> bool {
        let slot = &self.0[stretch as usize % SLOTS];
        slot.fetch_update(Relaxed, Relaxed, |value| {
            let bytes = match (value >> 32) as u32 == stretch {
                true => value as u32,
                false => 0,
            };
            self.fits(stretch, cost, budget)
                .then(|| pack(stretch, bytes.saturating_add(cost)))
        })
        .is_ok()
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Binding,
    /// A challenge or another error for a request that proves nothing.
    Challenge,
    /// The answer to a wrong password.
    Failure,
}

/// The budget of all unauthenticated sources. One for the process.
#[derive(Debug)]
pub struct ReplyBudget {
    per_source: AtomicU32,
    hash: RandomState,
    sources: Box<[Bucket]>,
    prefixes: Box<[Bucket]>,
    failures: Box<[Bucket]>,
    bindings: Box<[Bucket]>,
    binding_prefixes: Box<[Bucket]>,
    /// Sources with a proof, by hash: 32 bits of the hash that the position does not use, and
    /// the second in which the proof ends. The latest source takes a slot from the one before.
    proven: Box<[AtomicU64]>,
}

impl ReplyBudget {
    /// A budget of `per_source_per_second` smallest answers for each source, 20 times that for
    /// each /24 and /56, and half of it for wrong passwords; 0 lifts all three.
    pub fn new(per_source_per_second: u32, seed: u64) -> Self {
        let buckets = |count| (0..count).map(|_| Bucket::default()).collect();
        Self {
            per_source: AtomicU32::new(per_source_per_second),
            hash: RandomState::with_seeds(
                seed,
                seed.rotate_left(17) ^ 0x9E37_79B9_7F4A_7C15,
                seed.rotate_left(31) ^ 0xD1B5_4A32_D192_ED03,
                seed.rotate_left(47) ^ 0x8CB9_2BA7_2F3D_8DD7,
            ),
            sources: buckets(SOURCE_BUCKETS),
            prefixes: buckets(PREFIX_BUCKETS),
            failures: buckets(FAILURE_BUCKETS),
            bindings: buckets(SOURCE_BUCKETS),
            binding_prefixes: buckets(PREFIX_BUCKETS),
            proven: (0..PROVEN_SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Sets another budget, from the next answer on.
    pub fn set_rate(&self, per_source_per_second: u32) {
        self.per_source.store(per_source_per_second, Relaxed);
    }

    /// Whether an error response of `reply_len` bytes may go to `source`; if so it is spent.
    pub fn admit(&self, now: Mono, source: IpAddr, reply_len: usize) -> bool {
        self.judge(now, source, reply_len, Answer::Challenge)
    }

    /// As [`ReplyBudget::admit`], for the answer to a Binding: it may take half of the budget.
    pub fn admit_binding(&self, now: Mono, source: IpAddr, reply_len: usize) -> bool {
        self.judge(now, source, reply_len, Answer::Binding)
    }

    /// As [`ReplyBudget::admit`], for the answer to credentials that did not match: it counts
    /// against a smaller budget of its own, too.
    pub fn admit_failure(&self, now: Mono, source: IpAddr, reply_len: usize) -> bool {
        self.judge(now, source, reply_len, Answer::Failure)
    }

    /// Somebody at `source` proved a password: it has more to spend for a while.
    pub fn prove(&self, now: Mono, source: IpAddr) {
        let (slot, tag) = self.proof(source.to_canonical());
        let until = (now.0 / 1_000_000 + PROVEN_SECONDS) as u32;
        let held = slot.load(Relaxed);
        // Refreshed now and then, so that a busy source does not write with every request.
        let fresh = (held as u32).saturating_add(60) >= until;
        if (held >> 32) as u32 != tag || !fresh {
            slot.store(pack(tag, until), Relaxed);
        }
    }

    fn is_proven(&self, now: Mono, source: IpAddr) -> bool {
        let (slot, tag) = self.proof(source);
        let held = slot.load(Relaxed);
        (held >> 32) as u32 == tag && u64::from(held as u32) > now.0 / 1_000_000
    }

    fn proof(&self, source: IpAddr) -> (&AtomicU64, u32) {
        let hash = self.hash.hash_one(source);
        // A tag of 0 would match the slots that nobody has.
        let tag = ((hash >> 32) as u32).max(1);
        (&self.proven[hash as usize % PROVEN_SLOTS], tag)
    }

    fn judge<'a>(&'a self, now: Mono, source: IpAddr, reply_len: usize, answer: Answer) -> bool {
        let rate = self.per_source.load(Relaxed);
        if rate == 0 {
            return true;
        }
        let stretch = (now.0 / STRETCH_MICROS) as u32;
        let (failure, binding) = (answer == Answer::Failure, answer == Answer::Binding);
        let least = if binding { BINDING_COST } else { MIN_COST };
        let cost = u32::try_from(reply_len.max(least)).unwrap_or(u32::MAX);
        let budget = u64::from(rate) * MIN_COST as u64;
        let source = source.to_canonical();
        let more = match self.is_proven(now, source) {
            true => budget * u64::from(PROVEN_FACTOR),
            false => budget,
        };
        let at = |table: &'_ [Bucket], ip| self.hash.hash_one(ip) as usize % table.len();
        let bucket = |table: &'a [Bucket], ip| &table[at(table, ip)];
        let (whole, net) = (more * u64::from(SOURCES_PER_PREFIX), prefix(source));
        let flat = if reply_len > PLAIN_BINDING {
            cost
        } else {
            BINDING_COST as u32
        };
        let budgets = [
            (bucket(&self.sources, source), more, cost, true),
            (bucket(&self.prefixes, net), whole, cost, true),
            (bucket(&self.failures, source), budget / 2, cost, failure),
            (bucket(&self.bindings, source), more / 2, flat, binding),
            (
                bucket(&self.binding_prefixes, net),
                whole / 2,
                flat,
                binding,
            ),
        ];
        // Nothing is spent unless everything fits: a refused source must recover.
        let mut due = budgets.iter().filter(|(_, _, _, applies)| *applies);
        due.clone()
            .all(|(bucket, budget, cost, _)| bucket.fits(stretch, *cost, *budget))
            && due.all(|(bucket, budget, cost, _)| bucket.spend(stretch, *cost, *budget))
    }
}

/// The /24 or /56 that an address lies in.
fn prefix(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xFF).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72).into(),
    }
}

#[cfg(test)]
mod tests;
