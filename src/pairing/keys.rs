//! What is derived from an access key (HKDF-SHA256, RFC 5869), so that the key itself need not
//! leave the client: the server learns the rendezvous id and nothing from which the secrets follow.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Domain separation: every output has its own label behind this.
const SALT: &[u8] = b"turnserver pairing v1";

/// The longest access key in bytes.
const MAX_KEY: usize = 1024;

/// Why a text is no access key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It is empty.
    Empty,
    /// It has more than 1024 bytes.
    Long,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the access key is empty",
            Self::Long => "the access key has more than 1024 bytes",
        })
    }
}

impl std::error::Error for KeyError {}

/// The secret that two devices share: 1 to 1024 bytes of UTF-8. Never logged or shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct AccessKey(Box<str>);

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(…)")
    }
}

impl AccessKey {
    /// Takes a key as the user wrote it.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        match text.len() {
            0 => Err(KeyError::Empty),
            1..=MAX_KEY => Ok(Self(text.into())),
            _ => Err(KeyError::Long),
        }
    }

    fn derive<const N: usize>(&self, info: &[&[u8]]) -> [u8; N] {
        let mut out = [0; N];
        Hkdf::<Sha256>::new(Some(SALT), self.0.as_bytes())
            .expand_multi_info(info, &mut out)
            .expect("fewer than 255 blocks");
        out
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Of the key pair by which the holder of the access key proves that it is one.
    pub(super) fn signing_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.derive(&[b"sign"]))
    }

    /// What the two use between them in one session, once each knows both salts. Other salts give other secrets: a server
    /// that names a session as an older one gets nothing of that one accepted, and no key is
    /// used for two of them.
    pub fn session(&self, session: &SessionId, salts: &Salts) -> SessionSecrets {
        let (initiator, receiver) = (&salts.initiator.0, &salts.receiver.0);
        let derive = |label| self.derive(&[label, &session.0, initiator, receiver]);
        SessionSecrets {
            check: derive(b"check"),
            seal: derive(b"seal"),
        }
    }

    /// The pre-shared key of the Noise handshakes of one session. It is there before the salts
    /// are: a handshake makes fresh keys of its own.
    pub fn psk(&self, session: &SessionId) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.derive(&[b"psk", &session.0]))
    }
}

/// What the two have drawn for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salts {
    /// The initiator's.
    pub initiator: Salt,
    /// The receiver's.
    pub receiver: Salt,
}

/// The secrets of one session, which the server never learns.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionSecrets {
    /// Keys the MESSAGE-INTEGRITY of connectivity checks.
    pub check: [u8; 32],
    /// Keys the blobs that the server forwards.
    pub seal: [u8; 32],
}

impl fmt::Debug for SessionSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecrets(…)")
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Written as 22 characters of base64url without padding.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let bytes = URL_SAFE_NO_PAD.decode(text).ok();
                let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
                bytes.map(Self).ok_or("not 22 characters of base64url")
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier! {
    /// Where two devices meet: the first 128 bits of the SHA-256 of a public key that follows from
    /// their access key.
    RendezvousId
}

identifier! {
    /// Names one attempt of two devices to connect: 128 random bits from the server.
    SessionId
}

identifier! {
    /// 128 random bits that one side draws for one session alone. The server and everybody else
    /// may know them.
    Salt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_derived_is_fixed_for_other_languages() {
        let key = AccessKey::new("correct horse battery staple").expect("a key");
        let id = key.rendezvous_id();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 22);
        let salts = Salts {
            initiator: Salt([3; 16]),
            receiver: Salt([4; 16]),
        };
        let one = key.session(&SessionId([1; 16]), &salts);
        let two = key.session(&SessionId([2; 16]), &salts);
        assert_ne!(one.check, two.check);
        let psk = key.psk(&SessionId([1; 16]));
        assert_ne!(psk, key.psk(&SessionId([2; 16])));
        assert_ne!(one.check, *psk);
        assert_ne!(one.seal, *psk);
        assert_ne!(one.check, one.seal);
        assert_ne!(one.seal[..16], id.0);
    }

    /// Of whichever side the salt is another one: nothing is as before.
    #[test]
    fn each_salt_changes_every_secret() {
        let key = AccessKey::new("k").expect("a key");
        let secrets = |initiator, receiver| {
            let [initiator, receiver] = [initiator, receiver].map(|byte| Salt([byte; 16]));
            let salts = Salts {
                initiator,
                receiver,
            };
            key.session(&SessionId([1; 16]), &salts)
        };
        let one = secrets(3, 4);
        for other in [secrets(5, 4), secrets(3, 5), secrets(4, 3)] {
            assert_ne!(one.check, other.check);
            assert_ne!(one.seal, other.seal);
        }
    }

    /// The vectors of `docs/signalling.md`, which another implementation of HKDF computed.
    #[test]
    fn the_vectors_for_other_languages() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        for (key, session, initiator, receiver, id, check, psk, seal) in [
            (
                "correct horse battery staple",
                "AAECAwQFBgcICQoLDA0ODw",
                "EBESExQVFhcYGRobHB0eHw",
                "ICEiIyQlJicoKSorLC0uLw",
                "9_FQBMSaNCbQiH6h9JzPyw",
                "53c7e94a4102e353bc01867340b268faee8aff3af5620d38884e2d636c80711b",
                "d5160d3b84946dd6803655392ac5fe1c8af04135c2a6a7e1744c8ae8536b6aa3",
                "c4a08a56308d20221b7ca100747140f4e9b4d8484cd11690ce8eafd07d43b525",
            ),
            (
                "Schlüssel 🔑",
                "_____________________w",
                "AAAAAAAAAAAAAAAAAAAAAA",
                "_____________________w",
                "wwWkGyTVydKuM6MaisocnA",
                "7338765eb2b204501d5e7a20b74f400c2208d3f466d4a6fd7b89916e0639dace",
                "0ca1cafdfb56911ffef179327acf185b0c0e7242988f1bdeef12288271f32024",
                "2e2f21c89459342b3fb0ced3c46cc0430564946188d1a0b5c158b24ca01b2417",
            ),
        ] {
            let document = include_str!("../../docs/signalling.md");
            for text in [key, session, initiator, receiver, id, check, psk, seal] {
                assert!(document.contains(text), "{text} is not in the document");
            }
            let key = AccessKey::new(key).expect("a key");
            assert_eq!(key.rendezvous_id().to_string(), id);
            let salts = Salts {
                initiator: initiator.parse().expect("a salt"),
                receiver: receiver.parse().expect("a salt"),
            };
            let session = session.parse().expect("a session");
            let secrets = key.session(&session, &salts);
            assert_eq!(hex(&secrets.check), check);
            assert_eq!(hex(&*key.psk(&session)), psk);
            assert_eq!(hex(&secrets.seal), seal);
        }
    }

    #[test]
    fn keys_show_nothing() {
        let key = AccessKey::new("hunter2").expect("a key");
        assert!(!format!("{key:?}").contains("hunter2"));
        assert_eq!(AccessKey::new("").err(), Some(KeyError::Empty));
        assert!(AccessKey::new(&"x".repeat(1025)).is_err());
    }
}
