//! Two hosts behind every kind of NAT, in the kernel's own network stack: `tests/lab`.

mod support;

use std::time::Duration;

use support::tools::{Output, need, run};

/// Runs a command of the lab.
fn lab(command: &str, arguments: &[&str], limit: Duration) -> Output {
    for (program, package) in [
        ("ip", "iproute2"),
        ("miniupnpd", "miniupnpd-nftables"),
        ("nft", "nftables"),
        ("unshare", "util-linux"),
    ] {
        need(program, package);
    }
    let script = format!("{}/tests/lab/{command}", env!("CARGO_MANIFEST_DIR"));
    let python = need("python3", "python3");
    let line: Vec<&str> = [python.as_str(), &script]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    run(&line, limit)
}

/// Measured from behind each NAT by programs that share no code with ours.
#[test]
fn the_lab_is_what_it_says() {
    let output = lab("selftest", &[], Duration::from_secs(240));
    assert_eq!(output.code, 0, "{}", output.text);
    // Both protocols of every kind, every punched pair, and the loss.
    assert!(output.text.lines().count() > 40, "{}", output.text);
}
