//! What goes in and out of a session's datagrams.

use std::time::{Duration, Instant};

use snow::HandshakeState;

/// First repetition of a handshake message, doubled up to [`SLOWEST`].
const FASTEST: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_secs(1);

/// What a sealed datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of the application.
    Data = 0,
    /// Of the byte streams, see `client::quic`.
    Stream = 1,
    /// Candidates, when there is no other way for them.
    Control = 2,
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Not of this protocol.
    Foreign,
    /// Of this protocol and not from the peer, or not its session's, or a repeated one.
    Refused,
    /// What the peer said in the handshake, once more: by the peer, or by whoever heard it.
    Repeated,
    /// From the peer; nothing for the application.
    Alive,
    /// From the peer.
    Message(Kind, &'a [u8]),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has proven itself and knows that we have.
    Ready,
    /// A ping was answered after this time.
    RoundTrip(Duration),
    /// The peer has closed, with this code.
    Closed(u8),
    /// Our closing is confirmed, or was told often enough.
    Left,
    /// The peer has been silent for 35 s.
    Dead,
}

/// Why a datagram is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The handshake is not over, or the session is.
    NotReady,
    /// It has more than [`LARGEST_DATAGRAM`](super::LARGEST_DATAGRAM) bytes.
    TooLong,
}

/// Who made a handshake message.
pub(super) enum Said {
    /// The peer, and it is the first time.
    New,
    /// The peer once, and somebody repeats it.
    Again,
    /// Somebody who does not have the access key.
    BySomebody,
}

/// When to say something again.
pub(super) struct Repeat {
    pub(super) at: Instant,
    wait: Duration,
    longest: Duration,
}

impl Repeat {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            at: now,
            wait: FASTEST,
            longest: SLOWEST,
        }
    }

    /// Now, and again after the same time.
    pub(super) const fn every(wait: Duration, now: Instant) -> Self {
        Self {
            at: now,
            wait,
            longest: wait,
        }
    }

    /// Whether it is time; arms the next one.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.at <= now;
        if due {
            self.at = now + self.wait;
            self.wait = (self.wait * 2).min(self.longest);
        }
        due
    }
}

/// How far a session is.
pub(super) enum State {
    /// The initiator: repeats the first message.
    Calling {
        handshake: Box<HandshakeState>,
        first: Vec<u8>,
        repeat: Repeat,
    },
    /// The receiver: has nothing to say yet.
    Listening,
    /// The receiver: has answered, and repeats that.
    Answering {
        repeat: Repeat,
    },
    Ready,
    Closing {
        code: u8,
        repeat: Repeat,
        left: u32,
    },
    /// By the peer; its repetitions are still confirmed.
    Closed,
    Over,
}
