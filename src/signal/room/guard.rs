//! The room as connections share it, and the seats that they hold in it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pairing::{RendezvousId, SessionId};
use crate::proto::Mono;

use super::table::{SeatKey, Table};
use super::{Denied, Hold, Holding, Mailbox, Pairing, RoomLimits, Wait, Waiting};

/// The room. Clones share it. `M` is how connections are told things, `G` what is held for
/// one that waits and for its session.
pub struct Room<M: Mailbox, G: Hold>(Arc<Mutex<Table<M, G>>>);

impl<M: Mailbox, G: Hold> Clone for Room<M, G> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Mailbox, G: Hold> Room<M, G> {
    /// An empty room. The seed is secret and random: session ids and the tables' hashes follow
    /// from it.
    pub fn new(limits: RoomLimits, seed: [u8; 32], hold: Holding<G>) -> Self {
        Self(Arc::new(Mutex::new(Table::new(limits, seed, hold))))
    }

    /// A seat for a connection from `observed`. `signals`: it can be sent what its peers signal,
    /// and send likewise; a request of HTTP can not.
    pub fn seat(&self, mailbox: M, observed: SocketAddr, signals: bool) -> Seat<M, G> {
        let key = self.table().seat(mailbox, observed, signals);
        Seat {
            room: self.clone(),
            key,
        }
    }

    /// Ends every wait whose time has come.
    pub fn handle_timeout(&self, now: Mono) {
        self.table().handle_timeout(now);
    }

    /// When [`Room::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.table().poll_timeout()
    }

    /// From now on nobody joins. Those who wait are told so; sessions go on.
    pub fn close(&self) {
        self.table().close();
    }

    /// How many of those that [`Room::close`] told have not left yet.
    pub fn leaving(&self) -> usize {
        self.table().leaving()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.table().waiting()
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.table().sessions()
    }

    /// Whether nothing is left: no seat, no entry, no session.
    pub fn is_empty(&self) -> bool {
        self.table().is_empty()
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table<M, G>> {
        // The table is consistent between any two calls, and a panic within one is not caught.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the room. Dropping it takes away everything that it put there, and its
/// peers are told.
pub struct Seat<M: Mailbox, G: Hold> {
    room: Room<M, G>,
    key: SeatKey,
}

impl<M: Mailbox, G: Hold> Seat<M, G> {
    /// Waits for a receiver. One wait at a time.
    ///
    /// # Errors
    /// `BadRequest` when it waits already, `Busy` and `TooMany` at the caps, `GoingAway` after
    /// [`Room::close`].
    pub fn wait(&self, now: Mono, wait: Wait) -> Result<Waiting, Denied> {
        self.room.table().wait(now, self.key, wait)
    }

    /// Looks for a waiting initiator. It is told first: when this returns a pairing, the
    /// initiator's connection is there and has it.
    ///
    /// # Errors
    /// `NobodyWaits`; `BadRequest` when this seat waits itself, `TooMany` at the caps, `GoingAway`
    /// after [`Room::close`].
    pub fn receive(
        &self,
        now: Mono,
        id: RendezvousId,
        endpoints: Vec<SocketAddr>,
    ) -> Result<Pairing, Denied> {
        self.room.table().receive(now, self.key, id, endpoints)
    }

    /// A sign of life: a host that waits stays longer.
    pub fn renew(&self, now: Mono) {
        self.room.table().renew(now, self.key);
    }

    /// Passes a blob on to the peer.
    ///
    /// # Errors
    /// `TooLarge`; `NoSession` when it is not this seat's or the peer is not there, `TooMany` when
    /// it sends too much.
    pub fn signal(&self, now: Mono, session: SessionId, blob: String) -> Result<(), Denied> {
        self.room.table().signal(now, self.key, session, blob)
    }

    /// Takes note that this side tells what became of a session, also of one of its latest that
    /// are over. Whether it counts: a side can tell only a few times.
    ///
    /// # Errors
    /// `NoSession` when it is not this seat's.
    pub fn report(&self, session: &SessionId) -> Result<bool, Denied> {
        self.room.table().report(self.key, session)
    }

    /// Whether this seat takes part in any session that is not over.
    pub fn has_sessions(&self) -> bool {
        self.room.table().has_sessions(self.key)
    }

    /// Leaves a session, which ends it; the peer is told, also when that is because of being
    /// `busy`.
    ///
    /// # Errors
    /// `NoSession` when it is not this seat's.
    pub fn leave(&self, session: SessionId, busy: bool) -> Result<(), Denied> {
        self.room.table().leave(self.key, session, busy)
    }
}

impl<M: Mailbox, G: Hold> Drop for Seat<M, G> {
    fn drop(&mut self) {
        self.room.table().unseat(self.key);
    }
}
