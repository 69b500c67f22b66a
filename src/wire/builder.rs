//! Writing messages into the caller's slice: one attribute after the other, padding always zero,
//! and running out of room is remembered until the end.

use std::net::SocketAddr;

use super::address::{self, MAX_LEN, PLAIN};
use super::attrs::{ChangeRequest, Icmp};
use super::error_code::ErrorCode;
use super::key::Key;
use super::message::{TLV_HEADER, fingerprint, transaction_id};
use super::types::{
    Class, HEADER_LEN, Integrity, MAGIC_COOKIE, Method, PasswordAlgorithm, TransactionId,
    message_type,
};
use super::{attr, padded};

/// The message does not fit into the slice, or not into a STUN message (65,532 bytes of
/// attributes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// The most bytes of attributes: the largest multiple of 4 that the length field holds.
const MAX_BODY: usize = 0xFFFC;

/// Builds one message. Attributes come in the order of the calls; what belongs behind what
/// (integrity, then FINGERPRINT) is up to the caller.
///
/// ```
/// use turnserver::wire::{Builder, Class, Message, Method, TransactionId, attr};
///
/// let mut buffer = [0; 64];
/// let mut builder =
///     Builder::new(&mut buffer, Class::Success, Method::BINDING, TransactionId([7; 12]));
/// builder.xor_address(attr::XOR_MAPPED_ADDRESS, "192.0.2.1:32853".parse().unwrap());
/// let len = builder.finish().unwrap();
/// assert_eq!(len, 32);
/// assert!(Message::parse(&buffer[..len]).is_ok());
/// ```
#[derive(Debug)]
pub struct Builder<'b> {
    buf: &'b mut [u8],
    len: usize,
    overflow: bool,
}

impl<'b> Builder<'b> {
    /// Starts a message at the start of `buf`.
    pub fn new(buf: &'b mut [u8], class: Class, method: Method, id: TransactionId) -> Self {
        let mut overflow = true;
        if let Some(header) = buf.first_chunk_mut::<HEADER_LEN>() {
            header[..2].copy_from_slice(&message_type(class, method).to_be_bytes());
            header[2..4].fill(0);
            header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
            header[8..].copy_from_slice(&id.0);
            overflow = false;
        }
        Self {
            buf,
            len: HEADER_LEN,
            overflow,
        }
    }

    /// Appends an attribute's header and room for its value, padded with zeros; gives out the
    /// room, or remembers that there is none.
    fn append(&mut self, ty: u16, len: usize) -> Option<&mut [u8]> {
        let end = self.len + TLV_HEADER + padded(len);
        if self.overflow || end > self.buf.len() || end - HEADER_LEN > MAX_BODY {
            self.overflow = true;
            return None;
        }
        let room = &mut self.buf[self.len..end];
        self.len = end;
        let (head, value) = room.split_at_mut(TLV_HEADER);
        head[..2].copy_from_slice(&ty.to_be_bytes());
        head[2..].copy_from_slice(&(len as u16).to_be_bytes());
        let (value, padding) = value.split_at_mut(len);
        // RFC 8489 section 14: padding is zero when sent. It also must not leak what the
        // buffer held before.
        padding.fill(0);
        Some(value)
    }

    /// Appends an attribute with this value.
    pub fn attribute(&mut self, ty: u16, value: &[u8]) -> &mut Self {
        if let Some(room) = self.append(ty, value.len()) {
            room.copy_from_slice(value);
        }
        self
    }

    /// Appends an attribute without a value: DONT-FRAGMENT, USE-CANDIDATE, an empty
    /// MOBILITY-TICKET.
    pub fn empty(&mut self, ty: u16) -> &mut Self {
        self.attribute(ty, &[])
    }

    /// Appends a 32-bit number: LIFETIME, CONNECTION-ID, PRIORITY.
    pub fn u32(&mut self, ty: u16, value: u32) -> &mut Self {
        self.attribute(ty, &value.to_be_bytes())
    }

    /// Appends a byte and three reserved ones: REQUESTED-TRANSPORT, the address families.
    pub fn u8_rffu(&mut self, ty: u16, value: u8) -> &mut Self {
        self.attribute(ty, &[value, 0, 0, 0])
    }

    /// Appends a plain address: MAPPED-ADDRESS, ALTERNATE-SERVER, RESPONSE-ORIGIN,
    /// OTHER-ADDRESS.
    pub fn address(&mut self, ty: u16, address: SocketAddr) -> &mut Self {
        let mut value = [0; MAX_LEN];
        let len = address::encode(&mut value, address, &PLAIN);
        self.attribute(ty, &value[..len])
    }

    /// Appends a xored address: XOR-MAPPED-ADDRESS, XOR-RELAYED-ADDRESS, XOR-PEER-ADDRESS.
    ///
    /// IPv4-mapped IPv6 addresses are the caller's to unmap.
    pub fn xor_address(&mut self, ty: u16, address: SocketAddr) -> &mut Self {
        if self.overflow {
            return self;
        }
        let mut value = [0; MAX_LEN];
        let mask = address::mask(transaction_id(self.buf));
        let len = address::encode(&mut value, address, &mask);
        self.attribute(ty, &value[..len])
    }

    /// Appends ERROR-CODE, with the RFC's reason phrase or with an empty one (RFC 8489
    /// section 14.8): 8 bytes where an answer must stay small.
    pub fn error_code(&mut self, code: ErrorCode, with_reason: bool) -> &mut Self {
        let reason = if with_reason { code.reason() } else { "" };
        self.coded(attr::ERROR_CODE, 0, code, reason)
    }

    /// Appends ADDRESS-ERROR-CODE for [`attr::FAMILY_IPV4`] or [`attr::FAMILY_IPV6`]
    /// (RFC 8656 section 18.12).
    pub fn address_error_code(&mut self, family: u8, code: ErrorCode) -> &mut Self {
        self.coded(attr::ADDRESS_ERROR_CODE, family, code, code.reason())
    }

    fn coded(&mut self, ty: u16, first: u8, code: ErrorCode, reason: &str) -> &mut Self {
        if let Some(room) = self.append(ty, 4 + reason.len()) {
            let [class, number] = code.to_wire();
            room[..4].copy_from_slice(&[first, 0, class, number]);
            room[4..].copy_from_slice(reason.as_bytes());
        }
        self
    }

    /// Appends UNKNOWN-ATTRIBUTES (RFC 8489 section 14.13).
    pub fn unknown_attributes(&mut self, types: impl IntoIterator<Item = u16>) -> &mut Self {
        let start = self.len;
        self.empty(attr::UNKNOWN_ATTRIBUTES);
        let mut count = 0;
        for ty in types {
            // Every second type opens a new word, whose other half is padding until it is
            // used, so that nothing has to be counted beforehand.
            let at = start + TLV_HEADER + 2 * count;
            let end = padded(at + 2);
            if self.overflow || end > self.buf.len() || end - HEADER_LEN > MAX_BODY {
                self.overflow = true;
                return self;
            }
            self.buf[at..at + 2].copy_from_slice(&ty.to_be_bytes());
            self.buf[at + 2..end].fill(0);
            self.len = end;
            count += 1;
        }
        if !self.overflow {
            self.buf[start + 2..start + 4].copy_from_slice(&(2 * count as u16).to_be_bytes());
        }
        self
    }

    /// Appends PASSWORD-ALGORITHMS, in this order (RFC 8489 section 14.11).
    pub fn password_algorithms(&mut self, offered: &[PasswordAlgorithm]) -> &mut Self {
        if let Some(room) = self.append(attr::PASSWORD_ALGORITHMS, 4 * offered.len()) {
            let (entries, _) = room.as_chunks_mut();
            for (entry, &algorithm) in entries.iter_mut().zip(offered) {
                *entry = [0, algorithm as u8, 0, 0];
            }
        }
        self
    }

    /// Appends PASSWORD-ALGORITHM (RFC 8489 section 14.12).
    pub fn password_algorithm(&mut self, algorithm: PasswordAlgorithm) -> &mut Self {
        self.attribute(attr::PASSWORD_ALGORITHM, &[0, algorithm as u8, 0, 0])
    }

    /// Appends CHANNEL-NUMBER (RFC 8656 section 18.1).
    pub fn channel_number(&mut self, number: u16) -> &mut Self {
        let [high, low] = number.to_be_bytes();
        self.attribute(attr::CHANNEL_NUMBER, &[high, low, 0, 0])
    }

    /// Appends EVEN-PORT with its R bit (RFC 8656 section 18.7).
    pub fn even_port(&mut self, reserve_next: bool) -> &mut Self {
        self.attribute(attr::EVEN_PORT, &[u8::from(reserve_next) << 7])
    }

    /// Appends ICMP: 16 reserved bits, 7 of type, 9 of code, 32 of data (RFC 8656
    /// section 18.13, figure 11). Only types up to 127 and codes up to 511 fit, which all those
    /// that are forwarded are; higher bits are cut off.
    pub fn icmp(&mut self, icmp: Icmp) -> &mut Self {
        let [t, c] = (u16::from(icmp.icmp_type) << 9 | icmp.code & 0x1FF).to_be_bytes();
        let [d0, d1, d2, d3] = icmp.data.to_be_bytes();
        self.attribute(attr::ICMP, &[0, 0, t, c, d0, d1, d2, d3])
    }

    /// Appends CHANGE-REQUEST (RFC 5780 section 7.2).
    pub fn change_request(&mut self, change: ChangeRequest) -> &mut Self {
        let flags = u8::from(change.ip) << 2 | u8::from(change.port) << 1;
        self.attribute(attr::CHANGE_REQUEST, &[0, 0, 0, flags])
    }

    /// Appends RESPONSE-PORT: 16 bits and the padding of every attribute (RFC 5780
    /// section 7.5).
    pub fn response_port(&mut self, port: u16) -> &mut Self {
        self.attribute(attr::RESPONSE_PORT, &port.to_be_bytes())
    }

    /// Appends PADDING of `len` zero bytes (RFC 5780 section 7.6).
    pub fn padding(&mut self, len: usize) -> &mut Self {
        if let Some(room) = self.append(attr::PADDING, len) {
            room.fill(0);
        }
        self
    }

    /// Appends MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 over everything so far
    /// (RFC 8489 sections 14.5 and 14.6).
    pub fn integrity(&mut self, which: Integrity, key: &Key) -> &mut Self {
        match which {
            Integrity::Sha1 => {
                let at = self.len;
                if self.append(attr::MESSAGE_INTEGRITY, 20).is_some() {
                    self.write_length();
                    let mac = key.sha1([&self.buf[..at], &[]]);
                    self.buf[at + TLV_HEADER..self.len].copy_from_slice(&mac);
                }
                self
            }
            Integrity::Sha256 => self.integrity_sha256_truncated(key, 32),
        }
    }

    /// Appends MESSAGE-INTEGRITY-SHA256 cut to `len` bytes: 16, 20, 24, 28 or 32 (RFC 8489
    /// section 14.6). Other lengths up to 32 are written as told, for testing receivers.
    ///
    /// # Panics
    /// When `len` is above 32.
    pub fn integrity_sha256_truncated(&mut self, key: &Key, len: usize) -> &mut Self {
        let at = self.len;
        if self.append(attr::MESSAGE_INTEGRITY_SHA256, len).is_some() {
            self.write_length();
            let mac = key.sha256([&self.buf[..at], &[]]);
            self.buf[at + TLV_HEADER..][..len].copy_from_slice(&mac[..len]);
        }
        self
    }

    /// Appends FINGERPRINT over everything so far (RFC 8489 section 14.7): the last attribute.
    pub fn fingerprint(&mut self) -> &mut Self {
        let at = self.len;
        if self.append(attr::FINGERPRINT, 4).is_some() {
            self.write_length();
            let value = fingerprint(&self.buf[..at]);
            self.buf[at + TLV_HEADER..self.len].copy_from_slice(&value);
        }
        self
    }

    fn write_length(&mut self) {
        let length = (self.len - HEADER_LEN) as u16;
        self.buf[2..4].copy_from_slice(&length.to_be_bytes());
    }

    /// Ends the message and returns its length in bytes.
    ///
    /// # Errors
    /// [`Overflow`] when any of it did not fit; the slice then holds nothing of use.
    pub fn finish(mut self) -> Result<usize, Overflow> {
        if self.overflow {
            return Err(Overflow);
        }
        self.write_length();
        Ok(self.len)
    }
}
