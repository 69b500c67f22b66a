//! Starts the built server the way a person would: the binary, a config file, signals.
//!
//! Each server gets a block of 500 ports that no other running test has, so that tests run side
//! by side. Everything it writes goes to a temporary directory; its log is printed when a test
//! fails.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test crate compiles this module and uses its own part of it"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests of a running process wait in real time"
)]

pub mod hostile;
pub mod namespace;
mod ports;
pub mod random;
pub mod stun;
pub mod tls;
pub mod tools;
pub mod turnctl;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use ports::Ports;

/// The realm of every test server.
pub const REALM: &str = "example.org";
/// A static user and its password.
pub const USER: (&str, &str) = ("user-1", "pass-1");
/// Another static user.
pub const OTHER_USER: (&str, &str) = ("user-2", "pass-2");
/// The secret of time-limited credentials.
pub const SECRET: &str = "rest-secret";

/// The built server.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_turnserver")
}

/// The configuration file of the README, with free ports and what a test changes.
#[derive(Clone, Debug)]
pub struct Config {
    /// Static users and their passwords.
    pub users: Vec<(String, String)>,
    /// Secrets of time-limited credentials.
    pub secrets: Vec<String>,
    /// Lines of `[limits]`.
    pub limits: String,
    /// Lines of `[peers]`.
    pub peers: String,
    /// Lines of `[auth]` besides users and secrets.
    pub auth: String,
    /// Whether `[ops] address` is set.
    pub ops: bool,
    /// Whether there is a TLS listener.
    pub tls: bool,
    /// First and last relay port, when not the whole block.
    pub relay_ports: Option<(u16, u16)>,
    /// Lines of `[relay]` besides the ports.
    pub relay: String,
    /// Addresses of the UDP and TCP listeners, without ports.
    pub hosts: Vec<String>,
    /// Lines of `[signaling]` besides the address; the section is there if these are, be they
    /// empty.
    pub signaling: Option<String>,
    /// Whole sections to append.
    pub extra: String,
    /// Variables in the environment of the server.
    pub environment: Vec<(&'static str, &'static str)>,
}

impl Default for Config {
    fn default() -> Self {
        let own = |(name, password): (&str, &str)| (name.to_owned(), password.to_owned());
        Self {
            users: vec![own(USER), own(OTHER_USER)],
            secrets: vec![SECRET.to_owned()],
            limits: "allocations_per_user = 0\nunauthenticated_replies = 0\n".to_owned(),
            peers: "allow = [\"127.0.0.0/8\", \"::1/128\"]\ndeny = []\n".to_owned(),
            auth: String::new(),
            ops: false,
            tls: true,
            relay_ports: None,
            relay: "address = [\"127.0.0.1\", \"::1\"]\n".to_owned(),
            hosts: vec!["127.0.0.1".to_owned(), "[::1]".to_owned()],
            signaling: None,
            extra: String::new(),
            environment: Vec::new(),
        }
    }
}

impl Config {
    /// The file's text.
    pub fn render(&self, ports: &Ports) -> String {
        let (plain, tls, ops) = (ports.plain(), ports.tls(), ports.ops());
        let (first, last) = self.relay_ports.unwrap_or_else(|| ports.relay());
        let addresses: Vec<_> = self
            .hosts
            .iter()
            .map(|ip| format!("{ip}:{plain}"))
            .collect();
        let mut text = format!("realm = \"{REALM}\"\n");
        for protocol in ["udp", "tcp"] {
            text += &format!("[[listener]]\nprotocol = \"{protocol}\"\naddress = {addresses:?}\n");
        }
        if self.tls {
            text += &format!(
                "[[listener]]\nprotocol = \"tls\"\naddress = \"127.0.0.1:{tls}\"\n\
                 certificate = \"cert.pem\"\nkey = \"key.pem\"\n"
            );
        }
        text += &format!(
            "[relay]\n{}ports = \"{first}-{last}\"\n[auth]\n{}",
            self.relay, self.auth
        );
        if !self.secrets.is_empty() {
            text += &format!("secrets = {:?}\n", self.secrets);
        }
        if !self.users.is_empty() {
            text += "[auth.users]\n";
            for (name, password) in &self.users {
                text += &format!("{name:?} = {password:?}\n");
            }
        }
        text += &format!("[peers]\n{}[limits]\n{}", self.peers, self.limits);
        text += "[log]\nlevel = \"info\"\n";
        if self.ops {
            text += &format!("[ops]\naddress = \"127.0.0.1:{ops}\"\n");
        }
        if let Some(lines) = &self.signaling {
            let port = ports.signaling();
            text += &format!("[signaling]\naddress = \"127.0.0.1:{port}\"\n{lines}\n");
        }
        text += &self.extra;
        text
    }
}

/// A running server. Ended when dropped; its log is printed when the test panicked.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The ports it uses.
    pub ports: Ports,
    /// Where its config, certificates and log are.
    pub dir: tempfile::TempDir,
    /// The configuration it was started with.
    pub config: Config,
    /// The certificate it was started with, as DER.
    pub certificate: Vec<u8>,
}

impl Server {
    /// Starts a server with the default test configuration and waits until it answers.
    pub fn start() -> Self {
        Self::with(Config::default())
    }

    /// Starts a server with `config` and waits until it answers.
    pub fn with(config: Config) -> Self {
        Self::with_ports(|_| config)
    }

    /// The same, with a configuration that names ports of its own.
    pub fn with_ports(config: impl FnOnce(&Ports) -> Config) -> Self {
        let ports = Ports::claim();
        let config = config(&ports);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let certificate = write_certificate(dir.path());
        fs::write(dir.path().join("stunner.toml"), config.render(&ports)).expect("config written");
        let child = spawn(dir.path(), &config.environment);
        let mut server = Self {
            child,
            ports,
            dir,
            config,
            certificate,
        };
        server.wait_until_it_answers();
        server
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child can be waited for");
    }

    /// Starts it again once it has ended, with a new log; does not wait until it answers.
    pub fn start_again(&mut self) {
        self.child = spawn(self.dir.path(), &self.config.environment);
    }

    /// Waits until it answers.
    pub fn wait_until_it_answers(&mut self) {
        let started = Instant::now();
        while stun::binding_udp(self.udp(), Duration::from_millis(100)).is_none() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the server ended at once ({status}):\n{}", self.log());
            }
            assert!(
                started.elapsed() < Duration::from_secs(15),
                "the server does not answer:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// The UDP listener on IPv4; TCP has the same address.
    pub fn udp(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.plain()).into()
    }

    /// The UDP listener on IPv6; TCP has the same address.
    pub fn udp6(&self) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, self.ports.plain()).into()
    }

    /// The TCP listener on IPv4.
    pub fn tcp(&self) -> SocketAddr {
        self.udp()
    }

    /// The TLS listener.
    pub fn tls(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.tls()).into()
    }

    /// The operations listener.
    pub fn ops(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.ops()).into()
    }

    /// The value in the line of the metrics that begins with `line`; `None`: there is none.
    pub fn metric(&self, line: &str) -> Option<u64> {
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut stream = TcpStream::connect(self.ops()).expect("it listens");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let value = text.lines().find_map(|found| found.strip_prefix(line));
        value.and_then(|value| value.trim().parse().ok())
    }

    /// The pairing endpoint.
    pub fn signaling(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.signaling()).into()
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("stunner.toml")
    }

    /// Replaces the configuration file (without a reload).
    pub fn rewrite(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        fs::write(self.config_file(), self.config.render(&self.ports)).expect("config written");
    }

    /// What the server wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log contains `text`.
    pub fn wait_for_log(&self, text: &str) {
        let found = wait_until(Duration::from_secs(10), || self.log().contains(text));
        assert!(found, "the log never said {text:?}:\n{}", self.log());
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, as in `TERM`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the process to end.
    pub fn wait_for_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        wait_until(limit, || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        status
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("VmRSS:"));
        line.and_then(|line| line.split_whitespace().nth(1))
            .and_then(|number| number.parse().ok())
            .expect("VmRSS is a number")
    }

    /// Resident memory in KiB once every worker serves and it has stayed the same for a while: a
    /// worker takes megabytes at its start, when another one may answer already.
    pub fn settled_kib(&self) -> u64 {
        // The kernel spreads them over the workers by their ports.
        for _ in 0..64 {
            let answer = stun::binding_udp(self.udp(), Duration::from_secs(10));
            assert!(
                answer.is_some(),
                "a worker does not answer:\n{}",
                self.log()
            );
        }
        let mut kib = self.resident_kib();
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(500) {
            sleep(Duration::from_millis(10));
            let now = self.resident_kib();
            if now != kib {
                (kib, since) = (now, Instant::now());
            }
        }
        kib
    }

    /// Open file descriptors once they have stayed the same for a while: a thread may still be
    /// starting when another one answers already.
    pub fn settled_descriptors(&self) -> usize {
        let mut count = self.descriptors();
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(500) {
            sleep(Duration::from_millis(10));
            let now = self.descriptors();
            if now != count {
                (count, since) = (now, Instant::now());
            }
        }
        count
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("it runs")
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killing a process that has ended is an error of no interest.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server ---\n{}---", self.log());
        }
    }
}

/// Starts the binary with `stunner.toml` and `log` in `dir`.
pub fn spawn(dir: &Path, environment: &[(&str, &str)]) -> Child {
    let log = File::create(dir.join("log")).expect("log file");
    Command::new(binary())
        .arg("--config")
        .arg(dir.join("stunner.toml"))
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be cloned"))
        .stderr(log)
        .spawn()
        .expect("the built server starts")
}

/// Sends a signal by name to a process.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .expect("sh runs");
    assert!(status.success(), "kill -{name} {pid}");
}

/// Polls until `done` or the limit; says whether it was done.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() > limit {
            return false;
        }
        sleep(Duration::from_millis(10));
    }
}

/// Writes a new self-signed `cert.pem` and `key.pem`; returns the certificate's DER bytes.
pub fn write_certificate(dir: &Path) -> Vec<u8> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a self-signed certificate");
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).expect("key written");
    fs::write(dir.join("cert.pem"), made.cert.pem()).expect("certificate written");
    made.cert.der().to_vec()
}
