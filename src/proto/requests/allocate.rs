//! Allocate: RFC 8656 section 7.2, in its order.

use rand_core::Rng;

use super::{Answer, Request};
use crate::proto::allocation::{Allocation, Entry, Opening, Origin, Owner, Pending, Protection};
use crate::proto::answer::{Refusal, finish};
use crate::proto::audit::Audit;
use crate::proto::pairs::{self, ALLOCATIONS_PER_SIDE};
use crate::proto::places::{Held, PlaceError};
use crate::proto::policy::{DefaultFamily, Policy};
use crate::proto::quota::QuotaGuard;
use crate::proto::registry::relay_id;
use crate::proto::relay::Relay;
use crate::proto::types::{DropReason, Effect, Family, Flow, OpenSpec, ReservationToken};
use crate::proto::waits::WaitError;
use crate::wire::{Attrs, Builder, Class, ErrorCode, Method, attr};

/// What a well-formed Allocate asks for.
struct Wanted {
    /// The family of the first relayed transport address; `None` with a token, whose socket has
    /// one already.
    family: Option<Family>,
    /// ADDITIONAL-ADDRESS-FAMILY: an IPv6 address besides the IPv4 one.
    additional: bool,
    /// EVEN-PORT, and its R bit.
    even: Option<bool>,
    token: Option<ReservationToken>,
    lifetime: u32,
    /// Which port a side of a pair gets, if it is free.
    place: Option<u64>,
}

impl Wanted {
    /// The checks of RFC 8656 section 7.2 that need nothing but the request, in order.
    fn read(
        attrs: &Attrs<'_>,
        flow: &Flow,
        policy: &Policy,
        has_family: impl Fn(Family) -> bool,
    ) -> Result<Self, Refusal> {
        // REQUESTED-TRANSPORT: missing or malformed 400, anything but UDP 442.
        match attrs.requested_transport()? {
            None => return Err(ErrorCode::BAD_REQUEST.into()),
            Some(attr::TRANSPORT_UDP) => {}
            Some(_) => return Err(ErrorCode::UNSUPPORTED_TRANSPORT.into()),
        }
        // DONT-FRAGMENT is supported, so that it only has to be well-formed.
        attrs.dont_fragment()?;
        let lifetime = policy.limits.lifetime(attrs.lifetime()?);
        let even = attrs.even_port()?;
        let requested = attrs.requested_address_family()?;
        let additional = attrs.additional_address_family()?;
        // A token already stands for a port and a family: EVEN-PORT or a family with it is 400.
        if let Some(token) = attrs.reservation_token()? {
            if even.is_some() || requested.is_some() || additional.is_some() {
                return Err(ErrorCode::BAD_REQUEST.into());
            }
            return Ok(Self {
                family: None,
                additional: false,
                even: None,
                token: Some(token),
                lifetime,
                place: None,
            });
        }
        // Both family attributes: 400.
        if requested.is_some() && additional.is_some() {
            return Err(ErrorCode::BAD_REQUEST.into());
        }
        // An address family that the server does not have: 440.
        let family = match (requested, policy.default_family) {
            (Some(attr::FAMILY_IPV4), _) => Family::V4,
            (Some(attr::FAMILY_IPV6), _) => Family::V6,
            (Some(_), _) => return Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED.into()),
            (None, _) if additional.is_some() => Family::V4,
            (None, DefaultFamily::Fixed(family)) => family,
            (None, DefaultFamily::Client) => Family::of(&flow.client.ip()),
        };
        if additional.is_none() && !has_family(family) {
            return Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED.into());
        }
        // ADDITIONAL-ADDRESS-FAMILY is IPv6 or 400; with it EVEN-PORT may not reserve.
        if let Some(additional) = additional {
            if additional != attr::FAMILY_IPV6 || even == Some(true) {
                return Err(ErrorCode::BAD_REQUEST.into());
            }
            // One of the two families is enough (item 9); with neither there is nothing to give.
            if !has_family(Family::V4) && !has_family(Family::V6) {
                return Err(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED.into());
            }
        }
        Ok(Self {
            family: Some(family),
            additional: additional.is_some(),
            even,
            token: None,
            lifetime,
            place: None,
        })
    }

    /// The relay socket for one family.
    fn spec(&self, family: Family, reserve: Option<ReservationToken>) -> OpenSpec {
        match (self.even, reserve) {
            (Some(_), Some(token)) => OpenSpec::EvenAndReserve { family, token },
            (Some(_), None) => OpenSpec::Even { family },
            (None, _) => match self.place {
                Some(place) => OpenSpec::At { family, place },
                None => OpenSpec::Any { family },
            },
        }
    }
}

impl Relay {
    pub(super) fn allocate(
        &mut self,
        request: &Request<'_>,
        reply: &mut [u8],
    ) -> Result<Answer, Refusal> {
        if let Some(key) = self.registry.find(&request.flow)
            && let Some(entry) = self.registry.get(key)
        {
            return known(entry, request, &self.policy, reply);
        }
        let relays = &self.shared.relays;
        let mut wanted = Wanted::read(&request.attrs, &request.flow, &self.policy, |family| {
            relays.has_family(family)
        })?;
        if request.owner.pair.is_some() {
            wanted.place = Some(pairs::place(&request.owner.user_id));
        }
        // A reservation outlives its allocation and is found by its token: nothing that is bound
        // to a pair.
        if request.owner.pair.is_some() && (wanted.token.is_some() || wanted.even == Some(true)) {
            return Err(ErrorCode::INSUFFICIENT_CAPACITY.into());
        }
        // 486 (RFC 8656 section 7.2), then 300 or 508 while draining. Running out of ports or a
        // token that nobody holds shows when the sockets are opened, and is 508 then.
        let (quota, reserved_quota) = self.take_quota(&request.owner, &wanted).map_err(|code| {
            self.refused(request, code);
            Refusal::Code(code)
        })?;
        let place = self.pair_place(request, &wanted).map_err(|code| {
            self.refused(request, code);
            Refusal::Code(code)
        })?;
        if let Some(drain) = self.drain.clone() {
            if let Some(token) = wanted.token {
                self.shared.reserved.give_back(&token, quota);
            }
            return Err(
                match drain.alternate(request.flow.client, request.flow.local) {
                    Some(sibling) => Refusal::Alternate(sibling),
                    None => ErrorCode::INSUFFICIENT_CAPACITY.into(),
                },
            );
        }
        let reserve = (wanted.even == Some(true)).then(|| self.new_token());
        let mut missing = None;
        let mut specs = [None; 2];
        match (wanted.token, wanted.family) {
            (Some(token), _) => specs[0] = Some((None, OpenSpec::Reserved { token })),
            (None, Some(family)) if !wanted.additional => {
                specs[0] = Some((Some(family), wanted.spec(family, reserve)));
            }
            _ => {
                for (slot, family) in specs.iter_mut().zip([Family::V4, Family::V6]) {
                    if self.shared.relays.has_family(family) {
                        *slot = Some((Some(family), wanted.spec(family, None)));
                    } else {
                        missing = Some((family, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED));
                    }
                }
            }
        }
        let key = self.registry.insert_pending(Box::new(Pending {
            flow: request.flow,
            owner: request.owner.clone(),
            proof: request.proof.clone(),
            protection: request.protection.clone(),
            origin: Origin {
                transaction: request.message.transaction_id(),
                lifetime: wanted.lifetime,
                token: reserve,
                missing,
            },
            openings: specs.map(|spec| spec.map(|(family, _)| Opening::Asked(family))),
            quota,
            place,
            reserved_quota,
            presented: wanted.token,
        }));
        for (half, spec) in (0..).zip(specs) {
            if let Some((_, spec)) = spec {
                let relay = relay_id(key, half);
                self.effect(Effect::OpenRelay { relay, spec });
            }
        }
        Ok(Answer::Waiting)
    }

    /// The places in the quota that an Allocate needs: 486 when the owner or the server has no
    /// more. A port that EVEN-PORT reserves takes one too, or churning reservations would hold
    /// any number of ports; it passes to the allocation that presents the token.
    fn take_quota(
        &mut self,
        owner: &Owner,
        wanted: &Wanted,
    ) -> Result<(QuotaGuard, Option<QuotaGuard>), ErrorCode> {
        let (shared, limits) = (&self.shared, &self.policy.limits);
        let per_user = match (&owner.pair, limits.allocations_per_user) {
            (Some(_), 0) => ALLOCATIONS_PER_SIDE,
            (Some(_), limit) => limit.min(ALLOCATIONS_PER_SIDE),
            (None, limit) => limit,
        };
        let take = || {
            shared
                .quotas
                .take(&owner.user_id, per_user, limits.allocations)
                .map_err(|_| ErrorCode::QUOTA_REACHED)
        };
        let held = wanted
            .token
            .and_then(|token| shared.reserved.take(&token, &owner.user_id));
        let quota = match held {
            Some(quota) => quota,
            None => take()?,
        };
        let reserved = match wanted.even {
            Some(true) => Some(take()?),
            _ => None,
        };
        Ok((quota, reserved))
    }

    /// The place of an allocation among those of pairs: 403 for one whose wait is over, 486 when
    /// it has its allocation already, or its source has its part, 508 when all pairs have theirs.
    fn pair_place(
        &self,
        request: &Request<'_>,
        wanted: &Wanted,
    ) -> Result<Option<Held>, ErrorCode> {
        let Some(scope) = &request.owner.pair else {
            return Ok(None);
        };
        let (shared, flow) = (&self.shared, request.flow);
        let each = [Family::V4, Family::V6];
        let families = each.map(|family| {
            let wanted = wanted.additional || wanted.family == Some(family);
            wanted && shared.relays.has_family(family)
        });
        let wait = match scope.is_waiting() {
            false => None,
            true => {
                let taken = shared.waits.take(scope.pair, flow, families);
                Some(taken.map_err(|error| match error {
                    WaitError::Over => ErrorCode::FORBIDDEN,
                    WaitError::Taken => ErrorCode::QUOTA_REACHED,
                })?)
            }
        };
        let capacity = each.map(|family| shared.relays.capacity_of(family));
        let limits = &self.policy.limits.pairs;
        let place = shared
            .places
            .take(flow.client.ip(), families, limits, capacity);
        let place = place.map_err(|error| match error {
            PlaceError::Source => ErrorCode::QUOTA_REACHED,
            PlaceError::All => ErrorCode::INSUFFICIENT_CAPACITY,
        })?;
        Ok(Some(Box::new((place, wait))))
    }

    /// Eight bytes that nobody can guess.
    fn new_token(&mut self) -> ReservationToken {
        loop {
            let mut token = [0; 8];
            self.rng.fill_bytes(&mut token);
            if !self.shared.reserved.contains(&token) {
                return token;
            }
        }
    }

    pub(super) fn refused(&mut self, request: &Request<'_>, code: ErrorCode) {
        self.audit(Audit::AllocateRefused {
            flow: request.flow,
            username: request.owner.username.clone(),
            code: code.value(),
        });
    }
}

/// An Allocate on a 5-tuple that has an allocation: the same success again for a retransmission,
/// 437 for anything else (RFC 8656 section 7.2).
fn known(
    entry: &Entry,
    request: &Request<'_>,
    policy: &Policy,
    reply: &mut [u8],
) -> Result<Answer, Refusal> {
    let (owner, origin) = match entry {
        Entry::Live(allocation) => (&allocation.owner, &allocation.origin),
        Entry::Pending(pending) => (&pending.owner, &pending.origin),
    };
    if origin.transaction != request.message.transaction_id() || *owner != request.owner {
        return Err(ErrorCode::ALLOCATION_MISMATCH.into());
    }
    match entry {
        Entry::Live(allocation) => success(reply, allocation, &request.protection, policy)
            .map(Answer::Success)
            .map_err(|_| ErrorCode::SERVER_ERROR.into()),
        Entry::Pending(_) => Ok(Answer::Waiting),
    }
}

/// Writes the success response (RFC 8656 section 7.2), the same for every retransmission.
pub(super) fn success(
    reply: &mut [u8],
    allocation: &Allocation,
    protection: &Protection,
    policy: &Policy,
) -> Result<usize, DropReason> {
    let origin = &allocation.origin;
    let mut builder = Builder::new(reply, Class::Success, Method::ALLOCATE, origin.transaction);
    for half in allocation.halves.iter().flatten() {
        builder.xor_address(attr::XOR_RELAYED_ADDRESS, half.public);
    }
    if let Some((family, code)) = origin.missing {
        builder.address_error_code(family_number(family), code);
    }
    builder.u32(attr::LIFETIME, origin.lifetime);
    if let Some(token) = origin.token {
        builder.attribute(attr::RESERVATION_TOKEN, &token);
    }
    builder.xor_address(attr::XOR_MAPPED_ADDRESS, allocation.flow.client);
    if let Some(software) = &policy.software {
        builder.attribute(attr::SOFTWARE, software.as_bytes());
    }
    finish(builder, Some(protection))
}

/// A family as REQUESTED-ADDRESS-FAMILY and ADDRESS-ERROR-CODE write it.
pub(super) const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => attr::FAMILY_IPV4,
        Family::V6 => attr::FAMILY_IPV6,
    }
}
