//! Places in quotas that reserved ports take (EVEN-PORT with R=1).
//!
//! Whichever shard the client's second Allocate reaches, the place passes on to the allocation
//! that presents the token, so a pair of ports never counts as three.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::quota::QuotaGuard;
use super::types::ReservationToken;

/// The places of all shards, by token.
#[derive(Debug, Default)]
pub struct ReservedQuotas(Mutex<HashMap<ReservationToken, Held>>);

#[derive(Debug)]
struct Held {
    user: Arc<str>,
    /// Missing while an Allocate tries to claim it.
    place: Option<QuotaGuard>,
}

impl ReservedQuotas {
    /// None held.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn contains(&self, token: &ReservationToken) -> bool {
        self.table().contains_key(token)
    }

    pub(super) fn hold(&self, token: ReservationToken, place: QuotaGuard) {
        let held = Held {
            user: Arc::clone(place.user()),
            place: Some(place),
        };
        self.table().insert(token, held);
    }

    /// The place of a token, for the user that it counts for; nobody else gets it.
    pub(super) fn take(&self, token: &ReservationToken, user: &str) -> Option<QuotaGuard> {
        let mut table = self.table();
        let held = table.get_mut(token)?;
        if *held.user == *user {
            held.place.take()
        } else {
            None
        }
    }

    /// Puts a place back after a claim that failed; it is given up when the reservation ended
    /// meanwhile or has one.
    pub(super) fn give_back(&self, token: &ReservationToken, place: QuotaGuard) {
        if let Some(held) = self.table().get_mut(token)
            && held.user == *place.user()
        {
            held.place.get_or_insert(place);
        }
    }

    /// The reservation is over: claimed, or expired.
    pub(super) fn end(&self, token: &ReservationToken) {
        let place = self.table().remove(token);
        // Given up after the lock is free again.
        drop(place);
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ReservationToken, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::quota::Quotas;

    #[test]
    fn a_place_passes_on_once_and_to_its_user_only() {
        let quotas = Quotas::new();
        let alice = "alice".into();
        let place = || quotas.take(&alice, 0, 0).expect("no limit");
        let (token, held) = ([1; 8], ReservedQuotas::new());
        held.hold(token, place());
        assert!(held.take(&token, "bob").is_none());
        let taken = held.take(&token, "alice").expect("hers");
        assert!(held.take(&token, "alice").is_none());
        held.give_back(&token, taken);
        assert_eq!(quotas.total(), 1);
        let taken = held.take(&token, "alice").expect("still hers");
        held.end(&token);
        // The reservation ended while the claim was under way.
        held.give_back(&token, taken);
        assert_eq!((quotas.total(), held.len()), (0, 0));
    }
}
