//! Reading the configuration, at start and on SIGHUP, with what other rooms know about it.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::config::{self, BadCertificate, Certificate, Errors, Machine, Overrides, Settings};
use crate::net::tls::{Certificates, TlsProblem};

/// How errors name the built-in default.
const BUILT_IN: &str = "the built-in configuration";

/// The settings of a file, or of the built-in default when there is none.
///
/// # Errors
/// Everything that is wrong with them, all at once.
pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Settings, Errors> {
    match path {
        Some(path) => config::load_file(path, overrides, &usable),
        None => built_in(overrides),
    }
}

fn built_in(overrides: &Overrides) -> Result<Settings, Errors> {
    let mut machine = Machine::detect();
    if machine.ipv4.is_none() && machine.ipv6.is_none() {
        // A machine without a network can still try the server out.
        machine.ipv4 = Some(Ipv4Addr::LOCALHOST);
    }
    config::load(
        config::DEFAULT_FILE,
        Path::new(BUILT_IN),
        overrides,
        &machine,
    )
}

/// Whether listeners can use a certificate.
fn usable(certificate: &Certificate) -> Result<(), BadCertificate> {
    let Err(error) = Certificates::load(&certificate.chain, &certificate.key) else {
        return Ok(());
    };
    let help = match error.problem {
        TlsProblem::Mismatch { .. } => {
            "name the key that the certificate was made with; a renewal replaces both files"
        }
        TlsProblem::NoCertificate => "name the certificate's PEM file, often called fullchain.pem",
        TlsProblem::NoKey => "name the key's PEM file, often called privkey.pem",
        _ => "name a file in PEM form, as certificate authorities and openssl write it",
    };
    let text = error.to_string();
    let prefix = format!("{}: ", error.file.display());
    Err(BadCertificate {
        reason: text.strip_prefix(&prefix).unwrap_or(&text).into(),
        file: error.file,
        help: help.into(),
    })
}
