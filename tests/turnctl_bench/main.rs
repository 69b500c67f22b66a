//! `turnctl bench` against the built server and against coturn's: what it counts is what
//! happened.

#[path = "../support/mod.rs"]
mod support;

mod coturn;
mod load;
mod loss;

use std::time::Duration;

use serde_json::Value;
use support::USER;
use support::tools::{Output, run};

fn bench(arguments: &[&str]) -> Output {
    let mut command = vec![env!("CARGO_BIN_EXE_turnctl"), "bench"];
    command.extend(arguments);
    run(&command, Duration::from_secs(60))
}

/// Runs with `--json` and returns the exit code and what was printed.
fn measured(arguments: &[&str]) -> (i32, Value) {
    let mut all = arguments.to_vec();
    all.push("--json");
    let output = bench(&all);
    let json = serde_json::from_str(&output.stdout);
    let json = json.unwrap_or_else(|error| panic!("{error}:\n{}", output.text));
    (output.code, json)
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// The fields add up, and nothing was lost, duplicated or corrupted.
fn assert_clean(code: i32, json: &Value) {
    let result = &json["result"];
    for key in ["lost", "duplicated", "corrupted", "too_late", "overdue"] {
        assert_eq!(number(&result[key]), 0, "{key}: {json:#}");
    }
    assert_sums(result);
    assert!(number(&result["received"]) > 0, "{json:#}");
    assert_eq!((code, &json["passed"]), (0, &Value::Bool(true)), "{json:#}");
}

fn assert_sums(result: &Value) {
    for key in ["sent", "received", "lost"] {
        let ways = number(&result["up"][key]) + number(&result["down"][key]);
        assert_eq!(number(&result[key]), ways, "{key}: {result:#}");
    }
    assert_eq!(
        number(&result["sent"]),
        number(&result["received"]) + number(&result["lost"]),
        "{result:#}"
    );
    let latency = &result["latency_us"];
    assert_eq!(
        number(&latency["count"]),
        number(&result["received"]) + number(&result["overdue"])
    );
    let order = ["p50", "p90", "p99", "p99.9", "max"];
    let values = order.map(|key| latency[key].as_f64().expect("a number"));
    assert!(values.is_sorted() && values[0] > 0.0, "{latency}");
}

/// What is late on a busy machine is not lost.
const LOAD: [&str; 10] = [
    "-n",
    "4",
    "-r",
    "400",
    "--duration",
    "1",
    "--warm-up",
    "0.1",
    "--max-delay",
    "20",
];

fn credentials() -> [&'static str; 4] {
    ["--user", USER.0, "--password", USER.1]
}
