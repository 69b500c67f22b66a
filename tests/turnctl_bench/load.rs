//! Load of every kind, and what is said when it cannot be carried.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use super::{LOAD, assert_clean, assert_sums, bench, credentials, measured, number};
use crate::support::tools::{Background, run};
use crate::support::{Config, OTHER_USER, SECRET, Server, USER, wait_until};

#[test]
fn every_transport_is_clean() {
    let server = Server::start();
    let (plain, tls) = (server.udp().to_string(), server.tls().to_string());
    let ca = server.dir.path().join("cert.pem");
    let ca = ca.to_str().expect("UTF-8");
    for (transport, address) in [("udp", &plain), ("tcp", &plain), ("tls", &tls)] {
        for framing in [None, Some("--indications")] {
            let mut arguments = vec![address.as_str(), "-t", transport, "--ca", ca];
            arguments.extend(LOAD);
            arguments.extend(credentials());
            arguments.extend(framing);
            let (code, json) = measured(&arguments);
            assert_clean(code, &json);
            assert_eq!(json["transport"], transport);
            let up = number(&json["result"]["up"]["sent"]);
            let down = number(&json["result"]["down"]["sent"]);
            assert!(up.abs_diff(down) <= 1 && up > 20, "{json:#}");
        }
    }
}

#[test]
fn an_untrusted_certificate_is_refused_unless_told() {
    let server = Server::start();
    let other = Server::start();
    let address = server.tls().to_string();
    let ca = other.dir.path().join("cert.pem");
    let ca = ca.to_str().expect("UTF-8");
    let mut arguments = vec![address.as_str(), "-t", "tls", "--ca", ca];
    arguments.extend(LOAD);
    arguments.extend(credentials());
    let refused = bench(&arguments);
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("certificate"), "{}", refused.text);
    arguments.push("--insecure");
    let (code, json) = measured(&arguments);
    assert_clean(code, &json);
}

#[test]
fn directions_pairs_threads_networks_and_sizes() {
    let server = Server::start();
    let (v4, v6) = (server.udp().to_string(), server.udp6().to_string());
    // Time-limited credentials, and one socket for a network of clients.
    let base = |address, more: &[&'static str]| {
        let mut arguments: Vec<&str> = vec![address, "--secret", SECRET];
        arguments.extend(LOAD);
        arguments.extend(more);
        measured(&arguments)
    };
    for (more, up, down) in [
        (&["--direction", "up"][..], true, false),
        (&["--direction", "down"], false, true),
        (&["--pairs"], true, false),
        (&["--threads", "2"], true, true),
        (&["--threads", "2", "--pairs", "--indications"], true, false),
        (&["--bind", "127.3.0.0/16"], true, true),
        (
            &["--bind", "127.0.0.7", "--peer-bind", "127.0.0.9"],
            true,
            true,
        ),
        (&["--size", "24", "--peers", "1"], true, true),
        (&["--size", "1473"], true, true),
    ] {
        let (code, json) = base(&v4, more);
        assert_clean(code, &json);
        let result = &json["result"];
        let went = |way: &str| number(&result[way]["sent"]) > 0;
        assert_eq!((went("up"), went("down")), (up, down), "{more:?}: {json:#}");
    }
    let (code, json) = base(&v4, &["--burst", "9"]);
    assert_clean(code, &json);
    for way in ["up", "down"] {
        let sent = number(&json["result"][way]["sent"]);
        assert!(sent > 0 && sent.is_multiple_of(9), "{json:#}");
    }
    // The server relays from its IPv4 address, and says so before anything is sent.
    let refused = bench(&[&v6, "--secret", SECRET]);
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("--peer-bind"), "{}", refused.text);
    let (code, json) = base(&v6, &["--peer-bind", "127.0.0.1"]);
    assert_clean(code, &json);
}

#[test]
fn one_socket_serves_an_ipv6_network_of_clients() {
    if !crate::support::namespace::inside("load::one_socket_serves_an_ipv6_network_of_clients") {
        return;
    }
    let route = [
        "ip",
        "-6",
        "route",
        "add",
        "local",
        "fd00:9::/64",
        "dev",
        "lo",
    ];
    let routed = run(&route, Duration::from_secs(5));
    assert_eq!(routed.code, 0, "{}", routed.text);
    let server = Server::start();
    let address = server.udp6().to_string();
    let mut arguments: Vec<&str> = vec![&address, "--secret", SECRET];
    arguments.extend(LOAD);
    arguments.extend(["--bind", "fd00:9::/64", "--peer-bind", "127.0.0.1"]);
    let (code, json) = measured(&arguments);
    assert_clean(code, &json);
}

#[test]
fn a_search_finds_a_rate_and_is_bounded() {
    let server = Server::start();
    let address = server.udp().to_string();
    let mut arguments = vec![address.as_str(), "-n", "4", "--search"];
    arguments.extend(["--search-from", "200", "--search-to", "800"]);
    arguments.extend(["--duration", "0.3", "--warm-up", "0.1", "--max-loss", "1"]);
    arguments.extend(["--max-delay", "20"]);
    arguments.extend(credentials());
    let (code, json) = measured(&arguments);
    assert_eq!(code, 0, "{json:#}");
    let steps = json["steps"].as_array().expect("steps");
    let offered = |step: &Value| step["offered_per_second"].as_f64().expect("a number");
    let rates: Vec<f64> = steps.iter().map(offered).collect();
    assert_eq!(rates[0], 200.0, "{json:#}");
    assert!(rates.len() <= 40 && rates.iter().all(|&rate| rate <= 800.0));
    assert!(offered(&json["result"]) >= 200.0, "{json:#}");
    steps.iter().for_each(assert_sums);
}

#[test]
fn requests_per_second() {
    let server = Server::start();
    let address = server.udp().to_string();
    for mode in ["binding", "allocate"] {
        let mut arguments = vec![address.as_str(), "-m", mode, "-n", "20"];
        arguments.extend(["--duration", "0.5", "--concurrency", "8"]);
        arguments.extend(credentials());
        let (code, json) = measured(&arguments);
        assert_eq!(code, 0, "{json:#}");
        assert!(number(&json["completed"]) > 20, "{json:#}");
        assert_eq!(json["failed"], serde_json::json!({}), "{json:#}");
        let count = &json["time_us"]["count"];
        assert_eq!(number(count), number(&json["completed"]));
    }
}

#[test]
fn throttled_replies_are_explained() {
    let mut config = Config::default();
    config.limits = config.limits.replace("unauthenticated_replies = 0\n", "");
    config.limits += "unauthenticated_replies = 1\n";
    let server = Server::with(config);
    let address = server.udp().to_string();
    let output = bench(&[&address, "-m", "binding", "--duration", "1.5"]);
    assert_eq!(output.code, 1, "{}", output.text);
    assert!(output.text.contains("unauthenticated_replies = 0"));
}

#[test]
fn idle_allocations_are_held_and_released() {
    let mut config = Config::default();
    config.limits += "allocations_per_user = 30\n";
    config.limits = config.limits.replace("allocations_per_user = 0\n", "");
    let server = Server::with(config);
    let address = server.udp().to_string();
    // No run finds allocations of the one before in its way, be it that this one got only 30 of
    // what it wanted.
    for (count, code, text) in [
        ("30", 0, "30 allocations held"),
        ("31", 1, "allocations_per_user"),
        ("30", 0, "30 allocations held"),
    ] {
        let mut arguments = vec![address.as_str(), "-m", "hold", "-n", count];
        arguments.extend(["--duration", "0.2"]);
        arguments.extend(credentials());
        let output = bench(&arguments);
        assert_eq!(output.code, code, "{}", output.text);
        assert!(output.text.contains(text), "{}", output.text);
    }
}

#[test]
fn ports_that_still_have_an_allocation_are_left_alone() {
    if !crate::support::namespace::inside(
        "load::ports_that_still_have_an_allocation_are_left_alone",
    ) {
        return;
    }
    let ports = |range: &str| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("written");
    };
    let server = Server::with(Config {
        ops: true,
        ..Config::default()
    });
    let address = server.udp().to_string();
    let mut hold = vec![env!("CARGO_BIN_EXE_turnctl"), "bench", &address];
    hold.extend(["-m", "hold", "-n", "8", "--duration", "60"]);
    hold.extend(credentials());
    let few = || ports("60000 60015");
    few();
    let held = Background::start(&hold);
    let opened = || {
        std::fs::read_to_string("/proc/net/udp")
            .expect("read")
            .matches(":EA6")
            .count()
    };
    assert!(wait_until(Duration::from_secs(20), || opened() >= 8));
    // The metrics come over TCP, whose connections take ports for a while.
    ports("40000 50000");
    let active = || server.metric("turnserver_allocations_active ") == Some(8);
    assert!(wait_until(Duration::from_secs(20), active));
    drop(held);
    few();
    let mut arguments = vec![address.as_str(), "--peers", "1"];
    arguments.extend(LOAD);
    arguments.extend(credentials());
    let (code, json) = measured(&arguments);
    assert_clean(code, &json);
}

#[test]
fn failures_are_told_in_plain_words() {
    let config = Config {
        peers: "allow = [\"127.0.0.0/8\"]\ndeny = [\"127.0.0.66\"]\n".to_owned(),
        ..Config::default()
    };
    let server = Server::with(config);
    let address = server.udp().to_string();
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let silent = nobody.local_addr().expect("bound").to_string();
    let cases: [(&[&str], i32, &str); 8] = [
        (
            &[&address, "-u", USER.0, "-p", OTHER_USER.1],
            1,
            "wrong user name or password",
        ),
        (
            &[&address, "--secret", "wrong"],
            1,
            "wrong user name or password",
        ),
        (
            &[&address, "--secret", SECRET, "--peer-bind", "127.0.0.66"],
            1,
            "[peers] allow",
        ),
        (
            &["127.0.0.1:9", "--secret", SECRET],
            1,
            "nothing listens there",
        ),
        (
            &[&silent, "--secret", SECRET, "--timeout", "0.3"],
            1,
            "no answer",
        ),
        (
            &[&silent, "-m", "binding", "--timeout", "0.3"],
            1,
            "no answer",
        ),
        (&[&address], 2, "credentials are missing"),
        (
            &[&address, "--secret", SECRET, "--size", "23"],
            2,
            "23 is not in 24..=9000",
        ),
    ];
    for (arguments, code, text) in cases {
        let output = bench(arguments);
        assert_eq!(output.code, code, "{arguments:?}: {}", output.text);
        assert!(output.text.contains(text), "{arguments:?}: {}", output.text);
    }
}
