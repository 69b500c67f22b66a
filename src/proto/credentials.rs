//! What the core needs to know about credentials; where they come from is the room `auth`.

use std::sync::Arc;

use super::pairs::PairScope;
use crate::wire::{Key, PasswordAlgorithm};

/// How a request names its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserClaim<'a> {
    /// USERNAME, as sent (not yet known to be UTF-8).
    Name(&'a [u8]),
    /// USERHASH: SHA-256 over `username ":" realm` (RFC 8489 section 14.4).
    Hash(&'a [u8; 32]),
}

/// A user whose credentials were proven by a valid MESSAGE-INTEGRITY.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The full username that was proven (also when the request carried a USERHASH).
    pub username: Arc<str>,
    /// The user that quotas count: the user part of a time-limited username, else the username.
    pub user_id: Arc<str>,
    /// The key that matched; replies are protected with it.
    pub key: Arc<Key>,
    /// When a time-limited credential ends (Unix seconds); the credential is valid before it.
    pub expires: Option<u64>,
    /// The pair that the credential is bound to: its allocations talk to nobody else
    /// ([`pairs`](super::pairs)).
    pub pair: Option<Arc<PairScope>>,
}

/// Looks users up. Implementations are immutable snapshots: a reload makes a new one.
pub trait Credentials: Send + Sync {
    /// The realm that is sent in challenges and hashed into keys: 1 to 127 characters.
    fn realm(&self) -> &str;

    /// Tries the keys of a user until `check` accepts one.
    ///
    /// `check` runs the integrity check of the request against one key. An unknown or expired
    /// user costs exactly as much as a wrong password: implementations call `check` with a dummy
    /// key and ignore the answer (so that nobody can find out which usernames exist).
    /// `unix` is the current time in seconds. Returns `None` when no key matched.
    fn authenticate(
        &self,
        user: UserClaim<'_>,
        algorithm: PasswordAlgorithm,
        unix: u64,
        check: &mut dyn FnMut(&Key) -> bool,
    ) -> Option<Identity>;

    /// Whether every user can be found by USERHASH, so that challenges may offer username
    /// anonymity (RFC 8489 section 9.2): only when static users are the sole source.
    fn supports_userhash(&self) -> bool;
}
