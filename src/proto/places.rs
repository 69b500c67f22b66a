//! How much of the relay all pairs together may hold, and each source of theirs.
//!
//! Anybody may be paired, with itself if need be, so that pairs are no users: whatever they do,
//! those that the operator configured must find ports, and one source must not keep others out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::waits::WaitPlace;

/// What pairs may have. The default lifts everything but half of what there is for one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairLimits {
    /// Percent of the relay ports of each family that pairs may hold: 1 to 100. Beyond it: 508.
    pub share: u8,
    /// Relay ports of each family that clients of one source may hold by pairs, 0: no number. A
    /// source is an IPv4 address or an IPv6 /64; an IPv6 /48 may hold four times as many. Never
    /// more than half of what all pairs may hold. Beyond it: 486.
    pub per_source: u32,
    /// Application bytes a second of one allocation, each direction by itself, 0: as for others.
    pub bandwidth: u64,
}

impl Default for PairLimits {
    fn default() -> Self {
        Self {
            share: 100,
            per_source: 0,
            bandwidth: 0,
        }
    }
}

impl PairLimits {
    /// How many of `capacity` ports pairs may hold: at least one, for a range that has no more.
    fn of_all(&self, capacity: usize) -> u32 {
        let share = capacity as u64 * u64::from(self.share.min(100)) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }

    /// How many of those one source may hold: at least one for either side of a pair that is
    /// tried at one place.
    fn of_source(&self, of_all: u32, wide: bool) -> u32 {
        let limit = match self.per_source {
            0 => u32::MAX,
            limit if wide => limit.saturating_mul(4),
            limit => limit,
        };
        limit.min((of_all / 2).max(2))
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaceError {
    /// The source has its part.
    Source,
    /// All pairs together have theirs.
    All,
}

/// Whose places are counted together: a prefix and its length.
type Source = (IpAddr, u8);

/// Ports by family, IPv4 first.
type Count = [u32; 2];

/// The ports that allocations of pairs hold. One for the process.
#[derive(Debug, Default)]
pub struct PairPlaces(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    all: Count,
    // An ordered map: addresses are chosen outside, and a tree has no worst case to provoke.
    sources: BTreeMap<Source, Count>,
}

/// An IPv4 address; of IPv6 what one subscriber has, and what one network has.
fn sources(client: IpAddr) -> impl Iterator<Item = Source> {
    let (first, second) = match client.to_canonical() {
        IpAddr::V6(ip) => {
            let prefix = |bits: u8| {
                let ip = u128::from(ip) & u128::MAX << (128 - bits);
                (IpAddr::V6(Ipv6Addr::from(ip)), bits)
            };
            (prefix(64), Some(prefix(48)))
        }
        v4 => ((v4, 32), None),
    };
    [first].into_iter().chain(second)
}

impl PairPlaces {
    /// Nobody holds anything.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A port of each of `families` for a client, if `limits` leave room in the `capacity` that
    /// there is of each family.
    pub(crate) fn take(
        self: &Arc<Self>,
        client: IpAddr,
        families: [bool; 2],
        limits: &PairLimits,
        capacity: [usize; 2],
    ) -> Result<PairPlace, PlaceError> {
        let mut places = self.lock();
        for family in [0, 1].into_iter().filter(|family| families[*family]) {
            let of_all = limits.of_all(capacity[family]);
            for source in sources(client) {
                let held = places.sources.get(&source).map_or(0, |held| held[family]);
                if held >= limits.of_source(of_all, source.1 == 48) {
                    return Err(PlaceError::Source);
                }
            }
            if places.all[family] >= of_all {
                return Err(PlaceError::All);
            }
        }
        let add = |count: &mut Count| {
            for (count, wanted) in count.iter_mut().zip(families) {
                *count += u32::from(wanted);
            }
        };
        add(&mut places.all);
        for source in sources(client) {
            add(places.sources.entry(source).or_default());
        }
        drop(places);
        Ok(PairPlace {
            places: Arc::clone(self),
            client,
            families,
        })
    }

    /// How many ports of either family pairs hold.
    pub fn held(&self) -> u32 {
        self.lock().all.iter().sum()
    }

    /// How many sources hold any.
    pub fn sources(&self) -> usize {
        self.lock().sources.len()
    }

    /// The counts are never left half-changed, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an allocation of a pair holds, given back when dropped; with what a wait has.
pub(crate) type Held = Box<(PairPlace, Option<WaitPlace>)>;

/// Ports of one source.
#[derive(Debug)]
pub(crate) struct PairPlace {
    places: Arc<PairPlaces>,
    client: IpAddr,
    families: [bool; 2],
}

impl Drop for PairPlace {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        let families = self.families;
        let give_back = |count: &mut Count| {
            for (count, held) in count.iter_mut().zip(families) {
                *count -= u32::from(held);
            }
        };
        give_back(&mut places.all);
        for source in sources(self.client) {
            if let Some(count) = places.sources.get_mut(&source) {
                give_back(count);
                if *count == [0, 0] {
                    places.sources.remove(&source);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [bool; 2] = [true, false];
    const BOTH: [bool; 2] = [true, true];
    const LIMITS: PairLimits = PairLimits {
        share: 75,
        per_source: 3,
        bandwidth: 0,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn take(
        places: &Arc<PairPlaces>,
        client: &str,
        families: [bool; 2],
        capacity: usize,
    ) -> Result<PairPlace, PlaceError> {
        places.take(ip(client), families, &LIMITS, [capacity; 2])
    }

    #[test]
    fn pairs_leave_a_part_of_each_family_to_others() {
        let places = PairPlaces::new();
        let held: Vec<_> = (0..20)
            .map_while(|n| take(&places, &format!("192.0.2.{n}"), V4, 10).ok())
            .collect();
        assert_eq!(held.len(), 7, "three quarters of ten");
        let refused = take(&places, "192.0.2.99", BOTH, 10).map(drop);
        assert_eq!(refused, Err(PlaceError::All), "both or none");
        assert_eq!(places.held(), 7);
        take(&places, "2001:db8::1", [false, true], 10).expect("the other family has room");
        drop(held);
        assert_eq!((places.held(), places.sources()), (0, 0));
    }

    #[test]
    fn one_source_has_so_many_and_at_most_half() {
        let places = PairPlaces::new();
        for (capacity, most) in [(1000, 3), (7, 2), (2, 1), (1, 1), (0, 1)] {
            let held: Vec<_> = (0..20)
                .map_while(|_| take(&places, "192.0.2.1", V4, capacity).ok())
                .collect();
            assert_eq!(held.len(), most, "{capacity} ports");
        }
        assert_eq!(places.sources(), 0);
    }

    #[test]
    fn an_ipv6_subscriber_and_its_network_are_sources() {
        let places = PairPlaces::new();
        let mut held = Vec::new();
        for client in ["2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:2::3"] {
            held.push(take(&places, client, BOTH, 1000).expect("room"));
        }
        let refused = take(&places, "2001:db8:1:2::4", V4, 1000).map(drop);
        assert_eq!(refused, Err(PlaceError::Source));
        for n in 3..12 {
            held.push(take(&places, &format!("2001:db8:1:{n}::1"), BOTH, 1000).expect("room"));
        }
        let refused = take(&places, "2001:db8:1:ffff::1", V4, 1000).map(drop);
        assert_eq!(refused, Err(PlaceError::Source), "four times a /64");
        take(&places, "2001:db8:2::1", V4, 1000).expect("another network");
        drop(held);
        assert_eq!((places.held(), places.sources()), (0, 0));
    }
}
