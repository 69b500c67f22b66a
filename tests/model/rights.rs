//! The steps on an allocation that is there: Refresh, CreatePermission and ChannelBind.

use turnserver::wire::{Method, attr};

use crate::ops::Peer;
use crate::reference::*;
use crate::run::Run;

impl Run {
    /// 437 and 441, the same for every request on an allocation.
    fn ownership(&self, client: usize, wrong: bool) -> Option<u16> {
        match self.model.allocations.get(&client) {
            None => Some(437),
            Some(allocation) if allocation.user != Self::user_of(client, wrong) => Some(441),
            Some(_) => None,
        }
    }

    pub fn refresh(
        &mut self,
        client: usize,
        wrong: bool,
        lifetime: Option<u32>,
        family: Option<u8>,
    ) {
        self.settle();
        let now = self.now();
        let named = family.map(|family| match family {
            1 => Some(Family::V4),
            2 => Some(Family::V6),
            _ => None,
        });
        let missing = self
            .model
            .allocations
            .get(&client)
            .is_some_and(|allocation| {
                named.is_some_and(|named| named.is_none_or(|f| allocation.half(now, f).is_none()))
            });
        let expected = match self.ownership(client, wrong) {
            Some(code) => code,
            None if missing => 443,
            None => 0,
        };
        let (_, response) = self.request(client, wrong, Method::REFRESH, |b| {
            if let Some(lifetime) = lifetime {
                b.u32(attr::LIFETIME, lifetime);
            }
            if let Some(family) = family {
                b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
            }
        });
        assert_eq!(response.code(), expected);
        if expected != 0 {
            return;
        }
        let granted = match lifetime {
            Some(0) => 0,
            lifetime => lifetime.unwrap_or(600).clamp(600, 3600),
        };
        assert_eq!(response.lifetime(), granted);
        let allocation = self
            .model
            .allocations
            .get_mut(&client)
            .expect("checked above");
        for half in &mut allocation.halves {
            let this = crate::reference::family(half.relayed.ip());
            if named.is_none_or(|named| named == Some(this)) {
                half.expires = now + u64::from(granted) * SECOND;
            }
        }
        // What was deleted is gone at once.
        self.model.settle(now);
    }

    pub fn permit(&mut self, client: usize, wrong: bool, peers: &[Peer]) {
        self.settle();
        let now = self.now();
        let peers: Vec<_> = peers.iter().map(|peer| self.peer(client, *peer)).collect();
        let expected = match self.ownership(client, wrong) {
            Some(code) => code,
            None => {
                let allocation = &self.model.allocations[&client];
                let mut all = allocation.live_permissions(now);
                all.extend(peers.iter().map(|peer| peer.ip()));
                if peers.is_empty() {
                    400
                } else if peers
                    .iter()
                    .any(|peer| allocation.half(now, family(peer.ip())).is_none())
                {
                    443
                } else if peers
                    .iter()
                    .any(|peer| self.gate_permission(client, *peer).is_none())
                {
                    403
                } else if all.len() > PERMISSIONS
                    && all.len() > allocation.live_permissions(now).len()
                {
                    508
                } else {
                    0
                }
            }
        };
        let verdicts: Vec<_> = peers
            .iter()
            .map(|peer| self.gate_permission(client, *peer))
            .collect();
        let (_, response) = self.request(client, wrong, Method::CREATE_PERMISSION, |b| {
            for peer in &peers {
                b.xor_address(attr::XOR_PEER_ADDRESS, *peer);
            }
        });
        assert_eq!(response.code(), expected, "{peers:?}");
        if expected != 0 {
            return;
        }
        let allocation = self
            .model
            .allocations
            .get_mut(&client)
            .expect("checked above");
        for (peer, verdict) in peers.iter().zip(verdicts) {
            let permission = Permission {
                expires: now + 300 * SECOND,
                exempt: verdict == Some(true),
            };
            allocation.permissions.insert(peer.ip(), permission);
        }
    }

    pub fn bind(&mut self, client: usize, number: u16, peer: Peer) {
        self.settle();
        let now = self.now();
        let peer = self.peer(client, peer);
        let verdict = self.gate(peer, true);
        let expected = match self.ownership(client, false) {
            Some(code) => code,
            None => {
                let allocation = &self.model.allocations[&client];
                let by_number = allocation.channel(now, number).map(|found| found.0);
                let by_peer = allocation.channel_of(now, peer);
                let refresh = by_number == Some(peer);
                let mut permissions = allocation.live_permissions(now);
                let before = permissions.len();
                permissions.insert(peer.ip());
                if number > 0x4FFF
                    || by_number.is_some_and(|bound| bound != peer)
                    || by_peer.is_some_and(|bound| bound != number)
                {
                    400
                } else if allocation.half(now, family(peer.ip())).is_none() {
                    443
                } else if verdict.is_none() {
                    403
                } else if !refresh && allocation.live_channels(now) >= CHANNELS
                    || permissions.len() > before.max(PERMISSIONS)
                {
                    508
                } else {
                    0
                }
            }
        };
        let (_, response) = self.request(client, false, Method::CHANNEL_BIND, |b| {
            b.channel_number(number);
            b.xor_address(attr::XOR_PEER_ADDRESS, peer);
        });
        assert_eq!(response.code(), expected, "{number:#x} {peer}");
        if expected != 0 {
            return;
        }
        let exempt = verdict == Some(true);
        let allocation = self
            .model
            .allocations
            .get_mut(&client)
            .expect("checked above");
        allocation
            .channels
            .retain(|_, channel| channel.1 > now && channel.0 != peer);
        allocation
            .channels
            .insert(number, (peer, now + 600 * SECOND, exempt));
        let permission = Permission {
            expires: now + 300 * SECOND,
            exempt,
        };
        allocation.permissions.insert(peer.ip(), permission);
    }
}
