//! Why two devices are not connected.

use std::{fmt, io};

use crate::client::rendezvous::RendezvousError;
use crate::pairing::ErrorCode;

/// Why two devices are not connected.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// A receiver came, and no initiator waited under this key.
    NobodyWaits,
    /// No receiver came in time.
    TimedOut,
    /// They were paired, and no path between them was found, not even through a relay.
    NoPath {
        /// Why, in words.
        reason: String,
    },
    /// Somebody is there who does not have the access key.
    NotThePeer,
    /// The pairing server said no.
    Server {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// The pairing server could not be reached, or the connection to it broke too early.
    Rendezvous(RendezvousError),
    /// The system refused something.
    Io(io::Error),
}

impl ConnectError {
    /// The exit status of `turnctl` for it: 3 nobody waited, 4 timed out, 5 no path, 6 the peer is
    /// not who it should be, 1 anything else.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NobodyWaits => 3,
            Self::TimedOut => 4,
            Self::NoPath { .. } => 5,
            Self::NotThePeer => 6,
            Self::Server { .. } | Self::Rendezvous(_) | Self::Io(_) => 1,
        }
    }

    pub(super) fn no_path(reason: impl Into<String>) -> Self {
        Self::NoPath {
            reason: reason.into(),
        }
    }

    /// What the server said.
    pub(super) fn said(code: ErrorCode, message: String) -> Self {
        match code {
            ErrorCode::NobodyWaits => Self::NobodyWaits,
            ErrorCode::TimedOut => Self::TimedOut,
            code => Self::Server { code, message },
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyWaits => f.write_str("nobody waits under this access key"),
            Self::TimedOut => f.write_str("nobody came in time"),
            Self::NoPath { reason } => write!(f, "no path to the peer: {reason}"),
            Self::NotThePeer => f.write_str("the other side does not have the same access key"),
            Self::Server { message, .. } => write!(f, "the pairing server refused: {message}"),
            Self::Rendezvous(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rendezvous(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RendezvousError> for ConnectError {
    fn from(error: RendezvousError) -> Self {
        match error {
            RendezvousError::Refused {
                code: Some(code),
                message,
                ..
            } => Self::said(code, message),
            error => Self::Rendezvous(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_exit_code() {
        let refused = |code| RendezvousError::Refused {
            status: 429,
            code,
            message: "slower".into(),
        };
        for (error, code) in [
            (ConnectError::said(ErrorCode::NobodyWaits, String::new()), 3),
            (refused(Some(ErrorCode::NobodyWaits)).into(), 3),
            (ConnectError::said(ErrorCode::TimedOut, String::new()), 4),
            (ConnectError::no_path("x"), 5),
            (ConnectError::NotThePeer, 6),
            (refused(Some(ErrorCode::TooMany)).into(), 1),
            (refused(None).into(), 1),
            (io::Error::from(io::ErrorKind::NotFound).into(), 1),
        ] {
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }
}
