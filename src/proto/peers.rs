//! Whom an allocation may talk to: permissions and channels.
//!
//! Most allocations have a handful of peers and are served by a scan of two short vectors; those
//! with many get hash indices, seeded like every table whose keys a client chooses. Nothing here
//! is removed by a timer: every use compares with the exact time, and what has expired is swept
//! when room is needed or the client refreshes.

use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use hashbrown::HashTable;

use super::types::{Family, Mono};

/// Lifetime of a permission in seconds (RFC 8656 section 9).
pub const PERMISSION_LIFETIME: u64 = 300;
/// Lifetime of a channel binding in seconds (RFC 8656 section 12).
pub const CHANNEL_LIFETIME: u64 = 600;

/// Up to this many entries a scan beats hashing.
const SCAN: usize = 16;

/// How datagrams to and from an IP address have to be treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The IP address is one that relayed transport addresses of this server have, so that each
    /// port needs a look whether it is one.
    pub(crate) ours: bool,
    /// The gate opened only under the exemption for live relayed transport addresses of this
    /// server: any other port of the IP address stays closed.
    pub(crate) exempt: bool,
    /// The allocation belongs to a pair: of the relayed transport addresses of this server only
    /// those of the same pair are open.
    pub(crate) scoped: bool,
}

/// A permission (RFC 8656 section 9): an IP address, any port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permission {
    ip: IpAddr,
    reach: Reach,
    expires: Mono,
}

/// A channel binding (RFC 8656 section 12): a number and a transport address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub(crate) peer: SocketAddr,
    pub(crate) number: u16,
    pub(crate) reach: Reach,
    /// Where the permission was last seen; verified at each use.
    permission: u32,
    expires: Mono,
}

/// The permissions and channels of one allocation, of both its address families.
#[derive(Default)]
pub(crate) struct Peers {
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
    index: Option<Box<Index>>,
}

/// Positions in the vectors by hash.
struct Index {
    seeds: RandomState,
    permissions: HashTable<u32>,
    numbers: HashTable<u32>,
    addresses: HashTable<u32>,
}

/// Why a channel cannot be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindConflict {
    /// The number is bound to another peer, or the peer to another number.
    Bound,
}

/// What the tables say about a datagram from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inbound {
    /// The channel to use, when one is bound to the peer.
    pub(crate) channel: Option<u16>,
    pub(crate) reach: Reach,
}

impl Peers {
    /// The live permission for an IP address.
    pub(crate) fn permission(&self, now: Mono, ip: IpAddr) -> Option<Reach> {
        let slot = self.find_permission(ip)?;
        let permission = &self.permissions[slot as usize];
        (permission.expires > now).then_some(permission.reach)
    }

    /// What to do with a datagram from `peer`: `None` without a live permission, also when a
    /// channel is bound (RFC 8656 section 11.3: a channel outlives its permission).
    pub(crate) fn inbound(&self, now: Mono, peer: SocketAddr) -> Option<Inbound> {
        let channel = self
            .find_address(peer)
            .map(|slot| &self.channels[slot as usize])
            .filter(|channel| channel.expires > now);
        let Some(channel) = channel else {
            return self.permission(now, peer.ip()).map(|reach| Inbound {
                channel: None,
                reach,
            });
        };
        let permission = match self.permissions.get(channel.permission as usize) {
            Some(permission) if permission.ip == peer.ip() => permission,
            _ => &self.permissions[self.find_permission(peer.ip())? as usize],
        };
        (permission.expires > now).then_some(Inbound {
            channel: Some(channel.number),
            reach: permission.reach,
        })
    }

    /// The live channel of a number.
    pub(crate) fn channel(&self, now: Mono, number: u16) -> Option<&Channel> {
        let slot = self.find_number(number)?;
        Some(&self.channels[slot as usize]).filter(|channel| channel.expires > now)
    }

    /// Whether permissions for all of `ips` fit under `limit` (0: none); sweeps when they would
    /// not.
    pub(crate) fn room_for_permissions(&mut self, now: Mono, ips: &[IpAddr], limit: usize) -> bool {
        let fits = |peers: &Self| {
            let mut new: Vec<IpAddr> = Vec::new();
            new.extend(
                ips.iter()
                    .filter(|ip| peers.find_permission(**ip).is_none()),
            );
            new.sort_unstable();
            new.dedup();
            new.is_empty() || peers.permissions.len() + new.len() <= limit
        };
        limit == 0 || fits(self) || {
            self.sweep(now);
            fits(self)
        }
    }

    /// Whether a channel with this number fits under `limit` (0: none); sweeps when it would not.
    pub(crate) fn room_for_channel(&mut self, now: Mono, number: u16, limit: usize) -> bool {
        let fits =
            |peers: &Self| peers.find_number(number).is_some() || peers.channels.len() < limit;
        limit == 0 || fits(self) || {
            self.sweep(now);
            fits(self)
        }
    }

    /// Installs or refreshes a permission for exactly 300 s; true when it is a new one.
    pub(crate) fn permit(
        &mut self,
        now: Mono,
        ip: IpAddr,
        reach: Reach,
        seeds: &RandomState,
    ) -> bool {
        self.permit_slot(now, ip, reach, seeds).1
    }

    fn permit_slot(
        &mut self,
        now: Mono,
        ip: IpAddr,
        reach: Reach,
        seeds: &RandomState,
    ) -> (u32, bool) {
        let expires = now.plus_secs(PERMISSION_LIFETIME);
        if let Some(slot) = self.find_permission(ip) {
            let permission = &mut self.permissions[slot as usize];
            permission.reach = reach;
            permission.expires = expires;
            return (slot, false);
        }
        let slot = self.permissions.len() as u32;
        push(&mut self.permissions, Permission { ip, reach, expires });
        match &mut self.index {
            Some(index) => {
                let permissions = &self.permissions;
                index
                    .permissions
                    .insert_unique(index.seeds.hash_one(ip), slot, |slot| {
                        index.seeds.hash_one(permissions[*slot as usize].ip)
                    });
            }
            None => self.index_when_many(seeds),
        }
        (slot, true)
    }

    /// Whether `number` may be bound to `peer` (RFC 8656 section 12.2): both free, or bound to
    /// each other.
    pub(crate) fn check_bind(
        &self,
        now: Mono,
        number: u16,
        peer: SocketAddr,
    ) -> Result<(), BindConflict> {
        let live =
            |slot: u32| Some(&self.channels[slot as usize]).filter(|channel| channel.expires > now);
        let by_number = self.find_number(number).and_then(live);
        let by_address = self.find_address(peer).and_then(live);
        let conflict = by_number.is_some_and(|channel| channel.peer != peer)
            || by_address.is_some_and(|channel| channel.number != number);
        if conflict {
            return Err(BindConflict::Bound);
        }
        Ok(())
    }

    /// Binds or refreshes a channel for exactly 600 s and its permission for exactly 300 s
    /// (RFC 8656 section 12.2), after [`Peers::check_bind`]. True when the permission is new.
    pub(crate) fn bind(
        &mut self,
        now: Mono,
        number: u16,
        peer: SocketAddr,
        reach: Reach,
        seeds: &RandomState,
    ) -> bool {
        let slots = (self.find_number(number), self.find_address(peer));
        let known = slots.0.is_some() && slots.0 == slots.1;
        if !known && slots != (None, None) {
            // What holds the number or the address has expired, or check_bind had refused.
            self.sweep(now);
        }
        let (permission, new) = self.permit_slot(now, peer.ip(), reach, seeds);
        let expires = now.plus_secs(CHANNEL_LIFETIME);
        if let (true, Some(slot)) = (known, slots.0) {
            let channel = &mut self.channels[slot as usize];
            channel.reach = reach;
            channel.permission = permission;
            channel.expires = expires;
            return new;
        }
        let slot = self.channels.len() as u32;
        let channel = Channel {
            peer,
            number,
            reach,
            permission,
            expires,
        };
        push(&mut self.channels, channel);
        match &mut self.index {
            Some(index) => {
                let (channels, seeds) = (&self.channels, &index.seeds);
                index
                    .numbers
                    .insert_unique(seeds.hash_one(number), slot, |slot| {
                        seeds.hash_one(channels[*slot as usize].number)
                    });
                index
                    .addresses
                    .insert_unique(seeds.hash_one(peer), slot, |slot| {
                        seeds.hash_one(channels[*slot as usize].peer)
                    });
            }
            None => self.index_when_many(seeds),
        }
        new
    }

    /// Forgets what has expired.
    pub(crate) fn sweep(&mut self, now: Mono) {
        self.retain(
            |permission| permission.expires > now,
            |channel| channel.expires > now,
        );
    }

    /// Forgets everything of one address family.
    pub(crate) fn remove_family(&mut self, family: Family) {
        self.retain(
            |permission| Family::of(&permission.ip) != family,
            |channel| Family::of(&channel.peer.ip()) != family,
        );
    }

    fn retain(
        &mut self,
        permissions: impl FnMut(&Permission) -> bool,
        channels: impl FnMut(&Channel) -> bool,
    ) {
        let before = (self.permissions.len(), self.channels.len());
        self.permissions.retain(permissions);
        self.channels.retain(channels);
        if before == (self.permissions.len(), self.channels.len()) {
            return;
        }
        if let Some(index) = self.index.take() {
            self.index_when_many(&index.seeds);
        }
        if self.index.is_none() {
            self.permissions.shrink_to(SCAN);
            self.channels.shrink_to(SCAN);
        }
    }

    fn index_when_many(&mut self, seeds: &RandomState) {
        if self.permissions.len() <= SCAN && self.channels.len() <= SCAN {
            return;
        }
        let mut index = Index {
            seeds: seeds.clone(),
            permissions: HashTable::with_capacity(self.permissions.len()),
            numbers: HashTable::with_capacity(self.channels.len()),
            addresses: HashTable::with_capacity(self.channels.len()),
        };
        for (slot, permission) in (0..).zip(&self.permissions) {
            index
                .permissions
                .insert_unique(seeds.hash_one(permission.ip), slot, |slot| {
                    seeds.hash_one(self.permissions[*slot as usize].ip)
                });
        }
        for (slot, channel) in (0..).zip(&self.channels) {
            index
                .numbers
                .insert_unique(seeds.hash_one(channel.number), slot, |slot| {
                    seeds.hash_one(self.channels[*slot as usize].number)
                });
            index
                .addresses
                .insert_unique(seeds.hash_one(channel.peer), slot, |slot| {
                    seeds.hash_one(self.channels[*slot as usize].peer)
                });
        }
        self.index = Some(Box::new(index));
    }

    fn find_permission(&self, ip: IpAddr) -> Option<u32> {
        match &self.index {
            None => position(&self.permissions, |permission| permission.ip == ip),
            Some(index) => index
                .permissions
                .find(index.seeds.hash_one(ip), |slot| {
                    self.permissions[*slot as usize].ip == ip
                })
                .copied(),
        }
    }

    fn find_number(&self, number: u16) -> Option<u32> {
        match &self.index {
            None => position(&self.channels, |channel| channel.number == number),
            Some(index) => index
                .numbers
                .find(index.seeds.hash_one(number), |slot| {
                    self.channels[*slot as usize].number == number
                })
                .copied(),
        }
    }

    fn find_address(&self, peer: SocketAddr) -> Option<u32> {
        match &self.index {
            None => position(&self.channels, |channel| channel.peer == peer),
            Some(index) => index
                .addresses
                .find(index.seeds.hash_one(peer), |slot| {
                    self.channels[*slot as usize].peer == peer
                })
                .copied(),
        }
    }
}

/// Grows from one entry by doubling: most allocations have one or two peers, and a vector left to
/// itself starts with room for four.
fn push<T>(entries: &mut Vec<T>, entry: T) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact(entries.len().max(1));
    }
    entries.push(entry);
}

fn position<T>(entries: &[T], matches: impl FnMut(&T) -> bool) -> Option<u32> {
    entries.iter().position(matches).map(|slot| slot as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u16) -> IpAddr {
        IpAddr::from([192, 0, (n >> 8) as u8, n as u8])
    }

    fn seeds() -> RandomState {
        RandomState::with_seeds(1, 2, 3, 4)
    }

    #[test]
    fn many_peers_are_found_through_the_index_and_after_a_sweep() {
        let mut peers = Peers::default();
        for n in 0..1000 {
            let late = Mono(0).plus_secs(u64::from(n % 2) * 400);
            assert!(peers.bind(
                late,
                0x4000 + n,
                SocketAddr::new(ip(n), 9),
                Reach::default(),
                &seeds()
            ));
        }
        assert!(peers.index.is_some());
        let later = Mono(0).plus_secs(650);
        for sweep in [false, true] {
            if sweep {
                peers.sweep(later);
                assert_eq!(peers.permissions.len(), 500);
            }
            for n in 0..1000 {
                let odd = n % 2 == 1;
                assert_eq!(peers.permission(later, ip(n)).is_some(), odd);
                assert_eq!(peers.channel(later, 0x4000 + n).is_some(), odd);
                let inbound = peers.inbound(later, SocketAddr::new(ip(n), 9));
                assert_eq!(
                    inbound.and_then(|inbound| inbound.channel),
                    odd.then_some(0x4000 + n)
                );
            }
        }
        peers.sweep(later.plus_secs(600));
        assert!(peers.index.is_none() && peers.permissions.is_empty());
    }

    #[test]
    fn entries_stay_small() {
        assert!(size_of::<Permission>() <= 32);
        assert!(size_of::<Channel>() <= 56);
        assert!(size_of::<Peers>() <= 56);
    }

    #[test]
    fn expired_permissions_make_room_when_the_limit_is_hit() {
        let mut peers = Peers::default();
        peers.permit(Mono(0), ip(1), Reach::default(), &seeds());
        let before = Mono(0).plus_secs(300).0 - 1;
        assert!(!peers.room_for_permissions(Mono(before), &[ip(2)], 1));
        assert!(peers.room_for_permissions(Mono(before), &[ip(1), ip(1)], 1));
        assert!(peers.room_for_permissions(Mono(before + 1), &[ip(2)], 1));
    }
}
