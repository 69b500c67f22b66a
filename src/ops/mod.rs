//! What an operator sees of a running server: log lines, metrics, health.
//!
//! This room only ever gets snapshots and events; it holds no live state of the relay and can
//! not slow it down.

pub mod audit;
pub mod http;
pub mod logging;
pub mod metrics;
