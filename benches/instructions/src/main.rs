//! Counts the instructions that each operation of the core takes, by callgrind, and compares them
//! with the table that is committed.
//!
//! ```text
//! cargo run --release -p instructions               compare
//! cargo run --release -p instructions -- --write    renew the table, on purpose
//! ```
//!
//! Instructions are the same in every run, however busy the machine is, so a few percent more are
//! a change of the code and not noise.

mod callgrind;
mod list;
mod table;

#[path = "../../operations/core.rs"]
mod core_operations;
#[path = "../../../tests/core/harness.rs"]
mod harness;
#[path = "../../operations/wire.rs"]
mod wire_operations;

use std::process::ExitCode;

use table::{Table, Tolerance};

const USAGE: &str = "usage: instructions [--write]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if cfg!(debug_assertions) {
        eprintln!("instructions of a debug build say nothing: cargo run --release -p instructions");
        return ExitCode::FAILURE;
    }
    let done = match arguments[..] {
        [] => compare(),
        ["--write"] => write(),
        [callgrind::DO, operation] => perform(operation),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Inside callgrind: does one operation.
fn perform(name: &str) -> Result<(), String> {
    let mut all = list::all();
    let found = all.iter_mut().find(|(title, _)| title == name);
    let (_, make) = found.ok_or_else(|| format!("no operation {name}"))?;
    callgrind::perform(&mut *make());
    Ok(())
}

fn count_all() -> Result<Table, String> {
    let mut counts = Vec::new();
    for (name, _) in list::all() {
        let count = callgrind::count(&name)?;
        counts.push((name, count));
    }
    Ok(Table::new(compiler()?, counts))
}

fn compare() -> Result<(), String> {
    let expected = Table::read()?;
    let counted = count_all()?;
    let tolerance = Tolerance::between(&expected, &counted);
    let findings = table::compare(&expected, &counted, tolerance);
    println!("{}", table::side_by_side(&expected, &counted));
    if findings.is_empty() {
        println!("no operation takes over {tolerance} more instructions than the table says");
        return Ok(());
    }
    Err(format!(
        "{}\n\nWhere the instructions are: callgrind_annotate {}/NAME\n\
         If it is meant to be so, renew the table: cargo run --release -p instructions -- --write",
        findings.join("\n"),
        callgrind::directory()?.display()
    ))
}

fn write() -> Result<(), String> {
    let counted = count_all()?;
    // A first table has none before it.
    let before = Table::read().unwrap_or_else(|_| Table::new(String::new(), Vec::new()));
    println!("{}", table::side_by_side(&before, &counted));
    counted.write()
}

/// The compiler decides how many instructions there are.
fn compiler() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc).arg("-vV").output();
    let output = output.map_err(|error| format!("rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let field = |name: &str| {
        let mut lines = text.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    match (field("release:"), field("host:")) {
        (Some(release), Some(host)) => Ok(format!("rustc {release}, {host}")),
        _ => Err("rustc -vV does not say its version".to_owned()),
    }
}
