//! The long-term credential mechanism, in the order of RFC 8489 section 9.2.4.

use super::allocation::{Owner, Proof};
use super::answer::{OFFERED, OFFERED_VALUE, finish};
use super::credentials::UserClaim;
use super::nonce::{Features, NonceState, Nonces};
use super::policy::{Policy, Shared};
use super::types::{DropReason, Flow, Now};
use crate::wire::{
    Builder, Class, ErrorCode, Integrity, IntegrityError, Message, PasswordAlgorithm, Verified,
    attr,
};

/// A request whose sender is proven, with the attributes that its integrity covers.
pub(crate) struct Proven<'a> {
    pub(crate) owner: Owner,
    pub(crate) proof: Proof,
    pub(crate) integrity: Integrity,
    pub(crate) attrs: Verified<'a>,
}

/// Under what a request is judged.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) policy: &'a Policy,
    pub(crate) policy_number: u32,
    pub(crate) now: Now,
    /// The owner of the allocation on the request's 5-tuple, and what proved it.
    pub(crate) known: Option<(&'a Owner, &'a Proof)>,
}

impl Context<'_> {
    /// Who sent a request, when it is the owner of the allocation and the former proof still
    /// holds. Tells a client with an allocation nothing about other users.
    fn recall<'m>(
        &self,
        message: &Message<'m>,
        user: UserClaim<'_>,
        algorithm: PasswordAlgorithm,
    ) -> Option<(Owner, Proof, Verified<'m>)> {
        let (owner, proof) = self.known?;
        let holds = user == UserClaim::Name(owner.username.as_bytes())
            && algorithm == proof.algorithm
            && self.now.unix < proof.expires
            && self.policy_number == proof.policy;
        if !holds {
            return None;
        }
        let attrs = message.verify(&proof.key).ok()?;
        Some((owner.clone(), proof.clone(), attrs))
    }

    /// Who sent a request, by the credentials that there are.
    fn look_up<'m>(
        &self,
        message: &Message<'m>,
        user: UserClaim<'_>,
        algorithm: PasswordAlgorithm,
    ) -> Result<(Owner, Proof, Verified<'m>), Unproven> {
        // Unknown user: 401; wrong key: 401. Both take the same way through `check`.
        let mut verdict = Err(IntegrityError::Mismatch);
        let credentials = &self.policy.credentials;
        let identity = credentials.authenticate(user, algorithm, self.now.unix, &mut |key| {
            verdict = message.verify(key);
            verdict.is_ok()
        });
        if matches!(verdict, Err(IntegrityError::Malformed)) {
            return Err(Unproven::Malformed);
        }
        let (Some(identity), Ok(attrs)) = (identity, verdict) else {
            return Err(Unproven::Wrong);
        };
        let owner = Owner {
            username: identity.username,
            user_id: identity.user_id,
            pair: identity.pair,
        };
        let proof = Proof {
            key: identity.key,
            expires: identity.expires.unwrap_or(u64::MAX),
            algorithm,
            policy: self.policy_number,
        };
        Ok((owner, proof, attrs))
    }
}

/// Why a request is not processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unproven {
    /// No integrity attribute: 401 with a challenge.
    Anonymous,
    /// What came cannot be a credential: 400 without integrity.
    Malformed,
    /// Unknown user or wrong password, which nobody can tell apart: 401 with a challenge.
    Wrong,
    /// Right, but the nonce is used up: 438 with a challenge.
    Stale,
}

/// Proves who sent a request.
pub(crate) fn authenticate<'a>(
    context: &Context<'_>,
    flow: &Flow,
    message: &Message<'a>,
) -> Result<Proven<'a>, Unproven> {
    // RFC 8489 section 9.2.4, in its order. Without integrity: 401.
    let Some(integrity) = message.integrity() else {
        return Err(Unproven::Anonymous);
    };
    // Integrity, but no USERNAME or USERHASH, no REALM or no NONCE: 400. So are values longer
    // than they may be (sections 14.3, 14.4, 14.9, 14.10).
    let claims = message.claims();
    let (Some(realm), Some(nonce)) = (claims.realm, claims.nonce) else {
        return Err(Unproven::Malformed);
    };
    if !claims.within_limits() {
        return Err(Unproven::Malformed);
    }
    let user = match (claims.username, claims.userhash.map(TryInto::try_into)) {
        (Some(name), _) => UserClaim::Name(name),
        (None, Some(Ok(hash))) => UserClaim::Hash(hash),
        _ => return Err(Unproven::Malformed),
    };
    let algorithm = algorithm(&claims, nonce)?;
    let (owner, proof, attrs) = match context.recall(message, user, algorithm) {
        Some(known) => known,
        None => context.look_up(message, user, algorithm)?,
    };
    // The key is hashed from the realm that we send: who sends another one did not mean us.
    if realm != context.policy.credentials.realm().as_bytes() {
        return Err(Unproven::Wrong);
    }
    // Only now the nonce: 438 (RFC 5389 had it before).
    let nonces = &context.shared.nonces;
    match nonces.check(context.now.unix, flow.client, nonce) {
        NonceState::Valid => Ok(Proven {
            owner,
            proof,
            integrity,
            attrs,
        }),
        NonceState::Stale => Err(Unproven::Stale),
    }
}

/// The algorithm that a request's key is made with (RFC 8489 section 9.2.4).
///
/// The feature bits are read from the nonce as it came. They are bound into its MAC, so that a
/// nonce with a bit stripped leads to 438 and never to a weaker algorithm.
fn algorithm(
    claims: &crate::wire::Claims<'_>,
    nonce: &[u8],
) -> Result<PasswordAlgorithm, Unproven> {
    let offered =
        Nonces::claimed_features(nonce).is_some_and(|features| features.password_algorithms);
    match (claims.password_algorithm, claims.password_algorithms) {
        // Every old client: neither attribute means MD5.
        (None, None) => Ok(PasswordAlgorithm::Md5),
        _ if !offered => Ok(PasswordAlgorithm::Md5),
        // Both, the list byte for byte as it was sent, and the choice one of the list.
        (Some(Ok(algorithm)), Some(list))
            if list == OFFERED_VALUE && OFFERED.contains(&algorithm) =>
        {
            Ok(algorithm)
        }
        _ => Err(Unproven::Malformed),
    }
}

impl Unproven {
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::Anonymous | Self::Wrong => ErrorCode::UNAUTHENTICATED,
            Self::Malformed => ErrorCode::BAD_REQUEST,
            Self::Stale => ErrorCode::STALE_NONCE,
        }
    }

    /// Writes the answer: no integrity, no reason phrase, no SOFTWARE, and for 401 and 438 the
    /// challenge with a fresh nonce (RFC 8489 section 9.2.4).
    pub(crate) fn answer(
        self,
        shared: &Shared,
        policy: &Policy,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        reply: &mut [u8],
    ) -> Result<usize, DropReason> {
        let mut builder = Builder::new(
            reply,
            Class::Error,
            message.method(),
            message.transaction_id(),
        );
        builder.error_code(self.code(), false);
        if self != Self::Malformed {
            let features = Features {
                password_algorithms: policy.password_algorithms,
                // Without the other feature the challenge carries no cookie and stays small.
                username_anonymity: policy.password_algorithms
                    && policy.credentials.supports_userhash(),
            };
            let nonce = shared.nonces.issue(now.unix, flow.client, features);
            builder.attribute(attr::REALM, policy.credentials.realm().as_bytes());
            builder.attribute(attr::NONCE, nonce.as_bytes());
            if policy.password_algorithms {
                builder.password_algorithms(&OFFERED);
            }
        }
        finish(builder, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Method, TransactionId};

    #[test]
    fn the_offer_is_sent_as_it_is_compared() {
        let mut buffer = [0; 64];
        let mut builder = Builder::new(
            &mut buffer,
            Class::Error,
            Method::ALLOCATE,
            TransactionId([0; 12]),
        );
        builder.password_algorithms(&OFFERED);
        let len = builder.finish().expect("fits");
        assert_eq!(buffer[24..len], OFFERED_VALUE);
    }
}
