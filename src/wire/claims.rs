//! What a request says about its sender, to be read before any of it is proven.

use super::attrs::{Attrs, Malformed};
use super::{PasswordAlgorithm, attr};

/// The attributes that authentication looks at (RFC 8489 section 9.2.4), each from the part of
/// the message that its integrity attribute covers. First occurrence of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims<'a> {
    /// USERNAME: not yet known to be UTF-8.
    pub username: Option<&'a [u8]>,
    /// USERHASH, of any length; it is 32 bytes where it is right.
    pub userhash: Option<&'a [u8]>,
    /// REALM.
    pub realm: Option<&'a [u8]>,
    /// NONCE.
    pub nonce: Option<&'a [u8]>,
    /// PASSWORD-ALGORITHM; `Err` for an unknown number, for parameters where there must be
    /// none, and for a wrong length. All of them are 400.
    pub password_algorithm: Option<Result<PasswordAlgorithm, Malformed>>,
    /// PASSWORD-ALGORITHMS, as sent: it is compared byte for byte with what was offered
    /// (RFC 8489 section 9.2.4).
    pub password_algorithms: Option<&'a [u8]>,
}

impl<'a> Claims<'a> {
    pub(super) fn read(attrs: &Attrs<'a>) -> Self {
        let mut claims = Self::default();
        for (ty, value) in attrs.raw() {
            match ty {
                attr::USERNAME => first(&mut claims.username, value),
                attr::USERHASH => first(&mut claims.userhash, value),
                attr::REALM => first(&mut claims.realm, value),
                attr::NONCE => first(&mut claims.nonce, value),
                attr::PASSWORD_ALGORITHM => {
                    first(&mut claims.password_algorithm, password_algorithm(value));
                }
                attr::PASSWORD_ALGORITHMS => first(&mut claims.password_algorithms, value),
                _ => {}
            }
        }
        claims
    }

    /// Whether every value is as long as it may be: USERNAME up to 508 bytes (RFC 8489
    /// section 14.3), REALM and NONCE up to 763 bytes, which is where 127 characters end
    /// (sections 14.9 and 14.10), USERHASH 32 bytes (section 14.4).
    pub fn within_limits(&self) -> bool {
        self.username.is_none_or(|value| value.len() <= 508)
            && self.userhash.is_none_or(|value| value.len() == 32)
            && self.realm.is_none_or(|value| value.len() <= 763)
            && self.nonce.is_none_or(|value| value.len() <= 763)
    }
}

/// First occurrence wins (RFC 8489 section 14).
fn first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

/// One algorithm as PASSWORD-ALGORITHM carries it: number, length of the parameters, and no
/// parameters for those that exist (RFC 8489 sections 14.12 and 18.5.1).
fn password_algorithm(value: &[u8]) -> Result<PasswordAlgorithm, Malformed> {
    match value {
        [0, 1, 0, 0] => Ok(PasswordAlgorithm::Md5),
        [0, 2, 0, 0] => Ok(PasswordAlgorithm::Sha256),
        _ => Err(Malformed),
    }
}
