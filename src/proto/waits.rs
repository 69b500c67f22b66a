//! Who waits for the other side of a pair, and the allocations made meanwhile.
//!
//! Anybody may wait, so that the credentials of a wait are worth no more than the wait: one
//! relayed transport address of each family, as long as it lasts. The owner of the wait says how
//! it ended. When it became a pair, its allocations live on; otherwise it is told which ones have
//! to end now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pairs::PairId;
use super::types::{Family, Flow};

/// The allocations of a wait, by family.
type Held = [Option<Flow>; 2];

/// The waits of the process.
#[derive(Debug, Default)]
pub struct Waits(Mutex<HashMap<PairId, Wait>>);

#[derive(Debug, Default)]
struct Wait {
    /// Boxed, because most that wait have not allocated yet, or never do.
    held: Option<Box<Held>>,
}

/// Why there is no place for an allocation of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitError {
    /// Nobody waits (any more) as this pair.
    Over,
    /// It has an allocation of that family.
    Taken,
}

impl Waits {
    /// Nobody waits.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Begins the wait of a pair that is to be. It is over when the guard is dropped.
    pub fn begin(self: &Arc<Self>, pair: PairId) -> WaitGuard {
        self.table().insert(pair, Wait::default());
        WaitGuard {
            waits: Arc::clone(self),
            pair,
        }
    }

    /// Places for an allocation of one that waits.
    pub(crate) fn take(
        self: &Arc<Self>,
        pair: PairId,
        flow: Flow,
        families: [bool; 2],
    ) -> Result<WaitPlace, WaitError> {
        let mut table = self.table();
        let wait = table.get_mut(&pair).ok_or(WaitError::Over)?;
        let held = wait.held.get_or_insert_default();
        let wanted = || held.iter().zip(families).filter(|(_, wanted)| *wanted);
        if wanted().any(|(held, _)| held.is_some()) {
            return Err(WaitError::Taken);
        }
        for family in [Family::V4, Family::V6] {
            if families[family.index()] {
                held[family.index()] = Some(flow);
            }
        }
        drop(table);
        Ok(WaitPlace {
            waits: Arc::clone(self),
            pair,
            flow,
        })
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The table is never left half-changed, so a panic elsewhere does not spoil it.
    fn table(&self) -> MutexGuard<'_, HashMap<PairId, Wait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait, until dropped.
#[derive(Debug)]
pub struct WaitGuard {
    waits: Arc<Waits>,
    pair: PairId,
}

impl WaitGuard {
    /// Which pair it was to be.
    pub const fn pair(&self) -> PairId {
        self.pair
    }

    /// Ends the wait: from now on it gets no allocation. Those that it has, by their flows, are
    /// for the caller to end ([`Relay::wait_over`](super::Relay::wait_over), on every shard).
    pub fn end(&self) -> Vec<Flow> {
        let ended = self.waits.table().remove(&self.pair);
        let held = ended.and_then(|wait| wait.held);
        let mut flows: Vec<Flow> = held.into_iter().flat_map(|held| *held).flatten().collect();
        flows.dedup();
        flows
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.end();
    }
}

/// The places of one allocation, given back when dropped.
#[derive(Debug)]
pub(crate) struct WaitPlace {
    waits: Arc<Waits>,
    pair: PairId,
    flow: Flow,
}

impl Drop for WaitPlace {
    fn drop(&mut self) {
        let mut table = self.waits.table();
        let held = table
            .get_mut(&self.pair)
            .and_then(|wait| wait.held.as_mut());
        for place in held.into_iter().flat_map(|held| held.iter_mut()) {
            if *place == Some(self.flow) {
                *place = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::types::Transport;

    const BOTH: [bool; 2] = [true, true];
    const V4: [bool; 2] = [true, false];
    const V6: [bool; 2] = [false, true];

    fn flow(port: u16) -> Flow {
        Flow {
            transport: Transport::Udp,
            client: ([192, 0, 2, 1], port).into(),
            local: ([203, 0, 113, 1], 3478).into(),
            link: 0,
        }
    }

    #[test]
    fn one_allocation_of_each_family_as_long_as_it_waits() {
        let waits = Waits::new();
        let pair = PairId::of_session(&[7; 16]);
        let over = waits.take(pair, flow(1), V4).map(drop);
        assert_eq!(over, Err(WaitError::Over), "nobody waits yet");
        let wait = waits.begin(pair);
        assert_eq!(wait.pair(), pair);
        let v4 = waits.take(pair, flow(1), V4).expect("room");
        for families in [V4, BOTH] {
            let taken = waits.take(pair, flow(2), families).map(drop);
            assert_eq!(taken, Err(WaitError::Taken));
        }
        let v6 = waits.take(pair, flow(2), V6).expect("room");
        drop(v4);
        let again = waits.take(pair, flow(3), V4).expect("given back");
        assert_eq!(wait.end(), [flow(3), flow(2)], "those that are left");
        let over = waits.take(pair, flow(4), V4).map(drop);
        assert_eq!(over, Err(WaitError::Over));
        drop((v6, again, wait));
        assert!(waits.is_empty());
    }

    #[test]
    fn a_dual_allocation_has_both_places() {
        let waits = Waits::new();
        let pair = PairId::of_session(&[7; 16]);
        let wait = waits.begin(pair);
        let dual = waits.take(pair, flow(1), BOTH).expect("room");
        assert!(waits.take(pair, flow(2), V6).is_err());
        assert_eq!(wait.end(), [flow(1)], "one allocation");
        drop(wait);
        // A place that outlives its wait touches nobody else's.
        let later = waits.begin(pair);
        let other = waits.take(pair, flow(5), BOTH).expect("room");
        drop(dual);
        assert_eq!(later.end(), [flow(5)]);
        drop(other);
    }
}
