//! The certificate of a listener or of the pairing endpoint: which files, and whether they are any good.

use std::path::{Path, PathBuf};

use super::problem::{Problem, Problems};
use super::reader::{Found, Section};
use super::settings::{Certificate, Protocol};

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCertificate {
    /// The file that is to blame: the chain or the key.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// What to do about it.
    pub help: String,
}

/// Tells whether a certificate can be used with its key. What TLS takes is not for this room to
/// know, so whoever loads a file hands in the judge.
pub type CertificateCheck = dyn Fn(&Certificate) -> Result<(), BadCertificate>;

pub(super) fn certificate(
    entry: &Section<'_>,
    protocol: Option<Protocol>,
    directory: &Path,
    check: Option<&CertificateCheck>,
    problems: &Problems,
) -> Option<Certificate> {
    let chain = entry.text("certificate");
    let key = entry.text("key");
    let lines = "certificate = \"cert.pem\"\nkey = \"key.pem\"";
    match (&chain, &key) {
        (None, None) if protocol == Some(Protocol::Tls) => problems.push(
            Problem::new(
                entry.at(),
                "this tls listener has no certificate",
                "TLS needs a certificate and its key",
            )
            .help(format!("add to it, relative to this file:\n{lines}")),
        ),
        (Some(only), None) | (None, Some(only)) => {
            let (has, lacks) = match chain {
                Some(_) => ("certificate", "key"),
                None => ("key", "certificate"),
            };
            problems.push(
                Problem::new(
                    only.at.clone(),
                    format!("{} has a `{has}` but no `{lacks}`", entry.noun()),
                    "a certificate and its key come together",
                )
                .help(format!(
                    "add to it: {lacks} = \"{}.pem\"",
                    &lacks[..lacks.len().min(4)]
                )),
            );
        }
        (Some(chain), Some(_)) if protocol == Some(Protocol::Udp) => {
            problems.push(
                Problem::new(
                    chain.at.clone(),
                    "a udp listener has no use for a certificate",
                    "TLS runs over TCP",
                )
                .help("remove it, or make this listener protocol = \"tls\""),
            );
            // Whether its files are there is beside the point.
            return None;
        }
        _ => {}
    }
    let (chain, key) = (chain?, key?);
    // `join` takes an absolute path as it is.
    let certificate = Certificate {
        chain: directory.join(&chain.value),
        key: directory.join(&key.value),
    };
    if let Some(check) = check {
        let before = problems.len();
        must_be_readable(&chain, &certificate.chain, problems);
        must_be_readable(&key, &certificate.key, problems);
        if problems.len() == before
            && let Err(bad) = check(&certificate)
        {
            let (name, found) = match bad.file == certificate.key {
                true => ("key", key),
                false => ("certificate", chain),
            };
            problems.push(
                Problem::new(
                    found.at,
                    format!("`{name}` cannot be used: {}", bad.file.display()),
                    bad.reason,
                )
                .help(bad.help),
            );
        }
    }
    Some(certificate)
}

fn must_be_readable(found: &Found<String>, path: &Path, problems: &Problems) {
    if let Err(error) = std::fs::File::open(path) {
        problems.push(
            Problem::new(
                found.at.clone(),
                format!("cannot read {}", path.display()),
                super::io_reason(&error),
            )
            .help(match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "make it readable for the user that turnserver runs as"
                }
                _ => "relative paths are relative to the directory of this file",
            }),
        );
    }
}
