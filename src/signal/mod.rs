//! The pairing endpoint: two devices that share an access key find each other here, and exchange
//! what they need to connect. `docs/signalling.md` specifies what is said.
//!
//! [`serve`] starts one from an address; the server gives it STUN and TURN for its pairs by
//! [`Fallback`]. What is decided is decided in [`room`], without sockets or clocks.

mod clock;
pub mod compat;
mod counters;
#[cfg(test)]
mod documented;
mod doors;
mod fallback;
mod frames;
mod http;
mod hub;
mod join;
mod listener;
mod mailbox;
mod nonces;
mod pace;
mod rate;
mod refusal;
pub mod room;
mod ws;

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime;
use tokio::sync::oneshot;

use crate::proto::throttle::Throttle;

use compat::fractal::Fractal;
use counters::Counters;
use doors::Doors;
use hub::Hub;
use nonces::Nonces;
use pace::Pace;
use rate::Receivers;
use room::{Room, RoomLimits};

pub use counters::Snapshot;
pub use fallback::{Asking, Bond, Fallback, Grant, NoFallback, Renewed, Renewing};

/// How an endpoint is set up.
#[derive(Clone)]
pub struct Config {
    /// Where it listens; port 0 takes any free port. IPv6 wildcards serve IPv6 only.
    pub addresses: Vec<SocketAddr>,
    /// With it, HTTPS and secure WebSockets are spoken, and nothing in clear but what
    /// [`Config::compat`] asks for.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// STUN and TURN for the pairs.
    pub fallback: Arc<dyn Fallback>,
    /// Caps.
    pub limits: Limits,
    /// Clients of other systems.
    pub compat: Compat,
}

/// Which clients of other systems are served. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compat {
    /// The JSON hello of stunturn, on the TCP addresses of the endpoint, in clear there. Its clients learn their
    /// UDP address by a text on the same port number, which is not answered here.
    pub stunturn: bool,
    /// The 12-byte protocol of Fractal over UDP and TCP: IPv4 addresses.
    pub fractal: Vec<SocketAddrV4>,
    /// Its first generation, over UDP.
    pub fractal_first: Vec<SocketAddrV4>,
}

/// How much an endpoint takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Waiting initiators, sessions, signals.
    pub room: RoomLimits,
    /// Joins of one source (an IPv4 address, an IPv6 /64; a /48 may have four times as much) a
    /// minute; 0: no limit.
    pub joins_per_minute: u32,
    /// Connections from one source a minute; 0: no limit.
    pub connections_per_minute: u32,
    /// Receivers that are paired under one rendezvous id a minute; 0: no limit.
    pub receivers_per_id: u32,
    /// Of those from one source; 0: no limit.
    pub receivers_per_id_and_source: u32,
    /// Open connections in all.
    pub connections: usize,
    /// Open connections from one source.
    pub connections_per_source: usize,
    /// Of those that have not asked to join yet.
    pub strangers_per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            room: RoomLimits::default(),
            joins_per_minute: 300,
            receivers_per_id: 1200,
            receivers_per_id_and_source: 240,
            connections: 120_000,
            connections_per_minute: 1200,
            connections_per_source: 2048,
            strangers_per_source: 256,
        }
    }
}

impl Config {
    /// An endpoint for pairing alone, over plain HTTP, with the default limits.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
            tls: None,
            fallback: Arc::new(NoFallback),
            limits: Limits::default(),
            compat: Compat::default(),
        }
    }
}

impl From<SocketAddr> for Config {
    fn from(address: SocketAddr) -> Self {
        Self::new([address])
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("addresses", &self.addresses)
            .field("tls", &self.tls.is_some())
            .field("limits", &self.limits)
            .field("compat", &self.compat)
            .finish_non_exhaustive()
    }
}

/// Why an endpoint did not start.
#[derive(Debug)]
pub enum ServeError {
    /// An address could not be listened on.
    Listen(SocketAddr, io::Error),
    /// A thread, its runtime or random numbers could not be had.
    System(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "can not serve pairing on {address}: {error}")
            }
            Self::System(error) => write!(f, "the system refused: {error}"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen(_, error) | Self::System(error) => Some(error),
        }
    }
}

/// Opens the addresses and serves them on a thread of its own, until the handle is stopped or
/// dropped. An address alone does: `serve(address)`.
///
/// # Errors
/// When an address can not be listened on, or a thread can not be had. Nothing is left open then.
pub fn serve(config: impl Into<Config>) -> Result<Handle, ServeError> {
    bind(config)?.start()
}

/// Opens the addresses. Connections wait until [`Bound::start`].
///
/// # Errors
/// As [`serve`].
pub fn bind(config: impl Into<Config>) -> Result<Bound, ServeError> {
    let config = config.into();
    let mut listeners = Vec::new();
    for &address in &config.addresses {
        let failed = |error| ServeError::Listen(address, error);
        listeners.push(listener::open(address).map_err(failed)?);
    }
    let fractal = Fractal::bind(&config.compat)
        .map_err(|(address, error)| ServeError::Listen(address.into(), error))?;
    Ok(Bound {
        config,
        listeners,
        fractal,
    })
}

/// An endpoint whose addresses are open and that does not serve yet.
pub struct Bound {
    config: Config,
    listeners: Vec<std::net::TcpListener>,
    fractal: Fractal,
}

impl Bound {
    /// The addresses, with ports as the kernel gave them.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.listeners.iter().map(std::net::TcpListener::local_addr);
        addresses.filter_map(Result::ok).collect()
    }

    /// The same with another [`Config::fallback`], for one that has to know the addresses.
    #[must_use]
    pub fn with_fallback(mut self, fallback: Arc<dyn Fallback>) -> Self {
        self.config.fallback = fallback;
        self
    }

    /// Serves on a thread of its own.
    ///
    /// # Errors
    /// [`ServeError::System`].
    pub fn start(self) -> Result<Handle, ServeError> {
        let addresses = self.addresses();
        let compat_addresses = self.fractal.addresses();
        let Self {
            config,
            listeners,
            fractal,
        } = self;
        let system = ServeError::System;
        let mut seeds = [[0; 32]; 2];
        getrandom::fill(seeds.as_flattened_mut())
            .map_err(|error| system(io::Error::other(error)))?;
        let hub = Arc::new(hub(&config, seeds));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system)?;
        let listeners = {
            let _entered = runtime.enter();
            let listeners = listeners.into_iter();
            let listeners = listeners.map(tokio::net::TcpListener::from_std);
            fractal.serve(&hub).map_err(system)?;
            listeners.collect::<io::Result<Vec<_>>>().map_err(system)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = {
            let hub = Arc::clone(&hub);
            let serve = move || {
                runtime.block_on(async {
                    let listeners = listeners.into_iter();
                    for listener in listeners {
                        let tls = config.tls.clone();
                        tokio::spawn(listener::serve(listener, tls, Arc::clone(&hub)));
                    }
                    tokio::select! {
                        () = hub.keep_time() => {}
                        // Also when the handle is gone.
                        _ = stopped => {}
                    }
                    hub.farewell().await;
                });
            };
            let named = thread::Builder::new().name("signalling".into());
            named.spawn(serve).map_err(system)?
        };
        Ok(Handle {
            addresses,
            compat_addresses,
            hub,
            running: Some((stop, thread)),
        })
    }
}

fn hub(config: &Config, [seed, nonces]: [[u8; 32]; 2]) -> Hub {
    let limits = config.limits;
    let fallback = Arc::clone(&config.fallback);
    let hold = {
        let fallback = Arc::clone(&fallback);
        Box::new(move |session: &_| fallback.hold(session))
    };
    // The table hashes of the room follow from the whole seed; the others need not be related.
    let [a, b, c, d, e, f, g, h, ..] = seed;
    let hashes = u64::from_le_bytes([a, b, c, d, e, f, g, h]).rotate_left(17);
    Hub {
        room: Room::new(limits.room, seed, hold),
        rate: Pace::new(limits.joins_per_minute, hashes),
        knocks: Pace::new(limits.connections_per_minute, !hashes),
        receivers: Receivers::new(
            [limits.receivers_per_id, limits.receivers_per_id_and_source],
            hashes.rotate_left(1),
        ),
        nonces: Nonces::new(&nonces),
        fallback,
        counters: Counters::default(),
        doors: Doors::new(&limits, hashes),
        backlog: Arc::default(),
        stunturn: config.compat.stunturn,
        refused: Throttle::new(),
        sooner: tokio::sync::Notify::new(),
    }
}

/// A running endpoint. Dropped, it stops.
pub struct Handle {
    addresses: Vec<SocketAddr>,
    compat_addresses: Vec<SocketAddr>,
    hub: Arc<Hub>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Handle {
    /// The addresses that are served, with ports as the kernel gave them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses of [`Compat::fractal`] and [`Compat::fractal_first`], with ports as the
    /// kernel gave them.
    pub fn compat_addresses(&self) -> &[SocketAddr] {
        &self.compat_addresses
    }

    /// What is counted, and how much there is.
    pub fn snapshot(&self) -> Snapshot {
        self.hub.snapshot()
    }

    /// A view of [`Handle::snapshot`] that outlives the handle.
    pub fn watch(&self) -> impl Fn() -> Snapshot + Send + Sync + use<> {
        let hub = Arc::clone(&self.hub);
        move || hub.snapshot()
    }

    /// Takes no more joins: those who wait are told `going_away`. Sessions go on.
    pub fn drain(&self) {
        self.hub.room.close();
    }

    /// Closes everything, and waits until that is done. Those who wait are told `going_away`,
    /// for which they get up to 2 s.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            // Either may have ended by itself; then there is nothing to stop.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}
