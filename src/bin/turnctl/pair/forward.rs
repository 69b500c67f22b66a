//! `turnctl forward`: a local port that is the other side's, and how the other side serves it.
//!
//! A TCP connection is one byte stream of the session. A UDP client is a flow: its datagrams
//! carry the flow's number in 2 bytes in front. Neither needs to know of the other clients.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use turnserver::client::connect::PunchedConn;

use super::{Failure, Manner, Meeting, Protocol, prepare};

/// UDP clients at a time; the one that was silent for longest makes room.
const MOST_FLOWS: usize = 256;
/// After so much silence a UDP client is forgotten.
const FLOW_IDLE: Duration = Duration::from_secs(120);
/// Room for the longest datagram.
const BUFFER: usize = 65_536;

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
    super::run(options.manner.json, async { forward(options).await })
}

async fn forward(options: &Options) -> Result<(), Failure> {
    let (connector, events) = prepare(&options.meeting, &options.manner)?;
    let wrong = |error: io::Error| Failure::Broken(format!("{}: {error}", options.listen));
    // Before anybody is bothered: the port may be taken.
    let (tcp, udp) = match options.protocol {
        Protocol::Tcp => (
            Some(TcpListener::bind(options.listen).await.map_err(wrong)?),
            None,
        ),
        Protocol::Udp => (
            None,
            Some(UdpSocket::bind(options.listen).await.map_err(wrong)?),
        ),
    };
    let conn = connector.connect().await?;
    let following = events.follow(conn.path_changes());
    let tell = |local: io::Result<SocketAddr>| {
        let local = local.unwrap_or(options.listen);
        let words = format!("{local} is now the other side's port");
        events.tell(&json!({"event": "listening", "local": local}), &words);
    };
    let ended = match (tcp, udp) {
        (Some(listener), _) => {
            tell(listener.local_addr());
            forward_tcp(conn, listener).await
        }
        (None, Some(socket)) => {
            tell(socket.local_addr());
            forward_udp(conn, socket).await
        }
        (None, None) => unreachable!("one of the two was opened"),
    };
    following.abort();
    ended.map_err(|error| Failure::Broken(format!("the connection was lost: {error}")))
}

async fn carry(mut one: impl AsyncRead + AsyncWrite + Unpin, mut two: TcpStream) {
    // Whoever broke it, both ends see it: both are closed now.
    let _ = copy_bidirectional(&mut one, &mut two).await;
}

/// Every local connection becomes a stream, until the session ends.
async fn forward_tcp(conn: PunchedConn, listener: TcpListener) -> io::Result<()> {
    let streams = conn.into_streams().await?;
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (local, _) = accepted?;
                local.set_nodelay(true)?;
                let remote = streams.open().await?;
                carried.spawn(carry(remote, local));
            }
            Some(_) = carried.join_next() => {}
            datagram = streams.recv() => if datagram.is_none() {
                return Ok(());
            }
        }
    }
}

/// Every stream becomes a connection to the served port, until the device leaves.
pub(super) async fn serve_tcp(conn: PunchedConn, to: SocketAddr) -> io::Result<()> {
    let streams = conn.into_streams().await?;
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            accepted = streams.accept() => {
                let remote = accepted?;
                carried.spawn(async move {
                    // A port that is closed is a connection that ends at once.
                    if let Ok(local) = TcpStream::connect(to).await {
                        let _ = local.set_nodelay(true);
                        carry(remote, local).await;
                    }
                });
            }
            Some(_) = carried.join_next() => {}
            datagram = streams.recv() => if datagram.is_none() {
                return Ok(());
            }
        }
    }
}

/// Who sends to the local port, each by its number.
#[derive(Default)]
struct Flows {
    by_client: HashMap<SocketAddr, u16>,
    by_number: HashMap<u16, (SocketAddr, Instant)>,
    next: u16,
}

impl Flows {
    fn number(&mut self, client: SocketAddr, now: Instant) -> u16 {
        if let Some(&number) = self.by_client.get(&client) {
            self.by_number.insert(number, (client, now));
            return number;
        }
        if self.by_number.len() == MOST_FLOWS
            && let Some((&oldest, _)) = self.by_number.iter().min_by_key(|(_, (_, used))| *used)
        {
            self.forget(oldest);
        }
        while self.by_number.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_client.insert(client, number);
        self.by_number.insert(number, (client, now));
        number
    }

    fn client(&mut self, number: u16, now: Instant) -> Option<SocketAddr> {
        let (client, used) = self.by_number.get_mut(&number)?;
        *used = now;
        Some(*client)
    }

    fn forget(&mut self, number: u16) {
        if let Some((client, _)) = self.by_number.remove(&number) {
            self.by_client.remove(&client);
        }
    }

    fn forget_idle(&mut self, now: Instant) {
        let idle = |(_, used): &(SocketAddr, Instant)| now - *used >= FLOW_IDLE;
        let flows = self.by_number.iter();
        let gone: Vec<u16> = flows
            .filter(|(_, flow)| idle(flow))
            .map(|(n, _)| *n)
            .collect();
        gone.into_iter().for_each(|number| self.forget(number));
    }
}

/// What a datagram between the two says: the flow, and the client's bytes.
fn split(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let (number, bytes) = datagram.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), bytes))
}

/// Datagrams may be lost; those that are too long for the session are.
async fn send(conn: &PunchedConn, number: u16, bytes: &[u8]) -> io::Result<()> {
    let datagram = [&number.to_be_bytes()[..], bytes].concat();
    match conn.send(&datagram).await {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        sent => sent,
    }
}

async fn forward_udp(conn: PunchedConn, socket: UdpSocket) -> io::Result<()> {
    let mut flows = Flows::default();
    let mut buffer = vec![0; BUFFER];
    let mut sweep = interval(FLOW_IDLE / 4);
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                // An ICMP error is about a client that is gone.
                if let Ok((len, client)) = received {
                    let number = flows.number(client, Instant::now());
                    send(&conn, number, &buffer[..len]).await?;
                }
            }
            datagram = conn.recv() => {
                let Some(datagram) = datagram else {
                    return Ok(());
                };
                if let Some((number, bytes)) = split(&datagram)
                    && let Some(client) = flows.client(number, Instant::now())
                {
                    let _ = socket.send_to(bytes, client).await;
                }
            }
            _ = sweep.tick() => flows.forget_idle(Instant::now()),
        }
    }
}

/// Every flow has a socket of its own at the served port, until the device leaves.
pub(super) async fn serve_udp(conn: PunchedConn, to: SocketAddr) -> io::Result<()> {
    let conn = Arc::new(conn);
    let mut sockets: HashMap<u16, (Arc<UdpSocket>, Instant)> = HashMap::new();
    // Ends with this function, and with it every socket.
    let mut readers = JoinSet::new();
    let mut aborts = HashMap::new();
    let mut sweep = interval(FLOW_IDLE / 4);
    loop {
        tokio::select! {
            datagram = conn.recv() => {
                let Some(datagram) = datagram else {
                    return Ok(());
                };
                let Some((number, bytes)) = split(&datagram) else {
                    continue;
                };
                if !sockets.contains_key(&number) {
                    if sockets.len() >= MOST_FLOWS {
                        continue;
                    }
                    let socket = Arc::new(connected(to).await?);
                    let reading = read(Arc::clone(&conn), Arc::clone(&socket), number);
                    aborts.insert(number, readers.spawn(reading));
                    sockets.insert(number, (socket, Instant::now()));
                }
                if let Some((socket, used)) = sockets.get_mut(&number) {
                    *used = Instant::now();
                    // Refused when nothing listens there (now).
                    let _ = socket.send(bytes).await;
                }
            }
            Some(_) = readers.join_next() => {}
            _ = sweep.tick() => {
                let now = Instant::now();
                sockets.retain(|number, (_, used)| {
                    let keep = now - *used < FLOW_IDLE;
                    if !keep && let Some(reader) = aborts.remove(number) {
                        let reader: tokio::task::AbortHandle = reader;
                        reader.abort();
                    }
                    keep
                });
            }
        }
    }
}

async fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Answers of the served port, back to their flow.
async fn read(conn: Arc<PunchedConn>, socket: Arc<UdpSocket>, number: u16) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(len) => {
                if send(&conn, number, &buffer[..len]).await.is_err() {
                    return;
                }
            }
            // Nothing listens there (now).
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[tokio::test(start_paused = true)]
    async fn clients_keep_their_numbers_and_the_silent_ones_make_room() {
        let mut flows = Flows::default();
        let start = Instant::now();
        for port in 1..=MOST_FLOWS as u16 {
            let now = start + Duration::from_millis(port.into());
            assert_eq!(flows.number(client(port), now), port - 1);
        }
        let later = start + Duration::from_secs(1);
        assert_eq!(
            flows.client(0, later),
            Some(client(1)),
            "an answer counts as use"
        );
        let new = flows.number(client(9999), later);
        assert_eq!(flows.client(new, later), Some(client(9999)));
        assert_eq!(flows.client(1, later), None, "it was silent for longest");
        assert_eq!(flows.number(client(1), later), 0);
        flows.forget_idle(start + FLOW_IDLE + Duration::from_millis(500));
        assert_eq!(flows.by_number.len(), 2);
        assert_eq!(flows.by_client.len(), 2);
    }

    #[test]
    fn a_port_alone_is_local() {
        assert_eq!(listen_address("2222"), Ok(client(2222)));
        assert_eq!(listen_address("127.0.0.1:5"), Ok(client(5)));
        assert!(listen_address("nowhere").is_err());
    }
}
