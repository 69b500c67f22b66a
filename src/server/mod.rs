//! Assembly: the only place that sees every room.
//!
//! [`Server::start`] turns settings into running shards, [`Server::run`] waits for signals and
//! carries them out: SIGHUP reloads, SIGTERM drains, SIGINT stops at once.

mod assemble;
mod certificates;
mod discovery;
mod load;
mod metrics;
mod pairs;
mod reload;
mod signals;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::auth::PairMint;
use crate::config::{Overrides, Protocol, Settings};
use crate::net::{self, BindError, Patience, Shards};
use crate::ops::audit::AuditLog;
use crate::ops::http::Views;
use crate::ops::logging::LogControl;
use crate::proto::counters::Counters;
use crate::proto::{Relay, Shared};
use crate::signal;

use certificates::Store;
pub use load::load;
pub use signals::Signals;

/// Where the settings came from, so that they can be read again on SIGHUP.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    /// The file; `None` when the server runs on its built-in default.
    pub path: Option<PathBuf>,
    /// What environment and flags put over it.
    pub overrides: Overrides,
}

/// Why the server did not start. Each message says what to do.
#[derive(Debug)]
pub enum StartError {
    /// The settings can not be carried out: credentials, addresses.
    Settings(String),
    /// A certificate or key could not be used.
    Certificate(net::tls::TlsError),
    /// A listener could not be opened.
    Bind(BindError),
    /// An address of `[relay]` is not one that sockets can be opened on.
    Relay(IpAddr, io::Error),
    /// The data path that is asked for does not work here.
    DataPath(net::Unavailable),
    /// The address of `[ops]` could not be opened.
    Ops(SocketAddr, io::Error),
    /// The pairing endpoint could not be started.
    Signaling(signal::ServeError),
    /// Threads or random numbers could not be had.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(reason) => f.write_str(reason),
            Self::Certificate(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Ops(address, error) => {
                write!(
                    f,
                    "can not serve metrics and health on {address}: {error} (set [ops] address to a free local address)"
                )
            }
            Self::Signaling(error @ signal::ServeError::Listen(..)) => {
                write!(
                    f,
                    "{error} (set [signaling] address to a free one, or remove the section to switch pairing off)"
                )
            }
            Self::Signaling(error) => error.fmt(f),
            Self::Relay(address, error) => {
                write!(
                    f,
                    "can not relay from {address}: {error} (set [relay] address to an address that an interface of this host has; behind a 1:1 NAT the world's goes to [relay] public_address)"
                )
            }
            Self::DataPath(why) => {
                write!(
                    f,
                    "{why} (set [runtime] data_path to \"auto\", which falls back to \"mmsg\")"
                )
            }
            Self::System(error) => {
                write!(
                    f,
                    "the system refused: {error} (look at the limits of open files, threads and memory: `ulimit -a`, systemd: LimitNOFILE=)"
                )
            }
        }
    }
}

impl std::error::Error for StartError {}

/// A running server.
pub struct Server {
    /// What is in force.
    settings: Settings,
    source: ConfigSource,
    shards: Shards,
    shared: Arc<Shared>,
    certificates: Store,
    addresses: Vec<(Protocol, SocketAddr)>,
    ops: Option<(TcpListener, Arc<Views>)>,
    signaling: Option<signal::Handle>,
    mint: Arc<PairMint>,
    /// What credentials of pairs are made from while no secret is configured.
    pair_secret: Zeroizing<[u8; 32]>,
    draining: Arc<AtomicBool>,
    log: Option<LogControl>,
}

impl Server {
    /// Opens every socket and starts relaying.
    ///
    /// # Errors
    /// When anything that the settings name can not be had. Nothing is left open then.
    pub fn start(settings: Settings, source: ConfigSource) -> Result<Self, StartError> {
        serving(&settings)?;
        let certificates = Store::load(&settings).map_err(StartError::Certificate)?;
        for relay in &settings.relay.addresses {
            // Found out now rather than by every client's 508.
            UdpSocket::bind((relay.local, 0))
                .map_err(|error| StartError::Relay(relay.local, error))?;
        }
        let mut patience = Patience::default();
        let signaling = match &settings.signaling {
            Some(signaling) => Some(pairs::bind(signaling, &certificates, &mut patience)?),
            None => None,
        };
        let paired_at = signaling.as_ref().map(signal::Bound::addresses);
        let paired_at = paired_at.unwrap_or_default();
        let config = assemble::net_config(&settings, &certificates, &paired_at);
        let bound = net::bind_patiently(config, &mut patience).map_err(StartError::Bind)?;
        warn_of_few_descriptors(bound.fd_limit(), &settings);
        let addresses = bound
            .addresses()
            .iter()
            .filter(|bound| bound.service.is_turn())
            .map(|bound| (assemble::protocol_name(bound.protocol), bound.address))
            .collect();
        let ops = match settings.ops.address {
            Some(address) => Some(listen(address, &mut patience)?),
            None => None,
        };

        let shared =
            Arc::new(assemble::shared(&settings, bound.addresses()).map_err(StartError::System)?);
        let pair_secret = Zeroizing::new(assemble::seed().map_err(StartError::System)?);
        let policy = Arc::new(assemble::policy(&settings, &pair_secret)?);
        let mint = PairMint::new(&assemble::pair_secrets(&settings, &pair_secret));
        let doors = pairs::doors(&settings, bound.addresses());
        let audit = AuditLog::new();
        let mut counters = Vec::new();
        let mut seeds = Vec::new();
        for _ in 0..bound.threads() {
            counters.push(Arc::new(Counters::default()));
            seeds.push(assemble::seed().map_err(StartError::System)?);
        }
        let shards = {
            let (relays, counters) = (Arc::clone(&shared.relays), counters.clone());
            let shared = Arc::clone(&shared);
            bound
                .start(
                    move |shard| {
                        Relay::new(
                            seeds[shard],
                            Arc::clone(&shared),
                            Arc::clone(&policy),
                            Arc::clone(&counters[shard]),
                        )
                    },
                    relays,
                    Arc::new(move |event| audit.write(event)),
                )
                .map_err(StartError::System)?
        };

        let relay = pairs::Relay {
            mint: Arc::clone(&mint),
            waits: Arc::clone(&shared.waits),
            steering: shards.steering(),
            ttl_s: settings.signaling.as_ref().map_or(0, |s| s.credential_ttl),
            lifetime_s: settings.signaling.as_ref().map_or(0, |s| s.pair_lifetime),
            doors,
            addresses: settings.relay.addresses.clone(),
        };
        let signaling = match signaling.map(|bound| bound.with_fallback(Arc::new(relay))) {
            Some(bound) => Some(bound.start().map_err(StartError::Signaling)?),
            None => None,
        };
        let draining = Arc::new(AtomicBool::new(false));
        let paired = signaling.as_ref().map(signal::Handle::watch);
        let ops = ops.map(|listener| {
            let (shared, started) = (Arc::clone(&shared), unix_now());
            let (shown, ready) = (Arc::clone(&draining), Arc::clone(&draining));
            let views = Views {
                metrics: Box::new(move || {
                    let draining = shown.load(Ordering::Relaxed);
                    let paired = paired.as_ref().map(|read| read());
                    metrics::text(&counters, &shared, started, draining, paired.as_ref())
                }),
                ready: Box::new(move || !ready.load(Ordering::Relaxed)),
            };
            (listener, Arc::new(views))
        });
        Ok(Self {
            settings,
            source,
            shards,
            shared,
            certificates,
            addresses,
            ops,
            signaling,
            mint,
            pair_secret,
            draining,
            log: None,
        })
    }

    /// Hands over the control of the log, so that a reload can change its level.
    #[must_use]
    pub fn with_log(mut self, log: Option<LogControl>) -> Self {
        self.log = log;
        self
    }

    /// The addresses that are served, with ports as the kernel gave them.
    pub fn addresses(&self) -> &[(Protocol, SocketAddr)] {
        &self.addresses
    }

    /// The address of the operator's HTTP endpoint, if it is on.
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops
            .as_ref()
            .and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The addresses of the pairing endpoint; none when it is off.
    pub fn signaling_addresses(&self) -> &[SocketAddr] {
        self.signaling
            .as_ref()
            .map_or(&[][..], signal::Handle::addresses)
    }

    /// Serves until a signal ends it.
    pub fn run(mut self, signals: Signals) -> ExitCode {
        signals::serve(&mut self, signals);
        // Before the relay, which its pairs use.
        drop(self.signaling.take());
        self.shards.stop();
        info!("stopped");
        ExitCode::SUCCESS
    }

    /// Stops at once: live allocations end.
    pub fn stop(mut self) {
        drop(self.signaling.take());
        self.shards.stop();
    }
}

/// Opens the address of `[ops]`.
fn listen(address: SocketAddr, patience: &mut Patience) -> Result<TcpListener, StartError> {
    loop {
        match TcpListener::bind(address) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && patience.wait("ops", address) => {}
            opened => return opened.map_err(|error| StartError::Ops(address, error)),
        }
    }
}

/// Which data path serves here with these settings.
///
/// # Errors
/// When they ask for one that does not work ([`StartError::DataPath`]).
pub fn serving(settings: &Settings) -> Result<net::Serving, StartError> {
    assemble::data_path(settings)
        .probe()
        .map_err(StartError::DataPath)
}

/// Each relayed transport address takes a file descriptor, and a client over TCP or TLS one more.
fn warn_of_few_descriptors(limit: u64, settings: &Settings) {
    /// What a server without allocations has open and keeps back, generously.
    const OWN: usize = 128;
    let relays = &settings.relay.addresses;
    let dual = relays.iter().any(|a| a.local.is_ipv4()) && relays.iter().any(|a| a.local.is_ipv6());
    let allowed = match settings.limits.allocations {
        0 => usize::MAX,
        // An allocation may have one of each family.
        count => count as usize * if dual { 2 } else { 1 },
    };
    let wanted = settings.capacity().min(allowed).saturating_add(OWN);
    if limit < wanted as u64 {
        warn!(
            limit,
            wanted,
            "the limit of open files is lower than what all allocations need: those beyond it get \
             508 (raise it to {wanted} or more: `ulimit -Hn {wanted}`, systemd: \
             LimitNOFILE={wanted}, docker: --ulimit nofile={wanted}; or lower [limits] allocations \
             or [relay] ports)"
        );
    }
}

/// Unix time in seconds; 0 before 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the start time that metrics show"
)]
fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
