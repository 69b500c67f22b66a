//! How many connections there may be, in all and from one source.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use hashbrown::HashMap;

use super::room::Source;

/// Counts the open connections.
#[derive(Clone)]
pub(super) struct Doors(Arc<Inner>);

struct Inner {
    total: usize,
    per_source: usize,
    open: Mutex<Open>,
}

struct Open {
    total: usize,
    sources: HashMap<Source, usize, RandomState>,
}

/// One open connection. Gives its place back on drop.
pub(super) struct Place {
    doors: Doors,
    source: Source,
}

impl Doors {
    pub(super) fn new(total: usize, per_source: usize, seed: u64) -> Self {
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(16), 2);
        Self(Arc::new(Inner {
            total,
            per_source,
            open: Mutex::new(Open {
                total: 0,
                sources: HashMap::with_hasher(hasher),
            }),
        }))
    }

    /// A place for a connection from `ip`, if there is one.
    pub(super) fn enter(&self, ip: IpAddr) -> Option<Place> {
        let source = Source::from(ip);
        let mut open = self.lock();
        if open.total >= self.0.total {
            return None;
        }
        let count = open.sources.entry(source).or_default();
        if *count >= self.0.per_source {
            return None;
        }
        *count += 1;
        open.total += 1;
        drop(open);
        Some(Place {
            doors: self.clone(),
            source,
        })
    }

    /// Open connections.
    pub(super) fn open(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.doors.lock();
        open.total -= 1;
        if let Some(count) = open.sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let doors = Doors::new(3, 2, 1);
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().expect("an address"));
        let first = doors.enter(a).expect("a place");
        let _second = doors.enter(a).expect("a place");
        assert!(doors.enter(a).is_none(), "two of one source");
        let _third = doors.enter(b).expect("a place");
        assert!(doors.enter(b).is_none(), "three in all");
        drop(first);
        assert_eq!(doors.open(), 2);
        assert!(doors.enter(a).is_some());
    }
}
