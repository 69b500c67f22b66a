//! Metrics and health.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::udp_client;
use crate::support::stun::Echo;
use crate::support::{Config, OTHER_USER, Server, USER, wait_until};

/// One HTTP/1.1 request; status and body.
pub(super) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    let limit = Some(Duration::from_secs(5));
    stream.set_read_timeout(limit).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let status = reply.split_whitespace().nth(1)?.parse().ok()?;
    let body = reply.split_once("\r\n\r\n")?.1.to_owned();
    Some((status, body))
}

fn server() -> Server {
    Server::with(Config {
        ops: true,
        ..Config::default()
    })
}

/// The sum of all samples of a metric.
fn sum(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    samples
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn health_and_readiness() {
    let server = server();
    assert_eq!(
        get(server.ops(), "/healthz").map(|reply| reply.0),
        Some(200)
    );
    assert_eq!(get(server.ops(), "/readyz").map(|reply| reply.0), Some(200));
    assert_eq!(
        get(server.ops(), "/nothing").map(|reply| reply.0),
        Some(404)
    );
}

#[test]
fn off_by_default() {
    let server = Server::start();
    assert!(TcpStream::connect(server.ops()).is_err());
}

#[test]
fn metrics_count_what_happens() {
    let server = server();
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    let mut client = udp_client(&server, USER);
    client.allocated();
    assert!(client.permit(echo.address).is_success());
    for round in 0..20 {
        assert!(client.echoes(echo.address, format!("{round}").as_bytes()));
    }
    assert_eq!(
        udp_client(&server, (USER.0, "wrong")).allocate().error(),
        Some(401)
    );
    client.wire.send(&[0x40, 0, 0, 1, 7]).expect("sent");

    let mut metrics = String::new();
    let counted = wait_until(Duration::from_secs(5), || {
        metrics = get(server.ops(), "/metrics").expect("an answer").1;
        sum(&metrics, "turnserver_dropped_packets_total") >= 1.0
    });
    assert!(counted, "{metrics}");
    assert_eq!(
        sum(&metrics, "turnserver_allocations_active"),
        1.0,
        "{metrics}"
    );
    let relayed = sum(&metrics, "turnserver_relayed_packets_total");
    assert!(relayed >= 40.0, "{relayed} packets:\n{metrics}");

    client.refresh(0);
    let gone = wait_until(Duration::from_secs(5), || {
        metrics = get(server.ops(), "/metrics").expect("an answer").1;
        sum(&metrics, "turnserver_allocations_active") == 0.0
    });
    assert!(gone, "{metrics}");
    assert_prometheus(&metrics);
}

/// The text format: HELP and TYPE once for each name, samples that parse, no name or address
/// of a user anywhere.
fn assert_prometheus(metrics: &str) {
    let mut names = std::collections::BTreeSet::new();
    for line in metrics.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().expect("a name");
            assert!(names.insert(name.to_owned()), "{name} twice");
            assert!(
                metrics.contains(&format!("# HELP {name} ")),
                "no help for {name}"
            );
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = sample.split('{').next().expect("a name");
            assert!(names.contains(name), "no type for {name}");
        }
    }
    assert!(names.len() > 5, "{names:?}");
    for secret in [USER.0, OTHER_USER.0, "127.0.0.1"] {
        assert!(!metrics.contains(secret), "{secret} in:\n{metrics}");
    }
}
