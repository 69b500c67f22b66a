//! WebSocket frames (RFC 6455 section 5) as a server reads and writes them, sans-IO. One that has
//! nothing to read holds no memory, which is why a library's codec is not used here.

use std::fmt;

use zeroize::Zeroizing;

/// The longest message in bytes: a signal with the longest blob takes less.
pub(super) const MAX_MESSAGE: usize = 8192;

/// The longest payload of a control frame (section 5.5).
const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Why a connection is closed (section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum CloseCode {
    Normal = 1000,
    Away = 1001,
    Policy = 1008,
    Size = 1009,
}

/// What a client sent.
#[derive(PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole message. It may hold an access key, so it is wiped.
    Text(Zeroizing<String>),
    /// A part of a message came, and not its end.
    Part,
    /// A message of the other kind has begun; what is in it is not read.
    Binary,
    /// To be answered by a pong with the same payload.
    Ping(Vec<u8>),
    Pong,
    /// To be answered by a close with the same code.
    Close(Option<u16>),
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Part => f.write_str("Part"),
            Self::Binary => f.write_str("Binary"),
            Self::Ping(payload) => write!(f, "Ping({} bytes)", payload.len()),
            Self::Pong => f.write_str("Pong"),
            Self::Close(code) => write!(f, "Close({code:?})"),
        }
    }
}

/// Why nothing more can be read from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Not as the RFC has it.
    Protocol,
    /// Longer than [`MAX_MESSAGE`].
    TooLong,
    /// A message that is not UTF-8.
    Utf8,
}

/// Cuts what comes from a client into messages.
#[derive(Default)]
pub(super) struct Reader {
    /// Boxed, because mostly nothing is held.
    held: Option<Box<Held>>,
    bad: Option<Bad>,
}

#[derive(Default)]
struct Held {
    /// What came and was not read yet begins at `at`.
    bytes: Zeroizing<Vec<u8>>,
    at: usize,
    /// The beginning of a message in several frames.
    begun: Option<Zeroizing<Vec<u8>>>,
}

/// The header of a frame.
struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    /// How long the header and the payload are.
    len: usize,
    payload: usize,
}

impl Reader {
    /// Takes what came. To be called when [`Reader::next`] has nothing more, so that at most one
    /// message is held.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let held = self.held.get_or_insert_default();
        if held.at > 0 {
            held.bytes.drain(..held.at);
            held.at = 0;
        }
        held.bytes.extend_from_slice(bytes);
    }

    /// The next message or control frame; `None` until more has come.
    ///
    /// # Errors
    /// What is wrong with it; the same from then on.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, Bad> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        let Some(held) = &mut self.held else {
            return Ok(None);
        };
        let next = held.read();
        match next {
            // Gives the memory back.
            Ok(None) if held.at == held.bytes.len() => match held.begun {
                None => self.held = None,
                Some(_) => {
                    held.bytes = Zeroizing::default();
                    held.at = 0;
                }
            },
            Err(bad) => {
                self.bad = Some(bad);
                self.held = None;
            }
            Ok(_) => {}
        }
        next
    }
}

impl Held {
    fn read(&mut self) -> Result<Option<Incoming>, Bad> {
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        let Some(header) = header(bytes, self.begun.as_deref().map(Vec::len))? else {
            return Ok(None);
        };
        let Some(payload) = bytes.get(header.len..header.len + header.payload) else {
            return Ok(None);
        };
        self.at += header.len + header.payload;
        let unmasked = payload.iter().zip(header.mask.iter().cycle());
        let unmasked = unmasked.map(|(byte, mask)| byte ^ mask);
        match header.opcode {
            PING => Ok(Some(Incoming::Ping(unmasked.collect()))),
            PONG => Ok(Some(Incoming::Pong)),
            CLOSE => {
                let payload: Vec<u8> = unmasked.collect();
                close_code(&payload).map(|code| Some(Incoming::Close(code)))
            }
            BINARY => Ok(Some(Incoming::Binary)),
            _ => {
                let mut message = self.begun.take().unwrap_or_else(|| {
                    // Growing would leave copies behind that are not wiped.
                    let whole = if header.fin {
                        header.payload
                    } else {
                        MAX_MESSAGE
                    };
                    Zeroizing::new(Vec::with_capacity(whole))
                });
                message.extend(unmasked);
                if !header.fin {
                    self.begun = Some(message);
                    return Ok(Some(Incoming::Part));
                }
                let text = std::str::from_utf8(&message).map_err(|_| Bad::Utf8)?;
                Ok(Some(Incoming::Text(Zeroizing::new(text.to_owned()))))
            }
        }
    }
}

/// Reads a header; `begun` is how long the message is whose rest may follow. Lengths are refused
/// before anything is waited for.
fn header(bytes: &[u8], begun: Option<usize>) -> Result<Option<Header>, Bad> {
    let &[first, second, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    let (fin, opcode) = (first & FIN != 0, first & 0x0F);
    if first & RESERVED != 0 || second & MASKED == 0 {
        return Err(Bad::Protocol);
    }
    let control = match opcode {
        CONTINUATION if begun.is_some() => false,
        TEXT | BINARY if begun.is_none() => false,
        CLOSE | PING | PONG if fin => true,
        _ => return Err(Bad::Protocol),
    };
    let (payload, extended) = match second & !MASKED {
        126 => match rest.first_chunk::<2>() {
            Some(len) => (u64::from(u16::from_be_bytes(*len)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(len) => (u64::from_be_bytes(*len), 8),
            None => return Ok(None),
        },
        len => (u64::from(len), 0),
    };
    if control && payload > MAX_CONTROL as u64 {
        return Err(Bad::Protocol);
    }
    let room = match begun {
        Some(begun) if !control => MAX_MESSAGE.saturating_sub(begun),
        _ => MAX_MESSAGE,
    };
    let payload = usize::try_from(payload).ok().filter(|len| *len <= room);
    let payload = payload.ok_or(Bad::TooLong)?;
    let Some(mask) = rest.get(extended..).and_then(|rest| rest.first_chunk()) else {
        return Ok(None);
    };
    Ok(Some(Header {
        fin,
        opcode,
        mask: *mask,
        len: 2 + extended + mask.len(),
        payload,
    }))
}

/// The code in the payload of a close frame (section 5.5.1).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Bad> {
    let &[high, low, ref reason @ ..] = payload else {
        return match payload.is_empty() {
            true => Ok(None),
            false => Err(Bad::Protocol),
        };
    };
    let code = u16::from_be_bytes([high, low]);
    // Those that may stand in a frame (section 7.4).
    let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !may_be_sent || std::str::from_utf8(reason).is_err() {
        return Err(Bad::Protocol);
    }
    Ok(Some(code))
}

/// A message.
pub(super) fn text(text: &str) -> Vec<u8> {
    frame(TEXT, text.as_bytes())
}

/// An empty ping.
pub(super) fn ping() -> Vec<u8> {
    frame(PING, &[])
}

/// The answer to a ping.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    frame(PONG, payload)
}

/// Says that the connection is closed, and why. The reason has at most 123 bytes.
pub(super) fn close(code: CloseCode, reason: &str) -> Vec<u8> {
    frame(
        CLOSE,
        &[&(code as u16).to_be_bytes(), reason.as_bytes()].concat(),
    )
}

/// The answer to a close.
pub(super) fn closed(code: Option<u16>) -> Vec<u8> {
    match code {
        Some(code) => frame(CLOSE, &code.to_be_bytes()),
        None => frame(CLOSE, &[]),
    }
}

/// A server masks nothing.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(FIN | opcode);
    let len = payload.len();
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..126), _) => frame.push(short),
        (_, Ok(len)) => {
            frame.push(126);
            frame.extend(len.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests;
