//! Gathers one scrape: the sum of all shards' counters, and what the shared tables hold.

use std::sync::Arc;

use crate::ops::metrics::{self, Gauges};
use crate::proto::Shared;
use crate::proto::counters::{Counters, Snapshot};

/// The Prometheus text of this moment.
pub(super) fn text(
    counters: &[Arc<Counters>],
    shared: &Shared,
    started: u64,
    draining: bool,
) -> String {
    let mut sum = Snapshot::default();
    for shard in counters {
        sum += shard.snapshot();
    }
    let gauges = Gauges {
        relay_ports: shared.relays.capacity(),
        relay_ports_in_use: shared.relays.in_use(),
        users: shared.quotas.users(),
        draining,
        started,
    };
    metrics::text(&sum, &gauges)
}
