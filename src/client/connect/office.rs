//! Sorts what comes over one connection to the pairing server: blobs to their sessions, the rest
//! to whoever waits for a pair.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::error::ConnectError;
use crate::client::budget::Budget;
use crate::client::relay::now;
use crate::client::rendezvous::{Rendezvous, RendezvousError};
use crate::client::session::{Letter, Post};
use crate::pairing::{
    AccessKey, ClientMessage, ErrorCode, IceServer, Join, Protocol, Role, ServerMessage, SessionId,
};

/// Messages to the server that wait at most; who has more of them waits.
const QUEUE: usize = 64;
/// Blobs for one session that wait at most: more than the server forwards at once.
const POST: usize = 256;
/// Messages that go out in one go, and how often one more: a little less than what the server
/// takes from one connection before it ends it.
const BURST: u32 = 300;
const EACH: Duration = Duration::from_millis(25);

/// Two devices were brought together.
pub(super) struct Pair {
    pub(super) session: SessionId,
    pub(super) role: Role,
    pub(super) protocol: Protocol,
    /// Where the server sees this side.
    pub(super) observed: SocketAddr,
    /// Where the server sees the other one.
    pub(super) peer: SocketAddr,
    pub(super) ice_servers: Vec<IceServer>,
    pub(super) post: Post,
    /// This end of the connection to the server, and the server's end.
    pub(super) ends: (SocketAddr, SocketAddr),
    /// The time to the server and back.
    pub(super) round_trip: Duration,
    /// For how long the credentials among the servers are good.
    pub(super) ttl: Duration,
}

/// What the server says to who waits.
pub(super) enum News {
    Waiting {
        session: Option<SessionId>,
        observed: SocketAddr,
        wait_s: u64,
        ice_servers: Vec<IceServer>,
    },
    Paired(Box<Pair>),
    Refused(ErrorCode, String),
}

pub(super) struct Office {
    rendezvous: Rendezvous,
    sessions: HashMap<SessionId, mpsc::Sender<Letter>>,
    outgoing: mpsc::Receiver<ClientMessage>,
    /// For the sessions to come. A guest has one, a host many.
    for_sessions: Option<mpsc::Sender<ClientMessage>>,
    is_host: bool,
    news: mpsc::Sender<News>,
}

impl Office {
    /// Joins, over a connection that was just made.
    pub(super) async fn open(
        mut rendezvous: Rendezvous,
        key: &AccessKey,
        join: Join,
        news: mpsc::Sender<News>,
    ) -> Result<Self, RendezvousError> {
        let is_host = join.host;
        rendezvous.join(key, join).await?;
        let (for_sessions, outgoing) = mpsc::channel(QUEUE);
        Ok(Self {
            rendezvous,
            sessions: HashMap::new(),
            outgoing,
            for_sessions: Some(for_sessions),
            is_host,
            news,
        })
    }

    /// Sorts until nobody needs it any more, or until the connection ends.
    pub(super) async fn run(mut self) -> Result<(), RendezvousError> {
        let mut budget = Budget::new(BURST, EACH, now());
        let ended = loop {
            let waited_for = self.for_sessions.is_some();
            let later = budget.later(now());
            tokio::select! {
                message = self.outgoing.recv(), if later.is_none() => match message {
                    Some(message) => {
                        budget.spend();
                        if let ClientMessage::Leave { session, .. } = &message {
                            self.sessions.remove(session);
                        }
                        if let Err(error) = self.rendezvous.send(&message).await {
                            break Err(error);
                        }
                    }
                    // The session is over, or was never there.
                    None => break Ok(()),
                },
                // With many sessions at once they have to wait for each other.
                () = sleep_until(later.unwrap_or_else(now).into()), if later.is_some() => {}
                () = self.news.closed(), if waited_for => {
                    // Nobody waits any more. Sessions that a host has made go on without.
                    break Ok(());
                }
                message = self.rendezvous.next() => match message {
                    Ok(message) => self.sort(message).await,
                    Err(error) => break Err(error),
                },
            }
        };
        if ended.is_ok() {
            self.rendezvous.close().await;
        }
        ended
    }

    async fn sort(&mut self, message: ServerMessage) {
        let news = match message {
            ServerMessage::Signal { session, blob } => {
                return self.deliver(session, Letter::Blob(blob));
            }
            ServerMessage::PeerLeft { session, busy } => {
                return self.deliver(session, Letter::Left { busy });
            }
            ServerMessage::Waiting {
                session,
                observed,
                wait_s,
                ice_servers,
            } => News::Waiting {
                session,
                observed,
                wait_s,
                ice_servers,
            },
            ServerMessage::Paired {
                session,
                role,
                protocol,
                observed,
                peer_observed,
                ice_servers,
                ttl_s,
                ..
            } => {
                let Some(outgoing) = self.for_sessions.clone() else {
                    return;
                };
                let (to_session, incoming) = mpsc::channel(POST);
                self.sessions.insert(session, to_session);
                if !self.is_host {
                    self.for_sessions = None;
                }
                News::Paired(Box::new(Pair {
                    session,
                    role,
                    protocol,
                    observed,
                    peer: peer_observed,
                    ice_servers,
                    post: Post { outgoing, incoming },
                    ends: (self.rendezvous.local_addr(), self.rendezvous.server_addr()),
                    round_trip: self.rendezvous.round_trip(),
                    ttl: Duration::from_secs(ttl_s),
                }))
            }
            // Only what it says of the join is news: a session that it takes no more of goes on
            // without it, and may have ended here. Nothing was asked to be renewed here.
            ServerMessage::Renewed { .. }
            | ServerMessage::Hello { .. }
            | ServerMessage::Error {
                session: Some(_), ..
            } => return,
            ServerMessage::Error { code, message, .. } => News::Refused(code, message),
        };
        let _ = self.news.send(news).await;
    }

    /// A session that does not read its post gets no more of it: without one blob it could open
    /// none of the later ones.
    fn deliver(&mut self, session: SessionId, what: Letter) {
        if let Some(to) = self.sessions.get(&session)
            && to.try_send(what).is_err()
        {
            self.sessions.remove(&session);
        }
    }
}

/// What a guest does with the end of its connection.
pub(super) fn ended(how: Option<Result<(), RendezvousError>>) -> ConnectError {
    match how {
        Some(Err(error)) => error.into(),
        _ => RendezvousError::Closed.into(),
    }
}
