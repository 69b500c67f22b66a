//! What QUIC takes for a UDP socket: the sealed datagrams of a session. Where they really go, and
//! that this changes, it never learns.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::sleep;

use crate::client::noise::Kind;
use crate::client::session::{Session, StreamDatagrams};

/// The peer's address as QUIC sees it: always the same (RFC 6666: leads nowhere).
pub(super) const PEER: SocketAddr = SocketAddr::V6(SocketAddrV6::new(
    Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1),
    1,
    0,
    0,
));
/// The own one.
const OWN: SocketAddr = SocketAddr::V6(SocketAddrV6::new(
    Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 2),
    1,
    0,
    0,
));

/// So many datagrams, which a handshake has, go out again after this time: QUIC takes what comes twice
/// once, and waits long, and twice as long each time, for what does not come at all.
const TWICE: u32 = 12;
const AGAIN: Duration = Duration::from_millis(25);

pub(super) struct PathSocket {
    session: Session,
    arrived: Mutex<StreamDatagrams>,
    sent: AtomicU32,
}

impl PathSocket {
    pub(super) fn new(session: Session, arrived: StreamDatagrams) -> Self {
        Self {
            session,
            arrived: Mutex::new(arrived),
            sent: AtomicU32::new(0),
        }
    }

    /// Whether this datagram is one of the first.
    fn is_early(&self) -> bool {
        let count = |sent: u32| (sent < TWICE).then_some(sent + 1);
        self.sent.fetch_update(Relaxed, Relaxed, count).is_ok()
    }
}

impl fmt::Debug for PathSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathSocket")
    }
}

impl AsyncUdpSocket for PathSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            session: self.session.clone(),
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let datagram = transmit.contents.to_vec();
        let again = self.is_early().then(|| datagram.clone());
        match self.session.try_send(Kind::Stream, datagram) {
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => return Err(full),
            // After the session's end it is a lost datagram; the end is told where datagrams come
            // from, since an error here leaves those hanging who read.
            _ => {}
        }
        if let Some(datagram) = again {
            let session = self.session.clone();
            tokio::spawn(async move {
                sleep(AGAIN).await;
                // It has been sent once.
                let _ = session.try_send(Kind::Stream, datagram);
            });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrived = match self.arrived.lock() {
            Ok(arrived) => arrived,
            // Nothing between lock and unlock leaves the queue half read.
            Err(poisoned) => poisoned.into_inner(),
        };
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let datagram = match arrived.poll_recv(cx) {
                Poll::Ready(Some(datagram)) => datagram,
                Poll::Ready(None) if count == 0 => {
                    // QUIC takes a ConnectionReset for an ICMP message, and would ask on for ever.
                    let why = self.session.ended_error();
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, why)));
                }
                Poll::Pending if count == 0 => return Poll::Pending,
                _ => break,
            };
            let len = datagram.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram[..len]);
            *meta = RecvMeta {
                addr: PEER,
                len,
                stride: len,
                ecn: None,
                dst_ip: None,
            };
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(OWN)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

struct Poller {
    session: Session,
    waiting: Option<Waiting>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Poller")
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = self.session.clone();
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(async move { session.writable().await }));
        // An error is the session's end, see `try_send`.
        let _ = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(Ok(()))
    }
}
