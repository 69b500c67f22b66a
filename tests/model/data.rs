//! The steps that relay data.

use std::net::SocketAddr;

use turnserver::proto::{DropReason, RelayId};

use crate::harness::*;
use crate::ops::Peer;
use crate::reference::*;
use crate::run::Run;

impl Run {
    /// A client's allocation, if it has not expired.
    fn live(&self, client: usize) -> Option<&Allocation> {
        let held = self.model.allocations.get(&client);
        held.filter(|held| held.is_live(self.now()))
    }

    pub fn send(&mut self, client: usize, peer: Peer) {
        let peer = self.peer(client, peer);
        if Self::is_own(peer) {
            self.settle();
        }
        let now = self.now();
        let allocation = self.live(client);
        let expected = match allocation {
            None => Err(DropReason::NoAllocation),
            Some(a) if a.half(now, family(peer.ip())).is_none() => Err(DropReason::PeerFamily),
            Some(a) => match a.permission(now, peer.ip()) {
                None => Err(DropReason::NoPermission),
                Some(_) if peer.port() == 0 => Err(DropReason::PeerDenied),
                Some(permission) => Ok(permission.exempt),
            },
        };
        let sender = &mut self.clients[client][0];
        let outcome = self.world.send(sender, peer, b"data");
        self.count(format_args!("Send: {}", outcome.kind()));
        self.check_up(client, peer, expected, &outcome);
    }

    pub fn channel(&mut self, client: usize, number: u16) {
        let peek = |run: &Self| {
            let allocation = run.model.allocations.get(&client);
            allocation.and_then(|a| a.channel(run.now(), number))
        };
        if peek(self).is_some_and(|(peer, _)| Self::is_own(peer)) {
            self.settle();
        }
        let now = self.now();
        let allocation = self.live(client);
        let (peer, expected) = match (allocation, peek(self)) {
            (None, _) => (addr("0.0.0.0:0"), Err(DropReason::NoAllocation)),
            (Some(_), None) => (addr("0.0.0.0:0"), Err(DropReason::NoChannel)),
            (Some(_), Some((peer, exempt))) => (peer, Ok(exempt)),
        };
        let outcome = self
            .world
            .channel(&self.clients[client][0], number, b"data");
        self.count(format_args!("ChannelData: {}", outcome.kind()));
        if expected == Err(DropReason::NoChannel)
            && outcome == Outcome::Drop(DropReason::NoAllocation)
        {
            // One half has expired and its timer has not fired: the channel is of that half.
            assert!(self.model.is_unsettled(now));
            return;
        }
        self.check_up(client, peer, expected, &outcome);
    }

    /// What becomes of data towards a peer.
    fn check_up(
        &mut self,
        client: usize,
        peer: SocketAddr,
        expected: Result<bool, DropReason>,
        outcome: &Outcome,
    ) {
        let exempt = match expected {
            Ok(exempt) => exempt,
            Err(reason) => return assert_eq!(outcome.drop_reason(), reason, "{peer}"),
        };
        let now = self.now();
        let from = self.model.allocations[&client].half(now, family(peer.ip()));
        let from = from.expect("checked above").relayed;
        let owner = if Self::is_own(peer) {
            self.model.owner_of(peer)
        } else {
            None
        };
        match owner {
            Some(owner) if owner % 2 == client % 2 => self.check_down(owner, from, outcome),
            Some(_) => {
                let local = if peer.is_ipv4() { LOCAL_V4 } else { LOCAL_V6 };
                let local = SocketAddr::new(ip(local), peer.port());
                assert_eq!(outcome.to_peer(), (local, &b"data"[..]));
            }
            None if exempt => assert_eq!(outcome.drop_reason(), DropReason::PeerDenied),
            None => {
                assert_eq!(outcome.to_peer(), (peer, &b"data"[..]));
                let Outcome::ToPeer { relay, .. } = outcome else {
                    unreachable!("checked above");
                };
                assert_eq!(Some((client % 2, *relay)), self.relay_of(from));
            }
        }
    }

    /// What becomes of data from a peer, already known by its public address.
    fn check_down(&self, client: usize, peer: SocketAddr, outcome: &Outcome) {
        let now = self.now();
        let allocation = &self.model.allocations[&client];
        let own = Self::is_own(peer) && self.model.owner_of(peer).is_some();
        let Some(permission) = allocation.permission(now, peer.ip()) else {
            return assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
        };
        if permission.exempt && !own {
            return assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
        }
        assert_eq!(outcome.to_flow(), self.flow(client));
        match allocation.channel_of(now, peer) {
            Some(number) => assert_eq!(outcome.channel(), (number, &b"data"[..])),
            None => assert_eq!(outcome.indication(), (peer, &b"data"[..])),
        }
    }

    fn relay_of(&self, relayed: SocketAddr) -> Option<(usize, RelayId)> {
        let mut leases = self.world.net.leases.iter();
        leases
            .find(|(_, lease)| lease.public() == relayed)
            .map(|(id, _)| *id)
    }

    pub fn arrive(&mut self, client: usize, half: u8, peer: Peer, local: bool) {
        let peer = self.peer(client, peer);
        if Self::is_own(peer) {
            self.settle();
        }
        let now = self.now();
        let Some(allocation) = self.model.allocations.get(&client) else {
            return;
        };
        let half = allocation.halves[usize::from(half) % allocation.halves.len()];
        if peer.is_ipv4() != half.relayed.is_ipv4() {
            return;
        }
        let Some((shard, relay)) = self.relay_of(half.relayed) else {
            assert!(half.expires <= now);
            return;
        };
        // A socket of this server is seen by its local address when it is on this host.
        let source = match local && Self::is_own(peer) && peer.is_ipv4() {
            true => SocketAddr::new(ip(LOCAL_V4), peer.port()),
            false => peer,
        };
        let live = Self::is_own(peer) && self.model.owner_of(peer).is_some();
        let outcome = self.world.from_peer(shard, relay, source, b"data");
        self.count(format_args!("Arrive: {}", outcome.kind()));
        if source.port() == 0 {
            assert_eq!(outcome.drop_reason(), DropReason::BadSource);
        } else if half.expires <= now {
            assert_eq!(outcome.drop_reason(), DropReason::NoRelay);
        } else if source != peer && !live {
            // The local address stands for nobody.
            assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
        } else {
            self.check_down(client, peer, &outcome);
        }
    }
}
