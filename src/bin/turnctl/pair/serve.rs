//! What `turnctl host --to` does for one device: everything that comes from it goes to the served
//! port, and what that answers goes back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, timeout};
use turnserver::client::connect::PunchedConn;
use turnserver::client::quic::{QuicStream, Streams};
use turnserver::pairing;

use super::Protocol;
use super::flows::{ByFlow, FLOW_IDLE, send, split};
use super::stop::Stop;

/// Room for the longest datagram.
pub(super) const BUFFER: usize = 65_536;
/// Bytes of a stream that become one datagram, at most: what fits every path.
const STREAM_CHUNK: usize = 1200;
/// How long answers may take after a stream to a UDP port has ended: datagrams have no end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Serves a port to one device until it leaves, or until it is time to stop.
///
/// # Errors
/// When the device does not leave in order.
pub(super) async fn serve(
    conn: PunchedConn,
    protocol: Protocol,
    to: SocketAddr,
    mut stop: Stop,
) -> io::Result<()> {
    let streams = tokio::select! {
        streams = conn.into_served_streams(pairing::Protocol::from(protocol)) => streams?,
        () = stop.asked() => return Ok(()),
    };
    // Ends with this function, and with it everything that is carried.
    let mut carried = JoinSet::new();
    let served = async {
        match protocol {
            Protocol::Tcp => serve_tcp(&streams, to, &mut carried).await,
            Protocol::Udp => serve_udp(&streams, to, &mut carried).await,
        }
    };
    tokio::select! {
        served = served => served,
        () = stop.asked() => {
            carried.shutdown().await;
            streams.close().await;
            Ok(())
        }
    }
}

/// Carries bytes both ways. When one end breaks, so does the other, and whoever is there sees an
/// error and not an end; also when this is dropped, or the whole program is killed.
pub(super) async fn carry(mut one: impl AsyncRead + AsyncWrite + Unpin, mut two: TcpStream) {
    // It may be broken already.
    let _ = two.set_zero_linger();
    if copy_bidirectional(&mut one, &mut two).await.is_ok() {
        let _ = SockRef::from(&two).set_linger(None);
    }
}

/// Every stream becomes a connection.
async fn serve_tcp(streams: &Streams, to: SocketAddr, carried: &mut JoinSet<()>) -> io::Result<()> {
    loop {
        tokio::select! {
            accepted = streams.accept() => {
                let Ok(remote) = accepted else {
                    return streams.ended();
                };
                carried.spawn(async move {
                    // A port that is closed is a connection that breaks at once.
                    if let Ok(local) = TcpStream::connect(to).await {
                        let _ = local.set_nodelay(true);
                        carry(remote, local).await;
                    }
                });
            }
            Some(_) = carried.join_next() => {}
            datagram = streams.recv() => if datagram.is_none() {
                return streams.ended();
            }
        }
    }
}

/// The socket of one flow. Nothing is answered any more when it is dropped.
struct Served {
    socket: Arc<UdpSocket>,
    answering: AbortHandle,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// Every flow of datagrams, and every stream, has a socket of its own.
async fn serve_udp(streams: &Streams, to: SocketAddr, carried: &mut JoinSet<()>) -> io::Result<()> {
    let mut flows: ByFlow<Served> = ByFlow::default();
    let mut sweep = interval(FLOW_IDLE / 4);
    loop {
        tokio::select! {
            datagram = streams.recv() => {
                let Some(datagram) = datagram else {
                    return streams.ended();
                };
                let Some((number, bytes)) = split(&datagram) else {
                    continue;
                };
                let now = Instant::now();
                let socket = match flows.get(number, now) {
                    Some(served) => Arc::clone(&served.socket),
                    None => {
                        // No descriptor is left: the datagram is lost, as any may be.
                        let Ok(socket) = connected(to).await else {
                            continue;
                        };
                        let socket = Arc::new(socket);
                        let answering = answer(streams.clone(), Arc::clone(&socket), number);
                        let answering = carried.spawn(answering);
                        let served = Served { socket: Arc::clone(&socket), answering };
                        flows.insert(number, served, now);
                        socket
                    }
                };
                // Refused when nothing listens there (now).
                let _ = socket.send(bytes).await;
            }
            accepted = streams.accept() => {
                let Ok(stream) = accepted else {
                    return streams.ended();
                };
                carried.spawn(async move {
                    if let Ok(socket) = connected(to).await {
                        // Whoever broke it, both ends see it.
                        let _ = talk(stream, &socket).await;
                    }
                });
            }
            Some(_) = carried.join_next() => {}
            _ = sweep.tick() => flows.forget_idle(Instant::now()),
        }
    }
}

async fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Answers of the served port, back to their flow.
async fn answer(streams: Streams, socket: Arc<UdpSocket>, number: u16) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = received(&socket, &mut buffer).await;
        if send(&streams, number, &buffer[..len]).await.is_err() {
            return;
        }
    }
}

/// The next datagram; errors tell that nothing listens there (now).
async fn received(socket: &UdpSocket, buffer: &mut [u8]) -> usize {
    loop {
        match socket.recv(buffer).await {
            Ok(len) => return len,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// A stream that talks to a UDP port: each piece that arrives is a datagram, and each answer a
/// piece, as `nc -u` has it.
async fn talk(stream: QuicStream, socket: &UdpSocket) -> io::Result<()> {
    let (mut from_device, mut to_device) = tokio::io::split(stream);
    let asking = async {
        let mut chunk = vec![0; STREAM_CHUNK];
        loop {
            let len = from_device.read(&mut chunk).await?;
            if len == 0 {
                return Ok::<_, io::Error>(());
            }
            let _ = socket.send(&chunk[..len]).await;
        }
    };
    let mut buffer = vec![0; BUFFER];
    tokio::pin!(asking);
    loop {
        tokio::select! {
            asked = &mut asking => break asked?,
            len = received(socket, &mut buffer) => to_device.write_all(&buffer[..len]).await?,
        }
    }
    while let Ok(len) = timeout(LAST_ANSWERS, received(socket, &mut buffer)).await {
        to_device.write_all(&buffer[..len]).await?;
    }
    to_device.shutdown().await
}
