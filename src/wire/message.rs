//! A received STUN message: well-formedness is checked once, in one pass, and who may read what
//! is decided by the types that come out of [`Message`].

use std::fmt;

use subtle::ConstantTimeEq;

use super::attrs::{Attrs, Seen, Verified};
use super::claims::Claims;
use super::key::Key;
use super::types::{HEADER_LEN, Integrity, MAGIC_COOKIE, split_message_type};
use super::{Class, Method, TransactionId, attr, padded};

/// Length of an attribute's type and length fields.
pub(super) const TLV_HEADER: usize = 4;

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Fewer than 20 bytes.
    Short,
    /// The two top bits are not zero, or the magic cookie is missing (RFC 8489 section 5).
    NotStun,
    /// The length field is not a multiple of 4, or not the length of what was received
    /// (RFC 8489 section 5).
    Length,
    /// An attribute runs past the end (RFC 8489 section 14).
    Attribute,
    /// FINGERPRINT is wrong, or not the last attribute: not STUN (RFC 8489 sections 7, 14.7).
    Fingerprint,
}

/// Why a message's integrity does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegrityError {
    /// There is no integrity attribute.
    Missing,
    /// The attribute has a length it cannot have (RFC 8489 sections 14.5, 14.6): 400.
    Malformed,
    /// Another key, or other bytes: 401.
    Mismatch,
}

/// A well-formed STUN message in received bytes.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Where the attributes end that anybody may act on: at the first integrity attribute,
    /// FINGERPRINT or the end of the message.
    body_end: u32,
    /// Where MESSAGE-INTEGRITY starts; 0 for none that counts.
    sha1_at: u32,
    /// Where MESSAGE-INTEGRITY-SHA256 starts; 0 for none that counts.
    sha256_at: u32,
    fingerprint: bool,
    seen: Seen,
}

impl<'a> Message<'a> {
    /// Reads a message that fills `bytes` exactly: header, attributes, FINGERPRINT.
    ///
    /// Attributes behind MESSAGE-INTEGRITY other than MESSAGE-INTEGRITY-SHA256 and FINGERPRINT
    /// are ignored, behind MESSAGE-INTEGRITY-SHA256 all but FINGERPRINT (RFC 8489 sections 14.5
    /// and 14.6): nothing of [`Message`] ever shows them.
    ///
    /// # Errors
    /// See [`ParseError`]; nothing is to be answered to any of them (RFC 8489 section 6.3).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(ParseError::Short)?;
        // RFC 8489 section 5: two zero bits, then the cookie.
        if header[0] & 0xC0 != 0 || header[4..8] != MAGIC_COOKIE.to_be_bytes() {
            return Err(ParseError::NotStun);
        }
        // RFC 8489 section 5: the length does not count the header and is a multiple of 4.
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if !length.is_multiple_of(4) || HEADER_LEN + length != bytes.len() {
            return Err(ParseError::Length);
        }
        let mut message = Self {
            bytes,
            body_end: 0,
            sha1_at: 0,
            sha256_at: 0,
            fingerprint: false,
            seen: Seen::default(),
        };
        message.walk()?;
        Ok(message)
    }

    /// Looks at every attribute once: do they fit, where is the integrity, is FINGERPRINT right.
    fn walk(&mut self) -> Result<(), ParseError> {
        let bytes = self.bytes;
        let mut at = HEADER_LEN;
        while at < bytes.len() {
            let (ty, value) = attribute_at(bytes, at).ok_or(ParseError::Attribute)?;
            let next = at + TLV_HEADER + padded(value.len());
            match ty {
                attr::FINGERPRINT => {
                    // RFC 8489 section 14.7: the last attribute.
                    if next != bytes.len() || value != fingerprint(&bytes[..at]) {
                        return Err(ParseError::Fingerprint);
                    }
                    self.fingerprint = true;
                    self.end_body(at);
                }
                // Each counts once, and neither counts behind the SHA256 one
                // (RFC 8489 section 14.6).
                attr::MESSAGE_INTEGRITY if self.sha1_at == 0 && self.sha256_at == 0 => {
                    self.sha1_at = at as u32;
                    self.end_body(at);
                }
                attr::MESSAGE_INTEGRITY_SHA256 if self.sha256_at == 0 => {
                    self.sha256_at = at as u32;
                    self.end_body(at);
                }
                _ if self.body_end == 0 => self.seen.insert(ty),
                _ => {}
            }
            at = next;
        }
        self.end_body(at);
        Ok(())
    }

    /// The body ends at the first offset this is called with.
    fn end_body(&mut self, at: usize) {
        if self.body_end == 0 {
            self.body_end = at as u32;
        }
    }

    /// The message's class.
    pub fn class(&self) -> Class {
        self.class_and_method().0
    }

    /// The message's method; any 12-bit number may come.
    pub fn method(&self) -> Method {
        self.class_and_method().1
    }

    fn class_and_method(&self) -> (Class, Method) {
        split_message_type(u16::from_be_bytes([self.bytes[0], self.bytes[1]]))
    }

    /// The transaction id.
    pub fn transaction_id(&self) -> TransactionId {
        transaction_id(self.bytes)
    }

    /// The whole message as received.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the message carries a FINGERPRINT (which then is right).
    pub fn has_fingerprint(&self) -> bool {
        self.fingerprint
    }

    /// The integrity attribute to verify; the SHA256 one where both came.
    pub fn integrity(&self) -> Option<Integrity> {
        if self.sha256_at != 0 {
            Some(Integrity::Sha256)
        } else if self.sha1_at != 0 {
            Some(Integrity::Sha1)
        } else {
            None
        }
    }

    /// Whether the message carries this integrity attribute, also next to the other one.
    pub fn has_integrity(&self, which: Integrity) -> bool {
        match which {
            Integrity::Sha1 => self.sha1_at != 0,
            Integrity::Sha256 => self.sha256_at != 0,
        }
    }

    /// What authentication needs before it can verify anything. Not proven: good for looking
    /// up a key and for nothing else.
    pub fn claims(&self) -> Claims<'a> {
        Claims::read(&self.unprotected())
    }

    /// Verifies the attribute that [`Message::integrity`] names and gives out the attributes it
    /// covers.
    ///
    /// The HMAC is taken over the message up to the attribute, with the length field as if the
    /// message ended right behind it (RFC 8489 section 14.5); padding counts as received.
    ///
    /// # Errors
    /// See [`IntegrityError`].
    pub fn verify(&self, key: &Key) -> Result<Verified<'a>, IntegrityError> {
        let which = self.integrity().ok_or(IntegrityError::Missing)?;
        let at = match which {
            Integrity::Sha1 => self.sha1_at,
            Integrity::Sha256 => self.sha256_at,
        } as usize;
        let (_, value) = attribute_at(self.bytes, at).ok_or(IntegrityError::Malformed)?;
        let mut header = *self
            .bytes
            .first_chunk::<HEADER_LEN>()
            .ok_or(IntegrityError::Malformed)?;
        let length = (at + TLV_HEADER + value.len() - HEADER_LEN) as u16;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        let parts = [&header[..], &self.bytes[HEADER_LEN..at]];
        let right = match which {
            Integrity::Sha1 => {
                // RFC 8489 section 14.5: always 20 bytes.
                if value.len() != 20 {
                    return Err(IntegrityError::Malformed);
                }
                key.sha1(parts).ct_eq(value)
            }
            Integrity::Sha256 => {
                // RFC 8489 section 14.6: may be truncated, to 16 bytes or more in steps of 4;
                // compared over what came.
                if !matches!(value.len(), 16 | 20 | 24 | 28 | 32) {
                    return Err(IntegrityError::Malformed);
                }
                key.sha256(parts)[..value.len()].ct_eq(value)
            }
        };
        if right.into() {
            Ok(Verified::new(self.unprotected()))
        } else {
            Err(IntegrityError::Mismatch)
        }
    }

    /// The attributes in front of any integrity attribute, without proof: for Binding, for
    /// indications (RFC 8656 section 5: they carry none), and for responses.
    pub fn unprotected(&self) -> Attrs<'a> {
        Attrs::new(self.bytes, self.body_end as usize, self.seen)
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, method) = self.class_and_method();
        write!(
            f,
            "{method:?} {class:?} {:?} ({} bytes)",
            self.transaction_id(),
            self.bytes.len()
        )
    }
}

/// The transaction id of a message that has a whole header.
pub(super) fn transaction_id(message: &[u8]) -> TransactionId {
    let mut id = [0; 12];
    id.copy_from_slice(&message[8..HEADER_LEN]);
    TransactionId(id)
}

/// Type and value of the attribute that starts at `at`; `None` when it, with its padding, does
/// not fit into `bytes`.
pub(super) fn attribute_at(bytes: &[u8], at: usize) -> Option<(u16, &[u8])> {
    let (&[t0, t1, l0, l1], rest) = bytes.get(at..)?.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    // RFC 8489 section 14: padded to a multiple of 4; the padding is not in the length.
    if rest.len() < padded(len) {
        return None;
    }
    Some((u16::from_be_bytes([t0, t1]), &rest[..len]))
}

/// The value of FINGERPRINT over everything before it (RFC 8489 section 14.7).
pub(super) fn fingerprint(before: &[u8]) -> [u8; 4] {
    (crc32fast::hash(before) ^ 0x5354_554E).to_be_bytes()
}
