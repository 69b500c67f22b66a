//! Byte streams over the sealed datagrams of a session: QUIC (RFC 9000), which numbers, repeats
//! and orders, so that a move of the path loses and doubles nothing.

mod keys;
mod socket;
mod stream;
mod why;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use quinn::{
    Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use tokio::time::timeout;

use crate::client::noise::MAX_DATAGRAM;
use crate::client::session::{Session, StreamDatagrams};
use crate::pairing::{Protocol, Role};
use socket::{PEER, PathSocket};
pub use stream::{Over, QuicStream};

/// How long the handshake may take: several times what a bad path needs.
pub(in crate::client) const PATIENCE: Duration = Duration::from_secs(15);
/// After so much silence the connection is given up; the session below gives up later, and the
/// peer is pinged often enough.
const IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_secs(8);
/// What was lost of the handshake is sent again after three times the round trip, which the session
/// has mostly measured; RFC 9002 section 6.2.2 assumes 333 ms where nobody has, and a second is
/// long for who waits. Not below the least, since the path may be a worse one by then, and not above
/// the most, since one answer may have come late.
const LEAST_RTT: Duration = Duration::from_millis(10);
const MOST_RTT: Duration = Duration::from_secs(1);
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
/// Streams that the peer may have open at a time.
const MOST_STREAMS: u32 = 1024;
/// What one stream, and all together, may have under way, in bytes.
const STREAM_WINDOW: u32 = 2 << 20;
const WINDOW: u32 = 8 << 20;
/// A new stream begins with this byte, so that the peer learns of it at once.
const OPENING: u8 = 1;

/// What the streams of a session have in common. The last one that is dropped closes it.
pub(super) struct Link {
    endpoint: Endpoint,
    connection: Connection,
    session: Session,
}

impl Link {
    /// Closes in order and waits until the peer knows, or for 2 s.
    async fn close(self) {
        self.connection.close(VarInt::from_u32(0), b"");
        // The closing packet is on its way before the session's own words.
        tokio::task::yield_now().await;
        let _ = timeout(Duration::from_millis(300), self.endpoint.wait_idle()).await;
        self.session.close(0).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Somebody may still wait for bytes that do not come: 1 tells that it was not in order.
        // After `close` it changes nothing. The session says the same, since this is said once.
        if self.connection.close_reason() != Some(ConnectionError::LocallyClosed) {
            self.connection.close(VarInt::from_u32(1), b"dropped");
            self.session.breaks_off();
        }
    }
}

/// All byte streams of a session.
#[derive(Clone)]
pub struct Streams {
    link: Arc<Link>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streams")
    }
}

/// `rtt`: the time to the peer and back, where it was measured.
fn transport(rtt: Option<Duration>) -> TransportConfig {
    let mut config = TransportConfig::default();
    let longest = MAX_DATAGRAM as u16;
    config
        // What fits every path, since the path may change at any time.
        .initial_mtu(longest)
        .min_mtu(longest)
        .mtu_discovery_config(None)
        .initial_rtt(rtt.map_or(UNKNOWN_RTT, |rtt| rtt.clamp(LEAST_RTT, MOST_RTT)))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            IDLE.as_millis() as u32
        ))))
        .keep_alive_interval(Some(KEEPALIVE))
        .max_concurrent_bidi_streams(MOST_STREAMS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into())
        .datagram_receive_buffer_size(None);
    config
}

impl Streams {
    /// Makes the connection, on both sides at the same time.
    ///
    /// # Errors
    /// When the session has ended, or the peer does not do the same within 15 s.
    pub(super) async fn over(
        session: Session,
        datagrams: StreamDatagrams,
        role: Role,
        serves: Option<Protocol>,
    ) -> io::Result<Self> {
        let connecting = Self::connect(session, datagrams, role, serves);
        timeout(PATIENCE, connecting).await.unwrap_or_else(|_| {
            let why = "the peer does not open byte streams";
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }

    /// Of the initiator also what it `serves`; the receiver is told.
    pub(super) async fn connect(
        session: Session,
        datagrams: StreamDatagrams,
        role: Role,
        serves: Option<Protocol>,
    ) -> io::Result<Self> {
        let binding = session.state().borrow().binding;
        let binding = binding.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let socket = Arc::new(PathSocket::new(session.clone(), datagrams));
        let rtt = session.state().borrow().path.rtt;
        let transport = Arc::new(transport(rtt));
        let server = match role {
            Role::Initiator => None,
            Role::Receiver => {
                let mut config = ServerConfig::with_crypto(Arc::new(keys::server(&binding)?));
                config.transport_config(Arc::clone(&transport));
                Some(config)
            }
        };
        let mut config = EndpointConfig::default();
        config
            .max_udp_payload_size(MAX_DATAGRAM as u16)
            .map_err(io::Error::other)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(config, server, socket, runtime)?;
        let connection = match role {
            Role::Initiator => {
                let crypto = Arc::new(keys::client(&binding, serves)?);
                let mut config = quinn::ClientConfig::new(crypto);
                config.transport_config(transport);
                let connecting = endpoint.connect_with(config, PEER, "peer");
                let connecting = connecting.map_err(io::Error::other)?.await;
                connecting.map_err(|error| why::lost(error, &session.state()))?
            }
            Role::Receiver => {
                let incoming = endpoint.accept().await;
                let incoming = incoming.ok_or_else(|| session.ended_error())?;
                // There is one peer, which has proven itself.
                endpoint.set_server_config(None);
                let connecting = incoming.await;
                connecting.map_err(|error| why::lost(error, &session.state()))?
            }
        };
        Ok(Self {
            link: Arc::new(Link {
                endpoint,
                connection,
                session,
            }),
        })
    }

    /// Which kind of port the initiator serves to the receiver, who then opens the streams; see
    /// [`PunchedConn::into_served_streams`](crate::client::connect::PunchedConn::into_served_streams).
    pub fn served(&self) -> Option<Protocol> {
        keys::served(&self.link.connection)
    }

    /// Opens a stream; the peer gets it by [`Streams::accept`].
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn open(&self) -> io::Result<QuicStream> {
        let state = self.link.session.state();
        let opened = self.link.connection.open_bi().await;
        let (mut send, recv) = opened.map_err(|error| why::lost(error, &state))?;
        let begun = send.write_all(&[OPENING]).await;
        begun.map_err(|error| why::unwritten(error, &state))?;
        Ok(QuicStream::opened(send, recv, Arc::clone(&self.link)))
    }

    /// The next stream that the peer opens. Nothing is lost when the waiting is broken off.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn accept(&self) -> io::Result<QuicStream> {
        let accepted = self.link.connection.accept_bi().await;
        let (send, recv) =
            accepted.map_err(|error| why::lost(error, &self.link.session.state()))?;
        Ok(QuicStream::accepted(send, recv, Arc::clone(&self.link)))
    }

    /// Closes the connection when no stream is left, and waits until the peer knows, or for 2 s.
    pub async fn close(self) {
        if let Some(link) = Arc::into_inner(self.link) {
            link.close().await;
        }
    }

    /// Sends a datagram beside the streams.
    ///
    /// # Errors
    /// As those of the connection that the streams were made from.
    pub async fn send(&self, data: &[u8]) -> io::Result<()> {
        let session = &self.link.session;
        session
            .send(crate::client::noise::Kind::Data, data.to_vec())
            .await
    }

    /// How it ended, once nothing more comes.
    ///
    /// # Errors
    /// When neither side has closed it in order.
    pub fn ended(&self) -> io::Result<()> {
        let state = self.link.session.state();
        // QUIC may not know yet what the session has told.
        let closed = self.link.connection.close_reason();
        let error = closed.unwrap_or(ConnectionError::Reset);
        if stream::in_order(&error, &state) {
            return Ok(());
        }
        Err(why::lost(error, &state))
    }

    /// Why nothing more comes, once it is so.
    pub fn why_ended(&self) -> io::Error {
        self.link.session.ended_error()
    }

    /// The next datagram of the peer; `None` after the end.
    pub async fn recv(&self) -> Option<Vec<u8>> {
        self.link.session.recv().await
    }
}
