//! The table of allocations and the two ways in: by the client's 5-tuple and by the local
//! address of a relay socket.
//!
//! Both indices hold positions only and compare with the entries themselves, which keeps an idle
//! allocation small. Their hashes are seeded, because clients choose the keys.

use std::net::SocketAddr;

use ahash::RandomState;
use hashbrown::HashTable;

use super::allocation::{Allocation, Entry, Half, Pending};
use super::slab::{Key, Slab};
use super::types::{Flow, RelayId};

/// All allocations of one shard, pending ones included.
pub(crate) struct Registry {
    seeds: RandomState,
    entries: Slab<Entry>,
    flows: HashTable<u32>,
    /// Open relay sockets by local address, as [`RelayId::index`].
    locals: HashTable<u32>,
}

/// The id of one relayed transport address of an entry: the low bit of the index tells the two
/// of a dual allocation apart.
pub(crate) const fn relay_id(key: Key, half: u8) -> RelayId {
    RelayId {
        index: key.index << 1 | half as u32,
        generation: key.generation,
    }
}

/// The reverse of [`relay_id`].
pub(crate) const fn split(relay: RelayId) -> (Key, u8) {
    let key = Key {
        index: relay.index >> 1,
        generation: relay.generation,
    };
    (key, (relay.index & 1) as u8)
}

impl Registry {
    pub(crate) fn new(seeds: RandomState) -> Self {
        Self {
            seeds,
            entries: Slab::new(),
            flows: HashTable::new(),
            locals: HashTable::new(),
        }
    }

    pub(crate) fn seeds(&self) -> &RandomState {
        &self.seeds
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The keys of all entries.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let indices = self.entries.indices();
        indices
            .filter_map(|index| self.entries.key_at(index))
            .collect()
    }

    pub(crate) fn find(&self, flow: &Flow) -> Option<Key> {
        let index = self.flows.find(self.seeds.hash_one(flow), |index| {
            self.entries
                .at(*index)
                .is_some_and(|entry| entry.flow() == flow)
        })?;
        self.entries.key_at(*index)
    }

    /// The live allocation of a 5-tuple: the one step that every ChannelData message takes.
    pub(crate) fn by_flow(&mut self, flow: &Flow) -> Option<(Key, &mut Allocation)> {
        let entries = &self.entries;
        let index = *self.flows.find(self.seeds.hash_one(flow), |index| {
            entries.at(*index).is_some_and(|entry| entry.flow() == flow)
        })?;
        let key = self.entries.key_at(index)?;
        match self.entries.at_mut(index)? {
            Entry::Live(allocation) => Some((key, allocation)),
            Entry::Pending(_) => None,
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn live(&self, key: Key) -> Option<&Allocation> {
        match self.entries.get(key)? {
            Entry::Live(allocation) => Some(allocation),
            Entry::Pending(_) => None,
        }
    }

    pub(crate) fn live_mut(&mut self, key: Key) -> Option<&mut Allocation> {
        match self.entries.get_mut(key)? {
            Entry::Live(allocation) => Some(allocation),
            Entry::Pending(_) => None,
        }
    }

    pub(crate) fn pending_mut(&mut self, key: Key) -> Option<&mut Pending> {
        match self.entries.get_mut(key)? {
            Entry::Pending(pending) => Some(pending),
            Entry::Live(_) => None,
        }
    }

    /// The relay socket of this shard that is bound to `local`.
    pub(crate) fn by_local(&self, local: SocketAddr) -> Option<RelayId> {
        let index = *self.locals.find(self.seeds.hash_one(local), |index| {
            self.local_of(*index) == Some(local)
        })?;
        let key = self.entries.key_at(index >> 1)?;
        Some(relay_id(key, (index & 1) as u8))
    }

    pub(crate) fn insert_pending(&mut self, pending: Box<Pending>) -> Key {
        let hash = self.seeds.hash_one(pending.flow);
        let key = self.entries.insert(Entry::Pending(pending));
        let (entries, seeds) = (&self.entries, &self.seeds);
        self.flows.insert_unique(hash, key.index, |index| {
            entries
                .at(*index)
                .map_or(0, |entry| seeds.hash_one(entry.flow()))
        });
        key
    }

    /// Makes an allocation of a pending one; it keeps its place and its key. `make` also returns
    /// what else its caller needs.
    pub(crate) fn promote<R>(
        &mut self,
        key: Key,
        make: impl FnOnce(Pending) -> (Box<Allocation>, R),
    ) -> Option<R> {
        let result = self.entries.update(key, |entry| match entry {
            Entry::Pending(pending) => {
                let (allocation, result) = make(*pending);
                (Entry::Live(allocation), Some(result))
            }
            live @ Entry::Live(_) => (live, None),
        })??;
        let locals = self
            .live(key)?
            .halves
            .map(|half| half.map(|half| half.local));
        for (half, local) in (0_u32..).zip(locals) {
            let Some(local) = local else { continue };
            let (entries, seeds) = (&self.entries, &self.seeds);
            self.locals
                .insert_unique(seeds.hash_one(local), key.index << 1 | half, |index| {
                    local_of(entries, *index).map_or(0, |local| seeds.hash_one(local))
                });
        }
        Some(result)
    }

    /// Takes one relayed transport address out of the index by local address.
    pub(crate) fn unlist_local(&mut self, key: Key, half: u8) {
        let index = key.index << 1 | u32::from(half);
        let Some(local) = self.local_of(index) else {
            return;
        };
        let hash = self.seeds.hash_one(local);
        if let Ok(found) = self.locals.find_entry(hash, |other| *other == index) {
            found.remove();
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Entry> {
        let flow = *self.entries.get(key)?.flow();
        for half in [0, 1] {
            self.unlist_local(key, half);
        }
        let hash = self.seeds.hash_one(flow);
        if let Ok(found) = self.flows.find_entry(hash, |index| *index == key.index) {
            found.remove();
        }
        self.entries.remove(key)
    }

    fn local_of(&self, index: u32) -> Option<SocketAddr> {
        local_of(&self.entries, index)
    }
}

fn local_of(entries: &Slab<Entry>, index: u32) -> Option<SocketAddr> {
    match entries.at(index >> 1)? {
        Entry::Live(allocation) => allocation
            .half((index & 1) as u8)
            .map(|half: &Half| half.local),
        Entry::Pending(_) => None,
    }
}
