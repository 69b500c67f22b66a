//! All credentials of the server as one lookup.

use std::borrow::Cow;
use std::fmt;

use super::pairs::{PairName, PairSecrets};
use super::rest::{RestOptions, RestSecrets};
use super::static_users::StaticUsers;
use crate::opaque::{OpaqueError, opaque_string};
use crate::proto::credentials::{Credentials, Identity, UserClaim};
use crate::wire::{Key, PasswordAlgorithm, userhash};

/// The most characters of a realm (RFC 8489 section 14.9: fewer than 128).
const MAX_REALM: usize = 127;
/// The most bytes of a user name (RFC 8489 section 14.3: fewer than 509).
const MAX_USERNAME: usize = 508;

/// Why credentials cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The realm is no OpaqueString.
    Realm(OpaqueError),
    /// The realm has more than 127 characters, or a quote or backslash in it.
    RealmForm,
    /// A user's name is no OpaqueString.
    Name(String, OpaqueError),
    /// A user's name is longer than 508 bytes.
    NameLength(String),
    /// A user's password is no OpaqueString.
    Password(String, OpaqueError),
    /// A user is listed twice.
    Twice(String),
    /// A shared secret is empty.
    EmptySecret,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Realm(error) => write!(f, "the realm {error}"),
            Self::RealmForm => write!(
                f,
                "the realm must have at most {MAX_REALM} characters, no quote and no backslash"
            ),
            Self::Name(name, error) => write!(f, "the user name {name:?} {error}"),
            Self::NameLength(name) => {
                write!(
                    f,
                    "the user name {name:?} has more than {MAX_USERNAME} bytes"
                )
            }
            Self::Password(name, error) => write!(f, "the password of the user {name:?} {error}"),
            Self::Twice(name) => write!(f, "the user {name:?} is listed twice"),
            Self::EmptySecret => write!(f, "a shared secret is empty"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Static users, time-limited credentials and those of pairs, of one realm.
#[derive(Debug)]
pub struct CredentialStore {
    realm: String,
    users: StaticUsers,
    rest: RestSecrets,
    pairs: PairSecrets,
}

impl CredentialStore {
    /// A store of static users (name, password) and shared secrets of time-limited credentials.
    /// Either may be empty; with both empty nobody gets in.
    pub fn new<'a>(
        realm: &str,
        users: impl IntoIterator<Item = (&'a str, &'a str)>,
        secrets: impl IntoIterator<Item = &'a [u8]>,
        options: RestOptions,
    ) -> Result<Self, StoreError> {
        let realm = opaque_string(realm).map_err(StoreError::Realm)?;
        if realm.chars().count() > MAX_REALM || realm.contains(['"', '\\']) {
            return Err(StoreError::RealmForm);
        }
        let prepared = users.into_iter().map(|(name, password)| {
            let prepared =
                opaque_string(name).map_err(|error| StoreError::Name(name.to_owned(), error))?;
            if prepared.len() > MAX_USERNAME {
                return Err(StoreError::NameLength(name.to_owned()));
            }
            let password = opaque_string(password)
                .map_err(|error| StoreError::Password(name.to_owned(), error))?;
            Ok((prepared, password))
        });
        let prepared: Vec<(Cow<'_, str>, Cow<'_, str>)> = prepared.collect::<Result<_, _>>()?;
        let listed = prepared.iter().map(|(name, pass)| (&**name, &**pass));
        let users =
            StaticUsers::new(&realm, listed).map_err(|name| StoreError::Twice(name.to_owned()))?;
        let secrets: Vec<&[u8]> = secrets.into_iter().collect();
        if secrets.iter().any(|secret| secret.is_empty()) {
            return Err(StoreError::EmptySecret);
        }
        Ok(Self {
            realm: realm.into_owned(),
            users,
            rest: RestSecrets::new(secrets.into_iter(), options),
            pairs: PairSecrets::default(),
        })
    }

    /// The same store, which lets pairs in besides.
    #[must_use]
    pub fn with_pairs(self, pairs: PairSecrets) -> Self {
        Self { pairs, ..self }
    }

    /// How many static users there are.
    pub fn static_users(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody can get in.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.rest.is_empty() && self.pairs.is_empty()
    }
}

impl Credentials for CredentialStore {
    fn realm(&self) -> &str {
        &self.realm
    }

    /// Every refusal costs the same: one check for the static users, and for a USERNAME one for
    /// each shared secret, whether or not such a user exists. A name in the form of a pair's is
    /// one: it costs a check for each secret of pairs and is looked for nowhere else.
    fn authenticate(
        &self,
        user: UserClaim<'_>,
        algorithm: PasswordAlgorithm,
        unix: u64,
        check: &mut dyn FnMut(&Key) -> bool,
    ) -> Option<Identity> {
        let (hash, name) = match user {
            UserClaim::Name(name) => (userhash(name, self.realm.as_bytes()), Some(name)),
            UserClaim::Hash(hash) => (*hash, None),
        };
        if !self.pairs.is_empty()
            && let Some(pair) = name.and_then(PairName::parse)
        {
            let pairs = &self.pairs;
            return pairs.authenticate(&pair, &self.realm, algorithm, unix, check);
        }
        // Without static users the check would only double the cost of every request.
        if !self.users.is_empty() || self.rest.is_empty() || name.is_none() {
            let identity = self.users.authenticate(&hash, algorithm, check);
            if identity.is_some() {
                return identity;
            }
        }
        let rest = &self.rest;
        rest.authenticate(name?, &self.realm, algorithm, unix, check)
    }

    fn supports_userhash(&self) -> bool {
        !self.users.is_empty() && self.rest.is_empty() && self.pairs.is_empty()
    }
}

#[cfg(test)]
mod tests;
