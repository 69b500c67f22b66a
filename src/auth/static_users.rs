//! Users listed in the configuration, with their keys computed in advance.
//!
//! Both ways in which a request names its user lead through one index by USERHASH: a USERNAME is
//! hashed first. So the search takes the same steps whether or not the user exists, and nobody
//! can provoke collisions.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use crate::proto::credentials::Identity;
use crate::wire::{Key, PasswordAlgorithm, userhash};

/// The key of one user, or of nobody, for each algorithm.
#[derive(Debug)]
struct Keys {
    md5: Arc<Key>,
    sha256: Arc<Key>,
}

impl Keys {
    fn new(name: &str, realm: &str, password: &str) -> Self {
        let key = |algorithm| {
            Arc::new(Key::long_term(
                algorithm,
                name.as_bytes(),
                realm.as_bytes(),
                password.as_bytes(),
            ))
        };
        Self {
            md5: key(PasswordAlgorithm::Md5),
            sha256: key(PasswordAlgorithm::Sha256),
        }
    }

    fn of(&self, algorithm: PasswordAlgorithm) -> &Arc<Key> {
        match algorithm {
            PasswordAlgorithm::Md5 => &self.md5,
            PasswordAlgorithm::Sha256 => &self.sha256,
        }
    }
}

#[derive(Debug)]
struct User {
    hash: [u8; 32],
    name: Arc<str>,
    keys: Keys,
}

/// The users, sorted by USERHASH.
#[derive(Debug)]
pub(super) struct StaticUsers {
    users: Vec<User>,
    /// Stands in for users that do not exist.
    nobody: User,
}

impl StaticUsers {
    /// Names and passwords in OpaqueString form. `Err` is a name that was listed twice.
    pub(super) fn new<'a>(
        realm: &str,
        listed: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, &'a str> {
        let user = |name: &str, password: &str| User {
            hash: userhash(name.as_bytes(), realm.as_bytes()),
            name: name.into(),
            keys: Keys::new(name, realm, password),
        };
        let mut listed: Vec<_> = listed.collect();
        listed.sort_unstable_by_key(|entry| entry.0);
        if let Some(twice) = listed.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(twice[0].0);
        }
        let mut users: Vec<User> = listed.iter().map(|(name, pass)| user(name, pass)).collect();
        users.sort_unstable_by_key(|user| user.hash);
        Ok(Self {
            users,
            nobody: user("", ""),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// Tries the key of the user with this USERHASH, or a key whose answer does not count.
    pub(super) fn authenticate(
        &self,
        hash: &[u8; 32],
        algorithm: PasswordAlgorithm,
        check: &mut dyn FnMut(&Key) -> bool,
    ) -> Option<Identity> {
        let place = self.users.partition_point(|user| user.hash < *hash);
        let near = self.users.get(place).unwrap_or(&self.nobody);
        let known = bool::from(near.hash.ct_eq(hash)) && !std::ptr::eq(near, &self.nobody);
        let user = if known { near } else { &self.nobody };
        let key = user.keys.of(algorithm);
        (check(key) & known).then(|| Identity {
            username: Arc::clone(&user.name),
            user_id: Arc::clone(&user.name),
            key: Arc::clone(key),
            expires: None,
            pair: None,
        })
    }
}
