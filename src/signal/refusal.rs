//! Why something is refused, in the words of the protocol and of people.

use crate::pairing::{ErrorCode, Nonce, Reason, ServerMessage, SessionId};

use super::room::Denied;

/// Why something is refused: for programs, and for people.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    /// What it is about, if it is not the join or the connection.
    pub(super) session: Option<SessionId>,
    pub(super) reason: Option<Reason>,
    /// For the next attempt, with `proof_required` over HTTP.
    pub(super) nonce: Option<Nonce>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            session: None,
            reason: None,
            nonce: None,
        }
    }

    /// It is about one session.
    pub(super) fn of(self, session: SessionId) -> Self {
        Self {
            session: Some(session),
            ..self
        }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub(super) fn into_message(self) -> ServerMessage {
        ServerMessage::Error {
            code: self.code,
            message: self.message,
            session: self.session,
            reason: self.reason,
            retry_after_s: self.reason.map(retry_after_s),
            nonce: self.nonce,
        }
    }
}

/// After how many seconds it may be better.
const fn retry_after_s(reason: Reason) -> u64 {
    match reason {
        Reason::Signals | Reason::Messages => 1,
        Reason::Joins
        | Reason::Connections
        | Reason::Sessions
        | Reason::AllSessions
        | Reason::HostSessions
        | Reason::Receivers => 10,
        Reason::Waits | Reason::AllWaits | Reason::Displaced => 30,
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        let message = match reason {
            Reason::Joins => "too many joins from this address",
            Reason::Connections => "too many open connections, from this address or in all",
            Reason::Waits => "too many initiators wait from this address",
            Reason::AllWaits => "too many initiators wait on this server",
            Reason::Sessions => "too many sessions of receivers from this address",
            Reason::AllSessions => "too many sessions on this server",
            Reason::HostSessions => "the host has as many sessions as it may have",
            Reason::Receivers => "too many receivers under this access key",
            Reason::Signals => "too many signals in this session",
            Reason::Messages => "too many messages",
            Reason::Displaced => "the server is full, and more comes from here than from others",
        };
        let message = format!("{message}; try again in {} s", retry_after_s(reason));
        Self {
            reason: Some(reason),
            ..Self::new(ErrorCode::TooMany, message)
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied.reason {
            Some(reason) => reason.into(),
            None => denied.code.into(),
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        let message = match code {
            ErrorCode::NobodyWaits => {
                "no initiator waits under this access key, or none that lets this address in"
            }
            ErrorCode::TimedOut => "no receiver came in time",
            ErrorCode::Busy => "too many initiators wait under this access key",
            ErrorCode::TooMany => "too many, from this address or in all; try again later",
            ErrorCode::BadRequest => "this connection waits already",
            ErrorCode::ProofRequired => {
                "a join by `id` needs a `proof` for the `nonce` that was given"
            }
            ErrorCode::ProofWrong => "the proof was not made by the access key of this id",
            ErrorCode::TooLarge => "longer than allowed",
            ErrorCode::NoSession => {
                "there is no such session on this connection, or the peer can not be sent to"
            }
            ErrorCode::GoingAway => "the server is shutting down",
            ErrorCode::Internal => "the server failed",
        };
        Self::new(code, message)
    }
}
