//! The messages, as JSON objects: one text frame each on the WebSocket, and the bodies of the
//! HTTP requests.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::keys::{RendezvousId, SessionId};
use super::object;
use super::proof::{Nonce, Proof};

/// The longest blob that the server forwards, in characters.
pub const MAX_BLOB: usize = 4096;

/// Which side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Waits for a receiver, and chooses the protocol.
    Initiator,
    /// Is answered at once: an initiator waits, or nobody does.
    Receiver,
}

/// What the two want between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// A byte stream.
    Tcp,
}

/// How two peers came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Without a relay between them.
    Direct,
    /// Through the relay.
    Relayed,
}

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// They are connected without a relay between them.
    Direct,
    /// They are connected through the relay.
    Relayed,
    /// They are not.
    Failed,
}

/// Asks to be paired: the first message on a WebSocket, or the body of `POST /v1/pair`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Which side.
    pub role: Role,
    /// Derived from the access key. Either this, with a proof, or `access_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RendezvousId>,
    /// That the sender has the access key of the id, see [`Join::proven`].
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "object::optional"
    )]
    pub proof: Option<Box<Proof>>,
    /// The key itself, for those who cannot derive: the server derives and forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// The initiator's choice; what a receiver says here is ignored. Default: udp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only a receiver that the server sees from this address pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ip: Option<IpAddr>,
    /// How long an initiator waits, in seconds from 1; the server caps it. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<u64>,
    /// An initiator that stays, and is paired with one receiver after the other (WebSocket only).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host: bool,
    /// Own addresses that the peer is to be told, in clear; for clients without candidates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<SocketAddr>,
}

impl Join {
    /// One with every default, which says nothing of the access key yet.
    pub const fn new(role: Role) -> Self {
        Self {
            role,
            id: None,
            proof: None,
            access_key: None,
            protocol: None,
            target_ip: None,
            wait_s: None,
            host: false,
            endpoints: Vec::new(),
        }
    }
}

/// From a client, on the WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Asks to be paired.
    Join(Join),
    /// For the peer, as it is.
    Signal {
        /// Of which pair.
        session: SessionId,
        /// At most [`MAX_BLOB`] characters, opaque to the server.
        blob: String,
    },
    /// Tells what became of the session; for the operator's statistics only.
    Result {
        /// Of which pair.
        session: SessionId,
        /// What became of it.
        outcome: Outcome,
    },
    /// Ends a session; a host stays registered.
    Leave {
        /// Of which pair.
        session: SessionId,
        /// It has no room for this session now, which the peer is told.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        busy: bool,
    },
    /// Asks for fresh credentials of a pair in place of these, which are still valid; on any
    /// connection.
    Renew {
        /// As it was given with the ICE servers.
        username: String,
        /// As it was given with the ICE servers.
        credential: String,
    },
}

/// For `RTCPeerConnection`, and for our own clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:`, `turn:` and `turns:` URLs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// Absent for `stun:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Absent for `stun:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// From the server, on the WebSocket; over HTTP the answer is one `Paired` or `Error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The first message on every WebSocket.
    Hello {
        /// To be signed by joins on this connection.
        nonce: Nonce,
    },
    /// The initiator waits, and is registered already.
    Waiting {
        /// Of the pair that is to be; absent for a host, whose sessions begin with `Paired`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionId>,
        /// Where the server sees this connection come from.
        observed: SocketAddr,
        /// After so many seconds it ends with `timed_out`.
        wait_s: u64,
        /// To allocate on the relay while waiting; credentials are bound to the session.
        #[serde(deserialize_with = "object::list")]
        ice_servers: Vec<IceServer>,
    },
    /// Both are there.
    Paired {
        /// Names the pair.
        session: SessionId,
        /// Which side the reader is.
        role: Role,
        /// The initiator's choice.
        protocol: Protocol,
        /// Where the server sees this connection come from.
        observed: SocketAddr,
        /// Where the server sees the peer's connection come from.
        peer_observed: SocketAddr,
        /// What the peer told of itself in clear.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        peer_endpoints: Vec<SocketAddr>,
        /// STUN and TURN servers, with credentials that are bound to this pair.
        #[serde(deserialize_with = "object::list")]
        ice_servers: Vec<IceServer>,
        /// For how many seconds those credentials are good.
        ttl_s: u64,
    },
    /// From the peer, as it was.
    Signal {
        /// Of which pair.
        session: SessionId,
        /// Opaque to the server.
        blob: String,
    },
    /// The peer's connection to the server has ended. A path that works is not touched by that.
    PeerLeft {
        /// Of which pair.
        session: SessionId,
        /// The peer has no room for this session now.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        busy: bool,
    },
    /// Fresh credentials, bound to the same pair and side.
    Renewed {
        /// Of which pair.
        session: SessionId,
        /// As in [`ServerMessage::Paired`].
        #[serde(deserialize_with = "object::list")]
        ice_servers: Vec<IceServer>,
        /// For how many seconds they are good.
        ttl_s: u64,
    },
    /// Something failed.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
        /// The session that it is about. Without one it is about the join or the connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionId>,
        /// With [`ErrorCode::TooMany`]: of what.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
        /// After how many seconds it may be better, where time helps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u64>,
        /// With `proof_required` over HTTP: to be signed by the next join.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<Nonce>,
    },
}

/// Of what there is too much ([`ErrorCode::TooMany`]). A source is an IPv4 address or an IPv6
/// /64, and its /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Joins and renewals of one source.
    Joins,
    /// Connections, of one source or in all.
    Connections,
    /// Initiators and hosts of one source.
    Waits,
    /// Initiators and hosts in all.
    AllWaits,
    /// Sessions with receivers from one source.
    Sessions,
    /// Sessions in all.
    AllSessions,
    /// Sessions of the host that was asked for.
    HostSessions,
    /// Receivers that were paired under one id within a minute.
    Receivers,
    /// Signals in one session.
    Signals,
    /// Messages on one connection.
    Messages,
    /// The server is full, and the source had more than others.
    Displaced,
}

/// Why something failed, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// No initiator waits under this id, or none that names this receiver's address.
    NobodyWaits,
    /// No receiver came in time.
    TimedOut,
    /// Too many initiators wait under this id.
    Busy,
    /// Too many requests from this address, or too many entries in all.
    TooMany,
    /// The request is malformed, or misses something.
    BadRequest,
    /// A join by id has no proof, or one for another nonce.
    ProofRequired,
    /// The proof was not made by the holder of the id's access key.
    ProofWrong,
    /// The body, a message, an id or a blob is longer than allowed.
    TooLarge,
    /// There is no such session, or it is not this connection's.
    NoSession,
    /// The server is shutting down; try another or later.
    GoingAway,
    /// The server failed.
    Internal,
}
