//! What is kept of a connection: little as long as it only waits, for there may be 100,000 of
//! those.

use std::net::{IpAddr, SocketAddr};

use crate::pairing::{Protocol, RendezvousId, SessionId};
use crate::proto::Mono;

use super::{Address, Ended};

/// A connection.
pub(super) struct SeatState<M, G> {
    pub(super) mailbox: M,
    pub(super) observed: Address,
    pub(super) signals: bool,
    /// It waited when the room was closed.
    pub(super) leaving: bool,
    pub(super) waiting: Option<Box<Entry<G>>>,
    dealings: Option<Box<Dealings>>,
}

/// What there was with others.
#[derive(Default)]
struct Dealings {
    sessions: Vec<SessionId>,
    ended: Ended,
}

/// A waiting initiator.
pub(super) struct Entry<G> {
    pub(super) id: RendezvousId,
    pub(super) protocol: Protocol,
    pub(super) host: bool,
    pub(super) deadline: Mono,
    /// Of the pair that is to be; a host gets a fresh one for each receiver.
    pub(super) session: SessionId,
    pub(super) hold: Option<G>,
    pub(super) target_ip: Option<IpAddr>,
    pub(super) endpoints: Box<[SocketAddr]>,
}

impl<M, G> SeatState<M, G> {
    pub(super) fn new(mailbox: M, observed: SocketAddr, signals: bool) -> Self {
        Self {
            mailbox,
            observed: observed.into(),
            signals,
            leaving: false,
            waiting: None,
            dealings: None,
        }
    }

    /// Its sessions that are not over.
    pub(super) fn sessions(&self) -> &[SessionId] {
        let dealings = self.dealings.as_ref();
        dealings.map_or(&[], |dealings| &dealings.sessions)
    }

    /// A session begins.
    pub(super) fn begin(&mut self, session: SessionId) {
        let dealings = self.dealings.get_or_insert_default();
        dealings.sessions.push(session);
    }

    /// It takes no part in a session any more.
    pub(super) fn leave(&mut self, session: &SessionId) {
        let Some(dealings) = &mut self.dealings else {
            return;
        };
        if let Some(at) = dealings.sessions.iter().position(|own| own == session) {
            dealings.sessions.swap_remove(at);
        }
    }

    /// What became of a session that is over can still be told.
    pub(super) fn remember(&mut self, session: SessionId, reports: u8) {
        let dealings = self.dealings.get_or_insert_default();
        dealings.ended.put(session, reports);
    }

    /// How often it told of one that is over.
    pub(super) fn reports(&mut self, session: &SessionId) -> Option<&mut u8> {
        self.dealings.as_mut()?.ended.reports(session)
    }

    /// Forgets one that is over; whether it was known.
    pub(super) fn forget(&mut self, session: &SessionId) -> bool {
        let dealings = self.dealings.as_mut();
        dealings.is_some_and(|dealings| dealings.ended.forget(session))
    }
}
