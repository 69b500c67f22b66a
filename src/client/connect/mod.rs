//! Connects two devices that share an access key, whatever NATs they sit behind.
//!
//! ```no_run
//! use turnserver::client::connect::Connector;
//! use turnserver::pairing::{AccessKey, Protocol};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = "pairing.example.org:8080".parse()?;
//! let key = AccessKey::new("correct horse battery staple")?;
//! // One side names the protocol and waits; the other one leaves it out.
//! let conn = Connector::new(server, key).protocol(Protocol::Udp).connect().await?;
//! println!("{:?}", conn.path());
//! conn.send(b"hello").await?;
//! while let Some(datagram) = conn.recv().await {
//!     println!("{} bytes", datagram.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What happens: the two find each other at the pairing server under an id that is derived from
//! the key. Each makes an allocation on the server's relay, through which they can talk after a
//! few round trips. At the same time they look for a direct path, and move to it when both
//! directions of it are proven. Everything is sealed between the two by keys that are derived
//! from the access key; neither the pairing server nor the relay can read or change it.

mod error;
mod establish;
mod host;
mod liveness;
mod office;
mod punched;
mod renew;
mod stream;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use super::session::{DirectLoss, Ended, OuterPort, PathInfo, Progress};
pub use error::ConnectError;
pub use host::{Host, Place};
pub use punched::{PathChanges, PunchedConn};
pub use stream::Stream;

use super::relay::{Relay, answers_by_udp};
use super::rendezvous::{Rendezvous, RendezvousError, ServerUrl, SocketOptions};
use crate::pairing::{AccessKey, Join, Protocol, Role};
use establish::{establish, patience};
use office::{News, Office};

/// How long an initiator waits by default.
const WAIT: Duration = Duration::from_secs(30);
/// From the moment both are there until they are connected, at most, by default.
const ESTABLISH: Duration = Duration::from_secs(20);
/// How much longer than it said the server may take.
const SERVER_GRACE: Duration = Duration::from_secs(10);

/// What a connection is made with.
#[derive(Clone)]
struct Options {
    server: ServerUrl,
    key: AccessKey,
    protocol: Option<Protocol>,
    target_ip: Option<IpAddr>,
    wait: Duration,
    bind: Option<IpAddr>,
    tries: Option<u32>,
    punch_timeout: Option<Duration>,
    establish: Duration,
    relay_only: bool,
    port_mapping: bool,
    raw: bool,
    /// Takes one device after the other, and does not wait long for each to show that it has the
    /// key.
    stays: bool,
    roots: Option<Vec<u8>>,
    progress: Option<mpsc::UnboundedSender<Progress>>,
}

impl Options {
    fn socket(&self) -> SocketOptions {
        SocketOptions {
            bind: self.bind,
            roots: self.roots.clone(),
            ..SocketOptions::default()
        }
    }

    fn join(&self) -> Join {
        let role = match self.protocol {
            Some(_) => Role::Initiator,
            None => Role::Receiver,
        };
        Join {
            protocol: self.protocol,
            target_ip: self.target_ip,
            wait_s: self.protocol.map(|_| self.wait.as_secs().max(1)),
            ..Join::new(role)
        }
    }

    fn tell(&self, what: Progress) {
        if let Some(progress) = &self.progress {
            let _ = progress.send(what);
        }
    }
}

/// Connects to the device that has the same access key.
#[derive(Clone)]
pub struct Connector(Options);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({})", self.0.server)
    }
}

impl Connector {
    /// A receiver: connects to an initiator that waits at this server under this key. With
    /// [`Connector::protocol`] it is an initiator itself.
    pub const fn new(server: ServerUrl, key: AccessKey) -> Self {
        Self(Options {
            server,
            key,
            protocol: None,
            target_ip: None,
            wait: WAIT,
            bind: None,
            tries: None,
            punch_timeout: None,
            establish: ESTABLISH,
            relay_only: false,
            port_mapping: true,
            raw: false,
            stays: false,
            roots: None,
            progress: None,
        })
    }

    /// An initiator: waits for a receiver, and chooses what the two want between them.
    pub const fn protocol(mut self, protocol: Protocol) -> Self {
        self.0.protocol = Some(protocol);
        self
    }

    /// Of an initiator: only a receiver that the server sees from this address pairs.
    pub const fn target_ip(mut self, ip: IpAddr) -> Self {
        self.0.target_ip = Some(ip);
        self
    }

    /// Of an initiator: how long it waits, in whole seconds; the server caps it. Default: 30 s.
    pub const fn wait(mut self, wait: Duration) -> Self {
        self.0.wait = wait;
        self
    }

    /// The local address of every socket. Default: the system's choice.
    pub const fn bind(mut self, ip: IpAddr) -> Self {
        self.0.bind = Some(ip);
        self
    }

    /// How often each address of the peer is tried in one attempt at a direct path. Default: 100
    /// times for udp and 50 for tcp.
    pub const fn tries(mut self, tries: u32) -> Self {
        self.0.tries = Some(tries);
        self
    }

    /// How long one attempt at a direct path lasts, at most a day. Default: 10 s for udp. Of a tcp
    /// session there is one attempt, and when it has failed the bytes go through the relay: 3 s, or
    /// what the side says that says less, and so that some of [`Connector::establish_timeout`] is
    /// left for the relay.
    pub const fn punch_timeout(mut self, timeout: Duration) -> Self {
        self.0.punch_timeout = Some(timeout);
        self
    }

    /// How long it may take from the moment both are there until they are connected by any path.
    /// At most a day. Default: 20 s.
    pub const fn establish_timeout(mut self, timeout: Duration) -> Self {
        self.0.establish = timeout;
        self
    }

    /// Looks for no direct path. The peer then finds none either.
    pub const fn relay_only(mut self, relay_only: bool) -> Self {
        self.0.relay_only = relay_only;
        self
    }

    /// Whether a home router is asked for an outer port, by PCP, NAT-PMP or UPnP.
    /// Default: yes.
    pub const fn port_mapping(mut self, port_mapping: bool) -> Self {
        self.0.port_mapping = port_mapping;
        self
    }

    /// For who secures the connection by other means: connected is only who is connected
    /// directly, and the socket can be taken out, see [`PunchedConn::into_udp_socket`] and
    /// [`PunchedConn::into_tcp_stream`]. Both sides have to choose it.
    pub const fn raw(mut self, raw: bool) -> Self {
        self.0.raw = raw;
        self
    }

    /// Certificates in PEM form to trust in place of the system's, for a server at `https`.
    pub fn roots(mut self, pem: Vec<u8>) -> Self {
        self.0.roots = Some(pem);
        self
    }

    /// Where to tell what happens, from now on and as long as the connection lives.
    pub fn progress(mut self, progress: mpsc::UnboundedSender<Progress>) -> Self {
        self.0.progress = Some(progress);
        self
    }

    /// Connects. Breaking off the waiting leaves nothing behind.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(self) -> Result<PunchedConn, ConnectError> {
        let options = self.0;
        let rendezvous = Rendezvous::connect(&options.server, &options.socket()).await?;
        // While the join is on its way there is time to see what the network lets through.
        let mut udp = JoinSet::new();
        udp.spawn(answers_by_udp(rendezvous.server_addr(), options.bind));
        let round_trip = rendezvous.round_trip();
        let (to_us, mut news) = mpsc::channel(4);
        let office = Office::open(rendezvous, &options.key, options.join(), to_us).await?;
        let mut office = tokio::spawn(office.run());
        let longest = options.wait.saturating_add(SERVER_GRACE);
        let mut relay = None;
        let paired = async {
            loop {
                let heard = tokio::select! {
                    biased;
                    heard = news.recv() => heard,
                    ended = &mut office => return Err(office::ended(ended.ok())),
                };
                match heard {
                    Some(News::Waiting {
                        session,
                        observed,
                        wait_s,
                        ice_servers,
                    }) => {
                        let wait = Duration::from_secs(wait_s);
                        options.tell(Progress::Waiting { observed, wait });
                        // Meanwhile the relay is made ready: data can flow over it at once.
                        if session.is_some() && !options.raw {
                            let patience = patience(round_trip, None);
                            relay = Some(Relay::start(&ice_servers, options.bind, patience));
                        }
                    }
                    Some(News::Paired(pair)) => return Ok(pair),
                    Some(News::Refused(code, message)) => {
                        return Err(ConnectError::said(code, message));
                    }
                    None => {
                        let ended = (&mut office).await;
                        return Err(office::ended(ended.ok()));
                    }
                }
            }
        };
        let pair = timeout(longest, paired).await;
        let pair = pair.unwrap_or(Err(RendezvousError::TimedOut.into()))?;
        drop(news);
        let answered = matches!(udp.try_join_next(), Some(Ok(true)));
        drop(udp);
        let patience = patience(round_trip, Some(answered));
        establish(&options, *pair, relay, patience).await
    }

    /// An initiator that stays, and is connected to one device after the other. Without
    /// [`Connector::protocol`] it is udp.
    pub fn host(mut self) -> Host {
        self.0.protocol.get_or_insert(Protocol::Udp);
        self.0.stays = true;
        Host::start(self.0)
    }
}
