//! ChannelBind: RFC 8656 section 12.2.

use super::{Answer, Request};
use crate::proto::answer::Refusal;
use crate::proto::relay::Relay;
use crate::proto::types::Mono;
use crate::wire::{CHANNELS, ErrorCode, RFC5766_CHANNELS};

impl Relay {
    pub(super) fn channel_bind(
        &mut self,
        now: Mono,
        request: &Request<'_>,
        reply: &mut [u8],
    ) -> Result<Answer, Refusal> {
        let key = self.owned(request)?;
        // RFC 8656 section 12.2: both attributes, and a number that may be bound, or 400.
        let (Some(number), Some(peer)) = (request.attrs.channel_number()?, request.attrs.peer()?)
        else {
            return Err(ErrorCode::BAD_REQUEST.into());
        };
        // RFC 8656 section 12 ends the numbers at 0x4FFF. A client that passes over the offer of
        // PASSWORD-ALGORITHMS is one of RFC 5389 and RFC 5766, whose numbers end at 0x7FFF.
        let old_client = request.message.claims().password_algorithm.is_none();
        let numbers = if old_client && self.policy.rfc5766_channels {
            RFC5766_CHANNELS
        } else {
            CHANNELS
        };
        if !numbers.contains(&number) {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        let Some(allocation) = self.registry.live(key) else {
            return Err(ErrorCode::ALLOCATION_MISMATCH.into());
        };
        // Same number for another peer, or same peer under another number: 400.
        if allocation.peers.check_bind(now, number, peer).is_err() {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        self.check_family(now, key, peer)?;
        let verdict = self.policy.gate.judge(peer, &self.shared.relays);
        let reach = self.reach(request, peer, verdict, false)?;
        let seeds = self.registry.seeds().clone();
        let limits = &self.policy.limits;
        let (channels, permissions) = (
            limits.channels_per_allocation,
            limits.permissions_per_allocation,
        );
        let Some(allocation) = self.registry.live_mut(key) else {
            return Err(ErrorCode::ALLOCATION_MISMATCH.into());
        };
        let peers = &mut allocation.peers;
        if !peers.room_for_channel(now, number, channels)
            || !peers.room_for_permissions(now, &[peer.ip()], permissions)
        {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY.into());
        }
        let new = peers.bind(now, number, peer, reach, &seeds);
        allocation.peers_seen = allocation.peers_seen.saturating_add(u32::from(new));
        request.success(reply, |_| {})
    }
}
