//! Answers: challenges are taken up, successes are checked and acted on, refusals are told.

use std::time::{Duration, Instant};

use super::credentials::{Challenge, Ids};
use super::request::Ask;
use super::{Allocation, Client, Event, Failure, Kept, PERMISSION_REFRESH};
use crate::wire::{Attrs, Class, ErrorCode, Message};

/// A 401 and a 438 are part of the protocol (RFC 8489 section 9.2.5), a second 438 can happen
/// when a nonce ends between two requests; more are not.
const MOST_CHALLENGES: u8 = 3;

impl Client {
    pub(super) fn handle_answer(&mut self, now: Instant, message: &Message<'_>, ids: &mut Ids) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        if transaction.id != message.transaction_id()
            || transaction.ask.method() != message.method()
        {
            return;
        }
        let attributes = message.unprotected();
        if message.class() == Class::Error {
            let Some(code) = attributes.error_code().ok().flatten() else {
                self.end(Err(Failure::Protocol("the error answer has no code")));
                return self.start_next(now, ids);
            };
            let challenged = (code == ErrorCode::UNAUTHENTICATED && self.challenge.is_none())
                || code == ErrorCode::STALE_NONCE;
            if challenged && transaction.challenges < MOST_CHALLENGES {
                if let Some(challenge) = self.learn(&attributes) {
                    self.challenge = Some(challenge);
                    if let Some(transaction) = &mut self.transaction {
                        transaction.again(now, ids);
                    }
                    return;
                }
                self.end(Err(Failure::Protocol(
                    "the challenge has no realm and nonce",
                )));
            } else {
                let reason = printable(attributes.error_reason().unwrap_or_default());
                self.end(Err(Failure::Refused(code, reason)));
            }
            return self.start_next(now, ids);
        }
        // RFC 8489 section 9.2.5: an answer without valid integrity is as if it never came.
        if let Some(challenge) = &self.challenge
            && message.verify(&challenge.key).is_err()
        {
            return;
        }
        let ask = transaction.ask;
        self.succeed(now, ask, &attributes);
        self.start_next(now, ids);
    }

    fn learn(&self, attributes: &Attrs<'_>) -> Option<Challenge> {
        let (realm, nonce) = (attributes.realm()?, attributes.nonce()?);
        Some(Challenge {
            realm: realm.into(),
            nonce: nonce.into(),
            key: self.credentials.key(realm),
        })
    }

    fn succeed(&mut self, now: Instant, ask: Ask, attributes: &Attrs<'_>) {
        match ask {
            Ask::Allocate | Ask::Refresh => {
                let lifetime = attributes.lifetime().ok().flatten().unwrap_or(600);
                let lifetime = Duration::from_secs(lifetime.into());
                // A minute early, as RFC 8656 section 8 suggests, or half way for short ones.
                let margin = Duration::from_secs(60).min(lifetime / 2);
                self.refresh_at = Some(now + lifetime.saturating_sub(margin));
                if ask == Ask::Refresh {
                    self.transaction = None;
                    return;
                }
                let relayed = attributes.xor_relayed_address().ok().flatten();
                let mapped = attributes.xor_mapped_address().ok().flatten();
                let (Some(relayed), Some(mapped)) = (relayed, mapped) else {
                    return self.end(Err(Failure::Protocol("the answer lacks an address")));
                };
                let allocation = Allocation {
                    relayed,
                    mapped,
                    lifetime,
                };
                self.allocation = Some(allocation);
                self.end(Ok(Event::Allocated(allocation)));
            }
            Ask::Release => {
                self.forget();
                self.end(Ok(Event::Released));
            }
            Ask::Permission(peer) => self.keep(now, ask, Event::Permitted(peer)),
            Ask::Channel(number, peer) => self.keep(now, ask, Event::Bound(number, peer)),
        }
    }

    fn keep(&mut self, now: Instant, ask: Ask, event: Event) {
        let renew_at = now + PERMISSION_REFRESH;
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.ask == ask) {
            kept.renew_at = renew_at;
            self.transaction = None;
        } else {
            self.kept.push(Kept { ask, renew_at });
            self.end(Ok(event));
        }
    }
}

/// A reason that is fit for a terminal: anybody may have written it.
fn printable(reason: &[u8]) -> Box<str> {
    String::from_utf8_lossy(reason)
        .chars()
        .filter(|c| !c.is_control())
        .take(128)
        .collect()
}
