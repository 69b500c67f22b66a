//! Nonces without a table: the server recognises its own by a MAC.
//!
//! A NONCE is 32 characters: the cookie `obMatJos2` and the security features of RFC 8489 section
//! 9.2, then base64 of the low 18 bits of the time of issue and a MAC of 96 bits. The MAC covers
//! the full time, the client's address and port, and the features: a nonce whose cookie was
//! stripped or altered on the way (a bid-down attack) is none of ours. Whoever has the key
//! recognises the nonce, after a restart and on a sibling server too. Each character counts: the
//! nonce is the longest part of the answer that anybody can provoke.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What every nonce of an RFC 8489 server starts with (section 9.2).
const COOKIE: &[u8; 9] = b"obMatJos2";
const FEATURES_END: usize = COOKIE.len() + 4;
/// Characters of a nonce.
pub const NONCE_LEN: usize = 32;
const MAC_BITS: u32 = 96;
const TIME_BITS: u32 = 18;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// The characters of base64 (RFC 4648 section 4).
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// How far the clock of a sibling server may be ahead, in seconds.
const SKEW: u64 = 5;
/// The time travels as 18 bits: what is three days old could not be told from what is new.
const MAX_LIFETIME: u64 = 200_000;

/// The key of the MAC.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct NonceKey([u8; 32]);

impl NonceKey {
    /// A key of 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey(…)")
    }
}

/// The security features that a nonce announces (RFC 8489 section 9.2 and 18.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Bit 0: PASSWORD-ALGORITHMS is in use.
    pub password_algorithms: bool,
    /// Bit 1: the client may send USERHASH in place of USERNAME.
    pub username_anonymity: bool,
}

impl Features {
    /// The 24-bit set; bit 0 is the leftmost one.
    fn to_bits(self) -> u32 {
        u32::from(self.password_algorithms) << 23 | u32::from(self.username_anonymity) << 22
    }

    fn from_bits(set: u32) -> Self {
        Self {
            password_algorithms: set & 1 << 23 != 0,
            username_anonymity: set & 1 << 22 != 0,
        }
    }
}

/// The value of a NONCE attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; NONCE_LEN]);

impl Nonce {
    /// The characters, all of them ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({})", self.0.escape_ascii())
    }
}

/// Whether a nonce may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceState {
    /// Issued by this server, to this client, not too long ago.
    Valid,
    /// Expired, issued to another address, altered, or none of ours: 438 with a fresh one.
    Stale,
}

/// Issues nonces and recognises them.
#[derive(Clone)]
pub struct Nonces {
    mac: Hmac<Sha256>,
    lifetime: u64,
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonces(valid {} s)", self.lifetime)
    }
}

impl Nonces {
    /// Nonces valid for `lifetime_secs` seconds. RFC 8656 section 5 wants no more than 3,600;
    /// values over 200,000 are taken as that, 0 as 1.
    pub fn new(key: NonceKey, lifetime_secs: u64) -> Self {
        Self {
            mac: Hmac::new_from_slice(&key.0).expect("HMAC takes keys of any length"),
            lifetime: lifetime_secs.clamp(1, MAX_LIFETIME),
        }
    }

    /// A nonce for `client`, issued at the Unix time `unix` (seconds).
    pub fn issue(&self, unix: u64, client: SocketAddr, features: Features) -> Nonce {
        let set = features.to_bits();
        let token = u128::from(unix & TIME_MASK) << MAC_BITS | self.tag(unix, client, set);
        let mut nonce = [0; NONCE_LEN];
        nonce[..COOKIE.len()].copy_from_slice(COOKIE);
        encode(set.into(), &mut nonce[COOKIE.len()..FEATURES_END]);
        encode(token, &mut nonce[FEATURES_END..]);
        Nonce(nonce)
    }

    /// Judges a nonce that `client` sent at the Unix time `unix` (seconds).
    ///
    /// A wall clock that is set back by more than a few seconds makes nonces stale; the client
    /// is told a fresh one and goes on.
    pub fn check(&self, unix: u64, client: SocketAddr, nonce: &[u8]) -> NonceState {
        self.open(unix, client, nonce)
            .map_or(NonceState::Stale, |()| NonceState::Valid)
    }

    fn open(&self, unix: u64, client: SocketAddr, nonce: &[u8]) -> Option<()> {
        let nonce: &[u8; NONCE_LEN] = nonce.try_into().ok()?;
        let set = decode(nonce.strip_prefix(COOKIE)?.get(..4)?)? as u32;
        let token = decode(&nonce[FEATURES_END..])?;
        let low = (token >> MAC_BITS) as u64;
        let age = unix.wrapping_sub(low) & TIME_MASK;
        let ahead = low.wrapping_sub(unix) & TIME_MASK;
        let issued = if age < self.lifetime {
            unix.checked_sub(age)?
        } else if ahead <= SKEW {
            unix.checked_add(ahead)?
        } else {
            return None;
        };
        let expected = self.tag(issued, client, set).to_be_bytes();
        let presented = (token & ((1 << MAC_BITS) - 1)).to_be_bytes();
        bool::from(expected.ct_eq(&presented)).then_some(())
    }

    /// The features that a nonce says it was issued with; `None` when it has no cookie. They are
    /// the server's own word only once the nonce is [`NonceState::Valid`].
    pub fn claimed_features(nonce: &[u8]) -> Option<Features> {
        let set = nonce.strip_prefix(COOKIE)?.get(..4)?;
        decode(set).map(|set| Features::from_bits(set as u32))
    }

    /// The first 96 bits of the MAC.
    fn tag(&self, unix: u64, client: SocketAddr, set: u32) -> u128 {
        let (family, ip) = match client.ip().to_canonical() {
            IpAddr::V4(ip) => (4, ip.to_bits().into()),
            IpAddr::V6(ip) => (6, ip.to_bits()),
        };
        let mut input = [0_u8; 8 + 4 + 1 + 16 + 2];
        input[..8].copy_from_slice(&unix.to_be_bytes());
        input[8..12].copy_from_slice(&set.to_be_bytes());
        input[12] = family;
        input[13..29].copy_from_slice(&ip.to_be_bytes());
        input[29..].copy_from_slice(&client.port().to_be_bytes());
        let mut mac = self.mac.clone();
        mac.update(&input);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut first = [0; 16];
        first.copy_from_slice(&full[..16]);
        u128::from_be_bytes(first) >> (128 - MAC_BITS)
    }
}

/// Writes the low `6 × out.len()` bits of `value`, so that each value has exactly one text.
fn encode(value: u128, out: &mut [u8]) {
    for (place, out) in out.iter_mut().rev().enumerate() {
        *out = BASE64[(value >> (6 * place)) as usize & 63];
    }
}

/// The reverse of [`encode`], for at most 21 characters.
fn decode(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |value: u128, &character| {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(value << 6 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests;
