//! The pairing endpoint in the built server: configuration, credentials for the relay, TLS,
//! metrics, log, drain, restart.

#![allow(
    clippy::disallowed_methods,
    reason = "tests of a running process wait in real time"
)]

#[path = "../signal_support/mod.rs"]
mod signal_support;
#[path = "../support/mod.rs"]
mod support;

mod credentials;
mod ending;
mod listening;
mod secrecy;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use signal_support::{Socket, initiator, receiver};
use support::{Config, Server};

const PATIENCE: Duration = Duration::from_secs(5);

fn start(lines: &str) -> Server {
    Server::with(Config {
        ops: true,
        signaling: Some(lines.to_owned()),
        ..Config::default()
    })
}

/// Pairs two WebSockets; the initiator's is first, with what it was told.
fn sockets(server: SocketAddr, key: &str) -> [(Socket, Value); 2] {
    let mut a = Socket::open(server);
    a.join(initiator(key));
    a.expect("waiting");
    let mut b = Socket::open(server);
    b.join(receiver(key));
    let for_b = b.expect("paired");
    let for_a = a.expect("paired");
    [(a, for_a), (b, for_b)]
}

fn until(mut done: impl FnMut() -> bool) {
    assert!(
        support::wait_until(signal_support::LIMIT, &mut done),
        "it never was"
    );
}
