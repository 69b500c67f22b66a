//! Bytes and messages: STUN, TURN and ChannelData on the wire.
//!
//! Everything here is a borrowed view of received bytes or a builder into the caller's slice:
//! nothing allocates while parsing or building, and no value is trusted before it was measured.
//! What a request says can be acted on only through [`Verified`], which exists only for
//! attributes that its message integrity covers.
//!
//! The way of a datagram: [`classify`] its first byte, then [`Message::parse`] or
//! [`ChannelData::parse`]; a byte stream goes through [`StreamFramer`] first. The way back:
//! [`Builder`] for messages, [`data_indication_prefix`] and [`ChannelData::header`] where only
//! a few bytes are put in front of a payload that stays where it is.

mod address;
pub mod attr;
mod attrs;
mod builder;
mod channel;
mod claims;
mod demux;
mod error_code;
mod key;
mod message;
mod types;

pub use attrs::{AddressErrorCode, Attrs, ChangeRequest, Icmp, Malformed, Verified};
pub use builder::{Builder, Overflow};
pub use channel::{CHANNELS, ChannelData, ChannelError, RFC5766_CHANNELS, data_indication_prefix};
pub use claims::Claims;
pub use demux::{Frame, FrameError, Kind, MAX_FRAME, StreamFramer, classify, is_application_data};
pub use error_code::ErrorCode;
pub use key::{Key, RestPassword, rest_password, userhash};
pub use message::{IntegrityError, Message, ParseError};
pub use types::{
    Class, HEADER_LEN, Integrity, MAGIC_COOKIE, Method, PasswordAlgorithm, TransactionId,
};

/// `len` rounded up to a multiple of 4: attributes (RFC 8489 section 14) and ChannelData in a
/// stream (RFC 8656 section 12.5) occupy whole 32-bit words.
const fn padded(len: usize) -> usize {
    (len + 3) & !3
}
