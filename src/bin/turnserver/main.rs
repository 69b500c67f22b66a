//! The command line: what is asked, and which module answers it.

// They panic where standard output or error cannot be written to.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod certificate;
mod check;
mod credentials;
mod first_run;
mod ice;
mod init;
mod ping;
mod source;

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use turnserver::config::{Flags, Level};
use turnserver::ops::logging;
use turnserver::server::{Server, Signals};

use source::Source;

/// A STUN and TURN server.
///
/// Without a configuration file it serves on UDP and TCP port 3478 of this machine, makes a user
/// with a random password, tests itself and prints an iceServers JSON to paste.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
}

const AFTER_HELP: &str = "\
Flags stand above the environment, and the environment above the file:
  TURNSERVER_SECRETS         secrets of time-limited credentials, separated by commas
  TURNSERVER_SECRETS_FILE    a file of secrets, one a line; SIGHUP reads it again
  TURNSERVER_USERS           static users: name:password,name:password
  TURNSERVER_NONCE_KEY       32 bytes in hexadecimal or base64
  TURNSERVER_REALM, TURNSERVER_PUBLIC_ADDRESS, TURNSERVER_LOG_LEVEL, TURNSERVER_DATA_PATH

Signals: SIGHUP reads the configuration again, SIGTERM drains, SIGINT stops at once.";

/// What every command takes.
#[derive(Args)]
struct Common {
    /// The configuration file (`turnserver init` writes one to start from)
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The realm, in place of the file's
    #[arg(long, global = true, value_name = "REALM")]
    realm: Option<String>,
    /// The address that the world sees behind a NAT; once for each address that relays
    #[arg(long, global = true, value_name = "IP")]
    public_address: Vec<IpAddr>,
    /// off, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Common {
    fn flags(&self) -> Flags {
        Flags {
            realm: self.realm.clone(),
            public_address: self
                .public_address
                .iter()
                .map(ToString::to_string)
                .collect(),
            log_level: self.log_level.clone(),
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Check a configuration and show what it amounts to
    ///
    /// Prints the effective configuration, secrets redacted, with capacity and certificates;
    /// warnings go to standard error. Exits with 0 when it is valid, else with 1 and every error.
    Check(check::Options),
    /// Print an iceServers JSON for browsers, made from the configuration
    ///
    /// With a secret it makes a time-limited credential, else it takes a static user.
    Credentials(credentials::Options),
    /// Send one Binding request; exits with 0 when it is answered, else with 1
    Ping(ping::Options),
    /// Write a commented configuration file with a fresh secret
    Init(init::Options),
}

fn main() -> ExitCode {
    let Cli { command, common } = Cli::parse();
    let done = match command {
        None => return run(&common),
        Some(Command::Check(options)) => check::run(&common, options),
        Some(Command::Credentials(options)) => credentials::run(&common, &options),
        Some(Command::Ping(options)) => ping::run(&common, &options),
        Some(Command::Init(options)) => init::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Writes to standard output what is said besides: where that cannot be, nothing else changes.
fn print(text: &str) {
    let _ = result(text);
}

/// Writes to standard output what the command is there for.
fn result(text: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    let written = writeln!(output, "{text}").and_then(|()| output.flush());
    written.map_err(|error| match error.kind() {
        // Whoever read it has stopped early, as `head` does.
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::Plain(format!("standard output: {error}")),
    })
}

/// Writes to standard error, where that can be.
fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Serves until a signal ends it.
fn run(common: &Common) -> ExitCode {
    let source = match Source::for_serving(common) {
        Ok(source) => source,
        Err(failure) => return failure.report(),
    };
    let log = logging::init(source.settings.log.format, source.settings.log.level);
    for warning in source.warnings() {
        tracing::warn!("{warning}");
    }
    let settings = source.settings.clone();
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("could not take over the signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let server = match Server::start(source.settings, source.from) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for (protocol, address) in server.addresses() {
        tracing::info!(transport = protocol.name(), %address, "listening");
    }
    for address in server.signaling_addresses() {
        tracing::info!(transport = "pairing", %address, "listening");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        capacity = settings.capacity(),
        "serving"
    );
    if let Some(user) = source.generated {
        // The self test's own allocations are not news.
        let level = settings.log.level;
        log.iter()
            .for_each(|log| log.set_level(level.min(Level::Warn)));
        first_run::greet(&settings, &user, &server);
        log.iter().for_each(|log| log.set_level(level));
    }
    server.with_log(log).run(signals)
}

/// Why a command ended without success; everything is said by then.
enum Failure {
    /// A wrong configuration, rendered for this terminal.
    Config(String),
    /// Anything else, in one line.
    Plain(String),
    /// Nobody reads what there is to say.
    Unread,
}

impl Failure {
    fn report(self) -> ExitCode {
        match self {
            Self::Config(text) => warn(&text),
            Self::Plain(text) => warn(&format!("error: {text}")),
            Self::Unread => {}
        }
        ExitCode::FAILURE
    }
}

impl From<turnserver::config::Errors> for Failure {
    fn from(errors: turnserver::config::Errors) -> Self {
        use std::io::IsTerminal as _;
        // https://no-color.org
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::Config(errors.render(std::io::stderr().is_terminal() && !plain))
    }
}
