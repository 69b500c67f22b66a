//! Prometheus text from counter snapshots.
//!
//! Labels come from enums only, so the number of series is the same on an idle server and on one
//! under attack.

use std::fmt::Write;

use crate::proto::DropReason;
use crate::proto::counters::{END_REASONS, Outcome, RequestMethod, Snapshot};

/// What is known besides the counters of the shards.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Ports of relayed transport addresses, in all.
    pub relay_ports: usize,
    /// Those in use.
    pub relay_ports_in_use: usize,
    /// Users that hold an allocation.
    pub users: usize,
    /// 1 while no new allocations are taken.
    pub draining: bool,
    /// Unix time of the start, in seconds.
    pub started: u64,
}

/// One more metric, of a part of the server that this room does not know.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// The name of its label; empty when it has none.
    pub label: &'static str,
    /// Its samples by the label's value, always the same ones.
    pub samples: Vec<(&'static str, u64)>,
}

/// The text of one scrape.
pub fn text(counters: &Snapshot, gauges: &Gauges, more: &[Family]) -> String {
    let mut page = Page(String::with_capacity(8192));
    page.family(
        "turnserver_build_info",
        "gauge",
        "Always 1; the version is a label.",
    );
    page.sample(
        "turnserver_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    page.single(
        "turnserver_start_time_seconds",
        "gauge",
        "Unix time of the start.",
        gauges.started,
    );
    page.single(
        "turnserver_draining",
        "gauge",
        "1 while no new allocations are taken.",
        u64::from(gauges.draining),
    );
    page.single(
        "turnserver_relay_ports",
        "gauge",
        "Ports for relayed transport addresses.",
        gauges.relay_ports as u64,
    );
    page.single(
        "turnserver_relay_ports_in_use",
        "gauge",
        "Those that are leased.",
        gauges.relay_ports_in_use as u64,
    );
    page.single(
        "turnserver_users_active",
        "gauge",
        "Users that hold an allocation.",
        gauges.users as u64,
    );

    page.single(
        "turnserver_allocations_active",
        "gauge",
        "Live allocations.",
        counters.allocations_active,
    );
    page.single(
        "turnserver_allocations_created_total",
        "counter",
        "Allocations made.",
        counters.allocations_created,
    );
    page.family(
        "turnserver_allocations_ended_total",
        "counter",
        "Allocations that ended, by reason.",
    );
    for reason in END_REASONS {
        page.sample(
            "turnserver_allocations_ended_total",
            &[("reason", reason.name())],
            counters.ended(reason),
        );
    }

    page.family(
        "turnserver_requests_total",
        "counter",
        "Requests answered, by method and result.",
    );
    for method in RequestMethod::ALL {
        for outcome in Outcome::all() {
            let labels = [("method", method.name()), ("result", outcome.name())];
            page.sample(
                "turnserver_requests_total",
                &labels,
                counters.requests(method, outcome),
            );
        }
    }
    page.single(
        "turnserver_authentication_failures_total",
        "counter",
        "Requests with wrong credentials.",
        counters.authentication_failures,
    );
    page.single(
        "turnserver_replies_suppressed_total",
        "counter",
        "Answers withheld by the reply budget of unauthenticated sources.",
        counters.replies_suppressed,
    );

    page.family(
        "turnserver_relayed_packets_total",
        "counter",
        "Packets relayed: up is from clients to peers.",
    );
    page.sample(
        "turnserver_relayed_packets_total",
        &[("direction", "up")],
        counters.packets_up,
    );
    page.sample(
        "turnserver_relayed_packets_total",
        &[("direction", "down")],
        counters.packets_down,
    );
    page.family(
        "turnserver_relayed_bytes_total",
        "counter",
        "Application bytes relayed.",
    );
    page.sample(
        "turnserver_relayed_bytes_total",
        &[("direction", "up")],
        counters.bytes_up,
    );
    page.sample(
        "turnserver_relayed_bytes_total",
        &[("direction", "down")],
        counters.bytes_down,
    );
    page.single(
        "turnserver_icmp_forwarded_total",
        "counter",
        "ICMP errors told to clients.",
        counters.icmp_forwarded,
    );

    page.family(
        "turnserver_dropped_packets_total",
        "counter",
        "Packets dropped, by reason.",
    );
    for &reason in DropReason::ALL {
        page.sample(
            "turnserver_dropped_packets_total",
            &[("reason", reason.name())],
            counters.dropped(reason),
        );
    }

    page.single(
        "turnserver_connections_active",
        "gauge",
        "Open client connections (TCP and TLS).",
        counters.connections_active,
    );
    page.single(
        "turnserver_connections_accepted_total",
        "counter",
        "Client connections accepted.",
        counters.connections_accepted,
    );
    page.single(
        "turnserver_connections_refused_total",
        "counter",
        "Client connections refused or closed by a limit or deadline.",
        counters.connections_refused,
    );
    for family in more {
        page.family(family.name, family.kind, family.help);
        for (value, sample) in &family.samples {
            let labels = [(family.label, *value)];
            let labels = if family.label.is_empty() {
                &[]
            } else {
                &labels[..]
            };
            page.sample(family.name, labels, *sample);
        }
    }
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String never fails.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(
                self.0,
                "{}{label}=\"{text}\"",
                if i == 0 { "{" } else { "," }
            );
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::audit::EndReason;
    use crate::proto::counters::Counters;

    #[test]
    fn the_number_of_series_does_not_depend_on_traffic() {
        let idle = text(&Snapshot::default(), &Gauges::default(), &[]);
        let busy = Counters::new();
        for code in 0..700 {
            busy.request(RequestMethod::Allocate, Outcome::error(code));
        }
        busy.allocation_created();
        busy.allocation_ended(EndReason::Expired);
        busy.relayed_up(172);
        let busy = text(&busy.snapshot(), &Gauges::default(), &[]);
        assert_eq!(idle.lines().count(), busy.lines().count());
        assert!(busy.contains("turnserver_relayed_bytes_total{direction=\"up\"} 172\n"));
        assert!(busy.contains("turnserver_allocations_ended_total{reason=\"expired\"} 1\n"));
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        for line in text(&Snapshot::default(), &Gauges::default(), &[]).lines() {
            let sample = line.rsplit_once(' ').is_some_and(|(name, value)| {
                name.starts_with("turnserver_") && value.parse::<u64>().is_ok()
            });
            assert!(line.starts_with("# ") || sample, "{line}");
        }
    }
}
