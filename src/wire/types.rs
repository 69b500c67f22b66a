//! The fields of the STUN header (RFC 8489 section 5), and the names of algorithms.

use std::fmt;

/// Length in bytes of the STUN header.
pub const HEADER_LEN: usize = 20;

/// The fixed second word of every STUN message.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Pairs a response with its request; chosen at random by the client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What kind of message it is. The discriminants are the two class bits, C1 then C0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Asks for a response.
    Request = 0b00,
    /// Never answered.
    Indication = 0b01,
    /// A request succeeded.
    Success = 0b10,
    /// A request failed; carries ERROR-CODE.
    Error = 0b11,
}

/// A STUN method: 12 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method(u16);

impl Method {
    /// Binding (RFC 8489 section 18.2).
    pub const BINDING: Self = Self(0x001);
    /// Allocate (RFC 8656 section 17); only request and response.
    pub const ALLOCATE: Self = Self(0x003);
    /// Refresh (RFC 8656 section 17).
    pub const REFRESH: Self = Self(0x004);
    /// Send (RFC 8656 section 17); only an indication.
    pub const SEND: Self = Self(0x006);
    /// Data (RFC 8656 section 17); only an indication.
    pub const DATA: Self = Self(0x007);
    /// CreatePermission (RFC 8656 section 17).
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// ChannelBind (RFC 8656 section 17).
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// Connect (RFC 6062 section 6.1).
    pub const CONNECT: Self = Self(0x00A);
    /// ConnectionBind (RFC 6062 section 6.1).
    pub const CONNECTION_BIND: Self = Self(0x00B);
    /// ConnectionAttempt (RFC 6062 section 6.1); only an indication.
    pub const CONNECTION_ATTEMPT: Self = Self(0x00C);

    /// The method with this number; `None` above 12 bits (0xFFF).
    pub const fn new(number: u16) -> Option<Self> {
        if number <= 0xFFF {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The method's number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The method's name as the RFCs write it; `None` for one this crate does not know.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::BINDING => "Binding",
            Self::ALLOCATE => "Allocate",
            Self::REFRESH => "Refresh",
            Self::SEND => "Send",
            Self::DATA => "Data",
            Self::CREATE_PERMISSION => "CreatePermission",
            Self::CHANNEL_BIND => "ChannelBind",
            Self::CONNECT => "Connect",
            Self::CONNECTION_BIND => "ConnectionBind",
            Self::CONNECTION_ATTEMPT => "ConnectionAttempt",
            _ => return None,
        })
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Method({:#05x})", self.0),
        }
    }
}

/// The message type field: the class bits sit between the method's bits (RFC 8489 section 5,
/// figure 3).
pub(super) const fn message_type(class: Class, method: Method) -> u16 {
    let (c, m) = (class as u16, method.0);
    (m & 0xF80) << 2 | (c & 0b10) << 7 | (m & 0x070) << 1 | (c & 0b01) << 4 | (m & 0x00F)
}

/// The reverse of [`message_type`]; the two top bits are not looked at.
pub(super) const fn split_message_type(ty: u16) -> (Class, Method) {
    let class = match (ty & 0x100 != 0, ty & 0x010 != 0) {
        (false, false) => Class::Request,
        (false, true) => Class::Indication,
        (true, false) => Class::Success,
        (true, true) => Class::Error,
    };
    let method = (ty & 0x3E00) >> 2 | (ty & 0x00E0) >> 1 | (ty & 0x000F);
    (class, Method(method))
}

/// How a long-term key is derived from the password (RFC 8489 section 18.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PasswordAlgorithm {
    /// The only one before RFC 8489, and what a request without PASSWORD-ALGORITHM uses.
    Md5 = 1,
    /// SHA-256.
    Sha256 = 2,
}

/// Which integrity attribute a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, 20 bytes (RFC 8489 section 14.5).
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256, 16 to 32 bytes (RFC 8489 section 14.6).
    Sha256,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [Class; 4] = [
        Class::Request,
        Class::Indication,
        Class::Success,
        Class::Error,
    ];

    #[test]
    fn known_message_types() {
        for (class, method, ty) in [
            (Class::Request, Method::BINDING, 0x0001),
            (Class::Success, Method::BINDING, 0x0101),
            (Class::Error, Method::BINDING, 0x0111),
            (Class::Request, Method::ALLOCATE, 0x0003),
            (Class::Error, Method::ALLOCATE, 0x0113),
            (Class::Indication, Method::SEND, 0x0016),
            (Class::Indication, Method::DATA, 0x0017),
            (Class::Success, Method::CHANNEL_BIND, 0x0109),
            (Class::Indication, Method::CONNECTION_ATTEMPT, 0x001C),
        ] {
            assert_eq!(message_type(class, method), ty);
        }
    }

    #[test]
    fn every_class_and_method_survives() {
        for class in CLASSES {
            for number in 0..=0xFFF {
                let method = Method::new(number).expect("12 bits");
                let ty = message_type(class, method);
                assert_eq!(ty & 0xC000, 0, "the two top bits are zero");
                assert_eq!(split_message_type(ty), (class, method));
            }
        }
        assert_eq!(Method::new(0x1000), None);
    }
}
