//! The numbers that a refusal is told by (RFC 8489 section 14.8), each with its one phrase.

use std::fmt;

/// A STUN error code: class 3 to 6, number 0 to 99, that is 300 to 699.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrorCode(u16);

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $reason:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// The reason phrase of the RFC that defines the code; empty for an unknown one.
            pub const fn reason(self) -> &'static str {
                match self.0 {
                    $($number => $reason,)*
                    _ => "",
                }
            }
        }
    };
}

error_codes! {
    /// RFC 8489 section 14.8: ask another server.
    TRY_ALTERNATE = 300 "Try Alternate";
    /// RFC 8489 section 14.8: malformed.
    BAD_REQUEST = 400 "Bad Request";
    /// RFC 8489 section 14.8: no or wrong credentials.
    UNAUTHENTICATED = 401 "Unauthenticated";
    /// RFC 8656 section 19: refused by policy.
    FORBIDDEN = 403 "Forbidden";
    /// RFC 8016 section 3.5: mobility is not offered.
    MOBILITY_FORBIDDEN = 405 "Mobility Forbidden";
    /// RFC 8489 section 14.8: carries UNKNOWN-ATTRIBUTES.
    UNKNOWN_ATTRIBUTE = 420 "Unknown Attribute";
    /// RFC 8656 section 19: there is no allocation, or already one.
    ALLOCATION_MISMATCH = 437 "Allocation Mismatch";
    /// RFC 8489 section 14.8: retry with the new nonce.
    STALE_NONCE = 438 "Stale Nonce";
    /// RFC 8656 section 19: no relayed transport address of this family here.
    ADDRESS_FAMILY_NOT_SUPPORTED = 440 "Address Family not Supported";
    /// RFC 8656 section 19: another user owns the allocation.
    WRONG_CREDENTIALS = 441 "Wrong Credentials";
    /// RFC 8656 section 19: REQUESTED-TRANSPORT names another than UDP.
    UNSUPPORTED_TRANSPORT = 442 "Unsupported Transport Protocol";
    /// RFC 8656 section 19: the peer's family is not the relayed transport address's.
    PEER_FAMILY_MISMATCH = 443 "Peer Address Family Mismatch";
    /// RFC 6062 section 6.3.
    CONNECTION_ALREADY_EXISTS = 446 "Connection Already Exists";
    /// RFC 6062 section 6.3.
    CONNECTION_TIMEOUT = 447 "Connection Timeout or Failure";
    /// RFC 8656 section 19: too many allocations of this user.
    QUOTA_REACHED = 486 "Allocation Quota Reached";
    /// RFC 8445 section 16.2.
    ROLE_CONFLICT = 487 "Role Conflict";
    /// RFC 8489 section 14.8: try again later.
    SERVER_ERROR = 500 "Server Error";
    /// RFC 8656 section 19: no relayed transport address left.
    INSUFFICIENT_CAPACITY = 508 "Insufficient Capacity";
}

impl ErrorCode {
    /// The code with this value; `None` outside 300 to 699.
    pub const fn new(value: u16) -> Option<Self> {
        if matches!(value, 300..=699) {
            Some(Self(value))
        } else {
            None
        }
    }

    /// The code from its two fields on the wire; `None` when the class is not 3 to 6 or the
    /// number above 99 (RFC 8489 section 14.8).
    pub(super) const fn from_wire(class: u8, number: u8) -> Option<Self> {
        // The class is the low 3 bits; the 5 above it are reserved and ignored.
        let class = class & 0b111;
        if matches!(class, 3..=6) && number <= 99 {
            Some(Self(class as u16 * 100 + number as u16))
        } else {
            None
        }
    }

    /// The two fields on the wire: class and number.
    pub(super) const fn to_wire(self) -> [u8; 2] {
        [(self.0 / 100) as u8, (self.0 % 100) as u8]
    }

    /// The code as a number, 300 to 699.
    pub const fn value(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_300_to_699_exist() {
        for value in 0..=u16::MAX {
            match ErrorCode::new(value) {
                Some(code) => {
                    let [class, number] = code.to_wire();
                    assert_eq!(ErrorCode::from_wire(class, number), Some(code));
                    // Reserved bits above the class do not matter.
                    assert_eq!(ErrorCode::from_wire(class | 0xF8, number), Some(code));
                }
                None => assert!(!(300..700).contains(&value)),
            }
        }
        assert_eq!(ErrorCode::from_wire(2, 99), None);
        assert_eq!(ErrorCode::from_wire(7, 0), None);
        assert_eq!(ErrorCode::from_wire(4, 100), None);
    }
}
