//! What a run found, for people and for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::closed::Requests;
use super::options::{Mode, Plan};
use super::search::{Found, Made};
use super::tally::Tally;

/// What was measured.
pub(super) enum Measured {
    /// One rate.
    Rate(Made),
    /// A search.
    Search(Found),
    /// Requests per second.
    Requests(Requests),
    /// Idle allocations.
    Held,
}

/// Many servers answer little to an address that has not authenticated, so as not to amplify.
const THROTTLED: &str = "note: a server may limit its replies to an address that has not \
                         authenticated (turnserver: [limits] unauthenticated_replies = 0 lifts \
                         it); with a network for --bind there are many addresses";

/// A finished run.
pub(super) struct Report<'p> {
    pub(super) plan: &'p Plan,
    /// How long making the allocations and binding the channels took.
    pub(super) setup: Duration,
    pub(super) measured: Measured,
}

impl Report<'_> {
    /// Whether the run is within the limits that were set.
    pub(super) fn passes(&self) -> bool {
        let max_loss = self.plan.options.max_loss;
        match &self.measured {
            Measured::Rate(made) => made.passes(max_loss),
            Measured::Search(found) => found.best.passes(max_loss),
            Measured::Requests(requests) => {
                let failed = requests.lost + requests.failed.values().sum::<u64>();
                let all = (requests.completed + failed) as f64;
                requests.completed > 0 && failed as f64 <= max_loss / 100.0 * all
            }
            Measured::Held => true,
        }
    }

    fn load(&self) -> Option<&Made> {
        match &self.measured {
            Measured::Rate(made) => Some(made),
            Measured::Search(found) => Some(&found.best),
            _ => None,
        }
    }

    /// A table.
    pub(super) fn text(&self) -> String {
        let plan = self.plan;
        let mut lines = vec![self.title(), String::new()];
        match &self.measured {
            Measured::Requests(requests) => {
                let per_second = requests.completed as f64 / plan.duration.as_secs_f64();
                let what = match plan.mode {
                    Mode::Binding => "Bindings",
                    _ => "cycles of Allocate (401), Allocate, Refresh 0",
                };
                lines.push(format!(
                    "rate       {} {what} per second",
                    grouped(per_second)
                ));
                lines.push(format!("time       {}", percentiles(&requests.time)));
                if requests.lost > 0 {
                    let lost = grouped(requests.lost as f64);
                    lines.push(format!(
                        "lost       {lost} without an answer within a second"
                    ));
                }
                for (what, count) in &requests.failed {
                    lines.push(format!("failed     {} {what}", grouped(*count as f64)));
                }
                if requests.lost > 0 || requests.completed == 0 {
                    lines.push(THROTTLED.to_owned());
                }
            }
            Measured::Held => lines.push(format!(
                "{} allocations, made in {:.2} s, held for {:.0} s",
                plan.clients,
                self.setup.as_secs_f64(),
                plan.duration.as_secs_f64()
            )),
            Measured::Rate(made) => lines.extend(table(made, plan.size)),
            Measured::Search(found) => {
                lines.extend(found.steps.iter().map(|step| {
                    format!(
                        "{:>12}/s offered {:>12}/s sent {:>9.3} % lost  p99 {}{}",
                        grouped(step.offered),
                        grouped(step.achieved),
                        step.tally.loss(),
                        time(step.tally.latency.value_at_quantile(0.99)),
                        wrong(&step.tally)
                    )
                }));
                lines.push(String::new());
                lines.extend(table(&found.best, plan.size));
                lines.push(match (self.passes(), found.generator_limited) {
                    (true, false) => {
                        format!("highest rate with at most {} % loss", plan.options.max_loss)
                    }
                    (true, true) => "this machine can generate no more: the server's limit is \
                                     higher (a network for --bind, more --threads)"
                        .to_owned(),
                    (false, _) => format!(
                        "no rate has at most {} % loss, as many duplicates, and no damage",
                        plan.options.max_loss
                    ),
                });
            }
        }
        if let Some(made) = self.load() {
            lines.extend(remarks(&made.tally, plan));
        }
        lines.join("\n")
    }

    fn title(&self) -> String {
        let plan = self.plan;
        let mut title = format!("{} over {}", plan.server, plan.transport);
        if matches!(plan.mode, Mode::Relay) {
            title += &format!(
                ", {} allocations (made in {:.2} s), {} bytes in {}, {}",
                plan.clients,
                self.setup.as_secs_f64(),
                plan.size,
                framing(plan),
                match plan.options.pairs {
                    true => "in pairs".to_owned(),
                    false => plan.options.direction.to_string(),
                }
            );
        }
        title
    }

    /// The same, and more, for programs.
    pub(super) fn json(&self) -> Value {
        let plan = self.plan;
        let mut all = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "server": plan.server.to_string(),
            "transport": plan.transport.to_string(),
            "mode": plan.mode.to_string(),
            "clients": plan.clients,
            "threads": plan.threads,
            "seconds": plan.duration.as_secs_f64(),
            "passed": self.passes(),
        });
        let more = match &self.measured {
            Measured::Requests(requests) => json!({
                "completed": requests.completed,
                "per_second": requests.completed as f64 / plan.duration.as_secs_f64(),
                "lost": requests.lost,
                "failed": requests.failed,
                "time_us": percentiles_json(&requests.time),
            }),
            Measured::Held => json!({ "setup_seconds": self.setup.as_secs_f64() }),
            Measured::Rate(made) => self.load_json(made),
            Measured::Search(found) => {
                let mut value = self.load_json(&found.best);
                value["generator_limited"] = found.generator_limited.into();
                value["steps"] = found.steps.iter().map(made_json).collect();
                value
            }
        };
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    }

    fn load_json(&self, made: &Made) -> Value {
        let plan = self.plan;
        json!({
            "setup_seconds": self.setup.as_secs_f64(),
            "payload_bytes": plan.size,
            "framing": framing(plan),
            "direction": plan.options.direction.to_string(),
            "pairs": plan.options.pairs,
            "max_loss_percent": plan.options.max_loss,
            "result": made_json(made),
        })
    }
}

fn framing(plan: &Plan) -> &'static str {
    match plan.options.indications {
        true => "indications",
        false => "channels",
    }
}

fn table(made: &Made, size: usize) -> Vec<String> {
    let tally = &made.tally;
    let mut lines = vec![format!(
        "{:<6}{:>14}{:>14}{:>12}{:>10}",
        "", "sent", "received", "lost", "%"
    )];
    for (way, name) in ["up", "down"].into_iter().enumerate() {
        let (sent, received) = (tally.sent[way], tally.received[way]);
        if sent > 0 {
            let lost = sent.saturating_sub(received);
            lines.push(format!(
                "{name:<6}{:>14}{:>14}{:>12}{:>10.3}",
                grouped(sent as f64),
                grouped(received as f64),
                grouped(lost as f64),
                100.0 * lost as f64 / sent as f64
            ));
        }
    }
    lines.push(format!(
        "duplicated {}, corrupted {}",
        tally.duplicated, tally.corrupted
    ));
    lines.push(String::new());
    let arrived = tally.all_received() as f64 / made.seconds;
    lines.push(format!(
        "rate       {} packets/s ({:.1} Mbit/s of payload) of {} offered",
        grouped(arrived),
        arrived * size as f64 * 8.0 / 1e6,
        grouped(made.offered)
    ));
    lines.push(format!(
        "latency    {} (one way)",
        percentiles(&tally.latency)
    ));
    lines
}

/// What else a step of a search may fail for.
fn wrong(tally: &Tally) -> String {
    let mut text = String::new();
    for (count, what) in [
        (tally.duplicated, "duplicated"),
        (tally.corrupted, "corrupted"),
    ] {
        if count > 0 {
            text += &format!("  {} {what}", grouped(count as f64));
        }
    }
    text
}

/// What is odd.
fn remarks(tally: &Tally, plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            lines.push(format!("note: {} packets {what}", grouped(count as f64)));
        }
    };
    say(
        tally.own_drops,
        "were dropped here, for want of room in receive buffers (net.core.rmem_max); they count \
         as lost",
    );
    let max_delay = plan.options.max_delay.as_secs_f64();
    say(
        tally.overdue,
        &format!("came more than {max_delay} s after they were sent; they count as lost"),
    );
    say(
        tally.not_taken,
        "could not leave, because the server did not read its streams; they count as lost",
    );
    say(tally.too_late, "came too late to tell them from duplicates");
    say(
        tally.skipped,
        "were not sent, because this machine was too slow",
    );
    let why = tally.refusal.map_or_else(String::new, |code| {
        format!(": {}", std::io::Error::from_raw_os_error(code))
    });
    say(
        tally.refused,
        &format!("were not sent, because this machine did not take them{why}"),
    );
    lines
}

fn made_json(made: &Made) -> Value {
    let tally = &made.tally;
    let way = |way: usize| {
        json!({
            "sent": tally.sent[way],
            "received": tally.received[way],
            "lost": tally.sent[way].saturating_sub(tally.received[way]),
        })
    };
    json!({
        "offered_per_second": made.offered,
        "sent_per_second": made.achieved,
        "received_per_second": tally.all_received() as f64 / made.seconds,
        "seconds": made.seconds,
        "up": way(0),
        "down": way(1),
        "sent": tally.all_sent(),
        "received": tally.all_received(),
        "lost": tally.lost(),
        "loss_percent": tally.loss(),
        "duplicated": tally.duplicated,
        "corrupted": tally.corrupted,
        "too_late": tally.too_late,
        "overdue": tally.overdue,
        "not_taken": tally.not_taken,
        "refused_here": tally.refused,
        "skipped_here": tally.skipped,
        "dropped_here": tally.own_drops,
        "latency_us": percentiles_json(&tally.latency),
    })
}

fn percentiles(histogram: &Histogram<u32>) -> String {
    if histogram.is_empty() {
        return "unknown".to_owned();
    }
    format!(
        "p50 {}  p99 {}  p99.9 {}  max {}",
        time(histogram.value_at_quantile(0.5)),
        time(histogram.value_at_quantile(0.99)),
        time(histogram.value_at_quantile(0.999)),
        time(histogram.max())
    )
}

fn percentiles_json(histogram: &Histogram<u32>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let micro = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
    json!({
        "p50": micro(histogram.value_at_quantile(0.5)),
        "p90": micro(histogram.value_at_quantile(0.9)),
        "p99": micro(histogram.value_at_quantile(0.99)),
        "p99.9": micro(histogram.value_at_quantile(0.999)),
        "max": micro(histogram.max()),
        "mean": histogram.mean() / 1000.0,
        "count": histogram.len(),
    })
}

/// Microseconds, or milliseconds from 10 of them on.
fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..10_000_000 => format!("{:.0} µs", nanoseconds as f64 / 1e3),
        _ => format!("{:.1} ms", nanoseconds as f64 / 1e6),
    }
}

/// A whole number in groups of three digits.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (value, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (1000.0, "1,000"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(grouped(value), text);
        }
    }

    #[test]
    fn times_have_their_unit() {
        assert_eq!(time(81_400), "81 µs");
        assert_eq!(time(12_340_000), "12.3 ms");
    }
}
