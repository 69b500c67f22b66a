//! Running: reload, drain, metrics and health, certificates, also under pressure.

#![allow(
    clippy::disallowed_methods,
    reason = "watches a running process in real time"
)]

#[path = "../support/mod.rs"]
mod support;

mod drain;
mod ops;
mod pressure;
mod reload;
mod restart;
mod under_load;

use support::Server;
use support::stun::{Client, Wire};

fn udp_client(server: &Server, user: (&str, &str)) -> Client {
    Client::new(Wire::udp(server.udp()).expect("a socket"), user)
}
