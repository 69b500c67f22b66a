//! Connecting two devices: what `connect`, `host` and `forward` have in common.

mod connect;
mod events;
mod flows;
mod forward;
mod host;
mod key;
mod pipe;
mod serve;
mod service;
mod stop;

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::sleep;
use turnserver::client::connect::{ConnectError, Connector};
use turnserver::client::rendezvous::ServerUrl;
use turnserver::pairing;

pub(crate) use connect::{Options as Connect, run as connect};
pub(crate) use forward::{Options as Forward, run as forward};
pub(crate) use host::{Options as Host, run as host};
pub(crate) use key::print as key;

pub(crate) use events::failed;

use events::Events;
use stop::Stop;

/// How long what was left may take to say so, after a command has ended by itself.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the two want between them, or which kind of local port is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Udp,
    Tcp,
}

impl From<Protocol> for pairing::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self::Udp,
            Protocol::Tcp => Self::Tcp,
        }
    }
}

/// With whom.
#[derive(Args)]
struct Meeting {
    /// The pairing server: `host:port`, or its http or https URL
    server: ServerUrl,
    /// The access key that both devices have; `-` takes it from --key-file or TURNCTL_KEY
    ///
    /// An argument can be seen in the list of processes by everybody on this machine. A file or
    /// the environment variable TURNCTL_KEY cannot.
    key: String,
}

/// How.
#[derive(Args)]
struct Manner {
    /// File whose first line is the access key, for the key `-`
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Local address of every connection
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// How often each address of the peer is tried
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tries: Option<u32>,
    /// Seconds for the search for a direct path
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Do not look for a direct path
    #[arg(long)]
    relay_only: bool,
    /// File with certificates (PEM) to trust in place of the system's, for https
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Progress on standard error as JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// A number of seconds, whole or not, above zero.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "not a number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("not a time above zero".into()),
    }
}

/// Why a command ends before its time.
enum Failure {
    /// The command line asks for what cannot be: exit status 2.
    Usage(String),
    /// The two are not connected.
    Connect(ConnectError),
    /// The connection broke, or something on this machine did.
    Broken(String),
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Connect(error) => error.exit_code(),
            Self::Broken(_) => 1,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Usage(text) | Self::Broken(text) => text.clone(),
            Self::Connect(error) => error.to_string(),
        }
    }
}

/// A builder with all that was said on the command line, and where to tell what happens.
/// `ends`: a wait ends after its time, as that of a host does not.
fn prepare(meeting: &Meeting, manner: &Manner, ends: bool) -> Result<(Connector, Events), Failure> {
    let key = key::read(&meeting.key, manner.key_file.as_deref())?;
    let weak = key::warning(&key);
    let (progress, told) = mpsc::unbounded_channel();
    let mut connector = Connector::new(meeting.server.clone(), key)
        .relay_only(manner.relay_only)
        .progress(progress);
    if let Some(ip) = manner.bind {
        connector = connector.bind(ip);
    }
    if let Some(tries) = manner.tries {
        connector = connector.tries(tries);
    }
    if let Some(timeout) = manner.timeout {
        connector = connector.punch_timeout(timeout);
    }
    if let Some(path) = &manner.ca {
        let pem = std::fs::read(path)
            .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        connector = connector.roots(pem);
    }
    let events = Events::new(manner.json, ends, told);
    if let Some(words) = weak {
        let event = json!({"event": "warning", "code": "weak_key", "message": words});
        events.tell(&event, &format!("warning: {words}"));
    }
    Ok((connector, events))
}

/// Runs a command to its end and says how it ended. A signal tells it to stop, and is what the
/// exit code then says.
fn run<F>(json: bool, command: impl FnOnce(Stop) -> F) -> Result<ExitCode, String>
where
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let code = runtime.block_on(async {
        let others = tasks();
        let mut stop = Stop::listen(json);
        let listening = tasks() - others;
        let ended = tokio::select! {
            ended = command(stop.clone()) => ended,
            () = stop.enough() => Ok(()),
        };
        let signal = stop.signal();
        let code = match (signal, ended) {
            (Some(signal), _) => ExitCode::from(signal.exit_code()),
            (None, Ok(())) => ExitCode::SUCCESS,
            (None, Err(failure)) => {
                events::failed(json, failure.exit_code(), &failure.message());
                ExitCode::from(failure.exit_code())
            }
        };
        // What was dropped tells the peer, the relay, the server and the router.
        let in_a_hurry = async {
            match signal {
                Some(_) => stop.enough().await,
                None => tokio::select! {
                    () = stop.asked() => {}
                    () = sleep(LAST_WORDS) => {}
                },
            }
        };
        tokio::select! {
            () = only(listening) => {}
            () = in_a_hurry => {}
        }
        code
    });
    // What still runs has nothing to say any more.
    runtime.shutdown_background();
    Ok(code)
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Waits until no more than so many tasks are left.
async fn only(left: usize) {
    while tasks() > left {
        sleep(Duration::from_millis(5)).await;
    }
}
