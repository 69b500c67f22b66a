//! What the log says of pairs and never says of keys.

use serde_json::json;
use turnserver::client::probe::{self, Transport};

use super::credentials::turn;
use super::{PATIENCE, sockets, start};
use crate::signal_support::pair;
use crate::support::{Config, Server};

#[test]
fn no_level_of_the_log_has_keys_or_passwords() {
    let server = Server::with(Config {
        signaling: Some(String::new()),
        environment: vec![("TURNSERVER_LOG_LEVEL", "trace")],
        ..Config::default()
    });
    let [(mut a, for_a), (mut b, for_b)] = sockets(server.signaling(), "the-secret-access-key");
    let session = for_a["session"].as_str().expect("text");
    for socket in [&mut a, &mut b] {
        socket.say(&json!({"type": "result", "session": session, "outcome": "relayed"}));
    }
    pair(
        server.signaling(),
        &json!({"role": "receiver", "access_key": "the-secret-access-key"}),
    );
    let (_, username, password) = turn(&for_a);
    probe::allocate(server.udp(), Transport::Udp, &username, &password, PATIENCE)
        .expect("an allocation");
    server.wait_for_log("result of a session");
    // Said at a lower level than the default.
    server.wait_for_log("allocation created");
    let log = server.log();
    assert!(!log.contains("the-secret-access-key"), "{log}");
    for message in [for_a, for_b] {
        let (_, _, password) = turn(&message);
        assert!(!log.contains(&password), "{log}");
    }
}

#[test]
fn keys_are_in_no_log_line_and_pairs_are() {
    let server = start("");
    let [(mut a, paired), _b] = sockets(server.signaling(), "the-secret-access-key");
    let session = paired["session"].as_str().expect("text");
    a.say(&json!({"type": "result", "session": session, "outcome": "relayed"}));
    pair(
        server.signaling(),
        &json!({"role": "the-secret-access-key"}),
    );
    pair(
        server.signaling(),
        &json!({"role": "receiver", "id": "the-secret-access-key"}),
    );
    server.wait_for_log("result of a session");
    let log = server.log();
    let line = log
        .lines()
        .find(|line| line.contains("\"paired\""))
        .expect("a line");
    assert!(
        line.contains(session) && line.contains("127.0.0.1:"),
        "{line}"
    );
    assert!(!log.contains("the-secret-access-key"), "{log}");
    let id = turnserver::pairing::AccessKey::new("the-secret-access-key");
    let id = id.expect("a key").rendezvous_id().to_string();
    assert!(!log.contains(&id), "{log}");
    let read = |line: &str| server.metric(line);
    assert_eq!(read("turnserver_signaling_pairs_total "), Some(1));
    assert_eq!(read("turnserver_signaling_sessions "), Some(1));
    assert_eq!(
        read("turnserver_signaling_joins_total{answer=\"waiting\"}"),
        Some(1)
    );
    assert_eq!(
        read("turnserver_signaling_joins_total{answer=\"paired\"}"),
        Some(1)
    );
    assert_eq!(
        read("turnserver_signaling_waits_total{end=\"paired\"}"),
        Some(1)
    );
    assert_eq!(
        read("turnserver_signaling_results_total{outcome=\"relayed\"}"),
        Some(1)
    );
}
