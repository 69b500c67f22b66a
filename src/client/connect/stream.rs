//! A byte stream between two devices, whatever it runs over.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::punched::PathChanges;
#[cfg(feature = "client")]
use crate::client::quic::QuicStream;
use crate::client::session::{OuterPort, PathInfo};
use crate::client::tcp::noise::NoiseStream;

/// A byte stream, sealed end to end. Shutting down ends the own direction and the peer reads the
/// end; the other direction goes on.
pub struct Stream {
    inner: Inner,
    changes: PathChanges,
}

enum Inner {
    Tcp(Box<NoiseStream<TcpStream>>, Option<OuterPort>),
    #[cfg(feature = "client")]
    Quic(QuicStream),
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
    pub(super) const fn tcp(
        stream: Box<NoiseStream<TcpStream>>,
        changes: PathChanges,
        outer_port: Option<OuterPort>,
    ) -> Self {
        let inner = Inner::Tcp(stream, outer_port);
        Self { inner, changes }
    }

    #[cfg(feature = "client")]
    pub(super) const fn quic(stream: QuicStream, changes: PathChanges) -> Self {
        let inner = Inner::Quic(stream);
        Self { inner, changes }
    }

    /// How the two are connected now.
    pub fn path(&self) -> PathInfo {
        self.changes.current()
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
            Inner::Tcp(stream, _) => Watched::Tcp(same_connection(stream.get_ref()).ok()),
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Watched::Quic(stream.over()),
        };
        async move {
            match watched {
                Watched::Tcp(Some(stream)) => Err(broken(&stream).await),
                Watched::Tcp(None) => std::future::pending().await,
                #[cfg(feature = "client")]
                Watched::Quic(over) => over.await,
            }
        }
    }

    /// Ends the own direction, where it has not ended yet, and the connection: returns when the
    /// peer has everything. What the peer still sends is lost.
    ///
    /// # Errors
    /// When not everything that was written has reached the peer.
    pub async fn close(self) -> io::Result<()> {
        match self.inner {
            Inner::Tcp(mut stream, outer_port) => {
                let ended = stream.shutdown().await;
                if let Some(port) = outer_port {
                    port.release().await;
                }
                ended
            }
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
    let ready = stream.ready(Interest::ERROR).await;
    let known = ready.and_then(|_| stream.take_error());
    // Who reads or writes may have been told already.
    known.map_or_else(
        |error| error,
        |error| error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
    )
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Tcp(stream, _) => Pin::new(stream).poll_read(cx, buffer),
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
            Inner::Tcp(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Tcp(stream, _) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "client")]
            Inner::Quic(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
