//! Refresh: RFC 8656 section 8.2.

use super::{Answer, Request};
use crate::proto::answer::Refusal;
use crate::proto::audit::EndReason;
use crate::proto::relay::Relay;
use crate::proto::types::{Family, Mono};
use crate::wire::{ErrorCode, attr};

impl Relay {
    pub(super) fn refresh(
        &mut self,
        now: Mono,
        request: &Request<'_>,
        reply: &mut [u8],
    ) -> Result<Answer, Refusal> {
        // 437 also for deleting what is not there, which clients take as success.
        let key = self.owned(request)?;
        let requested = request.attrs.lifetime()?;
        // A family named is the one half that is meant; one that the allocation does not have is
        // 443. None named: all of it.
        let only = match request.attrs.requested_address_family()? {
            None => None,
            Some(attr::FAMILY_IPV4) => Some(Family::V4),
            Some(attr::FAMILY_IPV6) => Some(Family::V6),
            Some(_) => return Err(ErrorCode::PEER_FAMILY_MISMATCH.into()),
        };
        let Some(allocation) = self.registry.live_mut(key) else {
            return Err(ErrorCode::ALLOCATION_MISMATCH.into());
        };
        if only.is_some_and(|family| allocation.half_of(now, family).is_none()) {
            return Err(ErrorCode::PEER_FAMILY_MISMATCH.into());
        }
        let meant = |family: Family| only.is_none_or(|only| only == family);
        // The rule of Allocate, except that 0 deletes.
        let lifetime = match requested {
            Some(0) => 0,
            requested => self.policy.limits.lifetime(requested),
        };
        let mut left = false;
        let mut closing = [false; 2];
        for (half, close) in allocation.halves.iter_mut().zip(&mut closing) {
            let Some(half) = half.as_mut().filter(|half| half.is_live(now)) else {
                continue;
            };
            match (meant(half.family()), lifetime) {
                (true, 0) => *close = true,
                (true, _) => {
                    half.expires = now.plus_secs(u64::from(lifetime));
                    left = true;
                }
                (false, _) => left = true,
            }
        }
        allocation.peers.sweep(now);
        if left {
            for (half, _) in (0..).zip(closing).filter(|(_, close)| *close) {
                self.close_half(key, half);
            }
            self.arm(key);
        } else {
            self.end(now, key, EndReason::Deleted);
        }
        request.success(reply, |builder| {
            builder.u32(attr::LIFETIME, lifetime);
        })
    }
}
