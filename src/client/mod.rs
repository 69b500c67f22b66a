//! The other end of the protocol. It imports `wire` only, never `proto`: the two ends must not
//! share a bug.

mod budget;
pub mod connect;
#[cfg(feature = "client")]
pub mod datagrams;
pub mod nat;
pub mod noise;
#[cfg(feature = "client")]
pub mod port_mapping;
#[cfg(feature = "client")]
pub mod probe;
mod prompt;
pub mod punch;
#[cfg(feature = "client")]
pub mod quic;
pub mod relay;
pub mod rendezvous;
pub mod session;
#[cfg(feature = "client")]
mod sys;
pub mod tcp;
#[cfg(feature = "client")]
pub mod tls;
pub mod turn;
#[cfg(feature = "webrtc-conn")]
pub mod webrtc;

/// Where virtual time begins in tests.
#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "any origin of virtual time will do"
)]
fn origin() -> std::time::Instant {
    std::time::Instant::now()
}
