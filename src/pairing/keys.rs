//! What is derived from an access key (HKDF-SHA256, RFC 5869), so that the key itself need not
//! leave the client: the server learns the rendezvous id and nothing from which the secrets follow.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

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

    fn derive<const N: usize>(&self, label: &[u8], session: &[u8]) -> [u8; N] {
        let mut out = [0; N];
        Hkdf::<Sha256>::new(Some(SALT), self.0.as_bytes())
            .expand_multi_info(&[label, session], &mut out)
            .expect("fewer than 255 blocks");
        out
    }

    /// Under which the server lets the two find each other.
    pub fn rendezvous_id(&self) -> RendezvousId {
        RendezvousId(self.derive(b"rid", &[]))
    }

    /// What the two use between them in one session.
    pub fn session(&self, session: &SessionId) -> SessionSecrets {
        SessionSecrets {
            check: self.derive(b"check", &session.0),
            psk: self.derive(b"psk", &session.0),
            seal: self.derive(b"seal", &session.0),
        }
    }
}

/// The secrets of one session, which the server never learns.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionSecrets {
    /// Keys the MESSAGE-INTEGRITY of connectivity checks.
    pub check: [u8; 32],
    /// The pre-shared key of the Noise handshake.
    pub psk: [u8; 32],
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
    /// Where two devices meet: 128 bits derived from their access key.
    RendezvousId
}

identifier! {
    /// Names one attempt of two devices to connect: 128 random bits from the server.
    SessionId
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
        let one = key.session(&SessionId([1; 16]));
        let two = key.session(&SessionId([2; 16]));
        assert_ne!(one.check, two.check);
        assert_ne!(one.check, one.psk);
        assert_ne!(one.psk, one.seal);
        assert_ne!(one.seal[..16], id.0);
    }

    /// The vectors of `docs/signalling.md`, which another implementation of HKDF computed.
    #[test]
    fn the_vectors_for_other_languages() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        for (key, session, id, check, psk, seal) in [
            (
                "correct horse battery staple",
                "AAECAwQFBgcICQoLDA0ODw",
                "Yr_O637HJxTkrCTWPU1ZGg",
                "01346874891d3dc23df79d1572a40274ab4ccda9691918613f51872845e76608",
                "d5160d3b84946dd6803655392ac5fe1c8af04135c2a6a7e1744c8ae8536b6aa3",
                "bdd2e9cb3f719de35489146338fab4c8fecde3677f63108f81bd316b68db566b",
            ),
            (
                "Schlüssel 🔑",
                "_____________________w",
                "VFu8Dv3rPVlSn71ihUpkwA",
                "b3c3ec99c06c6121c37a83c45c40ad57ac8c2cae3763a607a5b68022703ac04e",
                "0ca1cafdfb56911ffef179327acf185b0c0e7242988f1bdeef12288271f32024",
                "c9b1e5a2d257a11e144bfa68b266a17730674e9c990eee2998845696e91fbecb",
            ),
        ] {
            let document = include_str!("../../docs/signalling.md");
            for text in [key, session, id, check, psk, seal] {
                assert!(document.contains(text), "{text} is not in the document");
            }
            let key = AccessKey::new(key).expect("a key");
            assert_eq!(key.rendezvous_id().to_string(), id);
            let secrets = key.session(&session.parse().expect("a session"));
            assert_eq!(hex(&secrets.check), check);
            assert_eq!(hex(&secrets.psk), psk);
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
