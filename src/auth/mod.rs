//! Where credentials come from: users listed in the configuration, and time-limited credentials
//! made from a shared secret. Both at once, looked up through one [`CredentialStore`].
//!
//! A store is an immutable snapshot. Nothing here reads a file or a clock.

mod mint;
mod rest;
mod static_users;
mod store;

pub use mint::mint;
pub use rest::RestOptions;
pub use store::{CredentialStore, StoreError};
