//! Telling protocols apart by their first byte, and cutting a byte stream into messages.

use super::types::{HEADER_LEN, MAGIC_COOKIE};
use super::{channel::ChannelData, padded};

/// What the first byte of a datagram, or of a message in a stream, says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0 to 3.
    Stun,
    /// 20 to 63: a TLS or DTLS record.
    Tls,
    /// 64 to 127: the numbers of RFC 8656 end at 79, those of RFC 5766 at 127.
    ChannelData,
    /// Anything else: dropped.
    Other,
}

/// Tells protocols apart (RFC 7983 section 7, RFC 8656 section 12, RFC 5766 section 11).
pub const fn classify(first_byte: u8) -> Kind {
    match first_byte {
        0..=3 => Kind::Stun,
        20..=63 => Kind::Tls,
        64..=127 => Kind::ChannelData,
        _ => Kind::Other,
    }
}

/// Whether a client's message carries application data, ChannelData or a Send indication, rather
/// than asking something.
pub fn is_application_data(bytes: &[u8]) -> bool {
    // A Send indication: class and method are the first 14 bits (RFC 8489 section 5).
    const SEND_INDICATION: [u8; 2] = [0x00, 0x16];
    bytes
        .first()
        .is_some_and(|&first| classify(first) == Kind::ChannelData)
        || bytes.starts_with(&SEND_INDICATION)
}

/// The longest frame there can be: a STUN message with 65,532 bytes of attributes.
pub const MAX_FRAME: usize = HEADER_LEN + 0xFFFC;

/// One complete message at the start of a stream's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Length of the message without padding: what to hand on.
    pub len: usize,
    /// Length with padding: where the next message starts.
    pub padded_len: usize,
}

/// Why a stream can never become messages again. The connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The first byte is neither STUN's nor ChannelData's.
    Kind,
    /// STUN without the magic cookie.
    Cookie,
    /// A STUN length that is not a multiple of 4.
    Length,
    /// Longer than this framer allows.
    TooLong,
}

/// Cuts a byte stream into STUN and ChannelData messages (RFC 8489 section 6.2.2, RFC 8656
/// section 12.5).
///
/// It holds no bytes: it looks at those that the connection has buffered, and says how many of
/// them are the next message. However the bytes arrive, the frames are the same; what can never
/// become a message is refused on the first byte that says so.
#[derive(Clone, Copy, Debug)]
pub struct StreamFramer {
    max: usize,
}

impl StreamFramer {
    /// A framer that refuses messages longer than `max` bytes, padding included.
    pub const fn new(max: usize) -> Self {
        Self { max }
    }

    /// The first message of `buf`, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn next(&self, buf: &[u8]) -> Result<Option<Frame>, FrameError> {
        let Some(&first) = buf.first() else {
            return Ok(None);
        };
        let kind = classify(first);
        if !matches!(kind, Kind::Stun | Kind::ChannelData) {
            return Err(FrameError::Kind);
        }
        let Some(&[_, _, l0, l1]) = buf.first_chunk() else {
            return Ok(None);
        };
        let body = usize::from(u16::from_be_bytes([l0, l1]));
        let (header_len, stun) = match kind {
            Kind::Stun => (HEADER_LEN, true),
            _ => (ChannelData::HEADER_LEN, false),
        };
        if stun && !body.is_multiple_of(4) {
            return Err(FrameError::Length);
        }
        // RFC 8656 section 12.5: in a stream the padding is there, and not in the length.
        let len = header_len + body;
        let padded_len = padded(len);
        if padded_len > self.max {
            return Err(FrameError::TooLong);
        }
        // As much of the cookie as has come.
        let cookie = &buf[4..buf.len().min(8)];
        if stun && !MAGIC_COOKIE.to_be_bytes().starts_with(cookie) {
            return Err(FrameError::Cookie);
        }
        Ok((buf.len() >= padded_len).then_some(Frame { len, padded_len }))
    }
}

impl Default for StreamFramer {
    /// Takes every message there can be.
    fn default() -> Self {
        Self::new(MAX_FRAME)
    }
}
