//! A join, whichever way it came: what is asked is checked here, and put to the room.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::pairing::{
    AccessKey, ErrorCode, Join, Outcome, Protocol, Reason, RendezvousId, Role, ServerMessage,
    SessionId,
};

use crate::proto::Mono;

use super::clock;
use super::counters::{JoinAnswer, WaitEnd};
use super::doors::Place;
use super::fallback::{Asking, Bond, Grant, Renewing};
use super::hub::Hub;
use super::mailbox::{Inbox, Slot, mailbox};
use super::room::{Denied, Event, Pairing, Seat, Wait};

/// Own addresses that one side may tell in clear.
pub(super) const MAX_ENDPOINTS: usize = 8;

/// How long an initiator waits that names no time, in seconds.
pub(super) const DEFAULT_WAIT_S: u64 = 30;

/// A connection, for as long as anything of it lives.
pub(super) struct Visit {
    pub(super) hub: Arc<Hub>,
    /// Where it comes from.
    pub(super) observed: SocketAddr,
    /// The address of ours that it reached.
    pub(super) reached: SocketAddr,
    /// The name by which it called us, if it is one.
    pub(super) host: OnceLock<Box<str>>,
    /// Until when it has to ask to join.
    pub(super) deadline: Mono,
    /// Its place among the open connections.
    pub(super) place: Place,
}

impl Visit {
    /// Serves the connection by a task, in place of the one that did so far. It ends when the
    /// connection has to go for one from elsewhere.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.place.serve(tokio::spawn(task).abort_handle());
    }
}

/// Why something is refused: for programs, and for people.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    /// What it is about, if it is not the join or the connection.
    pub(super) session: Option<SessionId>,
    pub(super) reason: Option<Reason>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            session: None,
            reason: None,
        }
    }

    /// It is about one session.
    fn of(self, session: SessionId) -> Self {
        Self {
            session: Some(session),
            ..self
        }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub(super) fn into_message(self) -> ServerMessage {
        ServerMessage::Error {
            code: self.code,
            message: self.message,
            session: self.session,
            reason: self.reason,
            retry_after_s: self.reason.map(retry_after_s),
        }
    }
}

/// After how many seconds it may be better.
const fn retry_after_s(reason: Reason) -> u64 {
    match reason {
        Reason::Signals | Reason::Messages => 1,
        Reason::Joins
        | Reason::Connections
        | Reason::Sessions
        | Reason::AllSessions
        | Reason::HostSessions => 10,
        Reason::Waits | Reason::AllWaits | Reason::Displaced => 30,
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        let message = match reason {
            Reason::Joins => "too many joins from this address; try again in a minute",
            Reason::Connections => "too many open connections, from this address or in all",
            Reason::Waits => "too many initiators wait from this address",
            Reason::AllWaits => "too many initiators wait on this server",
            Reason::Sessions => "too many sessions of receivers from this address",
            Reason::AllSessions => "too many sessions on this server",
            Reason::HostSessions => "the host has as many sessions as it may have",
            Reason::Signals => "too many signals in this session",
            Reason::Messages => "too many messages",
            Reason::Displaced => "the server is full, and more comes from here than from others",
        };
        Self {
            reason: Some(reason),
            ..Self::new(ErrorCode::TooMany, message)
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied.reason {
            Some(reason) => reason.into(),
            None => denied.code.into(),
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        let message = match code {
            ErrorCode::NobodyWaits => {
                "no initiator waits under this access key, or none that lets this address in"
            }
            ErrorCode::TimedOut => "no receiver came in time",
            ErrorCode::Busy => "too many initiators wait under this access key",
            ErrorCode::TooMany => "too many, from this address or in all; try again later",
            ErrorCode::BadRequest => "this connection waits already",
            ErrorCode::TooLarge => "longer than allowed",
            ErrorCode::NoSession => {
                "there is no such session on this connection, or the peer can not be sent to"
            }
            ErrorCode::GoingAway => "the server is shutting down",
            ErrorCode::Internal => "the server failed",
        };
        Self::new(code, message)
    }
}

/// A connection that takes part: its seat and what the room leaves for it.
pub(super) struct Guest {
    visit: Arc<Visit>,
    seat: Seat<Slot, Grant>,
    inbox: Inbox,
    waits: bool,
}

impl Guest {
    /// `signals`: it can be sent what its peers signal.
    pub(super) fn new(visit: Arc<Visit>, signals: bool) -> Self {
        let (slot, inbox) = mailbox(&visit.hub.backlog);
        let seat = visit.hub.room.seat(slot, visit.observed, signals);
        Self {
            visit,
            seat,
            inbox,
            waits: false,
        }
    }

    /// Asks the room; the answer is `Waiting` or `Paired`.
    pub(super) fn join(&mut self, join: Join) -> Result<ServerMessage, Refusal> {
        let answer = self.ask(join);
        let counters = &self.visit.hub.counters;
        counters.join(match &answer {
            Ok(ServerMessage::Paired { .. }) => JoinAnswer::Paired,
            Ok(_) => JoinAnswer::Waiting,
            Err(refusal) => JoinAnswer::Refused(refusal.code),
        });
        answer
    }

    /// Counts a join of this source, or what costs as much.
    fn admit(&self) -> Result<(), Refusal> {
        let hub = &self.visit.hub;
        self.visit.place.settle();
        let now = clock::now().mono;
        let ip = self.visit.observed.ip();
        if hub.rate.pass(now, ip) {
            return Ok(());
        }
        if let Some(suppressed) = hub.refused.pass(now) {
            warn!(source = %ip, suppressed, "too many joins from one source");
        }
        Err(Reason::Joins.into())
    }

    /// Fresh credentials in place of valid ones. Needs no seat in the room: those that are shown
    /// say which pair and side it is.
    pub(super) fn renew(&self, username: &str, credential: &str) -> Result<ServerMessage, Refusal> {
        self.admit()?;
        let renewed = self.visit.hub.fallback.renew(Renewing {
            username,
            credential,
            reached: self.visit.reached,
            host: self.visit.host.get().map(|host| &**host),
        });
        let refused = "these credentials are not valid, or the pair has reached its age";
        let renewed = renewed.ok_or_else(|| Refusal::new(ErrorCode::NoSession, refused))?;
        let session = renewed.session;
        info!(%session, client = %self.visit.observed, "credentials renewed");
        Ok(ServerMessage::Renewed {
            session,
            ice_servers: renewed.ice_servers,
            ttl_s: renewed.ttl_s,
        })
    }

    fn ask(&mut self, join: Join) -> Result<ServerMessage, Refusal> {
        self.admit()?;
        let hub = Arc::clone(&self.visit.hub);
        let now = clock::now().mono;
        match check(join)? {
            Wish::Wait(wait) => {
                let waiting = self.seat.wait(now, wait)?;
                self.waits = true;
                hub.sooner.notify_one();
                let wait_s = waiting.wait_s;
                let bond = match waiting.session {
                    Some(session) => Bond::Wait { session, wait_s },
                    None => Bond::Host,
                };
                Ok(ServerMessage::Waiting {
                    session: waiting.session,
                    observed: self.visit.observed,
                    wait_s,
                    ice_servers: hub.fallback.ice_servers(self.asking(bond)),
                })
            }
            Wish::Receive { id, endpoints } => {
                let pairing = self.seat.receive(now, id, endpoints)?;
                hub.counters.paired();
                info!(
                    session = %pairing.session,
                    protocol = protocol_name(pairing.protocol),
                    initiator = %pairing.peer_observed,
                    receiver = %pairing.observed,
                    host = pairing.host,
                    "paired"
                );
                Ok(self.paired(pairing))
            }
        }
    }

    /// What the room has for it; `None` when it fell too far behind. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<ServerMessage> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Guest::next`].
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<ServerMessage>> {
        let event = ready!(self.inbox.poll_next(cx));
        Poll::Ready(event.map(|event| self.told(event)))
    }

    fn told(&mut self, event: Event) -> ServerMessage {
        let counters = &self.visit.hub.counters;
        match event {
            Event::Paired(pairing) => {
                if !pairing.host {
                    self.waits = false;
                    counters.wait_ended(WaitEnd::Paired);
                }
                self.paired(pairing)
            }
            Event::TimedOut => {
                self.waits = false;
                counters.wait_ended(WaitEnd::TimedOut);
                Refusal::from(ErrorCode::TimedOut).into_message()
            }
            Event::Displaced => {
                self.waits = false;
                counters.wait_ended(WaitEnd::Displaced);
                Refusal::from(Reason::Displaced).into_message()
            }
            Event::GoingAway => {
                self.waits = false;
                counters.wait_ended(WaitEnd::GoingAway);
                Refusal::from(ErrorCode::GoingAway).into_message()
            }
            Event::Signal { session, blob } => ServerMessage::Signal { session, blob },
            Event::PeerLeft { session } => ServerMessage::PeerLeft { session },
        }
    }

    pub(super) fn signal(&self, session: SessionId, blob: String) -> Result<(), Refusal> {
        let sent = self.seat.signal(clock::now().mono, session, blob);
        sent.map_err(|denied| Refusal::from(denied).of(session))
    }

    pub(super) fn leave(&self, session: SessionId) -> Result<(), Refusal> {
        let left = self.seat.leave(session);
        left.map_err(|denied| Refusal::from(denied).of(session))
    }

    pub(super) fn report(&self, session: SessionId, outcome: Outcome) -> Result<(), Refusal> {
        let counts = self.seat.report(&session);
        if counts.map_err(|denied| Refusal::from(denied).of(session))? {
            self.visit.hub.counters.outcome(outcome);
            info!(
                %session,
                client = %self.visit.observed,
                ?outcome,
                "result of a session"
            );
        }
        Ok(())
    }

    /// A sign of life.
    pub(super) fn heard(&self) {
        if self.waits {
            self.seat.renew(clock::now().mono);
        }
    }

    /// Whether it waits or takes part in a session.
    pub(super) fn is_busy(&self) -> bool {
        self.waits || self.seat.has_sessions()
    }

    fn paired(&self, pairing: Pairing) -> ServerMessage {
        let fallback = &self.visit.hub.fallback;
        let (own, peer) = (pairing.observed.ip(), pairing.peer_observed.ip());
        let bond = Bond::Pair {
            session: pairing.session,
            role: pairing.role,
            sides: match pairing.role {
                Role::Initiator => [own, peer],
                Role::Receiver => [peer, own],
            },
        };
        ServerMessage::Paired {
            session: pairing.session,
            role: pairing.role,
            protocol: pairing.protocol,
            observed: pairing.observed,
            peer_observed: pairing.peer_observed,
            peer_endpoints: pairing.peer_endpoints,
            ice_servers: fallback.ice_servers(self.asking(bond)),
            ttl_s: fallback.ttl_s(),
        }
    }

    fn asking(&self, bond: Bond) -> Asking<'_> {
        Asking {
            bond,
            reached: self.visit.reached,
            host: self.visit.host.get().map(|host| &**host),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.waits {
            self.visit.hub.counters.wait_ended(WaitEnd::Left);
        }
    }
}

enum Wish {
    Wait(Wait),
    Receive {
        id: RendezvousId,
        endpoints: Vec<SocketAddr>,
    },
}

fn check(mut join: Join) -> Result<Wish, Refusal> {
    let key = join.access_key.take().map(Zeroizing::new);
    let id = match (join.id, key) {
        (Some(id), None) => id,
        (None, Some(key)) => AccessKey::new(&key)
            .map_err(|error| Refusal::bad(error.to_string()))?
            .rendezvous_id(),
        (Some(_), Some(_)) => return Err(Refusal::bad("either `id` or `access_key`, not both")),
        (None, None) => return Err(Refusal::bad("`id` or `access_key` is missing")),
    };
    if join.endpoints.len() > MAX_ENDPOINTS {
        return Err(Refusal::new(
            ErrorCode::TooLarge,
            format!("more than {MAX_ENDPOINTS} `endpoints`"),
        ));
    }
    if let Some(odd) = join.endpoints.iter().find(|a| !names_one_host(a)) {
        return Err(Refusal::bad(format!("{odd} in `endpoints` is nobody's")));
    }
    Ok(match join.role {
        Role::Receiver if join.host => {
            return Err(Refusal::bad("`host` is for initiators"));
        }
        Role::Receiver => Wish::Receive {
            id,
            endpoints: join.endpoints,
        },
        Role::Initiator => Wish::Wait(Wait {
            id,
            protocol: join.protocol.unwrap_or(Protocol::Udp),
            target_ip: join.target_ip,
            wait_s: join.wait_s.unwrap_or(DEFAULT_WAIT_S),
            host: join.host,
            endpoints: join.endpoints,
        }),
    })
}

/// Whether an address can be one host's socket: who is told of it will send there.
fn names_one_host(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let group = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    };
    address.port() != 0 && !ip.is_unspecified() && !group
}

const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
    }
}
