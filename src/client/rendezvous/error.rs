//! Why there is no connection to the pairing server, or no more.

use std::{fmt, io};

use crate::pairing::ErrorCode;

/// Why there is no connection to the pairing server, or no more.
#[derive(Debug)]
pub enum RendezvousError {
    /// The server's name has no address.
    Resolve(io::Error),
    /// No connection could be made.
    Connect(io::Error),
    /// No connection within the time, or nothing was heard for too long.
    TimedOut,
    /// The server could not prove that it is the one, or this build has no TLS.
    Tls(io::Error),
    /// The server broke the TLS handshake off, or what came is not TLS.
    NoTls,
    /// The server speaks HTTP, but does not take the WebSocket.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the server says, for programs.
        code: Option<ErrorCode>,
        /// What the server says, for people; empty when it says nothing.
        message: String,
    },
    /// What came is not of this protocol.
    Protocol(String),
    /// The server has closed the connection, or it broke.
    Closed,
}

impl fmt::Display for RendezvousError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(error) => write!(f, "the server's name has no address: {error}"),
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                f.write_str("nothing listens at the server's address")
            }
            Self::Connect(error) => write!(f, "the server cannot be reached: {error}"),
            Self::TimedOut => f.write_str("the server does not answer"),
            Self::Tls(error) => write!(f, "no secure connection to the server: {error}"),
            Self::NoTls => f.write_str(
                "no TLS came from the server; if it speaks http only, its URL begins with http://",
            ),
            Self::Refused {
                status, message, ..
            } => match message.as_str() {
                "" => write!(f, "the server refused with HTTP status {status}"),
                message => write!(f, "the server refused: {message}"),
            },
            Self::Protocol(what) => write!(f, "that is no pairing server: {what}"),
            Self::Closed => f.write_str("the server closed the connection"),
        }
    }
}

impl std::error::Error for RendezvousError {}
