//! A first run without a configuration, in a network of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use super::credentials::urls;
use super::{Server, turnserver};

/// Runs without a configuration, in a network of its own with nothing but 192.0.2.10 and what the
/// script adds. Returns what it printed and what it logged.
fn first_run(script: &str) -> (String, String) {
    let script = format!(
        "ip link set lo up && ip address add 192.0.2.10/24 dev lo && {script} && exec \"$0\""
    );
    let binary = turnserver(&[]);
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--net", "sh", "-c", &script])
        .arg(binary.get_program())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut server = Server(command.spawn().expect("unshare is there"));
    let mut lines = Vec::new();
    let output = server.0.stdout.take().expect("piped");
    for line in BufReader::new(output).lines() {
        let line = line.expect("UTF-8");
        let last = line.contains("turnserver init");
        lines.push(line);
        if last {
            break;
        }
    }
    server.signal("-TERM");
    let mut errors = String::new();
    let log = server.0.stderr.as_mut().expect("piped");
    log.read_to_string(&mut errors).expect("UTF-8");
    let status = server.0.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{errors}");
    (lines.join("\n"), errors)
}

/// Where IPv6 is switched off, [::] can be bound and nothing of it be reached: that is no failure.
#[test]
fn the_first_run_leaves_out_what_this_machine_has_not() {
    let (shown, errors) = first_run("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    assert!(
        shown.contains("tcp 192.0.2.10:3478: Binding and"),
        "{shown}"
    );
    assert!(
        !shown.contains("FAILED") && !shown.contains("::1"),
        "{shown}\n{errors}"
    );
    assert!(!shown.contains("firewall"), "{shown}");
}

/// Answers that get lost are what a firewall looks like; a refusal is not.
#[test]
fn the_first_run_suspects_a_firewall_only_where_nothing_answers() {
    let without_route = |port: &str| {
        let (shown, _) = first_run(&format!(
            "ip rule add pref 10 lookup local && ip rule del pref 0 && \
             ip rule add pref 5 ipproto tcp {port} 3478 prohibit"
        ));
        assert!(
            shown.contains("udp 192.0.2.10:3478: Binding and"),
            "{shown}"
        );
        assert!(shown.contains("tcp 192.0.2.10:3478: FAILED"), "{shown}");
        shown
    };
    let lost = without_route("sport");
    assert!(
        lost.contains("firewall") && lost.contains("no answer"),
        "{lost}"
    );
    let refused = without_route("dport");
    assert!(!refused.contains("firewall"), "{refused}");
}

#[test]
fn the_first_run_tests_itself_and_prints_ice_servers() {
    let (shown, errors) = first_run("true");
    for tested in [
        "udp 192.0.2.10:3478: Binding and",
        "tcp 192.0.2.10:3478: Binding and",
    ] {
        assert!(shown.contains(tested), "{shown}\n{errors}");
    }
    assert!(shown.contains("(relayed by 192.0.2.10:"), "{shown}");
    assert!(!shown.contains("FAILED"), "{shown}\n{errors}");
    let (start, end) = (
        shown.find("\n{").expect("JSON"),
        shown.find("\n}").expect("JSON"),
    );
    let json: serde_json::Value = serde_json::from_str(&shown[start..end + 2]).expect("JSON");
    assert_eq!(
        urls(&json),
        [
            "turn:192.0.2.10:3478?transport=udp",
            "turn:192.0.2.10:3478?transport=tcp"
        ]
    );
    let password = json["iceServers"][0]["credential"]
        .as_str()
        .expect("a string");
    assert_eq!(password.len(), 32);
    assert!(
        !errors.contains(password),
        "the log does not hold the password"
    );
}
