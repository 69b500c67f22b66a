//! Who holds how much of a table, so that nobody keeps all others out of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ahash::RandomState;
use hashbrown::HashMap;

use super::few::Few;

/// Whose requests are counted together: an IPv4 address, or an IPv6 /64, which is what one
/// subscriber has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::signal) struct Source(IpAddr);

/// An IPv4 address, or an IPv6 /48, which is the most that one subscriber has: whoever changes
/// its /64 all the time stays in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::signal) struct Site(IpAddr);

impl Source {
    /// For who binds something to it.
    pub(in crate::signal) fn octets(self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        }
    }
}

/// How many times what one source may have an IPv6 /48 may have.
pub(in crate::signal) const SITE: usize = 4;

fn prefix(ip: IpAddr, bits: u32) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let host = u128::MAX.checked_shr(bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !host))
        }
        v4 => v4,
    }
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        Self(prefix(ip, 64))
    }
}

impl From<IpAddr> for Site {
    fn from(ip: IpAddr) -> Self {
        Self(prefix(ip, 48))
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::signal) enum Full {
    /// The source or its site holds as much as it may.
    Source,
    /// The table is full, and nobody holds more of it.
    All,
}

/// The places of a table, by who holds them. A place is named by `K`, and newer ones are greater.
pub(in crate::signal) struct Shares<K> {
    most: usize,
    per_source: usize,
    held: usize,
    /// Of IPv6 only: an IPv4 address is a site.
    sources: HashMap<Source, usize, RandomState>,
    /// What each holds, in order.
    sites: HashMap<Site, Few<K>, RandomState>,
    /// The same by how much it is.
    by_size: BTreeSet<(usize, Site)>,
}

impl<K: Copy + Ord> Shares<K> {
    /// At most `most` places, `per_source` for one source and [`SITE`] times that for one site.
    pub(in crate::signal) fn new(most: usize, per_source: usize, hasher: RandomState) -> Self {
        Self {
            most,
            per_source,
            held: 0,
            sources: HashMap::with_hasher(hasher.clone()),
            sites: HashMap::with_hasher(hasher),
            by_size: BTreeSet::new(),
        }
    }

    /// Whether one from `ip` may have a place; in a full table it is that of the newest of the site
    /// that holds most, which has to leave first.
    ///
    /// # Errors
    /// Why not.
    pub(in crate::signal) fn admit(&self, ip: IpAddr) -> Result<Option<K>, Full> {
        let of_site = self.sites.get(&Site::from(ip)).map_or(0, |held| held.len());
        let of_source = match ip.to_canonical() {
            IpAddr::V4(_) => of_site,
            IpAddr::V6(_) => self.sources.get(&Source::from(ip)).copied().unwrap_or(0),
        };
        if of_source >= self.per_source || of_site >= self.per_source.saturating_mul(SITE) {
            return Err(Full::Source);
        }
        if self.held < self.most {
            return Ok(None);
        }
        let largest = self.by_size.last();
        // Only for one that does not have as much then.
        let largest = largest.filter(|(size, _)| of_site + 1 < *size);
        let held = largest.and_then(|(_, site)| self.sites.get(site));
        let newest = held.and_then(|held| held.last().copied());
        newest.map(Some).ok_or(Full::All)
    }

    /// Gives a place; the name is not given twice.
    pub(in crate::signal) fn enter(&mut self, ip: IpAddr, name: K) {
        self.held += 1;
        if ip.to_canonical().is_ipv6() {
            *self.sources.entry(Source::from(ip)).or_default() += 1;
        }
        let site = Site::from(ip);
        let held = self.sites.entry(site).or_default();
        let before = held.len();
        held.insert(held.partition_point(|own| *own < name), name);
        self.by_size.remove(&(before, site));
        self.by_size.insert((before + 1, site));
    }

    /// Takes a place back. One that is not held changes nothing.
    pub(in crate::signal) fn leave(&mut self, ip: IpAddr, name: K) {
        let site = Site::from(ip);
        let Some(held) = self.sites.get_mut(&site) else {
            return;
        };
        let before = held.len();
        let Ok(at) = held.binary_search(&name) else {
            return;
        };
        held.remove(at);
        self.held -= 1;
        self.by_size.remove(&(before, site));
        if before > 1 {
            self.by_size.insert((before - 1, site));
        } else {
            self.sites.remove(&site);
        }
        if let Some(count) = self.sources.get_mut(&Source::from(ip)) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&Source::from(ip));
            }
        }
        self.shrink();
    }

    /// Places that are held.
    pub(in crate::signal) fn len(&self) -> usize {
        self.held
    }

    /// Whether no place is held, and nothing is left of those that were.
    pub(in crate::signal) fn is_empty(&self) -> bool {
        self.held == 0
            && self.sources.is_empty()
            && self.sites.is_empty()
            && self.by_size.is_empty()
    }

    /// Gives memory back after a flood.
    fn shrink(&mut self) {
        let few = |capacity, len| capacity > 1024 && len < capacity / 8;
        if few(self.sites.capacity(), self.sites.len()) {
            self.sites.shrink_to(self.sites.len() * 2);
        }
        if few(self.sources.capacity(), self.sources.len()) {
            self.sources.shrink_to(self.sources.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Comes, displacing who has to go.
    fn come(shares: &mut Shares<usize>, held: &mut Vec<IpAddr>, from: &str) -> Result<(), Full> {
        let from = ip(from);
        if let Some(displaced) = shares.admit(from)? {
            shares.leave(held[displaced], displaced);
        }
        shares.enter(from, held.len());
        held.push(from);
        Ok(())
    }

    fn shares(most: usize, per_source: usize) -> Shares<usize> {
        Shares::new(most, per_source, RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn whoever_rotates_its_addresses_keeps_nobody_out() {
        let mut shares = shares(100, 10);
        let mut held = Vec::new();
        let flood = |shares: &mut _, held: &mut _| {
            let came = (0..1000).filter(|n| {
                let from = format!("2001:db8:{:x}:{n:x}::1", n % 4);
                come(shares, held, &from).is_ok()
            });
            came.count()
        };
        assert_eq!(flood(&mut shares, &mut held), 100, "four /48s fill it");
        assert_eq!(shares.len(), 100);
        for n in 0..30 {
            come(&mut shares, &mut held, &format!("192.0.2.{n}")).expect("a place");
        }
        come(&mut shares, &mut held, "2001:db8:ffff::1").expect("a place");
        assert_eq!(shares.len(), 100);
        let flooded = flood(&mut shares, &mut held);
        assert_eq!(flooded, 0, "those who hold most displace nobody");
        for (name, from) in held.iter().enumerate().skip(100) {
            assert!(shares.sites[&Site::from(*from)].contains(&name), "{from}");
        }
        for (name, from) in held.iter().enumerate() {
            shares.leave(*from, name);
        }
        assert!(shares.is_empty());
    }

    #[test]
    fn a_source_and_a_site_have_their_caps() {
        let mut shares = shares(1000, 3);
        let mut held = Vec::new();
        let mut count = |from: &dyn Fn(usize) -> String| {
            let came = (0..50).filter(|n| come(&mut shares, &mut held, &from(*n)).is_ok());
            came.count()
        };
        assert_eq!(count(&|_| "192.0.2.1".into()), 3);
        assert_eq!(count(&|_| "::ffff:192.0.2.1".into()), 0, "the same one");
        assert_eq!(count(&|n| format!("192.0.3.{n}")), 50);
        assert_eq!(count(&|n| format!("2001:db8:0:1::{n:x}")), 3);
        assert_eq!(count(&|n| format!("2001:db8:0:{n:x}::1")), 12 - 3);
        assert_eq!(count(&|n| format!("2001:db8:1:{n:x}::1")), 12);
        assert_eq!(shares.admit(ip("192.0.2.1")), Err(Full::Source));
    }

    #[test]
    fn the_newest_of_the_largest_goes_and_equals_do_not_displace_each_other() {
        let mut shares = shares(3, 10);
        let mut held = Vec::new();
        for from in ["192.0.2.1", "192.0.2.2", "192.0.2.2"] {
            come(&mut shares, &mut held, from).expect("a place");
        }
        assert_eq!(shares.admit(ip("192.0.2.3")), Ok(Some(2)));
        assert_eq!(shares.admit(ip("192.0.2.1")), Err(Full::All));
        come(&mut shares, &mut held, "192.0.2.3").expect("a place");
        assert_eq!(shares.admit(ip("192.0.2.4")), Err(Full::All));
        shares.leave(ip("192.0.2.4"), 0);
        assert_eq!(shares.len(), 3, "that one held nothing");
    }
}
