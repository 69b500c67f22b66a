//! Nonces without a table: the server recognises its own by a MAC.
//!
//! A NONCE is 32 characters: the cookie `obMatJos2` and the security features of RFC 8489 section
//! 9.2, then base64 of the low 16 bits of the time of issue and a MAC of 96 bits. The MAC covers
//! the full time, the client's address and port, and the features: a nonce whose cookie was
//! stripped or altered on the way (a bid-down attack) is none of ours. Whoever has the key
//! recognises the nonce, after a restart and on a sibling server too.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What every nonce of an RFC 8489 server starts with (section 9.2).
const COOKIE: &[u8; 9] = b"obMatJos2";
const FEATURES_END: usize = COOKIE.len() + 4;
/// Characters of a nonce.
pub const NONCE_LEN: usize = 32;
const MAC_LEN: usize = 12;
const TOKEN_LEN: usize = 2 + MAC_LEN;
/// How far the clock of a sibling server may be ahead, in seconds.
const SKEW: u64 = 5;
/// The time travels as 16 bits; what is older than this could not be told from what is newer.
const MAX_LIFETIME: u64 = 60_000;

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
    fn to_bytes(self) -> [u8; 3] {
        let bit_0 = u8::from(self.password_algorithms) << 7;
        let bit_1 = u8::from(self.username_anonymity) << 6;
        [bit_0 | bit_1, 0, 0]
    }

    fn from_bytes(set: [u8; 3]) -> Self {
        Self {
            password_algorithms: set[0] & 0x80 != 0,
            username_anonymity: set[0] & 0x40 != 0,
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
    /// values over 60,000 are taken as that, 0 as 1.
    pub fn new(key: NonceKey, lifetime_secs: u64) -> Self {
        Self {
            mac: Hmac::new_from_slice(&key.0).expect("HMAC takes keys of any length"),
            lifetime: lifetime_secs.clamp(1, MAX_LIFETIME),
        }
    }

    /// A nonce for `client`, issued at the Unix time `unix` (seconds).
    pub fn issue(&self, unix: u64, client: SocketAddr, features: Features) -> Nonce {
        let set = features.to_bytes();
        let mut token = [0; TOKEN_LEN];
        token[..2].copy_from_slice(&(unix as u16).to_be_bytes());
        token[2..].copy_from_slice(&self.tag(unix, client, set));
        let mut nonce = [0; NONCE_LEN];
        nonce[..COOKIE.len()].copy_from_slice(COOKIE);
        encode(&set, &mut nonce[COOKIE.len()..FEATURES_END]);
        encode(&token, &mut nonce[FEATURES_END..]);
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
        let set: [u8; 3] = decode(nonce.strip_prefix(COOKIE)?.get(..4)?)?;
        let token: [u8; TOKEN_LEN] = decode(&nonce[FEATURES_END..])?;
        let low = u16::from_be_bytes([token[0], token[1]]);
        let age = (unix as u16).wrapping_sub(low);
        let ahead = low.wrapping_sub(unix as u16);
        let issued = if u64::from(age) < self.lifetime {
            unix.checked_sub(u64::from(age))?
        } else if u64::from(ahead) <= SKEW {
            unix.checked_add(u64::from(ahead))?
        } else {
            return None;
        };
        let expected = self.tag(issued, client, set);
        bool::from(expected.ct_eq(&token[2..])).then_some(())
    }

    /// The features that a nonce says it was issued with; `None` when it has no cookie. They are
    /// the server's own word only once the nonce is [`NonceState::Valid`].
    pub fn claimed_features(nonce: &[u8]) -> Option<Features> {
        let set = nonce.strip_prefix(COOKIE)?.get(..4)?;
        decode(set).map(Features::from_bytes)
    }

    fn tag(&self, unix: u64, client: SocketAddr, set: [u8; 3]) -> [u8; MAC_LEN] {
        let mut mac = self.mac.clone();
        let mut input = [0_u8; 8 + 3 + 1 + 16 + 2];
        input[..8].copy_from_slice(&unix.to_be_bytes());
        input[8..11].copy_from_slice(&set);
        match client.ip().to_canonical() {
            IpAddr::V4(ip) => {
                input[11] = 4;
                input[12..16].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                input[11] = 6;
                input[12..28].copy_from_slice(&ip.octets());
            }
        }
        input[28..].copy_from_slice(&client.port().to_be_bytes());
        mac.update(&input);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut tag = [0; MAC_LEN];
        tag.copy_from_slice(&full[..MAC_LEN]);
        tag
    }
}

fn encode(bytes: &[u8], out: &mut [u8]) {
    let written = STANDARD_NO_PAD.encode_slice(bytes, out);
    debug_assert!(written.is_ok(), "the parts of a nonce have fixed lengths");
}

/// Decodes exactly `N` bytes; only the one canonical encoding of them is accepted.
fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    let written = STANDARD_NO_PAD.decode_slice(text, &mut out).ok()?;
    (written == N).then_some(out)
}
