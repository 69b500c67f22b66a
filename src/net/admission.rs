//! Who may hold a connection before proving a credential: bounded per source and in all, over
//! all shards. The oldest makes room for the newcomer, so that a crowd of idle connections
//! keeps nobody out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An unauthenticated connection's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// A connection of some shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) shard: usize,
    pub(super) link: u64,
}

#[derive(Default)]
struct Table {
    issued: u64,
    by_age: BTreeMap<Ticket, (IpAddr, Place)>,
    by_source: HashMap<IpAddr, VecDeque<Ticket>>,
}

/// The connections of all shards that proved nothing yet.
pub(super) struct Admission {
    per_source: usize,
    total: usize,
    table: Mutex<Table>,
}

impl Admission {
    pub(super) fn new(per_source: usize, total: usize) -> Self {
        Self {
            per_source: per_source.max(1),
            total: total.max(1),
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new connection its place, and names the one that must be closed for it: the
    /// oldest of its own source when that is at its cap, else the oldest of all.
    pub(super) fn admit(&self, source: IpAddr, place: Place) -> (Ticket, Option<Place>) {
        let source = site(source);
        let mut table = self.table();
        let of_source = table.by_source.get(&source);
        let victim = match of_source {
            Some(tickets) if tickets.len() >= self.per_source => tickets.front().copied(),
            _ if table.by_age.len() >= self.total => table.by_age.keys().next().copied(),
            _ => None,
        };
        let victim = victim.and_then(|ticket| table.remove(ticket));
        table.issued += 1;
        let ticket = Ticket(table.issued);
        table.by_age.insert(ticket, (source, place));
        table.by_source.entry(source).or_default().push_back(ticket);
        (ticket, victim)
    }

    /// A connection proved a credential or is closed.
    pub(super) fn release(&self, ticket: Ticket) {
        self.table().remove(ticket);
    }
}

impl Table {
    fn remove(&mut self, ticket: Ticket) -> Option<Place> {
        let (source, place) = self.by_age.remove(&ticket)?;
        if let Some(tickets) = self.by_source.get_mut(&source) {
            tickets.retain(|&other| other != ticket);
            if tickets.is_empty() {
                self.by_source.remove(&source);
            }
        }
        Some(place)
    }
}

/// What counts as one source: an IPv4 address, or the /64 that an IPv6 host has for itself.
fn site(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let prefix = u128::from(ip) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn place(link: u64) -> Place {
        Place { shard: 0, link }
    }

    #[test]
    fn the_oldest_of_the_same_source_makes_room() {
        let admission = Admission::new(2, 100);
        assert_eq!(admission.admit(ip("192.0.2.9"), place(9)).1, None);
        let (first, none) = admission.admit(ip("192.0.2.1"), place(1));
        assert_eq!(none, None);
        assert_eq!(admission.admit(ip("192.0.2.1"), place(2)).1, None);
        assert_eq!(admission.admit(ip("192.0.2.1"), place(3)).1, Some(place(1)));
        // Its own release finds nothing, and frees nobody else's place.
        admission.release(first);
        assert_eq!(admission.admit(ip("192.0.2.1"), place(4)).1, Some(place(2)));
    }

    #[test]
    fn the_oldest_of_all_makes_room_at_the_total() {
        let admission = Admission::new(10, 2);
        admission.admit(ip("192.0.2.1"), place(1));
        admission.admit(ip("192.0.2.2"), place(2));
        assert_eq!(admission.admit(ip("192.0.2.3"), place(3)).1, Some(place(1)));
    }

    #[test]
    fn a_released_place_is_free_and_nothing_is_left_behind() {
        let admission = Admission::new(1, 1);
        for link in 0..100 {
            let (ticket, victim) = admission.admit(ip("2001:db8::1"), place(link));
            assert_eq!(victim, None);
            admission.release(ticket);
        }
        assert!(admission.table().by_age.is_empty());
        assert!(admission.table().by_source.is_empty());
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_cap() {
        let admission = Admission::new(1, 100);
        admission.admit(ip("2001:db8::1"), place(1));
        assert_eq!(
            admission.admit(ip("2001:db8::ffff:2"), place(2)).1,
            Some(place(1))
        );
        assert_eq!(admission.admit(ip("2001:db8:0:1::1"), place(3)).1, None);
    }
}
