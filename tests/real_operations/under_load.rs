//! Limits and drain while traffic flows: who has an allocation loses nothing by them.

use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use serde_json::Value;

use super::drain::assert_takes_nobody;
use super::udp_client;
use crate::support::tools::{Output, run};
use crate::support::{Config, OTHER_USER, Server, USER, wait_until};

/// For anything that has to happen at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Allocations of the load.
const ALLOCATIONS: u64 = 10;

/// `turnctl bench` in the background.
struct Load(JoinHandle<Output>);

impl Load {
    /// Starts it and waits until packets flow both ways through each of its allocations.
    fn start(server: &Server) -> Self {
        let (address, count) = (server.udp().to_string(), ALLOCATIONS.to_string());
        let load = spawn(move || {
            let bench = [env!("CARGO_BIN_EXE_turnctl"), "bench", &address, "--json"];
            let user = ["--user", USER.0, "--password", USER.1];
            let rate = ["-n", &count, "-r", "2000", "--duration", "5"];
            // A machine that stands still for a while loses nothing.
            let bounds = ["--warm-up", "0", "--max-loss", "0", "--max-delay", "20"];
            run(
                &[&bench[..], &user, &rate, &bounds].concat(),
                Duration::from_secs(60),
            )
        });
        let load = Self(load);
        let flows = wait_until(PATIENCE, || {
            load.0.is_finished() || relayed(server).iter().all(|&packets| packets > 100)
        });
        assert!(flows && load.is_on(server), "{:?}", relayed(server));
        load
    }

    /// Whether all its allocations are still there.
    fn is_on(&self, server: &Server) -> bool {
        let active = server.metric("turnserver_allocations_active ");
        !self.0.is_finished() && active == Some(ALLOCATIONS)
    }

    /// Waits for its end: nothing was lost.
    fn assert_clean(self) {
        let output = self.0.join().expect("no panic");
        let json: Value = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}", output.text));
        let result = &json["result"];
        for key in ["lost", "duplicated", "corrupted"] {
            assert_eq!(result[key], 0, "{key}: {json:#}");
        }
        assert!(result["received"].as_u64() > Some(0), "{json:#}");
        assert_eq!(output.code, 0, "{json:#}");
    }
}

/// Packets relayed up and down.
fn relayed(server: &Server) -> [u64; 2] {
    ["up", "down"].map(|way| {
        let line = format!("turnserver_relayed_packets_total{{direction=\"{way}\"}}");
        server.metric(&line).expect("both ways have their line")
    })
}

/// Waits until more packets were relayed than at the time of `before`, both ways.
fn assert_flows_on(server: &Server, before: [u64; 2]) {
    let flows = wait_until(PATIENCE, || {
        let now = relayed(server);
        now[0] > before[0] && now[1] > before[1]
    });
    assert!(flows, "{before:?}");
}

#[test]
fn a_full_quota_costs_those_within_it_nothing() {
    let server = Server::with(Config {
        ops: true,
        limits: format!("allocations_per_user = {ALLOCATIONS}\nunauthenticated_replies = 0\n"),
        ..Config::default()
    });
    let load = Load::start(&server);
    let before = relayed(&server);
    for _ in 0..50 {
        assert_eq!(udp_client(&server, USER).allocate().error(), Some(486));
    }
    // Another user has places of its own.
    let mut other = udp_client(&server, OTHER_USER);
    other.allocated();
    assert!(other.refresh(0).is_success());
    assert_flows_on(&server, before);
    assert!(load.is_on(&server), "it ended before the quota was tried");
    load.assert_clean();

    // The places are free again.
    udp_client(&server, USER).allocated();
}

#[test]
fn a_drain_costs_those_who_are_there_nothing() {
    let mut server = Server::with(Config {
        ops: true,
        // Longer than the test takes: it is not the deadline that ends the server.
        extra: "[drain]\ndeadline = 600\n".to_owned(),
        ..Config::default()
    });
    let load = Load::start(&server);
    server.signal("TERM");
    // Of each thread, one after the other: the kernel spreads new clients over them.
    for _ in 0..8 {
        assert_takes_nobody(&server, PATIENCE);
    }
    assert_flows_on(&server, relayed(&server));
    assert!(load.is_on(&server), "it ended before the drain began");
    assert!(server.is_running());
    load.assert_clean();

    let status = server.wait_for_end(PATIENCE);
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}
