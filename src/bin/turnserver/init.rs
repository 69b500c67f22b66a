//! `turnserver init`: a configuration file to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::Args;
use turnserver::config::DEFAULT_FILE;

use crate::Failure;
use crate::source::random_word;

/// The line of the default file that the secret takes the place of.
const SECRETS: &str = "# secrets = [\"fill in a long random secret\"]";

#[derive(Args)]
pub(crate) struct Options {
    /// Where to write it; an existing file is left alone
    #[arg(value_name = "FILE", default_value = "stunner.toml")]
    file: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let secret = random_word()? + &random_word()?;
    let text = DEFAULT_FILE.replacen(SECRETS, &format!("secrets = [\"{secret}\"]"), 1);
    let path = options.file.display();
    // Others than its owner have no business with the secret in it.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&options.file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => {
            crate::print(&format!(
                "Wrote {path} with a fresh secret. Next:\n  \
                 turnserver check --config {path}\n  \
                 turnserver --config {path}\n  \
                 turnserver credentials --config {path}"
            ));
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Failure::Plain(format!(
            "{path} exists already; name another file: turnserver init FILE"
        ))),
        Err(error) => Err(Failure::Plain(format!("cannot write {path}: {error}"))),
    }
}
