//! The other end of the protocol. It imports `wire` only, never `proto`: the two ends must not
//! share a bug.

#[cfg(feature = "client")]
pub mod datagrams;
pub mod nat;
pub mod noise;
#[cfg(feature = "client")]
pub mod port_mapping;
#[cfg(feature = "client")]
pub mod probe;
pub mod punch;
pub mod rendezvous;
#[cfg(feature = "client")]
mod sys;
pub mod tcp;
#[cfg(feature = "client")]
pub mod tls;
pub mod turn;
