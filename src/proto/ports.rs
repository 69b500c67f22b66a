//! Relayed transport addresses: which ports are free, which are leased, which are live.
//!
//! One bitmap for each relay address, shared by all shards: hashing clients to shards is uneven,
//! so slices of the range would run dry early. A port belongs to a [`PortLease`] and comes back
//! when the lease is dropped, on every path. Free ports are chosen uniformly at random (RFC 6056,
//! RFC 8656 section 7.2), also when only a few are left: a guess is as good as any other. It takes
//! a few hundred steps at most, however many are left.

mod free;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};
use std::sync::{Arc, OnceLock};

use rand_core::Rng;

use super::pairs::PairId;
use super::types::Family;
use free::{FreePorts, Shape};

/// Ports below this are never relayed from (RFC 8656 section 7.2).
const FIRST_ALLOWED_PORT: u16 = 1024;
/// Tries to take the port that was drawn while other threads take ports too.
const ROUNDS: usize = 16;

/// The ports of one relay address.
#[derive(Debug)]
struct Pool {
    local: IpAddr,
    public: IpAddr,
    ports: FreePorts,
    /// One bit a port, set while an allocation answers on it.
    live: Box<[AtomicU64]>,
    /// For each port the pair that its allocation belongs to, 0 for none; made with the first
    /// pair.
    pairs: OnceLock<Box<[AtomicU64]>>,
    live_count: AtomicU32,
}

/// Names a port of a pool.
#[derive(Clone, Copy, Debug)]
struct Slot {
    pool: usize,
    /// Bit of the pool's bitmap.
    bit: u32,
}

/// A live relayed transport address of this server, by both of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnRelay {
    /// What its socket is bound to.
    pub local: SocketAddr,
    /// What the world sees.
    pub public: SocketAddr,
}

/// All relay addresses of the server and the state of their ports.
#[derive(Debug)]
pub struct RelayAddresses {
    pools: Vec<Pool>,
    /// The pools of each family, as indices: IPv4, then IPv6.
    families: [Vec<usize>; 2],
    /// Local and public addresses with their pool, sorted.
    by_ip: Vec<(IpAddr, usize)>,
    /// The port of bit 0: a multiple of 64.
    base: u16,
    first: u16,
    last: u16,
}

impl RelayAddresses {
    /// Relay addresses as pairs of the local address to bind and the public address to tell, and
    /// the ports to use on each.
    ///
    /// Ports below 1024 are left out. A pair whose local or public address was named before is
    /// ignored: two sockets must never be known to the world by one transport address (RFC 8656
    /// section 6).
    pub fn new(addresses: Vec<(IpAddr, IpAddr)>, ports: RangeInclusive<u16>) -> Arc<Self> {
        let first = (*ports.start()).max(FIRST_ALLOWED_PORT);
        let last = *ports.end();
        let base = first & !63;
        // The bits that stand for ports of the range.
        let end = (u32::from(last) + 1).saturating_sub(u32::from(base));
        let bits = u32::from(first - base)..end;
        let mut new = Self {
            pools: Vec::new(),
            families: [Vec::new(), Vec::new()],
            by_ip: Vec::new(),
            base,
            first,
            last,
        };
        for (local, public) in addresses {
            let (local, public) = (local.to_canonical(), public.to_canonical());
            let named = |ip| new.by_ip.iter().any(|(known, _)| *known == ip);
            if named(local) || named(public) || Family::of(&local) != Family::of(&public) {
                continue;
            }
            let index = new.pools.len();
            new.families[Family::of(&local).index()].push(index);
            new.by_ip.push((local, index));
            if public != local {
                new.by_ip.push((public, index));
            }
            new.pools.push(Pool {
                local,
                public,
                ports: FreePorts::new(&bits),
                live: (0..end.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
                pairs: OnceLock::new(),
                live_count: AtomicU32::new(0),
            });
        }
        new.by_ip.sort_unstable();
        Arc::new(new)
    }

    /// Whether there is a relay address of a family (else 440, RFC 8656 section 7.2).
    pub fn has_family(&self, family: Family) -> bool {
        !self.families[family.index()].is_empty()
    }

    /// How many ports there are, free or not, over all addresses.
    pub fn capacity(&self) -> usize {
        self.pools.len() * self.ports_each()
    }

    /// How many ports of one family there are, free or not.
    pub fn capacity_of(&self, family: Family) -> usize {
        self.families[family.index()].len() * self.ports_each()
    }

    fn ports_each(&self) -> usize {
        (usize::from(self.last) + 1).saturating_sub(usize::from(self.first))
    }

    /// How many ports are leased.
    pub fn in_use(&self) -> usize {
        let free = |pool: &Pool| pool.ports.free(Shape::Any) as usize;
        let free: usize = self.pools.iter().map(free).sum();
        // A port that is just being given back counts twice for a moment.
        self.capacity().saturating_sub(free)
    }

    /// Leases a free port of a family, an even one if `even`. `None` when there is none (508).
    ///
    /// A port that the kernel then refuses to bind (another process has it) is best kept leased
    /// until another one was found, so that it is not chosen again.
    pub fn lease(
        self: &Arc<Self>,
        family: Family,
        even: bool,
        rng: &mut impl Rng,
    ) -> Option<PortLease> {
        let shape = if even { Shape::Even } else { Shape::Any };
        let slot = self.take(family, shape, rng)?;
        Some(self.guard(slot))
    }

    /// Leases the port of a family that `place` stands for, if it is free. It stands for the same
    /// one as long as the addresses and the range are the same, also in another process.
    pub fn lease_at(self: &Arc<Self>, family: Family, place: u64) -> Option<PortLease> {
        let pools = &self.families[family.index()];
        let index = usize::try_from(place.checked_rem(self.capacity_of(family) as u64)?).ok()?;
        let pool = pools[index / self.ports_each()];
        let bit = u32::from(self.first - self.base) + (index % self.ports_each()) as u32;
        let free = self.pools[pool].ports.take(bit);
        free.then(|| self.guard(Slot { pool, bit }))
    }

    /// Leases an even port and the next higher one (EVEN-PORT with R=1, RFC 8656 section 7.2).
    /// Both stay leased until their own lease is dropped.
    pub fn lease_pair(
        self: &Arc<Self>,
        family: Family,
        rng: &mut impl Rng,
    ) -> Option<(PortLease, PortLease)> {
        let even = self.take(family, Shape::Pair, rng)?;
        let odd = Slot {
            bit: even.bit + 1,
            ..even
        };
        Some((self.guard(even), self.guard(odd)))
    }

    fn guard(self: &Arc<Self>, slot: Slot) -> PortLease {
        PortLease {
            addresses: Arc::clone(self),
            slot,
        }
    }

    /// The live relayed transport address that an address names, be it by its public or by its
    /// local name. Leased ports that no allocation answers on yet are not live.
    #[inline]
    pub fn live(&self, addr: SocketAddr) -> Option<OwnRelay> {
        let pool = &self.pools[self.pool_of(addr.ip())?];
        let bit = self.bit(addr.port())?;
        let live = pool.live[word_of(bit)].load(Acquire) & 1 << (bit % 64) != 0;
        live.then(|| OwnRelay {
            local: SocketAddr::new(pool.local, addr.port()),
            public: SocketAddr::new(pool.public, addr.port()),
        })
    }

    /// How the world knows the live relay socket bound to `local`; `None` when that is not the
    /// local address of a live one. Tells the receiver of a datagram that never left this host
    /// who its peer is.
    #[inline]
    pub fn to_public(&self, local: SocketAddr) -> Option<SocketAddr> {
        self.live(local)
            .filter(|own| own.local == local)
            .map(|own| own.public)
    }

    /// Says that a live relayed transport address belongs to an allocation of a pair, by either
    /// of its names. It is forgotten when it is no longer live.
    pub(super) fn set_pair(&self, addr: SocketAddr, pair: PairId) {
        let (Some(pool), Some(bit)) = (self.pool_of(addr.ip()), self.bit(addr.port())) else {
            return;
        };
        let pool = &self.pools[pool];
        let ports = pool.live.len() * 64;
        let pairs = pool
            .pairs
            .get_or_init(|| (0..ports).map(|_| AtomicU64::new(0)).collect());
        pairs[bit as usize].store(pair.to_bits(), Release);
    }

    /// Whether an address is the relayed transport address of an allocation of this pair, by
    /// either of its names.
    #[inline]
    pub fn is_of_pair(&self, addr: SocketAddr, pair: PairId) -> bool {
        let tag = || {
            let pool = &self.pools[self.pool_of(addr.ip())?];
            let bit = self.bit(addr.port())?;
            Some(pool.pairs.get()?[bit as usize].load(Acquire))
        };
        tag() == Some(pair.to_bits())
    }

    /// Whether an IP is one of the relay addresses, by its local or its public name.
    pub fn is_own_ip(&self, ip: IpAddr) -> bool {
        self.pool_of(ip).is_some()
    }

    /// Whether an allocation answers on any port of this IP.
    pub fn any_live(&self, ip: IpAddr) -> bool {
        self.pool_of(ip)
            .is_some_and(|pool| self.pools[pool].live_count.load(Acquire) > 0)
    }

    /// The relay addresses as (local, public).
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.pools.iter().map(|pool| (pool.local, pool.public))
    }

    fn pool_of(&self, ip: IpAddr) -> Option<usize> {
        let found = self.by_ip.binary_search_by_key(&ip, |entry| entry.0).ok()?;
        Some(self.by_ip[found].1)
    }

    fn bit(&self, port: u16) -> Option<u32> {
        (self.first..=self.last)
            .contains(&port)
            .then(|| u32::from(port - self.base))
    }

    /// Takes the bits of one lease, chosen uniformly among all possible ones of a family.
    fn take(&self, family: Family, shape: Shape, rng: &mut impl Rng) -> Option<Slot> {
        let pools = &self.families[family.index()];
        let free = |pool: usize| self.pools[pool].ports.free(shape);
        // All possible leases are numbered, and one of the numbers is drawn.
        for _ in 0..ROUNDS {
            let all: u64 = pools.iter().map(|&pool| free(pool)).sum();
            if all == 0 {
                return None;
            }
            let mut draw = below(rng, all);
            for &pool in pools {
                let here = free(pool);
                if draw >= here {
                    draw -= here;
                    continue;
                }
                if let Some(bit) = self.pools[pool].ports.take_nth(shape, draw) {
                    return Some(Slot { pool, bit });
                }
                break;
            }
        }
        // Lost every race: take whatever is free, rather than to claim that nothing is.
        pools.iter().find_map(|&pool| {
            let bit = self.pools[pool].ports.take_first(shape)?;
            Some(Slot { pool, bit })
        })
    }

    fn address(&self, ip: IpAddr, slot: Slot) -> SocketAddr {
        // Bits exist only for ports up to 65535, and only bits inside the range are ever leased.
        SocketAddr::new(ip, self.base + slot.bit as u16)
    }
}

fn word_of(bit: u32) -> usize {
    bit as usize / 64
}

/// A number below `bound`, each equally likely.
fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    // Draws from the last, incomplete stretch of the 64-bit range would favour small numbers.
    let zone = u64::MAX - u64::MAX % bound;
    loop {
        let draw = rng.next_u64();
        if draw < zone {
            return draw % bound;
        }
    }
}

/// A port of a relay address, leased until dropped.
#[derive(Debug)]
pub struct PortLease {
    addresses: Arc<RelayAddresses>,
    slot: Slot,
}

impl PortLease {
    /// What to bind.
    pub fn local(&self) -> SocketAddr {
        self.addresses.address(self.pool().local, self.slot)
    }

    /// What to tell the client.
    pub fn public(&self) -> SocketAddr {
        self.addresses.address(self.pool().public, self.slot)
    }

    /// Says whether an allocation answers on this port now. Only then do other allocations of
    /// this server reach it in spite of the peer gate's built-in list. Dropping the lease ends it.
    pub fn set_live(&self, live: bool) {
        let word = &self.pool().live[word_of(self.slot.bit)];
        let bit = 1 << (self.slot.bit % 64);
        if live {
            if word.fetch_or(bit, AcqRel) & bit == 0 {
                self.pool().live_count.fetch_add(1, Release);
            }
        } else if word.fetch_and(!bit, AcqRel) & bit != 0 {
            self.pool().live_count.fetch_sub(1, Release);
            if let Some(pairs) = self.pool().pairs.get() {
                pairs[self.slot.bit as usize].store(0, Release);
            }
        }
    }

    fn pool(&self) -> &Pool {
        &self.addresses.pools[self.slot.pool]
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        // Dead before free: the next holder of the port starts as a stranger.
        self.set_live(false);
        self.pool().ports.give_back(self.slot.bit);
    }
}

#[cfg(test)]
mod tests;
