//! Blobs that the server forwards between the two and can neither read nor change
//! (ChaCha20-Poly1305, RFC 8439).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};

use super::keys::{AccessKey, Salt, Salts, SessionId, SessionSecrets};
use super::messages::Role;

/// Why a blob is refused: somebody who does not have the access key made, changed, repeated or
/// swallowed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealError;

impl std::fmt::Display for SealError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the peer does not have the same access key")
    }
}

impl std::error::Error for SealError {}

/// The nonce: the sender's role, and the blob's number in this session and direction, from 0.
fn nonce(sender: Role, number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = match sender {
        Role::Initiator => 1,
        Role::Receiver => 2,
    };
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce.into()
}

fn cipher(secrets: &SessionSecrets) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&Key::from(secrets.seal))
}

/// Seals the blobs of one side in one session.
struct Sealed {
    cipher: ChaCha20Poly1305,
    role: Role,
    next: u64,
}

impl Sealed {
    fn new(secrets: &SessionSecrets, own: Role) -> Self {
        Self {
            cipher: cipher(secrets),
            role: own,
            next: 0,
        }
    }

    /// The next blob: base64url without padding.
    fn seal(&mut self, plain: &[u8]) -> String {
        let nonce = nonce(self.role, self.next);
        self.next += 1;
        let payload = Payload::from(plain);
        let sealed = self.cipher.encrypt(&nonce, payload).expect("fits memory");
        URL_SAFE_NO_PAD.encode(sealed)
    }
}

/// Opens the blobs of the other side in one session. They come in order.
struct Unsealed {
    cipher: ChaCha20Poly1305,
    peer: Role,
    next: u64,
}

impl Unsealed {
    fn new(secrets: &SessionSecrets, peer: Role) -> Self {
        Self {
            cipher: cipher(secrets),
            peer,
            next: 0,
        }
    }

    /// What a blob says. One that is refused is passed over.
    fn open(&mut self, blob: &str) -> Result<Vec<u8>, SealError> {
        let sealed = URL_SAFE_NO_PAD.decode(blob).map_err(|_| SealError)?;
        let nonce = nonce(self.peer, self.next);
        let plain = self.cipher.decrypt(&nonce, Payload::from(&sealed[..]));
        let plain = plain.map_err(|_| SealError)?;
        self.next += 1;
        Ok(plain)
    }
}

/// How long the initiator's first handshake message is, as a datagram.
const HANDSHAKE: usize = 49;

/// What a blob of the other side brings.
#[derive(Debug)]
pub enum Opened {
    /// The first one: now both salts are known, and what follows from them. The initiator may send
    /// the first message of its handshake along, as a datagram. Nobody has proven anything yet.
    Secrets(SessionSecrets, Option<Vec<u8>>),
    /// Each further one: what the other side says.
    Said(Vec<u8>),
}

/// The blobs of one session, as one side makes and reads them.
///
/// The server names the session, and may name two alike. So each side draws a salt and sends it
/// in clear, as its first blob; everything else is sealed under what follows from both. Whatever
/// the server does, no key is used in two sessions, and what was said in one opens in no other.
pub struct Blobs {
    key: AccessKey,
    session: SessionId,
    role: Role,
    salt: Salt,
    ends: Option<(Sealed, Unsealed)>,
}

impl Blobs {
    /// Of one side. The salt is random and was never used before.
    pub const fn new(key: AccessKey, session: SessionId, role: Role, salt: Salt) -> Self {
        Self {
            key,
            session,
            role,
            salt,
            ends: None,
        }
    }

    /// The own first blob; the initiator's may hold the first message of its handshake too, a
    /// datagram of 49 bytes.
    pub fn first(&self, handshake: Option<&[u8]>) -> String {
        URL_SAFE_NO_PAD.encode([&self.salt.0, handshake.unwrap_or_default()].concat())
    }

    /// Whether this is the side that begins the handshake.
    pub fn begins(&self) -> bool {
        self.role == Role::Initiator
    }

    /// Whether the other side's first blob came, so that there is something to seal with.
    pub const fn is_open(&self) -> bool {
        self.ends.is_some()
    }

    /// The next blob of this side, behind the first one: base64url without padding. `None` before
    /// [`Blobs::is_open`].
    pub fn seal(&mut self, plain: &[u8]) -> Option<String> {
        let (sealed, _) = self.ends.as_mut()?;
        Some(sealed.seal(plain))
    }

    /// Takes the next blob of the other side.
    ///
    /// # Errors
    /// When the first one is no salt, or another one is not what the holder of the key made next
    /// in this session; the first one again is neither. It is passed over.
    pub fn open(&mut self, blob: &str) -> Result<Opened, SealError> {
        if let Some((_, unsealed)) = &mut self.ends {
            return unsealed.open(blob).map(Opened::Said);
        }
        let first = URL_SAFE_NO_PAD.decode(blob).map_err(|_| SealError)?;
        let (salt, rest) = first.split_first_chunk().ok_or(SealError)?;
        let theirs = Salt(*salt);
        let (peer, initiator, receiver) = match self.role {
            Role::Initiator => (Role::Receiver, self.salt, theirs),
            Role::Receiver => (Role::Initiator, theirs, self.salt),
        };
        let handshake = match (rest.len(), peer) {
            (0, _) => None,
            (HANDSHAKE, Role::Initiator) => Some(rest.to_vec()),
            _ => return Err(SealError),
        };
        let salts = Salts {
            initiator,
            receiver,
        };
        let secrets = self.key.session(&self.session, &salts);
        let ends = (
            Sealed::new(&secrets, self.role),
            Unsealed::new(&secrets, peer),
        );
        self.ends = Some(ends);
        Ok(Opened::Secrets(secrets, handshake))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(key: &str, role: Role, salt: u8) -> Blobs {
        let key = AccessKey::new(key).expect("a key");
        Blobs::new(key, SessionId([7; 16]), role, Salt([salt; 16]))
    }

    /// The two sides of a session that have each other's salt. They are all of one name.
    fn session(salts: [u8; 2]) -> (Blobs, Blobs) {
        let mut initiator = blobs("k", Role::Initiator, salts[0]);
        let mut receiver = blobs("k", Role::Receiver, salts[1]);
        assert_eq!(initiator.seal(b"too early"), None);
        meet(&mut initiator, &mut receiver);
        (initiator, receiver)
    }

    fn meet(one: &mut Blobs, two: &mut Blobs) {
        let firsts = (one.first(None), two.first(None));
        let opened = (one.open(&firsts.1), two.open(&firsts.0));
        let (Ok(Opened::Secrets(one, None)), Ok(Opened::Secrets(two, None))) = opened else {
            panic!("{opened:?}");
        };
        assert_eq!(one.check == two.check, one.seal == two.seal);
    }

    fn seal(from: &mut Blobs, plain: &[u8]) -> String {
        from.seal(plain).expect("there are keys")
    }

    fn said(to: &mut Blobs, blob: &str) -> Option<Vec<u8>> {
        match to.open(blob) {
            Ok(Opened::Said(plain)) => Some(plain),
            Ok(Opened::Secrets(..)) => panic!("it has them"),
            Err(SealError) => None,
        }
    }

    /// The vectors of `docs/signalling.md`, which another implementation of the cipher computed.
    #[test]
    fn the_vectors_for_other_languages() {
        let key = AccessKey::new("correct horse battery staple").expect("a key");
        let session = "AAECAwQFBgcICQoLDA0ODw".parse().expect("a session");
        let [first, second] = ["EBESExQVFhcYGRobHB0eHw", "ICEiIyQlJicoKSorLC0uLw"];
        let side = |role, salt: &str| {
            Blobs::new(key.clone(), session, role, salt.parse().expect("a salt"))
        };
        let mut initiator = side(Role::Initiator, first);
        let mut receiver = side(Role::Receiver, second);
        let salts = [initiator.first(None), receiver.first(None)];
        assert_eq!(salts, [first, second]);
        meet(&mut initiator, &mut receiver);
        let plain = b"{\"end\":true}";
        let first = seal(&mut initiator, plain);
        seal(&mut receiver, plain);
        let second = seal(&mut receiver, plain);
        assert_eq!(first, "5oOPmSwDk28cRS7KuEOcHvHsd_XMrMF8eiyPBw");
        assert_eq!(second, "6UktbyDpgbwGTuyNj5_uBdeGFf-bOdw39huisQ");
        let document = include_str!("../../docs/signalling.md");
        assert!(document.contains(&first) && document.contains(&second));
    }

    #[test]
    fn only_the_next_blob_of_the_key_holder_opens() {
        let (mut out, mut back) = session([1, 2]);
        let (first, second) = (seal(&mut out, b"one"), seal(&mut out, b"two"));
        assert_eq!(said(&mut back, &second), None, "out of order");
        assert_eq!(said(&mut back, &first).as_deref(), Some(&b"one"[..]));
        assert_eq!(said(&mut back, &first), None, "repeated");
        assert_eq!(said(&mut back, &second).as_deref(), Some(&b"two"[..]));
        assert_eq!(said(&mut out, &first), None, "sent back");
        let mut wrong = blobs("l", Role::Receiver, 2);
        let mut again = blobs("k", Role::Initiator, 1);
        meet(&mut again, &mut wrong);
        assert_eq!(said(&mut wrong, &first), None, "another key");
    }

    /// A server that names a second session as the first one was.
    #[test]
    fn what_was_said_in_one_session_opens_in_no_other_of_its_name() {
        let (mut one, mut two) = session([1, 2]);
        let recorded = [seal(&mut one, b"old"), seal(&mut two, b"old")];
        // Either side alone makes it another one, and all that is sealed differs.
        for salts in [[3, 4], [1, 4], [3, 2]] {
            let (mut one, mut two) = session(salts);
            assert_eq!(said(&mut two, &recorded[0]), None, "{salts:?}");
            assert_eq!(said(&mut one, &recorded[1]), None, "{salts:?}");
            let fresh = seal(&mut one, b"old");
            assert_ne!(fresh, recorded[0], "a key and a nonce were used again");
            assert_eq!(said(&mut two, &fresh).as_deref(), Some(&b"old"[..]));
        }
        // All of it is said again, the salt too: the own one is not what it was.
        let mut one = blobs("k", Role::Initiator, 3);
        let opened = one.open(&two.first(None));
        assert!(matches!(opened, Ok(Opened::Secrets(..))), "{opened:?}");
        assert_eq!(said(&mut one, &recorded[1]), None);
    }

    #[test]
    fn the_salt_comes_once_and_first() {
        let mut one = blobs("k", Role::Initiator, 1);
        let mut two = blobs("k", Role::Receiver, 2);
        for no_salt in [
            "",
            "A",
            &"A".repeat(21),
            &"A".repeat(23),
            "AAAAAAAAAAAAAAAAAAAAA*",
        ] {
            assert!(one.open(no_salt).is_err(), "{no_salt}");
            assert!(!one.is_open());
        }
        let more = two.first(Some(&[10; HANDSHAKE]));
        assert!(
            one.open(&more).is_err(),
            "the receiver has nothing to begin"
        );
        meet(&mut one, &mut two);
        for salt in [two.first(None), Salt([9; 16]).to_string()] {
            assert_eq!(said(&mut one, &salt), None, "it does not change");
        }
        let blob = seal(&mut two, b"still under the first");
        assert!(said(&mut one, &blob).is_some());
    }

    #[test]
    fn the_initiators_handshake_rides_along() {
        let one = blobs("k", Role::Initiator, 1);
        let handshake = [10; HANDSHAKE];
        let mut two = blobs("k", Role::Receiver, 2);
        let long = one.first(Some(&[10; HANDSHAKE + 1]));
        assert!(two.open(&long).is_err());
        match two.open(&one.first(Some(&handshake))) {
            Ok(Opened::Secrets(_, Some(datagram))) => assert_eq!(datagram, handshake),
            other => panic!("{other:?}"),
        }
    }
}
