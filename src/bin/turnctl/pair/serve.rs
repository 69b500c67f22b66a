//! What `turnctl host --to` does for one device: everything that comes from it goes to the served
//! port, and what that answers goes back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, copy_bidirectional,
};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, interval, timeout};
use turnserver::client::connect::PunchedConn;
use turnserver::client::quic::{QuicStream, Streams};
use turnserver::pairing;

use super::Protocol;
use super::flows::{ByFlow, FLOW_IDLE, Said, read, refuse, send};
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

/// What ends the only stream of a device, as that of `turnctl connect`, ends the device.
#[derive(Default)]
struct Fate {
    accepted: usize,
    refused: Option<io::Error>,
}

impl Fate {
    fn note(&mut self, over: Result<io::Result<()>, JoinError>) {
        if let Ok(Err(error)) = over {
            self.refused = Some(error);
        }
    }

    fn ended(self, streams: &Streams) -> io::Result<()> {
        let only = self.refused.filter(|_| self.accepted == 1);
        streams.ended().map_err(|error| only.unwrap_or(error))
    }
}

/// Every stream becomes a connection.
async fn serve_tcp(streams: &Streams, to: &Arc<Service>, carried: &mut Carried) -> io::Result<()> {
    let mut fate = Fate::default();
    loop {
        tokio::select! {
            // What a device leaves for is known before it leaves.
            biased;
            Some(over) = carried.join_next() => fate.note(over),
            stream = streams.accept() => {
                let Ok(remote) = stream else {
                    return fate.ended(streams);
                };
                fate.accepted += 1;
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
                return fate.ended(streams);
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
    let mut fate = Fate::default();
    let mut sweep = interval(FLOW_IDLE / 4);
    loop {
        tokio::select! {
            // What a device leaves for is known before it leaves.
            biased;
            Some(over) = carried.join_next() => fate.note(over),
            datagram = streams.recv() => {
                let Some(datagram) = datagram else {
                    return fate.ended(streams);
                };
                let Some(Said::Data(number, bytes)) = read(&datagram) else {
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
                    return fate.ended(streams);
                };
                fate.accepted += 1;
                let to = Arc::clone(to);
                carried.spawn(async move {
                    let socket = match to.socket().await {
                        Ok(socket) => socket,
                        Err(error) => {
                            stream.refuse();
                            return Err(error);
                        }
                    };
                    talk(stream, &socket).await
                });
            }
            _ = sweep.tick() => flows.forget_idle(Instant::now()),
        }
    }
}

/// Answers of the served port, back to their flow.
async fn answer(streams: Streams, socket: Arc<Socket>, number: u16) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let sent = match socket.recv(&mut buffer).await {
            Ok(len) => send(&streams, number, &buffer[..len]).await,
            Err(_) => refuse(&streams).await,
        };
        if sent.is_err() {
            return Ok(());
        }
    }
}

/// A stream that talks to a UDP port: each piece that arrives is a datagram, and each answer a
/// piece, as `nc -u` has it.
///
/// # Errors
/// That the port refused before it had answered anything, which the device is told as well.
async fn talk(stream: QuicStream, socket: &Socket) -> io::Result<()> {
    let (mut from_device, mut to_device) = tokio::io::split(stream);
    match exchange(&mut from_device, &mut to_device, socket).await {
        Ok(()) => drop(to_device.shutdown().await),
        Err(Over::Refused(error)) => {
            from_device.unsplit(to_device).refuse();
            return Err(error);
        }
        // Whoever broke it, both ends see it.
        Err(Over::Broken) => {}
    }
    Ok(())
}

/// What ends a talk before its end.
enum Over {
    Refused(io::Error),
    Broken,
}

/// Talks until the device has asked for everything and no answers come any more.
async fn exchange(
    from_device: &mut ReadHalf<QuicStream>,
    to_device: &mut WriteHalf<QuicStream>,
    socket: &Socket,
) -> Result<(), Over> {
    let asking = async {
        let mut chunk = vec![0; STREAM_CHUNK];
        loop {
            let len = from_device.read(&mut chunk).await;
            match len.map_err(|_| Over::Broken)? {
                0 => return Ok(()),
                len => socket.send(&chunk[..len]).await,
            }
        }
    };
    tokio::pin!(asking);
    let mut buffer = vec![0; BUFFER];
    let (mut asked_all, mut answered) = (false, false);
    loop {
        let answer = socket.recv(&mut buffer);
        let received = if asked_all {
            let last = timeout(LAST_ANSWERS, answer).await;
            let Ok(received) = last else {
                return Ok(());
            };
            received
        } else {
            tokio::select! {
                ended = &mut asking => {
                    ended?;
                    asked_all = true;
                    continue;
                }
                received = answer => received,
            }
        };
        match received {
            Ok(len) => {
                answered = true;
                let sent = to_device.write_all(&buffer[..len]).await;
                sent.map_err(|_| Over::Broken)?;
            }
            Err(error) if !answered => return Err(Over::Refused(error)),
            // It may be there again.
            Err(_) => {}
        }
    }
}
