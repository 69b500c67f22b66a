//! Blobs that the server forwards between the two and can neither read nor change
//! (ChaCha20-Poly1305, RFC 8439).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};

use super::keys::SessionSecrets;
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
pub struct Sealed {
    cipher: ChaCha20Poly1305,
    role: Role,
    next: u64,
}

impl Sealed {
    /// For what this side sends. One for each session: numbers must not repeat.
    pub fn new(secrets: &SessionSecrets, own: Role) -> Self {
        Self {
            cipher: cipher(secrets),
            role: own,
            next: 0,
        }
    }

    /// The next blob: base64url without padding.
    pub fn seal(&mut self, plain: &[u8]) -> String {
        let nonce = nonce(self.role, self.next);
        self.next += 1;
        let payload = Payload::from(plain);
        let sealed = self.cipher.encrypt(&nonce, payload).expect("fits memory");
        URL_SAFE_NO_PAD.encode(sealed)
    }
}

/// Opens the blobs of the other side in one session. They come in order.
pub struct Unsealed {
    cipher: ChaCha20Poly1305,
    peer: Role,
    next: u64,
}

impl Unsealed {
    /// For what the other side sends.
    pub fn new(secrets: &SessionSecrets, peer: Role) -> Self {
        Self {
            cipher: cipher(secrets),
            peer,
            next: 0,
        }
    }

    /// What a blob says.
    ///
    /// # Errors
    /// When it is not the next one that the holder of the key made. It is passed over.
    pub fn open(&mut self, blob: &str) -> Result<Vec<u8>, SealError> {
        let sealed = URL_SAFE_NO_PAD.decode(blob).map_err(|_| SealError)?;
        let nonce = nonce(self.peer, self.next);
        let plain = self.cipher.decrypt(&nonce, Payload::from(&sealed[..]));
        let plain = plain.map_err(|_| SealError)?;
        self.next += 1;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairing::{AccessKey, SessionId};

    /// The vectors of `docs/signalling.md`, which another implementation of the cipher computed.
    #[test]
    fn the_vectors_for_other_languages() {
        let key = AccessKey::new("correct horse battery staple").expect("a key");
        let session = "AAECAwQFBgcICQoLDA0ODw".parse().expect("a session");
        let secrets = key.session(&session);
        let plain = b"{\"end\":true}";
        let mut initiator = Sealed::new(&secrets, Role::Initiator);
        let mut receiver = Sealed::new(&secrets, Role::Receiver);
        let first = initiator.seal(plain);
        receiver.seal(plain);
        let second = receiver.seal(plain);
        assert_eq!(first, "LaciOyCup8YSmC2MXN4HlVGlyqbeRCnc0nKC7A");
        assert_eq!(second, "A48W2wyLAGk1kSXfa3mseoIUouH-juRSzY7CzA");
        let document = include_str!("../../docs/signalling.md");
        assert!(document.contains(&first) && document.contains(&second));
    }

    #[test]
    fn only_the_next_blob_of_the_key_holder_opens() {
        let key = AccessKey::new("k").expect("a key");
        let secrets = key.session(&SessionId([7; 16]));
        let mut out = Sealed::new(&secrets, Role::Initiator);
        let mut back = Unsealed::new(&secrets, Role::Initiator);
        let (first, second) = (out.seal(b"one"), out.seal(b"two"));
        assert_eq!(back.open(&second), Err(SealError), "out of order");
        assert_eq!(back.open(&first).as_deref(), Ok(&b"one"[..]));
        assert_eq!(back.open(&first), Err(SealError), "repeated");
        assert_eq!(back.open(&second).as_deref(), Ok(&b"two"[..]));
        let mut mirrored = Unsealed::new(&secrets, Role::Receiver);
        assert_eq!(mirrored.open(&first), Err(SealError), "sent back");
        let other = AccessKey::new("l").expect("a key");
        let other = other.session(&SessionId([7; 16]));
        let mut wrong = Unsealed::new(&other, Role::Initiator);
        assert_eq!(wrong.open(&first), Err(SealError), "another key");
    }
}
