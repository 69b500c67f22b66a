//! How many allocations a user, and all users together, may hold.
//!
//! A [`QuotaGuard`] belongs to the allocation object and gives its place back when dropped, so
//! that no path can forget it. Counts are spread over several locks: Allocate is cold, and no two
//! shards wait for each other unless their users meet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const LOCKS: usize = 16;

/// Which limit was reached (both are answered with 486, RFC 8656 section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaError {
    /// The user's own.
    User,
    /// That of all users together.
    Total,
}

/// The allocations of all users. One for the process.
#[derive(Debug, Default)]
pub struct Quotas {
    // Ordered maps: user names are chosen outside, and a tree has no worst case to provoke.
    users: [Mutex<BTreeMap<Arc<str>, u32>>; LOCKS],
    total: AtomicU32,
}

impl Quotas {
    /// Nobody holds anything.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Takes one place for `user`. A limit of 0 is none. Nothing is taken on an error.
    pub fn take(
        self: &Arc<Self>,
        user: &Arc<str>,
        per_user: u32,
        total: u32,
    ) -> Result<QuotaGuard, QuotaError> {
        let mut users = self.lock(user);
        let held = users.get(user).copied().unwrap_or(0);
        if held >= limit(per_user) {
            return Err(QuotaError::User);
        }
        self.total
            .fetch_update(Relaxed, Relaxed, |all| {
                (all < limit(total)).then_some(all + 1)
            })
            .map_err(|_| QuotaError::Total)?;
        users.insert(Arc::clone(user), held + 1);
        drop(users);
        Ok(QuotaGuard {
            quotas: Arc::clone(self),
            user: Arc::clone(user),
        })
    }

    /// Places taken by all users.
    pub fn total(&self) -> u32 {
        self.total.load(Relaxed)
    }

    /// Places taken by one user.
    pub fn held_by(&self, user: &str) -> u32 {
        self.lock(user).get(user).copied().unwrap_or(0)
    }

    /// How many users hold at least one place.
    pub fn users(&self) -> usize {
        let count = |users: &Mutex<BTreeMap<_, _>>| unpoisoned(users).len();
        self.users.iter().map(count).sum()
    }

    fn lock(&self, user: &str) -> MutexGuard<'_, BTreeMap<Arc<str>, u32>> {
        // FNV-1a: which lock is shared with whom is no secret worth a keyed hash.
        let hash = user.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        unpoisoned(&self.users[(hash >> 32) as usize % LOCKS])
    }
}

/// The maps are never left half-changed, so a panic elsewhere does not spoil them.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limit(configured: u32) -> u32 {
    if configured == 0 {
        u32::MAX
    } else {
        configured
    }
}

/// One place, given back when dropped.
#[derive(Debug)]
pub struct QuotaGuard {
    quotas: Arc<Quotas>,
    user: Arc<str>,
}

impl QuotaGuard {
    /// Who holds it.
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }
}

impl Drop for QuotaGuard {
    fn drop(&mut self) {
        let mut users = self.quotas.lock(&self.user);
        match users.get_mut(&self.user) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(users.remove(&self.user)),
        }
        self.quotas.total.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn the_users_own_limit_bites_first_and_comes_back() {
        let quotas = Quotas::new();
        let (alice, bob) = (user("alice"), user("bob"));
        let first = quotas.take(&alice, 2, 3).unwrap();
        let second = quotas.take(&alice, 2, 3).unwrap();
        assert_eq!(quotas.take(&alice, 2, 3).unwrap_err(), QuotaError::User);
        let third = quotas.take(&bob, 2, 3).unwrap();
        assert_eq!(quotas.take(&bob, 2, 3).unwrap_err(), QuotaError::Total);
        assert_eq!(quotas.take(&alice, 2, 3).unwrap_err(), QuotaError::User);
        assert_eq!((quotas.total(), quotas.users()), (3, 2));
        assert_eq!((quotas.held_by("alice"), quotas.held_by("bob")), (2, 1));
        drop(first);
        assert!(quotas.take(&bob, 2, 3).is_ok());
        assert_eq!(&**third.user(), "bob");
        drop((second, third));
        assert_eq!((quotas.total(), quotas.users()), (0, 0));
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let quotas = Quotas::new();
        let _guard = quotas.take(&user("alice"), 1, 1).unwrap();
        for _ in 0..100 {
            assert!(quotas.take(&user("alice"), 1, 0).is_err());
            assert!(quotas.take(&user("bob"), 0, 1).is_err());
        }
        assert_eq!((quotas.total(), quotas.users()), (1, 1));
    }

    #[test]
    fn zero_is_no_limit() {
        let quotas = Quotas::new();
        let alice = user("alice");
        let guards: Vec<_> = (0..10_000)
            .map(|_| quotas.take(&alice, 0, 0).unwrap())
            .collect();
        assert_eq!(quotas.held_by("alice"), 10_000);
        drop(guards);
        assert_eq!(quotas.total(), 0);
    }
}
