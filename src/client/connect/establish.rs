//! From two devices that were brought together to two that are connected.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::error::ConnectError;
use super::liveness::keep_alive;
use super::office::Pair;
use super::punched::{Inner, PunchedConn};
use super::{Options, Progress, renew};
use crate::client::relay::{Host, Relay};
use crate::client::session::{Ended, OuterPort, PathInfo, Session, Setup, State, StreamDatagrams};
use crate::client::tcp::noise::NoiseStream;
use crate::client::tcp::{self, Offer};
use crate::pairing::{Outcome, PathKind, Protocol, Role, SessionId, SessionSecrets};

/// How long a TCP connection may take where nothing else is said; after that its bytes go through the
/// relay.
const TCP_WITHIN: Duration = Duration::from_secs(3);
/// What that takes.
const RELAY_WITHIN: Duration = Duration::from_secs(5);
/// The receiver gives it a little more, for a choice that is on its way.
const TCP_GRACE: Duration = Duration::from_millis(500);
/// However long a user wants to wait: what is longer could not be added to a time.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a host waits for the first thing that only a holder of the key can make, once its own
/// first blob is on its way, which the other side needs for that. When many come at once their
/// blobs wait for each other there, but for no longer than this once more.
const STRANGER: Duration = Duration::from_secs(10);
/// How long a peer that left the pairing server may still turn up.
const LEFT: Duration = Duration::from_secs(3);

/// What belongs to one pair.
struct Establishing<'a> {
    options: &'a Options,
    role: Role,
    session: Session,
    /// Of TCP: the local port that a router is asked to forward to.
    outer_port: Option<u16>,
    deadline: Instant,
    /// Of a host: when the other side has to show that it has the key, at the latest.
    proof_by: Option<Instant>,
}

/// Connects the two of a pair. `relay` was started while waiting, or not.
pub(super) async fn establish(
    options: &Options,
    pair: Pair,
    relay: Option<Relay>,
    patience: Duration,
) -> Result<PunchedConn, ConnectError> {
    options.tell(Progress::Paired { peer: pair.peer });
    let protocol = pair.protocol;
    let (role, id, observed) = (pair.role, pair.session, pair.observed);
    let (local, server) = pair.ends;
    let renewing = (pair.ice_servers.clone(), pair.ttl);
    let tcp = match protocol {
        Protocol::Tcp if !options.relay_only => Some(tcp::Sockets::open(local, options.bind)?),
        _ => None,
    };
    let offer = tcp
        .as_ref()
        .map(|sockets| offer(sockets.addresses(), observed));
    let loopback = server.ip().to_canonical().is_loopback();
    let outer_port = tcp.as_ref().and_then(tcp::Sockets::port_v4);
    let outer_port = outer_port.filter(|_| options.port_mapping && !loopback);
    let (peers, offered) = mpsc::channel(32);
    let (keyed, secrets) = oneshot::channel();
    let setup = Setup {
        role,
        session: id,
        key: options.key.clone(),
        ice_servers: pair.ice_servers,
        stun: vec![Host {
            name: server.ip().to_string(),
            port: server.port(),
        }],
        bind: options.bind,
        loopback,
        direct: protocol == Protocol::Udp && !options.relay_only,
        port_mapping: options.port_mapping,
        tries: options.tries,
        attempt: options.punch_timeout,
        relay,
        patience,
        post: pair.post,
        progress: options.progress.clone(),
        keyed: tcp.is_some().then_some(keyed),
        offer,
        peers: tcp.is_some().then_some(peers),
    };
    let (session, datagrams) = Session::start(setup)?;
    let (ice_servers, ttl) = renewing;
    let kept = renew::keep(options.clone(), session.renewal(), ice_servers, ttl);
    tokio::spawn(kept);
    let establishing = Establishing {
        options,
        role,
        session,
        outer_port,
        deadline: Instant::now() + options.establish.min(LONGEST),
        proof_by: options.stays.then(|| Instant::now() + 2 * STRANGER),
    };
    match protocol {
        Protocol::Udp => establishing.udp(datagrams).await,
        Protocol::Tcp => {
            let sockets = tcp.map(|sockets| (sockets, secrets));
            establishing.tcp(datagrams, sockets, offered, id).await
        }
    }
}

/// How long the relay may be silent by UDP until streams are tried as well, by the time that the
/// pairing server takes to answer: it is mostly the same machine. `answered`: whether that one has
/// answered by UDP what it was asked a round trip ago, if it was.
pub(super) fn patience(round_trip: Duration, answered: Option<bool>) -> Duration {
    const MARGIN: Duration = Duration::from_millis(15);
    const MOST: Duration = Duration::from_millis(300);

    let usual = match answered {
        Some(true) => MOST,
        Some(false) => Duration::ZERO,
        None => round_trip,
    };
    (usual + round_trip / 4 + MARGIN).min(MOST)
}

/// Where the peer may dial: the address that the server saw, which is the one that matters most,
/// and the machine's own ones. Only so many are dialled.
fn offer(own: Vec<SocketAddr>, observed: SocketAddr) -> Offer {
    let others = own.into_iter().filter(|own| *own != observed);
    let addresses = std::iter::once(observed).chain(others).collect();
    Offer { addresses }
}

impl Establishing<'_> {
    async fn udp(self, datagrams: StreamDatagrams) -> Result<PunchedConn, ConnectError> {
        self.ready(self.options.raw).await?;
        Ok(PunchedConn::new(
            Protocol::Udp,
            self.role,
            self.options.raw,
            Inner::Session {
                session: self.session,
                datagrams,
            },
        ))
    }

    /// Waits until the peer has proven itself; with `direct`, on a direct path.
    async fn ready(&self, direct: bool) -> Result<(), ConnectError> {
        let mut state = self.session.state();
        let mut left = None;
        loop {
            let proof_by;
            {
                let now = state.borrow_and_update();
                if now.ready && (!direct || now.path.path == PathKind::Direct) {
                    return Ok(());
                }
                if let Some(error) = hopeless(&now) {
                    return Err(error);
                }
                if now.peer_left && !now.ready {
                    left.get_or_insert_with(|| Instant::now() + LEFT);
                }
                let answer_by = now.begun.map(|begun| Instant::from_std(begun) + STRANGER);
                let latest = self.proof_by.filter(|_| !now.heard && !now.ready);
                proof_by = latest.map(|latest| answer_by.map_or(latest, |by| latest.min(by)));
            }
            let until = [left, proof_by].into_iter().flatten().min();
            let until = until.map_or(self.deadline, |until| until.min(self.deadline));
            tokio::select! {
                changed = state.changed() => {
                    if changed.is_err() {
                        return Err(self.session.ended_error().into());
                    }
                }
                () = sleep_until(until) => {
                    let now = state.borrow();
                    return Err(match () {
                        () if now.refused && !now.ready => ConnectError::NotThePeer,
                        () if left.is_some() => ConnectError::no_path("the peer has left"),
                        () if proof_by == Some(until) => {
                            ConnectError::no_path("the device does not show that it has the key")
                        }
                        () => ConnectError::no_path(why(&now)),
                    });
                }
            }
        }
    }

    async fn tcp(
        self,
        datagrams: StreamDatagrams,
        sockets: Option<(tcp::Sockets, oneshot::Receiver<SessionSecrets>)>,
        offered: mpsc::Receiver<SocketAddr>,
        id: SessionId,
    ) -> Result<PunchedConn, ConnectError> {
        let role = self.role;
        let raw = self.options.raw;
        let punch = self.unless_left(self.punch_tcp(sockets, offered, id));
        tokio::pin!(punch);
        let inner = match role {
            // The initiator alone decides, and the receiver sees what it decided.
            Role::Initiator => match punch.await {
                Ok(inner) => inner,
                Err(reason) if raw => return Err(self.no_tcp(reason)),
                Err(reason) => {
                    self.session.because(reason).await;
                    self.relayed(datagrams).await?
                }
            },
            Role::Receiver => {
                let relayed = self.relayed(datagrams);
                tokio::pin!(relayed);
                // Whichever the initiator takes: as long as one may still come, the other one's
                // end is no end.
                tokio::select! {
                    punched = &mut punch => match punched {
                        Ok(inner) => inner,
                        Err(reason) if raw => return Err(self.no_tcp(reason)),
                        Err(reason) => {
                            self.session.because(reason).await;
                            relayed.await?
                        }
                    },
                    by_relay = &mut relayed => match by_relay {
                        Ok(inner) => inner,
                        Err(ConnectError::NotThePeer) => return Err(ConnectError::NotThePeer),
                        // It does not dial either.
                        Err(error) if self.session.state().borrow().peer_busy => return Err(error),
                        Err(error) => punch.await.map_err(|_| error)?,
                    },
                }
            }
        };
        if matches!(inner, Inner::Tcp { .. } | Inner::RawTcp { .. }) {
            self.session.outcome(Outcome::Direct).await;
        }
        Ok(PunchedConn::new(Protocol::Tcp, role, raw, inner))
    }

    /// What becomes of punching; it has failed, too, when the peer has left and does not turn up.
    async fn unless_left<T>(
        &self,
        punch: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let mut state = self.session.state();
        let left = async {
            let left = state
                .wait_for(|state| state.peer_left && !state.ready)
                .await
                .is_ok();
            match left {
                true => sleep(LEFT).await,
                // The session's end is none of a connection that may still come.
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            punched = punch => punched,
            () = left => Err("the peer has left".to_owned()),
        }
    }

    async fn punch_tcp(
        &self,
        sockets: Option<(tcp::Sockets, oneshot::Receiver<SessionSecrets>)>,
        offered: mpsc::Receiver<SocketAddr>,
        id: SessionId,
    ) -> Result<Inner, String> {
        let (sockets, secrets) = sockets.ok_or("only the relay is to be used")?;
        let within = self.options.punch_timeout.unwrap_or(TCP_WITHIN);
        let left = self.deadline.saturating_duration_since(Instant::now());
        let most = match self.options.raw {
            true => left,
            // The relay needs some of it.
            false => left.saturating_sub(RELAY_WITHIN).max(left / 2),
        };
        let mut within = within.min(most);
        let late = format!("no TCP connection within {} s", within.as_secs_f32());
        if self.role == Role::Receiver {
            within += TCP_GRACE;
        }
        let until = Instant::now() + within;
        // The listeners are there; who dials already is kept waiting by the system.
        let secrets = timeout_at(until, secrets).await.map_err(|_| late.clone())?;
        let secrets = secrets.map_err(|_| "the session has ended")?;
        let mut config = tcp::Config::new(self.role, secrets.check);
        config.tries = self.options.tries.unwrap_or(config.tries);
        // Punching keeps the time itself: it knows why there is no connection by then.
        config.timeout = until.saturating_duration_since(Instant::now());
        let punch = tcp::punch(&config, sockets, offered);
        let (punched, outer_port) = self.with_outer_port(punch).await;
        let punched = punched.map_err(|error| error.to_string())?;
        keep_alive(&punched.stream);
        let info = direct(&punched);
        let stream = punched.stream;
        if self.options.raw {
            return Ok(Inner::RawTcp {
                stream,
                info,
                outer_port,
            });
        }
        let psk = self.options.key.psk(&id);
        let noise = NoiseStream::handshake(stream, self.role, &psk, &id.0);
        let noise = timeout_at(until, noise).await.map_err(|_| late)?;
        Ok(Inner::Tcp {
            stream: Box::new(noise.map_err(|error| error.to_string())?),
            info,
            outer_port,
        })
    }

    /// Punches, and tells the peer of an outer port as soon as a router grants one.
    async fn with_outer_port<T>(&self, punch: impl Future<Output = T>) -> (T, Option<OuterPort>) {
        let Some(port) = self.outer_port else {
            return (punch.await, None);
        };
        let (granted, mut answer) = oneshot::channel();
        // A task of its own: what is granted when nobody waits for it any more is given back.
        tokio::spawn(async move {
            let _ = granted.send(OuterPort::ask(Protocol::Tcp, Some(port)).await);
        });
        let mut held: Option<OuterPort> = None;
        let mut asked = false;
        tokio::pin!(punch);
        loop {
            tokio::select! {
                punched = &mut punch => return (punched, held),
                port = &mut answer, if !asked => {
                    asked = true;
                    held = port.ok().flatten();
                    if let Some(port) = &held {
                        let addresses = vec![port.address()];
                        self.session.offer(Offer { addresses }).await;
                    }
                }
            }
        }
    }

    fn no_tcp(&self, reason: String) -> ConnectError {
        match self.session.state().borrow().refused {
            true => ConnectError::NotThePeer,
            false => ConnectError::NoPath { reason },
        }
    }

    /// The bytes go through the relay, when the initiator says so.
    #[cfg(feature = "client")]
    async fn relayed(&self, datagrams: StreamDatagrams) -> Result<Inner, ConnectError> {
        use crate::client::quic::Streams;

        self.ready(false).await?;
        let session = self.session.clone();
        let role = self.role;
        let open = async {
            match role {
                Role::Initiator => {
                    let streams = Streams::over(session, datagrams, role, None).await?;
                    streams.open().await
                }
                Role::Receiver => {
                    let streams = Streams::connect(session, datagrams, role, None).await?;
                    streams.accept().await
                }
            }
        };
        let late = match role {
            Role::Initiator => "the peer takes no byte stream through the relay",
            Role::Receiver => "the peer opens no byte stream through the relay",
        };
        let opened = timeout_at(self.deadline, open).await;
        let stream = opened.map_err(|_| ConnectError::no_path(late))??;
        Ok(Inner::Relayed {
            session: self.session.clone(),
            stream: Box::new(stream),
        })
    }

    #[cfg(not(feature = "client"))]
    async fn relayed(&self, datagrams: StreamDatagrams) -> Result<Inner, ConnectError> {
        drop(datagrams);
        self.ready(false).await?;
        let reason = "this program was built without byte streams through a relay";
        Err(ConnectError::no_path(reason))
    }
}

/// Whether waiting makes no sense any more.
fn hopeless(state: &State) -> Option<ConnectError> {
    match &state.ended {
        Some(Ended::NotThePeer) => return Some(ConnectError::NotThePeer),
        Some(Ended::ByPeer(_)) => return Some(ConnectError::no_path("the peer has left")),
        Some(Ended::Failed(why)) => return Some(io::Error::other(why.clone()).into()),
        _ => {}
    }
    // It began nothing, so that nothing can be on its way.
    if state.peer_busy && !state.ready {
        return Some(ConnectError::no_path(
            "the peer is busy: it takes no more now",
        ));
    }
    let nowhere = state.gave_up && state.no_relay.is_some() && !state.ready;
    nowhere.then(|| match state.refused {
        true => ConnectError::NotThePeer,
        false => ConnectError::no_path(why(state)),
    })
}

fn why(state: &State) -> String {
    match &state.no_relay {
        Some(no_relay) => format!("{}; {no_relay}", state.path.reason),
        None => state.path.reason.clone(),
    }
}

fn direct(punched: &tcp::Punched) -> PathInfo {
    PathInfo {
        path: PathKind::Direct,
        local: Some(punched.local),
        remote: Some(punched.remote),
        rtt: Some(punched.rtt),
        nat: None,
        reason: "a TCP connection was made through the NATs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_saw_is_dialled_first() {
        let [observed, own] = ["203.0.113.1:4000", "192.168.1.2:5000"];
        let [observed, own] = [observed, own].map(|text| text.parse().expect("an address"));
        assert_eq!(offer(vec![own], observed).addresses, [observed, own]);
        assert_eq!(
            offer(vec![own, observed], observed).addresses,
            [observed, own]
        );
    }
}
