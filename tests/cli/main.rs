//! The command line as people and containers use it.

mod check;
mod credentials;
mod first_run;
mod ping;
mod start;
#[path = "../support/mod.rs"]
mod support;

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const SECRET: &str = "a-long-random-secret";

/// The binary, with nothing in its environment that configures it.
fn turnserver(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnserver"));
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TURNSERVER_") {
            command.env_remove(name);
        }
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    turnserver(arguments)
        .output()
        .expect("the binary was built")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

struct File {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("stunner.toml");
        std::fs::write(&path, text).expect("writable");
        Self { directory, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }
}

/// A configuration on loopback with a secret and a user, and more lines at the top.
fn file(lines: &str) -> File {
    File::new(&format!(
        "realm = \"example.org\"\n{lines}\n[auth]\nsecrets = [\"{SECRET}\"]\n[auth.users]\nalice = \"her-password\"\n"
    ))
}

fn certificate(directory: &Path, name: &str, until: i32) {
    let mut parameters = rcgen::CertificateParams::new(vec![name.into()]).expect("a name");
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("signed");
    std::fs::write(directory.join("cert.pem"), certificate.pem()).expect("writable");
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).expect("writable");
}

const TLS: &str = "[[listener]]\nprotocol = \"tls\"\naddress = \"192.0.2.7:443\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"";

/// Ends the server with the test.
struct Server(Child);

impl Server {
    fn start(path: &str) -> Self {
        let child = turnserver(&["--config", path])
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("the binary was built"))
    }

    fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill is there").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pings until the server has come up, and returns what the ping said then.
fn comes_up(ping: &[&str]) -> Option<String> {
    (0..50).find_map(|_| {
        let output = run(ping);
        if output.status.success() {
            return Some(out(&output));
        }
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|s| {
            s.set_read_timeout(Some(Duration::from_millis(100)))
                .and(s.recv(&mut [0]))
        });
        None
    })
}
