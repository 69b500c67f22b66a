//! The server's whole decision making, without a socket, a clock or a thread.
//!
//! One [`Relay`] serves one shard. Its driver passes in every received datagram or framed stream
//! message together with the time, and acts on the [`Disposition`] that comes back. The contract:
//!
//! 1. Call one of the `handle_*` functions (or [`Relay::relay_opened`]).
//! 2. Act on the disposition: the payload ranges index the very bytes that were passed in.
//! 3. Drain [`Relay::poll_effect`] until it is empty.
//! 4. Re-arm a timer from [`Relay::poll_timeout`]; when it is due call [`Relay::handle_timeout`].
//!
//! Once a batch suffices for 3 and 4. The relayed path allocates nothing and copies no payload.

pub mod audit;
pub mod bucket;
pub mod budget;
pub mod counters;
pub mod credentials;
pub mod gate;
pub mod nonce;
pub mod ports;
pub mod quota;
mod types;
pub mod wheel;

pub use types::*;
