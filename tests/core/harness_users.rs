//! The users of a test server, and the lookup that the core asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use turnserver::proto::credentials::{Credentials, Identity, UserClaim};
use turnserver::proto::pairs::{PairId, PairScope};
use turnserver::wire::{Key, PasswordAlgorithm, rest_password, userhash};

use super::REALM;

pub fn pair_id(session: u8) -> PairId {
    PairId::of_session(&[session; 16])
}

/// A user of the test server.
#[derive(Clone)]
pub struct User {
    pub(super) name: Arc<str>,
    user_id: Arc<str>,
    keys: [Arc<Key>; 2],
    hash: [u8; 32],
    expires: Option<u64>,
    pair: Option<Arc<PairScope>>,
}

impl User {
    pub fn new(name: &str, password: &str) -> Self {
        let key = |algorithm| {
            Arc::new(Key::long_term(
                algorithm,
                name.as_bytes(),
                REALM.as_bytes(),
                password.as_bytes(),
            ))
        };
        Self {
            name: name.into(),
            user_id: name.into(),
            keys: [key(PasswordAlgorithm::Md5), key(PasswordAlgorithm::Sha256)],
            hash: userhash(name.as_bytes(), REALM.as_bytes()),
            expires: None,
            pair: None,
        }
    }

    /// A time-limited user: `EXPIRY:user`.
    pub fn limited(expires: u64, user: &str, password: &str) -> Self {
        Self {
            user_id: user.into(),
            expires: Some(expires),
            ..Self::new(&format!("{expires}:{user}"), password)
        }
    }

    /// One whose password comes from a shared secret.
    pub fn of_secret(expires: u64, user: &str, secret: &str) -> Self {
        let name = format!("{expires}:{user}");
        let password = rest_password(secret.as_bytes(), name.as_bytes(), false);
        Self::limited(expires, user, &password)
    }

    /// One side of the pair that `session` names, which was seen nowhere that matters.
    pub fn paired(session: u8, side: char) -> Self {
        Self::seen(session, side, ["100::1", "100::2"])
    }

    /// The same of a pair whose sides were seen from these addresses.
    pub fn seen(session: u8, side: char, sides: [&str; 2]) -> Self {
        let scope = PairScope::paired(pair_id(session), sides.map(super::ip));
        Self::side(session, side, &sides.concat(), scope)
    }

    /// The initiator of the pair that is to be.
    pub fn waiting(session: u8) -> Self {
        Self::side(session, 'i', "wait", PairScope::waiting(pair_id(session)))
    }

    fn side(session: u8, side: char, rest: &str, scope: PairScope) -> Self {
        let name = format!("9000000000:pair:{session}:{side}:{rest}");
        Self {
            user_id: format!("pair:{session}:{side}").into(),
            pair: Some(Arc::new(scope)),
            ..Self::new(&name, "secret-p")
        }
    }

    pub fn key(&self, algorithm: PasswordAlgorithm) -> &Arc<Key> {
        &self.keys[algorithm as usize - 1]
    }
}

/// The credentials of the test server.
pub struct Users {
    users: BTreeMap<Arc<str>, User>,
    dummy: Key,
    userhash: bool,
}

impl Users {
    pub fn new(users: impl IntoIterator<Item = User>) -> Self {
        Self {
            users: users
                .into_iter()
                .map(|user| (Arc::clone(&user.name), user))
                .collect(),
            dummy: Key::from_bytes(b"nobody has this key"),
            userhash: false,
        }
    }

    pub fn with_userhash(self) -> Self {
        Self {
            userhash: true,
            ..self
        }
    }
}

impl Credentials for Users {
    fn realm(&self) -> &str {
        REALM
    }

    fn authenticate(
        &self,
        user: UserClaim<'_>,
        algorithm: PasswordAlgorithm,
        unix: u64,
        check: &mut dyn FnMut(&Key) -> bool,
    ) -> Option<Identity> {
        let found = match user {
            UserClaim::Name(name) => std::str::from_utf8(name)
                .ok()
                .and_then(|name| self.users.get(name)),
            UserClaim::Hash(hash) => self.users.values().find(|user| user.hash == *hash),
        };
        let found = found.filter(|user| user.expires.is_none_or(|expires| unix < expires));
        let Some(user) = found else {
            check(&self.dummy);
            return None;
        };
        check(user.key(algorithm)).then(|| Identity {
            username: Arc::clone(&user.name),
            user_id: Arc::clone(&user.user_id),
            key: Arc::clone(user.key(algorithm)),
            expires: user.expires,
            pair: user.pair.clone(),
        })
    }

    fn supports_userhash(&self) -> bool {
        self.userhash
    }
}

/// Time-limited users alone, whose keys are derived from one secret each time that it is asked.
pub struct OfSecret(pub Key);

impl Credentials for OfSecret {
    fn realm(&self) -> &str {
        REALM
    }

    fn authenticate(
        &self,
        user: UserClaim<'_>,
        algorithm: PasswordAlgorithm,
        unix: u64,
        check: &mut dyn FnMut(&Key) -> bool,
    ) -> Option<Identity> {
        let UserClaim::Name(name) = user else {
            return None;
        };
        let password = self.0.rest_password(name, false);
        let key = Key::long_term(algorithm, name, REALM.as_bytes(), password.as_bytes());
        let (expires, user) = std::str::from_utf8(name).ok()?.split_once(':')?;
        let expires = expires.parse().ok()?;
        (check(&key) && unix < expires).then(|| Identity {
            username: format!("{expires}:{user}").into(),
            user_id: user.into(),
            key: Arc::new(key),
            expires: Some(expires),
            pair: None,
        })
    }

    fn supports_userhash(&self) -> bool {
        false
    }
}
