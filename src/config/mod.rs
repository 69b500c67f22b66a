//! From `stunner.toml`, environment and flags to one validated [`Settings`].
//!
//! [`load`] reads everything before it complains: all errors of one run come together, each with
//! file, line, column, the reason and the fix. What it returns is plain data and consistent.
//! Precedence: file, then environment, then flags; see [`Overrides`].

/// The commented default file: every key with its default. It holds no credentials, so that as it
/// is only devices that are paired may allocate.
pub const DEFAULT_FILE: &str = include_str!("../../config/stunner.toml");

mod addresses;
mod certificate;
mod credentials;
mod keys;
mod load;
mod machine;
mod mask;
mod overrides;
mod problem;
mod reader;
mod relay;
mod reload;
mod render;
mod secret;
mod sections;
mod settings;
mod signaling;
mod warnings;

pub use certificate::{BadCertificate, CertificateCheck};
pub use keys::{Applies, keys};
pub use load::{load, load_file};
pub use machine::Machine;
pub use overrides::{
    ENV_DATA_PATH, ENV_LOG_LEVEL, ENV_NONCE_KEY, ENV_PUBLIC_ADDRESS, ENV_REALM, ENV_SECRETS,
    ENV_SECRETS_FILE, ENV_USERS, Flags, Overridden, Overrides, unknown_variables,
};
pub use problem::{Brief, Errors};
pub use reload::{ABSENT, Change, adopt, diff, without_effect};
pub use render::effective;
pub use secret::{REDACTED, Secret, SecretKey};
pub use settings::*;
pub use warnings::{Warning, file_warnings, machine_warnings, warnings};

/// Why a file could not be read, without the operating system's error number.
fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::IsADirectory => "it is a directory".into(),
        _ => error.to_string(),
    }
}
