//! Keys of the message integrity attributes: the password never stays, only the state of both
//! HMACs after their key went in.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::block_api::HmacCore;
use hmac::digest::block_api::CoreProxy;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::types::PasswordAlgorithm;

/// A key for MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256.
///
/// Holds the two HMAC states that result from the key (144 bytes in all), so that verifying or
/// protecting a message does not hash the key again. The states are wiped on drop, and `Debug`
/// shows nothing of them.
#[derive(Clone)]
pub struct Key {
    sha1: HmacCore<Sha1>,
    sha256: HmacCore<Sha256>,
}

impl Key {
    /// The long-term key: hash of `username ":" realm ":" password` (RFC 8489 section 9.2.2).
    ///
    /// Username and password must have gone through OpaqueString already, and the realm is the
    /// one that is sent.
    pub fn long_term(
        algorithm: PasswordAlgorithm,
        username: &[u8],
        realm: &[u8],
        password: &[u8],
    ) -> Self {
        fn hash<D: Digest>(out: &mut [u8], parts: [&[u8]; 5]) {
            let mut digest = D::new();
            parts.iter().for_each(|part| digest.update(part));
            out.copy_from_slice(&digest.finalize());
        }
        let parts = [username, b":", realm, b":", password];
        let mut bytes = Zeroizing::new([0; 32]);
        match algorithm {
            PasswordAlgorithm::Md5 => {
                hash::<Md5>(&mut bytes[..16], parts);
                Self::from_bytes(&bytes[..16])
            }
            PasswordAlgorithm::Sha256 => {
                hash::<Sha256>(&mut bytes[..], parts);
                Self::from_bytes(&bytes[..])
            }
        }
    }

    /// The short-term key: the password itself (RFC 8489 section 9.1.1), after OpaqueString.
    pub fn short_term(password: &[u8]) -> Self {
        Self::from_bytes(password)
    }

    /// A key from its bytes, of any length.
    pub fn from_bytes(key: &[u8]) -> Self {
        const WHY: &str = "HMAC takes a key of any length";
        Self {
            sha1: HmacCore::new_from_slice(key).expect(WHY),
            sha256: HmacCore::new_from_slice(key).expect(WHY),
        }
    }

    /// The password of a time-limited credential, where this is the key of the shared secret:
    /// as [`rest_password`], without hashing the secret again and without memory of its own.
    pub fn rest_password(&self, username: &[u8], sha256: bool) -> RestPassword {
        let mut text = Zeroizing::new([0; 44]);
        let written = if sha256 {
            STANDARD.encode_slice(self.sha256([username, b""]), &mut text[..])
        } else {
            STANDARD.encode_slice(self.sha1([username, b""]), &mut text[..])
        };
        let len = written.expect("44 characters are base64 of 32 bytes");
        RestPassword { text, len }
    }

    /// HMAC-SHA1 over the concatenation of two parts.
    pub(super) fn sha1(&self, parts: [&[u8]; 2]) -> [u8; 20] {
        let mut mac = Hmac::<Sha1>::compose(self.sha1.clone(), Default::default());
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    /// HMAC-SHA256 over the concatenation of two parts.
    pub(super) fn sha256(&self, parts: [&[u8]; 2]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::compose(self.sha256.clone(), Default::default());
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// The value of USERHASH: SHA-256 over `username ":" realm` (RFC 8489 section 14.4).
pub fn userhash(username: &[u8], realm: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(username)
        .chain_update(b":")
        .chain_update(realm)
        .finalize()
        .into()
}

/// The password of a time-limited credential (draft-uberti-behave-turn-rest): base64 of
/// HMAC-SHA1 under the shared secret over the whole username, or of HMAC-SHA256.
///
/// Cold: returns a `String`, which is as secret as any password. [`Key::rest_password`] is for
/// every request.
pub fn rest_password(secret: &[u8], username: &[u8], sha256: bool) -> String {
    let password = Key::from_bytes(secret).rest_password(username, sha256);
    String::from_utf8_lossy(password.as_bytes()).into_owned()
}

/// A password of a time-limited credential, wiped on drop.
pub struct RestPassword {
    /// Base64 of an HMAC, of which SHA-256 has the longest.
    text: Zeroizing<[u8; 44]>,
    len: usize,
}

impl RestPassword {
    /// Its text, which is ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

impl fmt::Debug for RestPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestPassword(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_silent() {
        assert!(size_of::<Key>() <= 160, "{}", size_of::<Key>());
        assert_eq!(
            format!("{:?}", Key::short_term(b"hunter2")),
            "Key(redacted)"
        );
        let password = Key::short_term(b"hunter2").rest_password(b"17:a", true);
        assert_eq!(format!("{password:?}"), "RestPassword(redacted)");
    }

    #[test]
    fn states_are_wiped_on_drop() {
        fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        wiped::<<Sha1 as CoreProxy>::Core>();
        wiped::<<Sha256 as CoreProxy>::Core>();
    }

    /// RFC 2202 section 3 and RFC 4231 section 4, test case 2.
    #[test]
    fn hmac_vectors() {
        let key = Key::from_bytes(b"Jefe");
        let parts: [&[u8]; 2] = [b"what do ya want ", b"for nothing?"];
        assert_eq!(
            key.sha1(parts),
            [
                0xef, 0xfc, 0xdf, 0x6a, 0xe5, 0xeb, 0x2f, 0xa2, 0xd2, 0x74, 0x16, 0xd5, 0xf1, 0x84,
                0xdf, 0x9c, 0x25, 0x9a, 0x7c, 0x79
            ]
        );
        assert_eq!(
            key.sha256(parts),
            [
                0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95,
                0x75, 0xc7, 0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27, 0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9,
                0x64, 0xec, 0x38, 0x43
            ]
        );
    }

    #[test]
    fn key_longer_than_a_block_is_hashed_first() {
        let long = [0xAA_u8; 131];
        let hashed: [u8; 32] = Sha256::digest(long).into();
        assert_eq!(
            Key::from_bytes(&long).sha256([b"x", b""]),
            Key::from_bytes(&hashed).sha256([b"x", b""])
        );
    }
}
