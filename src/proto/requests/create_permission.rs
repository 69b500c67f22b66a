//! CreatePermission: RFC 8656 section 10.2. All of the peers or none.

use std::net::{IpAddr, SocketAddr};

use super::{Answer, Request};
use crate::proto::answer::Refusal;
use crate::proto::peers::Reach;
use crate::proto::relay::Relay;
use crate::proto::types::Mono;
use crate::wire::ErrorCode;

impl Relay {
    pub(super) fn create_permission(
        &mut self,
        now: Mono,
        request: &Request<'_>,
        reply: &mut [u8],
    ) -> Result<Answer, Refusal> {
        let key = self.owned(request)?;
        // RFC 8656 section 10.2, for all peers before anything is installed: malformed or none
        // 400, then family 443, then policy 403, then capacity 508.
        let peers: Vec<SocketAddr> = request.attrs.peers().collect::<Result<_, _>>()?;
        if peers.is_empty() {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        for peer in &peers {
            self.check_family(now, key, *peer)?;
        }
        let policy = std::sync::Arc::clone(&self.policy);
        let mut installs: Vec<(IpAddr, Reach)> = Vec::with_capacity(peers.len());
        for peer in peers {
            let relays = &self.shared.relays;
            // The port says nothing here and may be 0. Where one is named it still matters for
            // the exemption of relayed transport addresses, which is for IP and port.
            let renewed = self.registry.live(key).is_some_and(|allocation| {
                let held = allocation.peers.permission(now, peer.ip());
                held.is_some_and(|reach| reach.exempt)
            });
            let verdict = match peer.port() {
                _ if renewed => policy.gate.judge_renewal(peer.ip(), relays),
                0 => policy.gate.judge_permission(peer.ip(), relays),
                _ => policy.gate.judge(peer, relays),
            };
            // A pair may open its way to the other side's allocation before that one is made.
            let any_port = renewed || peer.port() == 0 && relays.is_own_ip(peer.ip());
            installs.push((peer.ip(), self.reach(request, peer, verdict, any_port)?));
        }
        let ips: Vec<IpAddr> = installs.iter().map(|(ip, _)| *ip).collect();
        let seeds = self.registry.seeds().clone();
        let Some(allocation) = self.registry.live_mut(key) else {
            return Err(ErrorCode::ALLOCATION_MISMATCH.into());
        };
        let limit = policy.limits.permissions_per_allocation;
        if !allocation.peers.room_for_permissions(now, &ips, limit) {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY.into());
        }
        for (ip, reach) in installs {
            let new = allocation.peers.permit(now, ip, reach, &seeds);
            allocation.peers_seen = allocation.peers_seen.saturating_add(u32::from(new));
        }
        request.success(reply, |_| {})
    }
}
