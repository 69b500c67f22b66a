//! `turnctl forward`: a local port that is the other side's.
//!
//! A TCP connection is one byte stream of the session. A UDP client is a flow: its datagrams
//! carry the flow's number in 2 bytes in front, and one of a single byte says that the served port
//! refuses. Neither needs to know of the other clients. The local port outlives the connection to
//! the other side, which is made again when it has ended.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, sleep, sleep_until};
use turnserver::client::connect::Connector;
use turnserver::client::quic::Streams;
use turnserver::pairing;

use super::events::{Events, Seldom};
use super::flows::{FLOW_IDLE, Flows, Said, read, send};
use super::serve::{BUFFER, carry};
use super::stop::Stop;
use super::{Failure, Manner, Meeting, Protocol, prepare};

/// Between attempts to reach the other side again, doubled up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a TCP client may wait for the other side to come back.
const CLIENT_WAITS: Duration = Duration::from_secs(5);
/// After a client could not be taken.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How many may.
const MOST_WAITING: usize = 64;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    meeting: Meeting,
    /// Which kind of port
    #[arg(value_enum)]
    protocol: Protocol,
    /// The local port, or address and port, to listen on; a port alone is on 127.0.0.1
    #[arg(value_parser = listen_address)]
    listen: SocketAddr,
    #[command(flatten)]
    manner: Manner,
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok((IpAddr::from(Ipv4Addr::LOCALHOST), port).into());
    }
    let wrong = |_| "neither a port nor an address with a port".to_owned();
    text.parse().map_err(wrong)
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    super::run(options.manner.json, |stop| forward(options, stop))
}

async fn forward(options: &Options, mut stop: Stop) -> Result<(), Failure> {
    let (connector, events) = prepare(&options.meeting, &options.manner, false)?;
    let wrong = |error: io::Error| Failure::Broken(format!("{}: {error}", options.listen));
    // Before anybody is bothered: the port may be taken.
    let mut port = Port::open(options).await.map_err(wrong)?;
    let mut other = tokio::select! {
        other = Other::reach(&connector, options.protocol, &events) => other?,
        () = stop.asked() => return Ok(()),
    };
    let local = port.local_addr().map_err(wrong)?;
    let words = format!("{local} is now the other side's port");
    events.tell(&json!({"event": "listening", "local": local}), &words);
    let refusals = Seldom::default();
    let refused = |why: &str| {
        if refusals.may_come() {
            let event = json!({"event": "service_failed", "message": why});
            events.tell(&event, why);
        }
    };
    loop {
        let why = tokio::select! {
            why = port.carry(&other.streams, &refused) => why,
            () = stop.asked() => {
                port.hang_up().await;
                other.leave().await;
                return Ok(());
            }
        };
        let words = format!("the other side is gone: {why}");
        events.tell(&json!({"event": "disconnected", "message": why}), &words);
        other.following.abort();
        drop(other);
        other = tokio::select! {
            other = again(&connector, options.protocol, &events) => other?,
            never = port.wait() => match never {},
            () = stop.asked() => return Ok(()),
        };
        events.tell(
            &json!({"event": "reconnected", "local": local}),
            &format!("{local} is the other side's port again"),
        );
    }
}

/// The side that serves the port.
struct Other {
    streams: Streams,
    following: JoinHandle<()>,
}

/// Why the other side is not there.
enum Unreached {
    /// Who waits there serves something else. That does not change by asking again.
    Other(String),
    Failed(Failure),
}

impl From<Unreached> for Failure {
    fn from(unreached: Unreached) -> Self {
        match unreached {
            Unreached::Other(what) => Self::Broken(what),
            Unreached::Failed(failure) => failure,
        }
    }
}

impl Other {
    async fn reach(
        connector: &Connector,
        protocol: Protocol,
        events: &Events,
    ) -> Result<Self, Unreached> {
        let failed = |error: io::Error| Unreached::Failed(Failure::Broken(error.to_string()));
        let conn = connector.clone().connect().await;
        let conn = conn.map_err(|error| Unreached::Failed(error.into()))?;
        if conn.protocol() == pairing::Protocol::Tcp {
            return Err(Unreached::Other(serves_nothing()));
        }
        let changes = conn.path_changes();
        let streams = conn.into_streams().await.map_err(failed)?;
        let served = streams.served();
        if served != Some(protocol.into()) {
            streams.close().await;
            return Err(Unreached::Other(match (served, protocol) {
                (None, _) => serves_nothing(),
                (_, Protocol::Tcp) => "the other side serves a UDP port, not a TCP one".into(),
                (_, Protocol::Udp) => "the other side serves a TCP port, not a UDP one".into(),
            }));
        }
        Ok(Self {
            streams,
            following: events.follow(changes),
        })
    }

    /// In order.
    async fn leave(self) {
        self.following.abort();
        self.streams.close().await;
    }
}

fn serves_nothing() -> String {
    "the other side serves no port: it needs `turnctl host` with --to".into()
}

/// Reaches the other side again, however long that takes.
async fn again(
    connector: &Connector,
    protocol: Protocol,
    events: &Events,
) -> Result<Other, Unreached> {
    let mut pause = PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        match Other::reach(connector, protocol, events).await {
            Err(Unreached::Failed(failure)) => {
                let text = failure.message();
                let seconds = pause.as_secs_f64();
                events.tell(
                    &json!({"event": "reconnecting", "message": text, "in_s": seconds}),
                    &format!("{text}; next try in {seconds} s"),
                );
            }
            reached => return reached,
        }
    }
}

/// As it is said of a stream.
const UNREACHED: &str = "the peer cannot reach the port that it serves";

/// The local port.
enum Port {
    Tcp {
        listener: TcpListener,
        /// Clients that came while the other side was away, and until when they wait.
        waiting: VecDeque<(TcpStream, Instant)>,
        carried: JoinSet<io::Result<()>>,
    },
    Udp {
        socket: UdpSocket,
        flows: Flows,
    },
}

impl Port {
    async fn open(options: &Options) -> io::Result<Self> {
        Ok(match options.protocol {
            Protocol::Tcp => Self::Tcp {
                listener: TcpListener::bind(options.listen).await?,
                waiting: VecDeque::new(),
                carried: JoinSet::new(),
            },
            Protocol::Udp => Self::Udp {
                socket: UdpSocket::bind(options.listen).await?,
                flows: Flows::default(),
            },
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp { listener, .. } => listener.local_addr(),
            Self::Udp { socket, .. } => socket.local_addr(),
        }
    }

    /// Connects the local clients to the other side until that has gone, and says why.
    /// `refused` hears when the served port does.
    async fn carry(&mut self, other: &Streams, refused: &impl Fn(&str)) -> String {
        match self {
            Self::Tcp {
                listener,
                waiting,
                carried,
            } => carry_tcp(listener, waiting, carried, other, refused).await,
            Self::Udp { socket, flows } => carry_udp(socket, flows, other, refused).await,
        }
    }

    /// While the other side is away: TCP clients wait a little, datagrams are dropped, as they may
    /// be.
    async fn wait(&mut self) -> Infallible {
        match self {
            Self::Tcp {
                listener, waiting, ..
            } => loop {
                let first = waiting.front().map(|(_, until)| *until);
                let patience = async {
                    match first {
                        Some(until) => sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    client = accept(listener) => if waiting.len() < MOST_WAITING {
                        waiting.push_back((client, Instant::now() + CLIENT_WAITS));
                    },
                    // Who has waited long enough sees an error.
                    () = patience => drop(waiting.pop_front()),
                }
            },
            Self::Udp { socket, .. } => {
                let mut buffer = vec![0; BUFFER];
                loop {
                    // An ICMP error is about a client that is gone.
                    let _ = socket.recv_from(&mut buffer).await;
                }
            }
        }
    }

    /// Breaks off what is carried.
    async fn hang_up(&mut self) {
        if let Self::Tcp { carried, .. } = self {
            carried.shutdown().await;
        }
    }
}

/// The next client. What keeps one from being taken is over soon: it has gone meanwhile, or no
/// descriptor is left. Until it is carried to its end, it sees an error when it is dropped.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                // It matters for speed alone.
                let _ = client.set_nodelay(true);
                let _ = client.set_zero_linger();
                return client;
            }
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// Every local connection becomes a stream.
async fn carry_tcp(
    listener: &TcpListener,
    waiting: &mut VecDeque<(TcpStream, Instant)>,
    carried: &mut JoinSet<io::Result<()>>,
    other: &Streams,
    refused: &impl Fn(&str),
) -> String {
    loop {
        let client = match waiting.pop_front() {
            Some((client, _)) => client,
            None => tokio::select! {
                client = accept(listener) => client,
                Some(over) = carried.join_next() => {
                    if let Ok(Err(error)) = over
                        && error.kind() == io::ErrorKind::ConnectionRefused
                    {
                        refused(&error.to_string());
                    }
                    continue;
                }
                datagram = other.recv() => match datagram {
                    Some(_) => continue,
                    None => return other.why_ended().to_string(),
                },
            },
        };
        match other.open().await {
            Ok(remote) => drop(carried.spawn(carry(remote, client))),
            Err(error) => {
                waiting.push_front((client, Instant::now() + CLIENT_WAITS));
                return error.to_string();
            }
        }
    }
}

/// Every local client becomes a flow.
async fn carry_udp(
    socket: &UdpSocket,
    flows: &mut Flows,
    other: &Streams,
    refused: &impl Fn(&str),
) -> String {
    let mut buffer = vec![0; BUFFER];
    let mut sweep = interval(FLOW_IDLE / 4);
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                if let Ok((len, client)) = received {
                    let number = flows.number(client, Instant::now());
                    if let Err(error) = send(other, number, &buffer[..len]).await {
                        return error.to_string();
                    }
                }
            }
            datagram = other.recv() => {
                let Some(datagram) = datagram else {
                    return other.why_ended().to_string();
                };
                match read(&datagram) {
                    Some(Said::Data(number, bytes)) => {
                        if let Some(client) = flows.client(number, Instant::now()) {
                            let _ = socket.send_to(bytes, client).await;
                        }
                    }
                    Some(Said::Refused) => refused(UNREACHED),
                    None => {}
                }
            }
            _ = sweep.tick() => flows.forget_idle(Instant::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_local() {
        let local = |port| Ok(([127, 0, 0, 1], port).into());
        assert_eq!(listen_address("2222"), local(2222));
        assert_eq!(listen_address("127.0.0.1:5"), local(5));
        assert!(listen_address("nowhere").is_err());
    }
}
