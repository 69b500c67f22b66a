//! Drain.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::udp_client;
use crate::support::stun::{self, Echo};
use crate::support::{Config, OTHER_USER, Server, USER, wait_until};

/// A new client hears 508 once its thread knows of the drain, in this time.
pub(crate) fn assert_takes_nobody(server: &Server, within: Duration) {
    let mut new = udp_client(server, OTHER_USER);
    let mut refused = None;
    let drains = wait_until(within, || {
        let reply = new.allocate();
        if reply.is_success() {
            new.refresh(0);
        }
        refused = reply.error();
        refused.is_some()
    });
    assert!(drains && refused == Some(508), "{refused:?}");
}

#[test]
fn an_idle_server_ends_at_once() {
    let mut server = Server::start();
    server.signal("TERM");
    let status = server.wait_for_end(Duration::from_secs(5));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

#[test]
fn allocations_live_on_and_no_new_ones_are_made() {
    let mut server = Server::with(Config {
        ops: true,
        ..Config::default()
    });
    let echo = Echo::start(Ipv4Addr::LOCALHOST.into());
    let mut old = udp_client(&server, USER);
    old.allocated();
    assert!(old.permit(echo.address).is_success());

    server.signal("TERM");
    assert_takes_nobody(&server, Duration::from_secs(5));
    let readiness = super::ops::get(server.ops(), "/readyz").map(|reply| reply.0);
    assert_eq!(readiness, Some(503), "not ready while draining");
    assert_eq!(
        super::ops::get(server.ops(), "/healthz").map(|reply| reply.0),
        Some(200)
    );

    assert!(old.refresh(600).is_success());
    assert!(old.echoes(echo.address, b"still there"));
    assert!(server.is_running());
    assert!(old.refresh(0).is_success());
    let status = server.wait_for_end(Duration::from_secs(5));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
}

#[test]
fn new_clients_are_sent_to_the_sibling() {
    let server = Server::with(Config {
        extra: "[drain]\nalternate = [\"192.0.2.2:3478\"]\n".to_owned(),
        ..Config::default()
    });
    let mut old = udp_client(&server, USER);
    old.allocated();
    server.signal("TERM");
    let mut new = udp_client(&server, OTHER_USER);
    let mut reply = None;
    let redirected = wait_until(Duration::from_secs(5), || {
        let answer = new.allocate();
        if answer.is_success() {
            new.refresh(0);
        }
        let redirected = answer.error() == Some(300);
        reply = Some(answer);
        redirected
    });
    let reply = reply.expect("an answer");
    assert!(redirected, "{:?}", reply.error());
    assert!(reply.integrity_holds(&new.key()), "a 300 must be protected");
    let alternate = reply.get(stun::ALTERNATE_SERVER);
    assert_eq!(alternate, Some(&[0, 1, 0x0D, 0x96, 192, 0, 2, 2][..]));
}

#[test]
fn the_deadline_ends_it() {
    let mut server = Server::with(Config {
        extra: "[drain]\ndeadline = 1\n".to_owned(),
        ..Config::default()
    });
    udp_client(&server, USER).allocated();
    // Before the signal: it may be some time until whoever has sent it goes on.
    let started = Instant::now();
    server.signal("TERM");
    assert!(server.wait_for_end(Duration::from_secs(10)).is_some());
    assert!(started.elapsed() >= Duration::from_millis(900));
    // The allocation that was cut still has its one line in the log.
    assert!(server.log().contains("shutdown"), "{}", server.log());
}

#[test]
fn interrupt_ends_it_too() {
    let mut server = Server::start();
    server.signal("INT");
    assert!(server.wait_for_end(Duration::from_secs(5)).is_some());
}
