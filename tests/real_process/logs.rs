//! The log.

use std::net::Ipv4Addr;

use super::udp_client;
use crate::support::stun::Echo;
use crate::support::{Server, USER};

#[test]
fn one_json_line_for_an_ended_allocation() {
    let server = Server::start();
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    let mut client = udp_client(&server, USER);
    let relayed = client.allocated();
    assert!(client.permit(echo.address).is_success());
    assert!(client.echoes(echo.address, b"one packet each way"));
    client.refresh(0);
    server.wait_for_log("deleted");
    let log = server.log();
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line)
            .unwrap_or_else(|_| panic!("not JSON: {line}"));
    }
    let ends: Vec<_> = log
        .lines()
        .filter(|line| line.contains("deleted"))
        .collect();
    assert_eq!(ends.len(), 1, "{log}");
    assert!(
        ends[0].contains(USER.0) && ends[0].contains(&relayed.to_string()),
        "{log}"
    );
    assert!(
        !log.contains(USER.1) && !log.contains(crate::support::SECRET),
        "{log}"
    );
}
