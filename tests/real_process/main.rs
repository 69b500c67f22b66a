//! The process as an operator first meets it: start-up errors, commands, logs, and the first run
//! without a configuration.

#![allow(
    clippy::disallowed_methods,
    reason = "watches a running process in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod first_run;
mod logs;
mod start_up;

use std::fs;
use std::path::Path;
use std::time::Duration;

use support::stun::{Client, Wire};
use support::tools::run;
use support::{Server, binary};

/// Runs the server with a configuration text that it must refuse, and returns what it said.
fn refused(text: &str, directory: &Path) -> String {
    let file = directory.join("stunner.toml");
    fs::write(&file, text).expect("config written");
    let output = run(
        &[binary(), "--config", &file.to_string_lossy()],
        Duration::from_secs(10),
    );
    assert_ne!(output.code, 0, "{}", output.text);
    assert_ne!(output.code, 124, "it served:\n{}", output.text);
    output.text
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    support::write_certificate(directory.path());
    directory
}

fn udp_client(server: &Server, user: (&str, &str)) -> Client {
    Client::new(Wire::udp(server.udp()).expect("a socket"), user)
}
