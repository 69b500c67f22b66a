//! Proof that somebody has the access key, who does not tell it. The rendezvous id is the hash of a
//! public key (Ed25519, RFC 8032) whose private half follows from the access key. Whoever joins
//! under the id signs what the server asks, so that the id alone is of no use.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::keys::{AccessKey, RendezvousId};
use super::messages::{Join, Role};

/// Domain separation: nothing else that is signed by such a key begins with this.
const CONTEXT: &str = "turnserver join v1";

/// The longest nonce in characters.
const MAX_NONCE: usize = 64;

/// What a server asks to be signed: 1 to 64 characters of base64url.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Cow<'_, str>")]
pub struct Nonce(Box<str>);

impl Nonce {
    /// Of at most 48 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        debug_assert!(bytes.len() <= MAX_NONCE / 4 * 3);
        Self(URL_SAFE_NO_PAD.encode(bytes).into())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<Cow<'_, str>> for Nonce {
    type Error = &'static str;

    fn try_from(text: Cow<'_, str>) -> Result<Self, Self::Error> {
        let named = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        match (1..=MAX_NONCE).contains(&text.len()) && text.bytes().all(named) {
            true => Ok(Self(text.into())),
            false => Err("not 1 to 64 characters of base64url"),
        }
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({})", self.0)
    }
}

/// Goes with a join by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Its hash is the rendezvous id. 43 characters of base64url.
    #[serde(with = "text")]
    pub public_key: [u8; 32],
    /// As the server gave it.
    pub nonce: Nonce,
    /// 86 characters of base64url.
    #[serde(with = "text")]
    pub signature: [u8; 64],
}

impl Proof {
    /// Whether the holder of the id's access key made it for such a join and this nonce.
    pub fn holds(&self, id: &RendezvousId, role: Role, host: bool) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.public_key) else {
            return false;
        };
        let signature = Signature::from_bytes(&self.signature);
        let said = statement(&self.nonce, id, role, host);
        // Strict: neither weak keys nor second forms of a signature.
        id_of(&self.public_key) == *id && key.verify_strict(said.as_bytes(), &signature).is_ok()
    }
}

impl AccessKey {
    /// Under which the server lets the two find each other.
    pub fn rendezvous_id(&self) -> RendezvousId {
        id_of(self.signing_key().verifying_key().as_bytes())
    }

    fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.signing_seed())
    }
}

impl Join {
    /// The same under the id of this key, with the proof that a server takes which gave `nonce`.
    #[must_use]
    pub fn proven(mut self, key: &AccessKey, nonce: &Nonce) -> Self {
        let key = key.signing_key();
        let public_key = key.verifying_key().to_bytes();
        let id = id_of(&public_key);
        let said = statement(nonce, &id, self.role, self.host);
        self.id = Some(id);
        self.access_key = None;
        self.proof = Some(Box::new(Proof {
            public_key,
            nonce: nonce.clone(),
            signature: key.sign(said.as_bytes()).to_bytes(),
        }));
        self
    }
}

fn id_of(public_key: &[u8; 32]) -> RendezvousId {
    let hash: [u8; 32] = Sha256::digest(public_key).into();
    let (first, _) = hash.split_first_chunk().expect("32 are more than 16");
    RendezvousId(*first)
}

/// What is signed. What one server is told is of no use for another role or at another time.
fn statement(nonce: &Nonce, id: &RendezvousId, role: Role, host: bool) -> String {
    let role = match role {
        Role::Initiator if host => "host",
        Role::Initiator => "initiator",
        Role::Receiver => "receiver",
    };
    format!("{CONTEXT} {} {role} {id}", nonce.as_str())
}

/// Bytes as base64url without padding.
mod text {
    use std::borrow::Cow;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = <Cow<'_, str>>::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(&*text).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| D::Error::custom(format_args!("not {N} bytes of base64url")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> AccessKey {
        AccessKey::new(text).expect("a key")
    }

    fn nonce(text: &str) -> Nonce {
        Nonce::try_from(Cow::from(text)).expect("a nonce")
    }

    fn proven(text: &str, role: Role, host: bool) -> (RendezvousId, Proof) {
        let join = Join {
            host,
            ..Join::new(role)
        };
        let join = join.proven(&key(text), &nonce("n"));
        (join.id.expect("an id"), *join.proof.expect("a proof"))
    }

    /// The vectors of `docs/signalling.md`, which another implementation of Ed25519 computed.
    #[test]
    fn the_vectors_for_other_languages() {
        let document = include_str!("../../docs/signalling.md");
        for (text, role, host, id, public_key, signature) in [
            (
                "correct horse battery staple",
                Role::Initiator,
                true,
                "9_FQBMSaNCbQiH6h9JzPyw",
                "ureuBFuHuy9luyfQhoClVstbxwQTrzaXWD13unLzj4I",
                "9IIbe9hr0FTRvDmurai62N9t1JKtomP5OjSmX_GiYvmdxgdo1FcvK6jUisCjX1OmL9VM5maOvoa9MPZYCUxDDQ",
            ),
            (
                "Schlüssel 🔑",
                Role::Receiver,
                false,
                "wwWkGyTVydKuM6MaisocnA",
                "sFAQUgmiUwK2gB28ZgizkANEVtnTfVJRwRfDlJElc-k",
                "tlYlTqYsx8hs0V1BtYRhe3J_vAML5tUKGWw6_MnwaTEF0LIt-DaRWUfyH-aKf4DsUdcXpivq5D0Pm_ZdHZEPDw",
            ),
        ] {
            for text in [text, id, public_key, signature] {
                assert!(document.contains(text), "{text} is not in the document");
            }
            let join = Join {
                host,
                ..Join::new(role)
            };
            let join = join.proven(&key(text), &nonce("AAECAwQFBgcICQoLDA0ODw"));
            let said = serde_json::to_value(&join).expect("JSON");
            assert_eq!(said["id"], id);
            assert_eq!(said["proof"]["public_key"], public_key);
            assert_eq!(said["proof"]["signature"], signature);
            assert_eq!(key(text).rendezvous_id().to_string(), id);
        }
    }

    #[test]
    fn a_proof_holds_for_what_was_asked_and_nothing_else() {
        let all = [
            (Role::Initiator, false),
            (Role::Initiator, true),
            (Role::Receiver, false),
        ];
        for (role, host) in all {
            let (id, proof) = proven("k", role, host);
            for (other_role, other_host) in all {
                let same = (other_role, other_host) == (role, host);
                assert_eq!(proof.holds(&id, other_role, other_host), same);
            }
            let (other_id, other) = proven("l", role, host);
            assert!(!proof.holds(&other_id, role, host), "another's id");
            let mixed = Proof {
                public_key: other.public_key,
                ..proof.clone()
            };
            assert!(!mixed.holds(&id, role, host), "another's key");
            let repeated = Proof {
                nonce: nonce("m"),
                ..proof.clone()
            };
            assert!(!repeated.holds(&id, role, host), "another's nonce");
            for bit in 0..512 {
                let mut changed = proof.clone();
                changed.signature[bit / 8] ^= 1 << (bit % 8);
                assert!(!changed.holds(&id, role, host), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_key_that_anybody_can_sign_for_is_refused() {
        // The neutral element, and a signature of zeros behind it, which plain verification takes.
        let mut public_key = [0; 32];
        public_key[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let proof = Proof {
            public_key,
            nonce: nonce("n"),
            signature,
        };
        assert!(!proof.holds(&id_of(&public_key), Role::Receiver, false));
    }

    #[test]
    fn a_nonce_can_not_be_words() {
        for text in ["", "a b", "a\n", "é", &"x".repeat(65)] {
            assert!(Nonce::try_from(Cow::from(text)).is_err(), "{text:?}");
            assert!(serde_json::from_value::<Nonce>(text.into()).is_err());
        }
        let longest = Nonce::from_bytes(&[7; 48]);
        assert_eq!(Nonce::try_from(Cow::from(longest.as_str())), Ok(longest));
    }
}
