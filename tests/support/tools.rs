//! Runs other people's programs, bounded in time, and fails loudly when one is missing.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 124 when the time limit ended it, -1 when a signal did.
    pub code: i32,
    /// Standard output and standard error, in this order.
    pub text: String,
    /// Standard output alone.
    pub stdout: String,
}

/// The path of an installed program.
///
/// # Panics
/// When it is missing, naming the Debian package that has it.
pub fn need(program: &str, package: &str) -> String {
    let paths = std::env::var("PATH").unwrap_or_default();
    paths
        .split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!("{program} is missing: install it with `apt-get install {package}`")
        })
        .to_string_lossy()
        .into_owned()
}

/// Runs a program to its end, at most for `limit`.
pub fn run(command: &[&str], limit: Duration) -> Output {
    let output = Command::new(need("timeout", "coreutils"))
        .args(["-k", "1", &limit.as_secs().to_string()])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .expect("timeout runs");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    Output {
        code: output.status.code().unwrap_or(-1),
        text,
        stdout,
    }
}

/// A program in the background, ended when dropped.
#[derive(Debug)]
pub struct Background(Child);

impl Background {
    /// Starts it silently.
    pub fn start(command: &[&str]) -> Self {
        let child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command[0]));
        Self(child)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Killing a process that has ended is an error of no interest.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
