//! Whether the peer is still there, when the pairing server says that it has left, or has gone
//! itself: then nobody tells any more how the peer could be reached anew.

use std::time::{Duration, Instant};

use super::Ended;
use super::driver::Driver;

/// How long a peer may then be silent. Long enough for one that changes its network.
const SILENCE: Duration = Duration::from_secs(10);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Since when nobody may be there.
#[derive(Clone, Copy)]
pub(super) struct Alone {
    since: Instant,
    ask_at: Instant,
}

impl Alone {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            ask_at: now,
        }
    }

    /// When to look again.
    pub(super) const fn due(&self) -> Instant {
        self.ask_at
    }
}

impl Driver {
    /// Asks the peer for a sign of life where one is due, and ends the session without one.
    pub(super) fn ask_whether_alone(&mut self, now: Instant) {
        let Some(alone) = self.alone else {
            return;
        };
        // Before it is ready, whoever establishes the session decides.
        if self.secure.last_received() > alone.since || !self.secure.is_ready() {
            self.alone = None;
        } else if !self.paths.is_any() {
            // Silence says nothing of the peer. If nothing mends it, the session ends as others.
            self.alone = Some(Alone {
                since: now,
                ask_at: now + ASK_EVERY,
            });
        } else if now >= alone.since + SILENCE {
            self.alone = None;
            self.end(Ended::Silent);
        } else if now >= alone.ask_at {
            self.secure.probe(now);
            self.alone = Some(Alone {
                ask_at: now + ASK_EVERY,
                ..alone
            });
        }
    }
}
