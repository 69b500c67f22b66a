//! The two ways in which relayed data reaches a client: ChannelData (RFC 8656 section 12.4) and
//! the Data indication. Both put a few bytes in front of a payload that stays where it is.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};

use super::address;
use super::types::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, message_type};
use super::{attr, padded};

/// The channel numbers that may be bound (RFC 8656 section 12).
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x4FFF;

/// The channel numbers that clients of the former standard bind (RFC 5766 section 11).
pub const RFC5766_CHANNELS: RangeInclusive<u16> = 0x4000..=0x7FFF;

/// Why bytes are not a ChannelData message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// Fewer than 4 bytes.
    Short,
    /// Not a channel number (RFC 8656 section 12, RFC 5766 section 11).
    Number,
    /// Fewer bytes than the length field says (RFC 8656 section 12.6), or, in a stream, more
    /// than padding.
    Length,
}

/// A ChannelData message in received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// The channel number, one of [`RFC5766_CHANNELS`]: whether it is
    /// bound decides.
    pub number: u16,
    /// The application data; may be empty.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Length in bytes of what comes before the data.
    pub const HEADER_LEN: usize = 4;

    /// Reads one message. A datagram may end in whatever bytes (RFC 8656 section 12.5: padding
    /// is optional there, and some clients send more); in a stream `bytes` is one frame, with or
    /// without its padding.
    ///
    /// # Errors
    /// See [`ChannelError`]; all of them mean silence (RFC 8656 section 12.6).
    pub fn parse(bytes: &'a [u8], stream: bool) -> Result<Self, ChannelError> {
        let (&[n0, n1, l0, l1], rest) = bytes.split_first_chunk().ok_or(ChannelError::Short)?;
        let number = u16::from_be_bytes([n0, n1]);
        if !RFC5766_CHANNELS.contains(&number) {
            return Err(ChannelError::Number);
        }
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        let data = rest.get(..len).ok_or(ChannelError::Length)?;
        if stream && rest.len() > padded(len) {
            return Err(ChannelError::Length);
        }
        Ok(Self { number, data })
    }

    /// Where the data is in the bytes that were parsed.
    pub fn data_range(&self) -> Range<usize> {
        Self::HEADER_LEN..Self::HEADER_LEN + self.data.len()
    }

    /// The 4 bytes to put in front of `len` bytes of data, which no datagram exceeds.
    pub const fn header(number: u16, len: u16) -> [u8; 4] {
        let ([n0, n1], [l0, l1]) = (number.to_be_bytes(), len.to_be_bytes());
        [n0, n1, l0, l1]
    }

    /// How many zero bytes follow `len` bytes of data in a stream: 0 to 3 (RFC 8656
    /// section 12.5).
    pub const fn padding(len: usize) -> u8 {
        (padded(len) - len) as u8
    }
}

/// Writes what comes before the payload in a Data indication (RFC 8656 section 11.3): header,
/// XOR-PEER-ADDRESS, and the header of DATA. Returns how much of `out` that is, 36 bytes for an
/// IPv4 peer and 48 for an IPv6 one, and how many zero bytes follow the payload.
///
/// `None` when `data_len` is too long for a STUN message: from 65,517 bytes for IPv4, from
/// 65,505 for IPv6.
pub fn data_indication_prefix(
    out: &mut [u8; 48],
    id: TransactionId,
    peer: SocketAddr,
    data_len: usize,
) -> Option<(usize, u8)> {
    let value = out[24..]
        .first_chunk_mut()
        .expect("24 and 20 are less than 48");
    let value_len = address::encode(value, peer, &address::mask(id));
    let data_at = 24 + value_len;
    let length = u16::try_from(data_at + 4 - HEADER_LEN + padded(data_len)).ok()?;
    let ty = message_type(Class::Indication, Method::DATA);
    out[..2].copy_from_slice(&ty.to_be_bytes());
    out[2..4].copy_from_slice(&length.to_be_bytes());
    out[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out[8..20].copy_from_slice(&id.0);
    out[20..22].copy_from_slice(&attr::XOR_PEER_ADDRESS.to_be_bytes());
    out[22..24].copy_from_slice(&(value_len as u16).to_be_bytes());
    out[data_at..data_at + 2].copy_from_slice(&attr::DATA.to_be_bytes());
    out[data_at + 2..data_at + 4].copy_from_slice(&(data_len as u16).to_be_bytes());
    Some((data_at + 4, ChannelData::padding(data_len)))
}
