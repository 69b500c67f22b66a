//! Sessions of a connection that are over: what became of them can still be told.

use crate::pairing::SessionId;

/// How many are remembered. Those who tell do so soon, and a host has one after the other.
const CAPACITY: usize = 64;

/// The latest ones of a seat, and how often each was told of. Takes no memory while empty.
#[derive(Default)]
pub(super) struct Ended(Vec<(SessionId, u8)>);

impl Ended {
    /// One is over.
    pub(super) fn put(&mut self, session: SessionId, reports: u8) {
        if self.0.len() >= CAPACITY {
            self.0.remove(0);
        }
        self.0.push((session, reports));
    }

    /// How often it was told of.
    pub(super) fn reports(&mut self, session: &SessionId) -> Option<&mut u8> {
        let mut all = self.0.iter_mut();
        all.find(|(own, _)| own == session)
            .map(|(_, reports)| reports)
    }

    /// Forgets one; whether it was known.
    pub(super) fn forget(&mut self, session: &SessionId) -> bool {
        let at = self.0.iter().position(|(own, _)| own == session);
        at.map(|at| self.0.remove(at)).is_some()
    }
}
