//! Why nothing more comes or goes, in words. QUIC knows at times, and the session at others.

use std::io;

use quinn::{ConnectionError, ReadError, StoppedError, VarInt, WriteError};
use tokio::sync::watch;

use super::stream::{BROKEN_OFF, UNREACHED};
use crate::client::session::{State, broken_off, silent};

pub(super) fn lost(error: ConnectionError, session: &watch::Receiver<State>) -> io::Error {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(0) => {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the peer has closed it")
        }
        // The session says so too, in a moment.
        ConnectionError::ApplicationClosed(_) => broken_off(),
        _ if session.borrow().ended.is_some() => session.borrow().ended_error(),
        ConnectionError::TimedOut => silent(),
        error => error.into(),
    }
}

pub(super) fn unread(error: ReadError, session: &watch::Receiver<State>) -> io::Error {
    match error {
        ReadError::Reset(UNREACHED) => unreached(),
        ReadError::Reset(_) => broken_off(),
        ReadError::ConnectionLost(error) => lost(error, session),
        error => error.into(),
    }
}

pub(super) fn unwritten(error: WriteError, session: &watch::Receiver<State>) -> io::Error {
    match error {
        WriteError::Stopped(code) => stopped(code),
        WriteError::ConnectionLost(error) => lost(error, session),
        error => error.into(),
    }
}

pub(super) fn unstopped(error: StoppedError, session: &watch::Receiver<State>) -> io::Error {
    match error {
        StoppedError::ConnectionLost(error) => lost(error, session),
        error => error.into(),
    }
}

/// Of a peer that wants no more of a stream.
pub(super) fn stopped(code: VarInt) -> io::Error {
    let kind = io::ErrorKind::BrokenPipe;
    match code {
        BROKEN_OFF => io::Error::new(kind, broken_off()),
        UNREACHED => unreached(),
        _ => io::Error::new(kind, "the peer takes no more"),
    }
}

fn unreached() -> io::Error {
    let why = "the peer cannot reach the port that it serves";
    io::Error::new(io::ErrorKind::ConnectionRefused, why)
}

#[cfg(test)]
mod tests {
    use quinn::ApplicationClose;

    use super::*;
    use crate::client::session::Ended;

    #[test]
    fn each_end_is_told_as_what_it_was() {
        let (tell, session) = watch::channel(State::relayed(""));
        let closed = |code| {
            ConnectionError::ApplicationClosed(ApplicationClose {
                error_code: VarInt::from_u32(code),
                reason: Default::default(),
            })
        };
        let broke = "the peer broke it off";
        let gone = "the peer has gone silent";
        for (error, words) in [
            (closed(0), "the peer has closed it"),
            (closed(1), broke),
            (ConnectionError::TimedOut, gone),
        ] {
            assert_eq!(lost(error.clone(), &session).to_string(), words);
            let read = ReadError::ConnectionLost(error.clone());
            assert_eq!(unread(read, &session).to_string(), words);
            let written = WriteError::ConnectionLost(error.clone());
            assert_eq!(unwritten(written, &session).to_string(), words);
            let waited = StoppedError::ConnectionLost(error);
            assert_eq!(unstopped(waited, &session).to_string(), words);
        }
        let unreached = "the peer cannot reach the port that it serves";
        for (code, words) in [(1, broke), (2, unreached), (3, broke)] {
            let reset = ReadError::Reset(VarInt::from_u32(code));
            assert_eq!(unread(reset, &session).to_string(), words);
        }
        for (code, words) in [(0, "the peer takes no more"), (1, broke), (2, unreached)] {
            let stopped = WriteError::Stopped(VarInt::from_u32(code));
            assert_eq!(unwritten(stopped, &session).to_string(), words);
        }
        for (ended, words) in [(Ended::ByPeer(1), broke), (Ended::Silent, gone)] {
            tell.send_modify(|state| state.ended = Some(ended));
            let error = lost(ConnectionError::LocallyClosed, &session);
            assert_eq!(error.to_string(), words, "the session knows");
        }
    }
}
