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

mod allocation;
mod answer;
pub mod audit;
mod authenticate;
pub mod bucket;
pub mod budget;
pub mod counters;
pub mod credentials;
mod data;
pub mod discovery;
mod echo;
pub mod gate;
pub mod nonce;
pub mod pairs;
mod peers;
pub mod places;
mod policy;
pub mod ports;
pub mod quota;
mod registry;
mod relay;
mod requests;
pub mod reserved;
mod slab;
pub mod throttle;
mod types;
pub mod waits;
pub mod wheel;

pub use peers::{CHANNEL_LIFETIME, PERMISSION_LIFETIME};
pub use policy::{DefaultFamily, Limits, Policy, Shared};
pub use relay::{REPLY_BUFFER, RESERVATION_LIFETIME, Relay};
pub use types::*;
