//! The connection to a relay: datagrams, or a stream cut into messages.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, UdpSocket};

use super::servers::Transport;
use crate::client::prompt::prompt;
use crate::wire::{MAX_FRAME, StreamFramer};

/// How much waits for a slow stream at most, in bytes. What does not fit is dropped, as on a
/// full socket.
const MOST_WAITING: usize = 256 * 1024;

/// A byte stream, plain or under TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The side of a stream that is read.
struct Reading {
    half: ReadHalf<Box<dyn Stream>>,
    buffer: Vec<u8>,
    /// What of `buffer` is the message that was given out last.
    given: usize,
}

/// The side of a stream that is written.
struct Writing {
    half: WriteHalf<Box<dyn Stream>>,
    waiting: VecDeque<u8>,
}

enum Kind {
    Udp { socket: UdpSocket, buffer: Vec<u8> },
    Stream { reading: Reading, writing: Writing },
}

/// One connection.
pub(super) struct Pipe {
    kind: Kind,
    local: SocketAddr,
}

fn any(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Pipe {
    /// Connects from `bind`, or from whichever address the system takes.
    pub(super) async fn open(
        server: SocketAddr,
        name: &str,
        transport: Transport,
        bind: Option<IpAddr>,
    ) -> io::Result<Self> {
        let from: SocketAddr = (bind.unwrap_or_else(|| any(server)), 0).into();
        if transport == Transport::Udp {
            let socket = UdpSocket::bind(from).await?;
            // Connected, so that only the server's datagrams and ICMP errors arrive.
            socket.connect(server).await?;
            return Ok(Self {
                local: socket.local_addr()?,
                kind: Kind::Udp {
                    socket,
                    buffer: vec![0; MAX_FRAME],
                },
            });
        }
        let socket = match server {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.bind(from)?;
        let stream = socket.connect(server).await?;
        prompt(&stream)?;
        let local = stream.local_addr()?;
        let stream: Box<dyn Stream> = match transport {
            #[cfg(feature = "client")]
            Transport::Tls => Box::new(tls(stream, name).await?),
            #[cfg(not(feature = "client"))]
            Transport::Tls => {
                let missing = format!("no TLS to {name}: this program was built without it");
                return Err(io::Error::other(missing));
            }
            _ => Box::new(stream),
        };
        let (read, write) = tokio::io::split(stream);
        Ok(Self {
            local,
            kind: Kind::Stream {
                reading: Reading {
                    half: read,
                    buffer: Vec::new(),
                    given: 0,
                },
                writing: Writing {
                    half: write,
                    waiting: VecDeque::new(),
                },
            },
        })
    }

    /// Whether nothing is lost on the way to the server.
    pub(super) const fn is_reliable(&self) -> bool {
        matches!(self.kind, Kind::Stream { .. })
    }

    /// This end.
    pub(super) const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends a message, or drops it where there is no room.
    pub(super) fn send(&mut self, message: &[u8]) {
        match &mut self.kind {
            // An error is that of a datagram before, or a full buffer: what has to arrive is
            // sent again.
            // Not by the runtime, which takes a new socket for full until it has heard of it.
            Kind::Udp { socket, .. } => drop(SockRef::from(&*socket).send(message)),
            Kind::Stream { writing, .. } => {
                let padding = message.len().next_multiple_of(4) - message.len();
                if writing.waiting.len() + message.len() + padding <= MOST_WAITING {
                    writing.waiting.extend(message);
                    writing.waiting.extend(&[0; 3][..padding]);
                }
            }
        }
    }

    /// Waits for the next message, and meanwhile writes what is to be written. Nothing is lost
    /// when the waiting is broken off.
    pub(super) async fn receive(&mut self) -> io::Result<&[u8]> {
        match &mut self.kind {
            Kind::Udp { socket, buffer } => {
                let len = socket.recv(buffer).await?;
                Ok(&buffer[..len])
            }
            Kind::Stream { reading, writing } => {
                let len = loop {
                    if let Some(len) = reading.next()? {
                        break len;
                    }
                    tokio::select! {
                        read = reading.half.read_buf(&mut reading.buffer) => if read? == 0 {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        },
                        written = writing.write(), if !writing.waiting.is_empty() => written?,
                    }
                };
                Ok(&reading.buffer[..len])
            }
        }
    }

    /// Writes what still waits.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if let Kind::Stream { writing, .. } = &mut self.kind {
            while !writing.waiting.is_empty() {
                writing.write().await?;
            }
            writing.half.flush().await?;
        }
        Ok(())
    }
}

impl Reading {
    /// The length of the next whole message, which is at the start of the buffer then.
    fn next(&mut self) -> io::Result<Option<usize>> {
        self.buffer.drain(..std::mem::take(&mut self.given));
        let frame = StreamFramer::default().next(&self.buffer);
        let frame = frame.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(frame.map(|frame| {
            self.given = frame.padded_len;
            frame.len
        }))
    }
}

impl Writing {
    async fn write(&mut self) -> io::Result<()> {
        let (front, _) = self.waiting.as_slices();
        let written = self.half.write(front).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.waiting.drain(..written);
        Ok(())
    }
}

/// TLS with whatever certificate the relay has: what goes through it is sealed for the peer, and
/// the password never does.
#[cfg(feature = "client")]
async fn tls(
    stream: tokio::net::TcpStream,
    name: &str,
) -> io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    use std::sync::Arc;

    use rustls::ClientConfig;
    use rustls::crypto::ring;
    use rustls::pki_types::ServerName;

    use crate::client::tls::AnyCertificate;

    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await
}
