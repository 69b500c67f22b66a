//! A join, whichever way it came: what is asked is checked here, and put to the room.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::pairing::{
    AccessKey, ErrorCode, Join, Nonce, Outcome, Proof, Protocol, Reason, RendezvousId, Role,
    ServerMessage, SessionId,
};

use super::clock;
use super::counters::{JoinAnswer, WaitEnd};
use super::doors::Place;
use super::fallback::{Asking, Bond, Grant, Renewing};
use super::hub::Hub;
use super::mailbox::{Inbox, Slot, mailbox};
use super::nonces::Use;
use super::refusal::Refusal;
use super::room::{Address, Event, Pairing, Seat, Wait};

/// Own addresses that one side may tell in clear.
pub(super) const MAX_ENDPOINTS: usize = 8;

/// How long an initiator waits that names no time, in seconds.
pub(super) const DEFAULT_WAIT_S: u64 = 30;

/// A connection, for as long as anything of it lives.
pub(super) struct Visit {
    pub(super) hub: Arc<Hub>,
    /// Where it comes from.
    pub(super) observed: Address,
    /// The address of ours that it reached.
    pub(super) reached: Address,
    /// The name by which it called us, if it is one.
    pub(super) host: OnceLock<Box<str>>,
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

/// How a connection speaks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// It can be sent what its peers signal, and was told this nonce.
    WebSocket([u8; 16]),
    /// It gets one answer.
    OneAnswer,
}

/// A connection that takes part: its seat and what the room leaves for it.
pub(super) struct Guest {
    visit: Arc<Visit>,
    seat: Seat<Slot, Grant>,
    inbox: Inbox,
    waits: bool,
    way: Way,
}

impl Guest {
    pub(super) fn new(visit: Arc<Visit>, way: Way) -> Self {
        let (slot, inbox) = mailbox(&visit.hub.backlog);
        let signals = matches!(way, Way::WebSocket(_));
        let seat = visit.hub.room.seat(slot, visit.observed.socket(), signals);
        Self {
            visit,
            seat,
            inbox,
            waits: false,
            way,
        }
    }

    /// What it was told on its WebSocket.
    pub(super) fn nonce(&self) -> Option<Nonce> {
        match &self.way {
            Way::WebSocket(nonce) => Some(Nonce::from_bytes(nonce)),
            Way::OneAnswer => None,
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
            reached: self.visit.reached.socket(),
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

    fn ask(&mut self, mut join: Join) -> Result<ServerMessage, Refusal> {
        // First, for the rest may cost a verification.
        self.admit()?;
        let hub = Arc::clone(&self.visit.hub);
        let now = clock::now().mono;
        check(&join)?;
        let id = self.identify(&mut join)?;
        match wish(id, join) {
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
                    observed: self.visit.observed.socket(),
                    wait_s,
                    ice_servers: hub.fallback.ice_servers(self.asking(bond)),
                })
            }
            Wish::Receive { id, endpoints } => {
                let ip = self.visit.observed.ip();
                if !hub.receivers.has_room(now, &id, ip) {
                    return Err(Reason::Receivers.into());
                }
                let pairing = self.seat.receive(now, id, endpoints)?;
                hub.receivers.count(now, &id, ip);
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

    /// Under which id it joins, which it has shown to be its own.
    fn identify(&self, join: &mut Join) -> Result<RendezvousId, Refusal> {
        let key = join.access_key.take().map(Zeroizing::new);
        match (join.id, key) {
            (Some(id), None) => {
                let proof = join.proof.take();
                let proof = proof.ok_or_else(|| self.proof_required())?;
                self.accept(&proof, &id, join)?;
                Ok(id)
            }
            (None, Some(key)) => match AccessKey::new(&key) {
                Ok(key) => Ok(key.rendezvous_id()),
                Err(error) => Err(Refusal::bad(error.to_string())),
            },
            (Some(_), Some(_)) => Err(Refusal::bad("either `id` or `access_key`, not both")),
            (None, None) => Err(Refusal::bad("`id` or `access_key` is missing")),
        }
    }

    /// Accepts a proof for a nonce that this very client was given; over HTTP once.
    fn accept(&self, proof: &Proof, id: &RendezvousId, join: &Join) -> Result<(), Refusal> {
        let nonces = &self.visit.hub.nonces;
        let (now, ip) = (clock::now().mono, self.visit.observed.ip());
        let given = match self.way {
            Way::WebSocket(own) if Nonce::from_bytes(&own) == proof.nonce => None,
            Way::WebSocket(_) => return Err(self.proof_required()),
            Way::OneAnswer => {
                let given = nonces.recognise(now, ip, &proof.nonce);
                Some(given.ok_or_else(|| self.proof_required())?)
            }
        };
        if !proof.holds(id, join.role, join.host) {
            return Err(ErrorCode::ProofWrong.into());
        }
        match given.map(|given| nonces.take(now, given)) {
            None | Some(Use::First) => Ok(()),
            Some(Use::Stale) => Err(self.proof_required()),
            Some(Use::Full) => Err(ErrorCode::TooMany.into()),
        }
    }

    fn proof_required(&self) -> Refusal {
        let nonce = match self.way {
            Way::WebSocket(_) => None,
            Way::OneAnswer => {
                let ip = self.visit.observed.ip();
                Some(self.visit.hub.nonces.give(clock::now().mono, ip))
            }
        };
        Refusal {
            nonce,
            ..ErrorCode::ProofRequired.into()
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
            Event::PeerLeft { session, busy } => ServerMessage::PeerLeft { session, busy },
        }
    }

    pub(super) fn signal(&self, session: SessionId, blob: String) -> Result<(), Refusal> {
        let sent = self.seat.signal(clock::now().mono, session, blob);
        sent.map_err(|denied| Refusal::from(denied).of(session))
    }

    pub(super) fn leave(&self, session: SessionId, busy: bool) -> Result<(), Refusal> {
        let left = self.seat.leave(session, busy);
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
            reached: self.visit.reached.socket(),
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

/// What does not depend on who asks.
fn check(join: &Join) -> Result<(), Refusal> {
    if join.endpoints.len() > MAX_ENDPOINTS {
        return Err(Refusal::new(
            ErrorCode::TooLarge,
            format!("more than {MAX_ENDPOINTS} `endpoints`"),
        ));
    }
    if let Some(odd) = join.endpoints.iter().find(|a| !names_one_host(a)) {
        return Err(Refusal::bad(format!("{odd} in `endpoints` is nobody's")));
    }
    match join.role {
        Role::Receiver if join.host => Err(Refusal::bad("`host` is for initiators")),
        Role::Initiator if join.wait_s == Some(0) => Err(Refusal::bad("`wait_s` is from 1")),
        _ => Ok(()),
    }
}

fn wish(id: RendezvousId, join: Join) -> Wish {
    match join.role {
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
    }
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
