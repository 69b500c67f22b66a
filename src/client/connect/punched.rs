//! A connection between two devices.

use std::fmt;
use std::io;

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;

use super::stream::Stream;
use crate::client::noise::Kind;
use crate::client::session::{
    DirectLoss, Ended, OuterPort, PathInfo, Session, State, StreamDatagrams,
};
use crate::client::tcp::noise::NoiseStream;
use crate::pairing::{PathKind, Protocol, Role};

/// What a connection is made of.
pub(super) enum Inner {
    /// Of a udp session.
    Session {
        session: Session,
        #[cfg_attr(
            not(feature = "client"),
            expect(dead_code, reason = "only byte streams take them")
        )]
        datagrams: StreamDatagrams,
    },
    Tcp {
        stream: Box<NoiseStream<TcpStream>>,
        info: PathInfo,
        /// Through which the connection may have come.
        outer_port: Option<OuterPort>,
    },
    RawTcp {
        stream: TcpStream,
        info: PathInfo,
        outer_port: Option<OuterPort>,
    },
    /// Of a tcp session whose bytes go through the relay.
    #[cfg(feature = "client")]
    Relayed {
        session: Session,
        stream: Box<crate::client::quic::QuicStream>,
    },
}

/// Two devices are connected.
///
/// A udp session carries datagrams ([`PunchedConn::send`], [`PunchedConn::recv`]), and its path
/// may change at any time, see [`PunchedConn::path`]; instead it can become byte streams. A tcp
/// session is one byte stream ([`PunchedConn::into_stream`]), whose path stays as it is.
///
/// Dropping it closes the connection, tells the peer so, and ends every task and socket within
/// 5 s; [`PunchedConn::close`] waits for that.
pub struct PunchedConn {
    protocol: Protocol,
    role: Role,
    raw: bool,
    inner: Inner,
}

impl fmt::Debug for PunchedConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PunchedConn")
            .field("protocol", &self.protocol)
            .field("role", &self.role)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

fn wrong(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

impl PunchedConn {
    pub(super) const fn new(protocol: Protocol, role: Role, raw: bool, inner: Inner) -> Self {
        Self {
            protocol,
            role,
            raw,
            inner,
        }
    }

    /// What the initiator chose.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Which side this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    fn session(&self) -> io::Result<&Session> {
        match &self.inner {
            Inner::Session { session, .. } => Ok(session),
            _ => Err(wrong("a tcp session carries no datagrams")),
        }
    }

    /// How the two are connected now, or were last.
    pub fn path(&self) -> PathInfo {
        self.path_changes().current()
    }

    /// Tells of every change of the path from now on; when several come at once, of the last.
    pub fn path_changes(&self) -> PathChanges {
        match &self.inner {
            Inner::Session { session, .. } => PathChanges::watching(session),
            Inner::Tcp { info, .. } | Inner::RawTcp { info, .. } => PathChanges::fixed(info),
            #[cfg(feature = "client")]
            Inner::Relayed { session, .. } => PathChanges::watching(session),
        }
    }

    /// Sends a datagram, sealed. It may be lost, come late, or come before others, but never
    /// twice, and never to anybody else. Up to [`MAX_DATAGRAM`](crate::client::noise::MAX_DATAGRAM)
    /// bytes it fits every path; up to
    /// [`LARGEST_DATAGRAM`](crate::client::noise::LARGEST_DATAGRAM) it may be sent in fragments.
    ///
    /// # Errors
    /// `InvalidInput` when it is longer; `BrokenPipe` after the connection was closed,
    /// `ConnectionReset`, `TimedOut` after it was lost; `Unsupported` for a tcp session.
    pub async fn send(&self, data: &[u8]) -> io::Result<()> {
        self.session()?.send(Kind::Data, data.to_vec()).await
    }

    /// The next datagram of the peer, or `None` after the end; [`PunchedConn::ended`] says which
    /// one. Up to 1024 of them wait to be taken, more are dropped. Nothing is lost when the
    /// waiting is broken off.
    pub async fn recv(&self) -> Option<Vec<u8>> {
        self.session().ok()?.recv().await
    }

    /// How a udp session has ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        let session = self.session().ok()?;
        session.state().borrow().ended.clone()
    }

    /// Looks for a direct path anew: what was known of the network is no longer true. Changes of
    /// this machine's own addresses are noticed without.
    pub async fn restart(&self) {
        if let Ok(session) = self.session() {
            session.restart().await;
        }
    }

    /// Closes the connection in order and waits until the peer knows, or for 2 s.
    pub async fn close(self) {
        let changes = self.path_changes();
        match self.inner {
            Inner::Session { session, .. } => session.close(0).await,
            Inner::Tcp {
                stream, outer_port, ..
            } => {
                // The peer may have gone first.
                let _ = Stream::tcp(stream, changes, outer_port).close().await;
            }
            Inner::RawTcp { outer_port, .. } => {
                if let Some(port) = outer_port {
                    port.release().await;
                }
            }
            #[cfg(feature = "client")]
            Inner::Relayed { stream, .. } => {
                let _ = stream.close().await;
            }
        }
    }

    /// Closes a udp session for all who use it.
    #[cfg(feature = "webrtc-conn")]
    pub(crate) async fn shut(&self) {
        if let Ok(session) = self.session() {
            session.close(0).await;
        }
    }

    /// One byte stream: of a tcp session what it is, of a udp session the first one over its
    /// datagrams, which moves with the path. Both sides have to ask for it, or the initiator
    /// serves streams ([`PunchedConn::into_served_streams`]).
    ///
    /// # Errors
    /// When the session has ended, or the peer does not ask for it within 15 s.
    pub async fn into_stream(self) -> io::Result<Stream> {
        let changes = self.path_changes();
        match self.inner {
            Inner::Tcp {
                stream, outer_port, ..
            } => Ok(Stream::tcp(stream, changes, outer_port)),
            Inner::RawTcp { .. } => Err(wrong("a raw session gives out its socket")),
            #[cfg(feature = "client")]
            Inner::Relayed { stream, .. } => Ok(Stream::quic(*stream, changes)),
            #[cfg(feature = "client")]
            Inner::Session { .. } => {
                let role = self.role;
                let streams = self.into_streams().await?;
                let stream = async {
                    match (role, streams.served()) {
                        (Role::Receiver, None) => streams.accept().await,
                        _ => streams.open().await,
                    }
                };
                let late = "the peer takes no byte stream";
                let opened = tokio::time::timeout(crate::client::quic::PATIENCE, stream).await;
                let stream =
                    opened.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, late))??;
                Ok(Stream::quic(stream, changes))
            }
            #[cfg(not(feature = "client"))]
            Inner::Session { .. } => Err(wrong("this program was built without QUIC")),
        }
    }

    /// Any number of byte streams over the datagrams of a udp session. Both sides have to ask for
    /// it.
    ///
    /// # Errors
    /// As [`PunchedConn::into_stream`]; `Unsupported` for a tcp session.
    #[cfg(feature = "client")]
    pub async fn into_streams(self) -> io::Result<crate::client::quic::Streams> {
        self.streams(None).await
    }

    /// Of an initiator: as [`PunchedConn::into_streams`], but the receiver is told that it is the
    /// one who opens streams, and which kind of port of this side they lead to.
    ///
    /// # Errors
    /// As [`PunchedConn::into_streams`].
    #[cfg(feature = "client")]
    pub async fn into_served_streams(
        self,
        port: Protocol,
    ) -> io::Result<crate::client::quic::Streams> {
        self.streams(Some(port)).await
    }

    #[cfg(feature = "client")]
    async fn streams(self, serves: Option<Protocol>) -> io::Result<crate::client::quic::Streams> {
        let Inner::Session { session, datagrams } = self.inner else {
            return Err(wrong("a tcp session has one byte stream"));
        };
        crate::client::quic::Streams::over(session, datagrams, self.role, serves).await
    }

    /// Takes out the socket of the direct path, connected to the peer, and the router's port where
    /// one was granted: the path may lead through it, so it is to be kept as long as the socket.
    /// From then on nothing is secured, and nothing else keeps the path alive. Until the peer has done the same, datagrams may
    /// come that begin with a byte from 0 to 3 or from 10 to 12.
    ///
    /// # Errors
    /// `Unsupported` without [`raw`](super::Connector::raw) and for a tcp session,
    /// `NotConnected` while there is no direct path.
    pub async fn into_udp_socket(self) -> io::Result<(UdpSocket, Option<OuterPort>)> {
        match (self.raw, self.path().path) {
            (false, _) => Err(wrong("the session was not asked to be raw")),
            (_, PathKind::Relayed) => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "there is no direct path",
            )),
            _ => self.session()?.take().await,
        }
    }

    /// Takes out the TCP connection of a raw tcp session, over which nothing was sent yet, and the
    /// router's port as [`PunchedConn::into_udp_socket`] does.
    ///
    /// # Errors
    /// `Unsupported` without [`raw`](super::Connector::raw) and for a udp session.
    pub fn into_tcp_stream(self) -> io::Result<(TcpStream, Option<OuterPort>)> {
        match self.inner {
            Inner::RawTcp {
                stream, outer_port, ..
            } => Ok((stream, outer_port)),
            _ => Err(wrong("it is no raw tcp session")),
        }
    }

    /// Makes the direct path of a udp session worse than it is; `None` for a tcp session.
    pub fn direct_loss(&self) -> Option<DirectLoss> {
        self.session().ok().map(Session::direct_loss)
    }
}

/// The changes of a connection's path.
#[derive(Clone, Debug)]
pub struct PathChanges(Changes);

#[derive(Clone, Debug)]
enum Changes {
    Watching(watch::Receiver<State>, Box<PathInfo>),
    Fixed(Box<PathInfo>),
}

impl PathChanges {
    fn watching(session: &Session) -> Self {
        let state = session.state();
        let now = Box::new(state.borrow().path.clone());
        Self(Changes::Watching(state, now))
    }

    fn fixed(info: &PathInfo) -> Self {
        Self(Changes::Fixed(Box::new(info.clone())))
    }

    /// How the two are connected now, or were last. [`PathChanges::next`] then waits for what is different from
    /// this.
    pub fn current(&mut self) -> PathInfo {
        match &mut self.0 {
            Changes::Watching(state, known) => {
                **known = state.borrow().path.clone();
                (**known).clone()
            }
            Changes::Fixed(info) => (**info).clone(),
        }
    }

    /// Waits until the path's kind, one of its addresses or its reason is another one, or its time
    /// has changed by 20 ms and more (from 0, where none was known). What is found out of the own
    /// NAT is told with the next change. While there is no path nothing is told: the last one
    /// counts until there is another. `None` when nothing will change any more.
    pub async fn next(&mut self) -> Option<PathInfo> {
        match &mut self.0 {
            Changes::Watching(state, known) => {
                let other = state.wait_for(|state| state.path.is_news_after(known));
                let other = other.await;
                **known = other.ok()?.path.clone();
                Some((**known).clone())
            }
            Changes::Fixed(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn what_is_no_other_path_waits_for_the_next() {
        let (state, watched) = watch::channel(State::relayed("reason"));
        let known = Box::new(state.borrow().path.clone());
        let mut changes = PathChanges(Changes::Watching(watched, known));
        for rtt in [Duration::from_millis(5), Duration::from_micros(5200)] {
            state.send_modify(|state| {
                state.path.nat = Some("one port for every destination".to_owned());
                state.path.rtt = Some(rtt);
            });
            let told = tokio::time::timeout(Duration::from_secs(1), changes.next()).await;
            assert!(told.is_err(), "{told:?}");
        }
        let late = Duration::from_millis(20);
        state.send_modify(|state| state.path.rtt = Some(late));
        let next = changes.next().await.expect("the session goes on");
        assert_eq!(next.rtt, Some(late));
        assert!(next.nat.is_some(), "it comes along");
    }

    /// It may change between asking for the changes and asking for the path.
    #[tokio::test(start_paused = true)]
    async fn no_path_is_told_twice() {
        let (state, watched) = watch::channel(State::relayed("first"));
        let known = Box::new(state.borrow().path.clone());
        let mut changes = PathChanges(Changes::Watching(watched, known));
        state.send_replace(State::relayed("second"));
        assert_eq!(changes.current().reason, "second");
        let again = tokio::time::timeout(Duration::from_secs(1), changes.next()).await;
        assert!(again.is_err(), "{again:?}");
        state.send_replace(State::relayed("third"));
        let next = changes.next().await.expect("the session goes on");
        assert_eq!(next.reason, "third");
    }
}
