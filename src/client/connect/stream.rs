//! A byte stream between two devices, whatever it runs over.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::liveness::Liveness;
use super::punched::PathChanges;
#[cfg(feature = "client")]
use crate::client::quic::QuicStream;
use crate::client::session::{OuterPort, PathInfo, broken_off, silent};
use crate::client::tcp::noise::NoiseStream;

/// How long the peer of a closed connection may take to end its direction.
const PEER_ENDS: Duration = Duration::from_secs(2);

/// A byte stream, sealed end to end. Shutting down ends the own direction and the peer reads the
/// end; the other direction goes on.
pub struct Stream {
    inner: Inner,
    changes: PathChanges,
}

enum Inner {
    Tcp(Box<Tcp>),
    #[cfg(feature = "client")]
    Quic(QuicStream),
}

struct Tcp {
    stream: Box<NoiseStream<TcpStream>>,
    liveness: Liveness,
    outer_port: Option<OuterPort>,
}

impl Tcp {
    /// An error where nothing can come or go any more.
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.liveness.poll(cx, self.stream.get_ref()) {
            Poll::Ready(error) => Err(error),
            Poll::Pending => Ok(()),
        }
    }

    /// Ends both directions.
    async fn close(mut self) -> io::Result<()> {
        let ended = self.stream.shutdown().await.map_err(told);
        if ended.is_ok() {
            // With bytes that nobody reads the system would break the connection off, and throw
            // away what the peer has not got yet.
            let mut rest = vec![0; 4096];
            let drain = async { while matches!(self.stream.read(&mut rest).await, Ok(1..)) {} };
            let _ = timeout(PEER_ENDS, drain).await;
        }
        if let Some(port) = self.outer_port {
            port.release().await;
        }
        ended
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// A TCP connection, and the router's port that it may have come through.
    pub(super) fn tcp(
        stream: Box<NoiseStream<TcpStream>>,
        changes: PathChanges,
        outer_port: Option<OuterPort>,
    ) -> Self {
        let inner = Inner::Tcp(Box::new(Tcp {
            stream,
            liveness: Liveness::new(),
            outer_port,
        }));
        Self { inner, changes }
    }

    #[cfg(feature = "client")]
    pub(super) const fn quic(stream: QuicStream, changes: PathChanges) -> Self {
        let inner = Inner::Quic(stream);
        Self { inner, changes }
    }

    /// How the two are connected now.
    pub fn path(&self) -> PathInfo {
        self.changes.clone().current()
    }

    /// Tells of every change of the path from now on.
    pub fn path_changes(&self) -> PathChanges {
        self.changes.clone()
    }

    /// Waits until the peer takes nothing more: it has closed the connection in order, or an error
    /// says that it broke. Of a peer that vanishes without a word it may take a minute to learn.
    ///
    /// It does not borrow the stream, but is to be dropped with it: a TCP connection stays open
    /// as long as somebody waits.
    pub fn over(&self) -> impl Future<Output = io::Result<()>> + Send + use<> {
        enum Watched {
            Tcp(Option<TcpStream>),
            #[cfg(feature = "client")]
            Quic(crate::client::quic::Over),
        }
        let watched = match &self.inner {
            Inner::Tcp(tcp) => Watched::Tcp(same_connection(tcp.stream.get_ref()).ok()),
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Watched::Quic(stream.over()),
        };
        async move {
            match watched {
                Watched::Tcp(Some(stream)) => Err(told(broken(&stream).await)),
                Watched::Tcp(None) => std::future::pending().await,
                #[cfg(feature = "client")]
                Watched::Quic(over) => over.await,
            }
        }
    }

    /// Ends the own direction, where it has not ended yet, and the connection. Returns when
    /// the peer has everything; over TCP, when everything is on its way and the peer has ended its
    /// direction too, or after 2 s more. What the peer still sends is lost.
    ///
    /// # Errors
    /// When not everything that was written could be sent or, but over TCP, the connection broke
    /// before the peer had it. A peer that has enough and takes no more is no error.
    pub async fn close(self) -> io::Result<()> {
        match self.inner {
            Inner::Tcp(tcp) => tcp.close().await,
            #[cfg(feature = "client")]
            Inner::Quic(stream) => stream.close().await,
        }
    }
}

/// The same connection by another descriptor.
fn same_connection(stream: &TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(SockRef::from(stream).try_clone()?.into())
}

/// Waits until the system knows that the connection is broken.
async fn broken(stream: &TcpStream) -> io::Error {
    let mut liveness = Liveness::new();
    let ready = tokio::select! {
        ready = stream.ready(Interest::ERROR) => ready,
        error = poll_fn(|cx| liveness.poll(cx, stream)) => return error,
    };
    let known = ready.and_then(|_| stream.take_error());
    // Who reads or writes may have been told already.
    known.map_or_else(
        |error| error,
        |error| error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
    )
}

/// The system's words for a peer that is gone are those of its own trade.
fn told(error: io::Error) -> io::Error {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    match error.kind() {
        // Without a word that it ends, it did not end in order.
        UnexpectedEof | ConnectionAborted | ConnectionReset => {
            io::Error::new(error.kind(), broken_off())
        }
        // Otherwise this side has ended it.
        BrokenPipe if error.raw_os_error().is_some() => io::Error::new(BrokenPipe, broken_off()),
        TimedOut => silent(),
        _ => error,
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Tcp(tcp) => {
                tcp.poll_alive(cx)?;
                Pin::new(&mut tcp.stream)
                    .poll_read(cx, buffer)
                    .map_err(told)
            }
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Tcp(tcp) => {
                tcp.poll_alive(cx)?;
                Pin::new(&mut tcp.stream)
                    .poll_write(cx, bytes)
                    .map_err(told)
            }
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Tcp(tcp) => {
                tcp.poll_alive(cx)?;
                Pin::new(&mut tcp.stream).poll_flush(cx).map_err(told)
            }
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Tcp(tcp) => {
                tcp.poll_alive(cx)?;
                Pin::new(&mut tcp.stream).poll_shutdown(cx).map_err(told)
            }
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
