//! A STUN and TURN relay server.
//!
//! The house has few rooms and data flows one way; `docs/architecture.md` draws the picture.
//! Imports go strictly downward: `wire` knows nothing of ours, `proto` knows `wire`, the rooms
//! behind the `server` feature know `proto`, and only [`server`] sees every room.

#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "punch")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod net;
#[cfg(feature = "server")]
pub mod opaque;
#[cfg(feature = "server")]
pub mod ops;
#[cfg(feature = "pairing")]
pub mod pairing;
pub mod proto;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod signal;
pub mod wire;
