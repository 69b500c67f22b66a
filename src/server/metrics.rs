//! Gathers one scrape: the sum of all shards' counters, and what the shared tables hold.

use std::sync::Arc;

use crate::ops::metrics::{self, Family, Gauges};
use crate::proto::Shared;
use crate::proto::counters::{Counters, Snapshot};
use crate::signal;

/// The Prometheus text of this moment.
pub(super) fn text(
    counters: &[Arc<Counters>],
    shared: &Shared,
    started: u64,
    draining: bool,
    pairing: Option<&signal::Snapshot>,
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
    let families = pairing.map_or_else(Vec::new, |read| families(read, shared));
    metrics::text(&sum, &gauges, &families)
}

/// What the pairing endpoint counts.
fn families(read: &signal::Snapshot, shared: &Shared) -> Vec<Family> {
    let single = |name, kind, help, value| Family {
        name,
        kind,
        help,
        label: "",
        samples: vec![("", value)],
    };
    let labelled = |name, help, label, samples: &[(&'static str, u64)]| Family {
        name,
        kind: "counter",
        help,
        label,
        samples: samples.to_vec(),
    };
    vec![
        single(
            "turnserver_signaling_waiting",
            "gauge",
            "Initiators and hosts that wait to be paired.",
            read.waiting,
        ),
        single(
            "turnserver_signaling_relay_ports",
            "gauge",
            "Relay ports that allocations of pairs hold.",
            u64::from(shared.places.held()),
        ),
        single(
            "turnserver_signaling_sessions",
            "gauge",
            "Pairs of which a side is connected to the pairing endpoint.",
            read.sessions,
        ),
        single(
            "turnserver_signaling_connections_active",
            "gauge",
            "Open connections to the pairing endpoint.",
            read.connections,
        ),
        single(
            "turnserver_signaling_connections_refused_total",
            "counter",
            "Connections to the pairing endpoint that were over a cap.",
            read.refused_connections,
        ),
        single(
            "turnserver_signaling_pairs_total",
            "counter",
            "Pairs that were made.",
            read.pairs,
        ),
        labelled(
            "turnserver_signaling_joins_total",
            "Requests to be paired, by their first answer.",
            "answer",
            &read.joins,
        ),
        labelled(
            "turnserver_signaling_waits_total",
            "Waits that ended, by how.",
            "end",
            &read.waits,
        ),
        labelled(
            "turnserver_signaling_results_total",
            "What became of pairs, as clients report it.",
            "outcome",
            &read.outcomes,
        ),
    ]
}
