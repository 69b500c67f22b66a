//! Clients of other systems, each by a switch of its own and off by default.

pub mod fractal;
pub(super) mod stunturn;
