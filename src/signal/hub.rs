//! What all connections of an endpoint share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};

use crate::proto::throttle::Throttle;

use super::clock;
use super::counters::{Counters, Snapshot};
use super::doors::Doors;
use super::fallback::{Fallback, Grant};
use super::mailbox::{Backlog, Slot};
use super::nonces::Nonces;
use super::pace::Pace;
use super::rate::Receivers;
use super::room::Room;

pub(super) struct Hub {
    pub(super) room: Room<Slot, Grant>,
    /// Joins and renewals.
    pub(super) rate: Pace,
    /// Connections.
    pub(super) knocks: Pace,
    pub(super) receivers: Receivers,
    pub(super) nonces: Nonces,
    pub(super) fallback: Arc<dyn Fallback>,
    pub(super) counters: Counters,
    pub(super) doors: Doors,
    pub(super) backlog: Arc<Backlog>,
    /// The hello of stunturn is answered.
    pub(super) stunturn: bool,
    /// Log lines about refused joins.
    pub(super) refused: Throttle,
    /// Somebody waits whose time may be up before that of all others.
    pub(super) sooner: Notify,
}

impl Hub {
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            waiting: self.room.waiting() as u64,
            sessions: self.room.sessions() as u64,
            connections: self.doors.open() as u64,
            ..self.counters.snapshot()
        }
    }

    /// Sends those who wait away, and gives them a moment to hear it: after that the connections
    /// just end.
    pub(super) async fn farewell(&self) {
        const MOMENT: Duration = Duration::from_secs(2);
        const LOOK: Duration = Duration::from_millis(5);
        self.room.close();
        let gone = async {
            while self.room.leaving() > 0 {
                sleep(LOOK).await;
            }
        };
        // Who does not read is not waited for any longer.
        let _ = timeout(MOMENT, gone).await;
    }

    /// Tells those whose wait is over, for ever.
    pub(super) async fn keep_time(&self) {
        loop {
            match self.room.poll_timeout() {
                None => self.sooner.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = self.sooner.notified() => {}
                        () = sleep_until(clock::instant(due)) => {
                            self.room.handle_timeout(clock::now().mono);
                        }
                    }
                }
            }
        }
    }
}
