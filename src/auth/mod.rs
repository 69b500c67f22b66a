//! Where credentials come from: users listed in the configuration, time-limited credentials made
//! from a shared secret, and those of pairs. All at once, looked up through one
//! [`CredentialStore`].
//!
//! A store is an immutable snapshot. Nothing here reads a file or a clock.

mod mint;
mod pairs;
mod rest;
mod static_users;
mod store;

pub use mint::mint;
pub use pairs::{PairMint, PairSecrets, Renewed};
pub use rest::RestOptions;
pub use store::{CredentialStore, StoreError};
