//! What a client proves itself with, and where its transaction ids come from.

use std::fmt;
use std::sync::{Arc, Mutex};

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use crate::wire::{Key, PasswordAlgorithm, TransactionId};

/// A user name and password, shared by any number of clients. The key is derived once for each
/// realm.
pub struct Credentials {
    username: Box<str>,
    password: Box<str>,
    derived: Mutex<Option<Derived>>,
}

/// The key of one realm.
struct Derived {
    realm: Box<[u8]>,
    key: Arc<Key>,
}

impl Credentials {
    /// Long-term credentials (RFC 8489 section 9.2), prepared by OpaqueString where they are not
    /// ASCII.
    pub fn new(username: &str, password: &str) -> Arc<Self> {
        Arc::new(Self {
            username: username.into(),
            password: password.into(),
            derived: Mutex::new(None),
        })
    }

    /// The user name.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The key for this realm.
    pub(super) fn key(&self, realm: &[u8]) -> Arc<Key> {
        let mut derived = match self.derived.lock() {
            Ok(derived) => derived,
            // Nothing between lock and unlock leaves the pair half written.
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(known) = &*derived
            && *known.realm == *realm
        {
            return Arc::clone(&known.key);
        }
        let (username, password) = (self.username.as_bytes(), self.password.as_bytes());
        let key = Key::long_term(PasswordAlgorithm::Md5, username, realm, password);
        let key = Arc::new(key);
        *derived = Some(Derived {
            realm: realm.into(),
            key: Arc::clone(&key),
        });
        key
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, redacted)", self.username)
    }
}

/// What the server's challenge told: it goes into every request from then on.
#[derive(Debug)]
pub(super) struct Challenge {
    pub(super) realm: Box<[u8]>,
    pub(super) nonce: Box<[u8]>,
    pub(super) key: Arc<Key>,
}

/// Transaction ids, chosen at random, cryptographically (RFC 8489 section 5).
pub struct Ids(ChaCha12Rng);

impl Ids {
    /// Ids from a seed that nobody else knows.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }

    /// The next one.
    pub fn next_id(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.0.fill_bytes(&mut id);
        TransactionId(id)
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}
