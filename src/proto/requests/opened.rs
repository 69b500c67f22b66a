//! The second half of Allocate: the relay sockets are open, or cannot be had.

use super::allocate::success;
use crate::proto::allocation::{Allocation, Entry, Half, Limited, Opening, Pending, Protection};
use crate::proto::answer::{Refusal, finish};
use crate::proto::audit::{Audit, Traffic};
use crate::proto::counters::{Outcome, RequestMethod};
use crate::proto::peers::Peers;
use crate::proto::quota::QuotaGuard;
use crate::proto::registry::{relay_id, split};
use crate::proto::relay::{RESERVATION_LIFETIME, Relay};
use crate::proto::slab::Key;
use crate::proto::types::{
    Disposition, DropReason, Effect, Mono, Now, OpenError, OpenedRelay, RelayId, ReservationToken,
};
use crate::wire::{Builder, Class, ErrorCode, Method};

impl Relay {
    /// Takes the outcome of an [`Effect::OpenRelay`], and answers the Allocate once all of its
    /// sockets are there or are known not to come.
    ///
    /// A socket that nobody waits for any more (its client is gone) is given back by
    /// [`Effect::CloseRelay`].
    pub fn relay_opened(
        &mut self,
        now: Now,
        relay: RelayId,
        result: Result<OpenedRelay, OpenError>,
        reply: &mut [u8],
    ) -> Disposition {
        let (key, half) = split(relay);
        let Some(opening) = self
            .registry
            .pending_mut(key)
            .and_then(|pending| pending.openings[usize::from(half)].as_mut())
        else {
            if result.is_ok() {
                self.effect(Effect::CloseRelay { relay });
            }
            return Disposition::Drop(DropReason::NoRelay);
        };
        if let Opening::Asked(family) = *opening {
            *opening = Opening::Done(family, result);
        }
        let waiting = self.registry.pending_mut(key).is_some_and(|pending| {
            let mut openings = pending.openings.iter().flatten();
            openings.any(|opening| matches!(opening, Opening::Asked(_)))
        });
        if waiting {
            return Disposition::Waiting;
        }
        // Taken out and put back: what becomes of it depends on what it holds.
        let Some(Entry::Pending(pending)) = self.registry.get(key) else {
            return Disposition::Drop(DropReason::NoRelay);
        };
        let any = pending
            .openings
            .iter()
            .flatten()
            .any(|opening| matches!(opening, Opening::Done(_, Ok(_))));
        let answer = if any {
            self.make_allocation(now.mono, key, reply)
        } else {
            self.give_up(key, reply)
        };
        match answer {
            Ok(answer) => answer,
            Err(reason) => {
                self.counters.dropped(reason);
                Disposition::Drop(reason)
            }
        }
    }

    /// No socket at all: 508, and no trace of the attempt is left (RFC 8656 section 7.2).
    fn give_up(&mut self, key: Key, reply: &mut [u8]) -> Result<Disposition, DropReason> {
        let Some(Entry::Pending(pending)) = self.registry.remove(key) else {
            return Err(DropReason::NoRelay);
        };
        let Pending {
            flow,
            owner,
            protection,
            origin,
            openings,
            quota,
            presented,
            ..
        } = *pending;
        if let Some(token) = presented {
            let gone = |opening: &Opening| {
                matches!(opening, Opening::Done(_, Err(OpenError::NoReservation)))
            };
            if openings.iter().flatten().any(gone) {
                self.reservations.remove(&token);
                self.shared.reserved.end(&token);
            } else {
                self.shared.reserved.give_back(&token, quota);
            }
        }
        let refusal = Refusal::Code(ErrorCode::INSUFFICIENT_CAPACITY);
        let code = refusal.code().value();
        self.counters
            .request(RequestMethod::Allocate, Outcome::error(code));
        self.audit(Audit::AllocateRefused {
            flow,
            username: owner.username,
            code,
        });
        let mut builder = Builder::new(reply, Class::Error, Method::ALLOCATE, origin.transaction);
        builder.error_code(refusal.code(), true);
        Ok(Disposition::Reply {
            flow,
            len: finish(builder, Some(&protection))?,
            authenticated: true,
        })
    }

    fn make_allocation(
        &mut self,
        now: Mono,
        key: Key,
        reply: &mut [u8],
    ) -> Result<Disposition, DropReason> {
        let of_pair = self
            .registry
            .get(key)
            .is_some_and(|entry| entry.owner().pair.is_some());
        let bandwidth = self.policy.limits.bandwidth(of_pair);
        let promoted = self
            .registry
            .promote(key, |pending| allocation(now, pending, bandwidth));
        let Some(rest) = promoted else {
            return Err(DropReason::NoRelay);
        };
        let Some(allocation) = self.registry.live(key) else {
            return Err(DropReason::NoRelay);
        };
        let len = success(reply, allocation, &rest.protection, &self.policy)?;
        let (flow, owner, token) = (
            allocation.flow,
            allocation.owner.clone(),
            allocation.origin.token,
        );
        let relayed = allocation.relayed();
        if let Some(pair) = owner.pair() {
            for half in allocation.halves.iter().flatten() {
                self.shared.relays.set_pair(half.local, pair);
            }
        }
        let first = allocation.halves.iter().position(Option::is_some);
        if let Some(token) = rest.presented {
            self.reservations.remove(&token);
            self.shared.reserved.end(&token);
        }
        if let Some(token) = token {
            if let Some(place) = rest.reserved_quota {
                self.shared.reserved.hold(token, place);
            }
            self.reservations.insert(token);
            self.reserve_until(now.plus_secs(RESERVATION_LIFETIME), token);
        }
        self.arm(key);
        self.counters.allocation_created();
        self.counters
            .request(RequestMethod::Allocate, Outcome::SUCCESS);
        self.audit(Audit::Created {
            relay: relay_id(key, first.unwrap_or(0) as u8),
            flow,
            username: owner.username,
            relayed,
        });
        Ok(Disposition::Reply {
            flow,
            len,
            authenticated: true,
        })
    }
}

/// What is left of a pending Allocate besides the allocation.
struct Rest {
    protection: Protection,
    reserved_quota: Option<QuotaGuard>,
    presented: Option<ReservationToken>,
}

/// Makes an allocation of a pending one whose sockets are there.
fn allocation(now: Mono, pending: Pending, bandwidth: u64) -> (Box<Allocation>, Rest) {
    let mut origin = pending.origin;
    let expires = now.plus_secs(u64::from(origin.lifetime));
    let mut halves = [None; 2];
    for (half, opening) in halves.iter_mut().zip(pending.openings) {
        match opening {
            Some(Opening::Done(_, Ok(OpenedRelay { local, public }))) => {
                *half = Some(Half {
                    local,
                    public,
                    expires,
                });
            }
            // RFC 8656 section 7.2, item 9: one family of two is a success that says why the
            // other is missing.
            Some(Opening::Done(Some(family), Err(_))) => {
                origin.missing = Some((family, ErrorCode::INSUFFICIENT_CAPACITY));
            }
            _ => {}
        }
    }
    let allocation = Box::new(Allocation {
        flow: pending.flow,
        halves,
        peers: Peers::default(),
        limited: Limited::new(bandwidth, pending.place),
        traffic: Traffic::default(),
        armed: Mono(0),
        owner: pending.owner,
        proof: pending.proof,
        created: now,
        origin,
        peers_seen: 0,
        _quota: pending.quota,
    });
    let rest = Rest {
        protection: pending.protection,
        reserved_quota: pending.reserved_quota,
        presented: pending.presented,
    };
    (allocation, rest)
}
