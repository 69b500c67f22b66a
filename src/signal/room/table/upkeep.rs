//! How much the tables hold, and the memory they give back.

use std::hash::Hash;

use ahash::RandomState;
use hashbrown::HashMap;

use super::{Hold, Mailbox, Table};

impl<M: Mailbox, G: Hold> Table<M, G> {
    /// Gives memory back after a flood.
    pub(super) fn shrink(&mut self) {
        fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V, RandomState>) {
            if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
                map.shrink_to(map.len() * 2);
            }
        }
        shrink(&mut self.seats);
        shrink(&mut self.ids);
        shrink(&mut self.sessions);
    }

    pub(in crate::signal::room) fn waiting(&self) -> usize {
        self.deadlines.len()
    }

    pub(in crate::signal::room) const fn leaving(&self) -> usize {
        self.leaving
    }

    pub(in crate::signal::room) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(in crate::signal::room) fn is_empty(&self) -> bool {
        self.seats.is_empty()
            && self.ids.is_empty()
            && self.waiting.is_empty()
            && self.receivers.is_empty()
            && self.deadlines.is_empty()
            && self.sessions.is_empty()
    }
}
