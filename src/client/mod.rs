//! The other end of the protocol. It imports `wire` only, never `proto`: the two ends must not
//! share a bug.

pub mod datagrams;
pub mod probe;
mod sys;
pub mod tls;
pub mod turn;
