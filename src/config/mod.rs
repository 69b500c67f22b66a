//! From `stunner.toml`, environment and flags to one validated [`Settings`].
//!
//! [`load`] reads everything before it complains: all errors of one run come together, each with
//! file, line, column, the reason and the fix. What it returns is plain data and consistent.
//! Precedence: file, then environment, then flags; see [`Overrides`].

mod secret;
mod settings;

pub use secret::{REDACTED, Secret, SecretKey};
pub use settings::*;
