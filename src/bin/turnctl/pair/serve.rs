//! What `turnctl host --to` does for one device: everything that comes from it goes to the served
//! port, and what that answers goes back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval, timeout};
use turnserver::client::connect::PunchedConn;
use turnserver::client::quic::{QuicStream, Streams};
use turnserver::pairing;

use super::Protocol;
use super::flows::{ByFlow, FLOW_IDLE, send, split};
use super::service::{Service, Socket};
use super::stop::Stop;

/// Room for the longest datagram.
pub(super) const BUFFER: usize = 65_536;
/// Bytes of a stream that become one datagram, at most: what fits every path.
const STREAM_CHUNK: usize = 1200;
/// How long answers may take after a stream to a UDP port has ended: datagrams have no end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What goes on for one device; an error says that the served port could not be reached.
type Carried = JoinSet<io::Result<()>>;

/// Serves a port to one device until it leaves, or until it is time to stop.
///
/// # Errors
/// When the device does not leave in order, or could not be served and left for that.
pub(super) async fn serve(
    conn: PunchedConn,
    protocol: Protocol,
    to: Arc<Service>,
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
            Protocol::Tcp => serve_tcp(&streams, &to, &mut carried).await,
            Protocol::Udp => serve_udp(&streams, &to, &mut carried).await,
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
///
/// # Errors
/// How one of them broke.
pub(super) async fn carry(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut two: TcpStream,
) -> io::Result<()> {
    // It may be broken already.
    let _ = two.set_zero_linger();
    copy_bidirectional(&mut one, &mut two).await?;
    let _ = SockRef::from(&two).set_linger(None);
    Ok(())
}

/// Every stream becomes a connection.
async fn serve_tcp(streams: &Streams, to: &Arc<Service>, carried: &mut Carried) -> io::Result<()> {
    let mut accepted: usize = 0;
    let mut refused = None;
    // What ends the only stream of a device, as that of `turnctl connect`, ends the device.
    let ended = |accepted, refused: Option<io::Error>| {
        let ended = streams.ended();
        ended.map_err(|error| refused.filter(|_| accepted == 1).unwrap_or(error))
    };
    loop {
        tokio::select! {
            // What a device leaves for is known before it leaves.
            biased;
            Some(over) = carried.join_next() => if let Ok(Err(error)) = over {
                refused = Some(error);
            },
            stream = streams.accept() => {
                let Ok(remote) = stream else {
                    return ended(accepted, refused);
                };
                accepted += 1;
                let to = Arc::clone(to);
                carried.spawn(async move {
                    let local = match to.connect().await {
                        Ok(local) => local,
                        Err(error) => {
                            remote.refuse();
                            return Err(error);
                        }
                    };
                    let _ = local.set_nodelay(true);
                    // Whoever broke it, both ends see it.
                    let _ = carry(remote, local).await;
                    Ok(())
                });
            }
            datagram = streams.recv() => if datagram.is_none() {
                return ended(accepted, refused);
            }
        }
    }
}

/// The socket of one flow. Nothing is answered any more when it is dropped.
struct Served {
    socket: Arc<Socket>,
    answering: AbortHandle,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// Every flow of datagrams, and every stream, has a socket of its own.
async fn serve_udp(streams: &Streams, to: &Arc<Service>, carried: &mut Carried) -> io::Result<()> {
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
                        // The datagram is lost, as any may be.
                        let Ok(socket) = to.socket().await else {
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
                socket.send(bytes).await;
            }
            accepted = streams.accept() => {
                let Ok(stream) = accepted else {
                    return streams.ended();
                };
                let to = Arc::clone(to);
                carried.spawn(async move {
                    let socket = match to.socket().await {
                        Ok(socket) => socket,
                        Err(error) => {
                            stream.refuse();
                            return Err(error);
                        }
                    };
                    // Whoever broke it, both ends see it.
                    let _ = talk(stream, &socket).await;
                    Ok(())
                });
            }
            Some(_) = carried.join_next() => {}
            _ = sweep.tick() => flows.forget_idle(Instant::now()),
        }
    }
}

/// Answers of the served port, back to their flow.
async fn answer(streams: Streams, socket: Arc<Socket>, number: u16) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = socket.recv(&mut buffer).await;
        if send(&streams, number, &buffer[..len]).await.is_err() {
            return Ok(());
        }
    }
}

/// A stream that talks to a UDP port: each piece that arrives is a datagram, and each answer a
/// piece, as `nc -u` has it.
async fn talk(stream: QuicStream, socket: &Socket) -> io::Result<()> {
    let (mut from_device, mut to_device) = tokio::io::split(stream);
    let asking = async {
        let mut chunk = vec![0; STREAM_CHUNK];
        loop {
            let len = from_device.read(&mut chunk).await?;
            if len == 0 {
                return Ok::<_, io::Error>(());
            }
            socket.send(&chunk[..len]).await;
        }
    };
    let mut buffer = vec![0; BUFFER];
    tokio::pin!(asking);
    loop {
        tokio::select! {
            asked = &mut asking => break asked?,
            len = socket.recv(&mut buffer) => to_device.write_all(&buffer[..len]).await?,
        }
    }
    while let Ok(len) = timeout(LAST_ANSWERS, socket.recv(&mut buffer)).await {
        to_device.write_all(&buffer[..len]).await?;
    }
    to_device.shutdown().await
}
