//! The words of the pairing protocol, which both of its ends speak: what is derived from an
//! `access_key`, and the messages. `docs/signalling.md` specifies it for other languages.
//!
//! Nothing here touches sockets or clocks.

mod keys;
mod messages;
pub(crate) mod object;
mod proof;
mod seal;
mod strength;

pub use keys::{AccessKey, KeyError, RendezvousId, Salt, Salts, SessionId, SessionSecrets};
pub use messages::{
    ClientMessage, ErrorCode, IceServer, Join, MAX_BLOB, Outcome, PathKind, Protocol, Reason, Role,
    ServerMessage,
};
pub use object::from_json;
pub use proof::{Nonce, Proof};
pub use seal::{Blobs, Opened, SealError};
