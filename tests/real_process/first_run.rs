//! The first run without a configuration.

use std::fs;
use std::time::Duration;

use crate::support::namespace::{ADDRESS, Namespace};
use crate::support::tools::need;
use crate::support::{binary, wait_until};

/// Ends the server by its process id when the test is over.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Killing a process that has ended is an error of no interest.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_a_configuration_it_prints_ice_servers_that_work() {
    let namespace = Namespace::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = directory.path().join("log");
    // In an empty directory: a stunner.toml that lies about must not matter.
    let command = format!("cd {} && exec {}", directory.path().display(), binary());
    let _server = Ended(namespace.start(&["sh", "-c", &command], &log));
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let printed = wait_until(Duration::from_secs(20), || ice_servers(&said()).is_some());
    assert!(printed, "no iceServers in:\n{}", said());
    let servers = ice_servers(&said()).expect("found above");
    let username = servers[0]["username"].as_str().expect("a username");
    let credential = servers[0]["credential"].as_str().expect("a credential");
    assert!(credential.len() >= 16, "a password that nobody guesses");
    let urls = servers[0]["urls"].to_string();
    for transport in ["udp", "tcp"] {
        let url = format!("turn:{ADDRESS}:3478?transport={transport}");
        assert!(urls.contains(&url), "no {url} in {urls}");
    }

    // Client to client: the relay's own addresses are private here and reachable all the
    // same, because they are live relayed transport addresses.
    let uclient = need("turnutils_uclient", "coturn");
    for transport in [&[][..], &["-t"]] {
        let mut command = vec![
            uclient.as_str(),
            "-u",
            username,
            "-w",
            credential,
            "-n",
            "10",
            "-m",
            "2",
            "-c",
            "-y",
        ];
        command.extend_from_slice(transport);
        command.push(ADDRESS);
        let output = namespace.run(&command, Duration::from_secs(60));
        assert!(
            output.text.contains("tot_send_msgs=20, tot_recv_msgs=20"),
            "{}\n{}",
            output.text,
            said()
        );
    }
}

/// The first JSON value with `urls` in what was printed.
fn ice_servers(text: &str) -> Option<serde_json::Value> {
    text.char_indices()
        .filter(|(_, c)| matches!(c, '[' | '{'))
        .find_map(|(at, _)| {
            let mut values =
                serde_json::Deserializer::from_str(&text[at..]).into_iter::<serde_json::Value>();
            let value = values.next()?.ok()?;
            let servers = value.get("iceServers").unwrap_or(&value);
            servers.get(0)?.get("urls")?;
            Some(servers.clone())
        })
}
