//! Two hosts behind every kind of NAT, in the kernel's own network stack: `tests/lab`.

#![allow(
    clippy::disallowed_methods,
    reason = "watches running processes in real time"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use support::tools::{need, run};
use support::{binary, wait_until};

/// One after the other: each alone has work for all cores.
static TURN: Mutex<()> = Mutex::new(());

/// The command line of a command of the lab.
fn lab(command: &str) -> [String; 2] {
    for (program, package) in [
        ("ip", "iproute2"),
        ("miniupnpd", "miniupnpd-nftables"),
        ("nft", "nftables"),
        ("unshare", "util-linux"),
    ] {
        need(program, package);
    }
    let script = format!("{}/tests/lab/{command}", env!("CARGO_MANIFEST_DIR"));
    [need("python3", "python3"), script]
}

/// Measured from behind each NAT by programs that share no code with ours.
#[test]
fn the_lab_is_what_it_says() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let [python, script] = lab("selftest");
    let output = run(&[&python, &script], Duration::from_secs(240));
    assert_eq!(output.code, 0, "{}", output.text);
    // Both protocols of every kind, every punched pair, and the loss.
    assert!(output.text.lines().count() > 40, "{}", output.text);
}

/// Every pair over UDP and TCP, and directly where the bars P01 and P02 say so.
#[test]
fn every_pair_connects() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let [python, script] = lab("matrix");
    let (binaries, _) = binary().rsplit_once('/').expect("a path");
    let options = [
        "--check", "--jobs", "6", "--limit", "340", "--bin", binaries,
    ];
    let mut command = vec![python.as_str(), &script];
    command.extend(options);
    let output = run(&command, Duration::from_secs(360));
    assert_eq!(output.code, 0, "{}", output.text);
    // A line for each pair and protocol.
    assert!(output.text.lines().count() >= 150, "{}", output.text);
}

/// Over a distance, as there is one everywhere, SYNs meet on their way.
#[test]
fn tcp_is_direct_at_a_distance() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let [python, script] = lab("matrix");
    let (binaries, _) = binary().rsplit_once('/').expect("a path");
    let mut command = vec![python.as_str(), &script, "--check", "--bin", binaries];
    command.extend(["--protocol", "tcp", "--delay", "10", "--runs", "4"]);
    command.extend([
        "--pairs",
        "N3bxN3b,N3xN3b,N2xN3,N0xN3b,N3xN3",
        "--jobs",
        "5",
    ]);
    let output = run(&command, Duration::from_secs(120));
    assert_eq!(output.code, 0, "{}", output.text);
    assert_eq!(output.text.matches(" tcp ").count(), 5, "{}", output.text);
}

#[test]
fn a_mapped_port_is_given_back() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let [python, script] = lab("mapping");
    let (binaries, _) = binary().rsplit_once('/').expect("a path");
    let output = run(
        &[&python, &script, "--bin", binaries],
        Duration::from_secs(120),
    );
    assert_eq!(output.code, 0, "{}", output.text);
    assert_eq!(output.text.lines().count(), 4, "{}", output.text);
}

/// `turnctl nat` says of each kind what it is, as JSON and in words.
#[test]
fn turnctl_nat_names_every_kind() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let [python, script] = lab("nat");
    let (binaries, _) = binary().rsplit_once('/').expect("a path");
    let command = [python.as_str(), &script, "--bin", binaries];
    let output = run(&command, Duration::from_secs(180));
    assert_eq!(output.code, 0, "{}", output.text);
    // Twice for each kind.
    assert!(
        output.text.matches("utlook").count() >= 26,
        "{}",
        output.text
    );
}

/// A session goes on when a host moves to another network or its NAT gets another address, without
/// a byte lost or doubled, and is direct again.
#[test]
fn a_host_that_moves_stays_connected() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let [python, script] = lab("matrix");
    let (binaries, _) = binary().rsplit_once('/').expect("a path");
    let cases = "v4 to v4,v4 to v6,v6 to v4,new address,two uplinks,down and up,new outer address";
    let options = [
        "--roam", cases, "--pairs", "N3xN3", "--jobs", "7", "--limit", "120", "--bin", binaries,
    ];
    let mut command = vec![python.as_str(), &script];
    command.extend(options);
    let output = run(&command, Duration::from_secs(200));
    assert_eq!(output.code, 0, "{}", output.text);
    assert_eq!(output.text.matches("1 of 1").count(), 7, "{}", output.text);
}

/// Whoever kills a run, at whatever moment, has nothing to clear away.
#[test]
fn nothing_is_left_of_a_lab_that_is_killed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mark = format!("MARK_OF_THE_LAB={}", std::process::id());
    let (name, value) = mark.split_once('=').expect("both");
    let [python, script] = lab("selftest");
    let mut child = Command::new(python)
        .arg(script)
        .env(name, value)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    lines.next().expect("a line").expect("a line");
    assert!(marked(&mark) > 5, "programs of the lab run");
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(
        wait_until(Duration::from_secs(10), || marked(&mark) == 0),
        "{} programs still run",
        marked(&mark)
    );
}

/// How many processes have a variable in their environment.
fn marked(mark: &str) -> usize {
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| fs::read(entry.ok()?.path().join("environ")).ok())
        .filter(|environment| {
            environment
                .split(|&byte| byte == 0)
                .any(|variable| variable == mark.as_bytes())
        })
        .count()
}
