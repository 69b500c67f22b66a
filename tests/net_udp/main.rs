//! The UDP side of the data plane against real sockets on loopback.

#[path = "../net_support/mod.rs"]
mod net_support;

mod errors;
mod ports;
mod relaying;
mod stopping;

use net_support::{Server, Setup, listener};
use turnserver::net::Protocol;

fn server(threads: usize, addresses: &[&str]) -> Server {
    Server::start(Setup {
        threads,
        listeners: addresses
            .iter()
            .map(|address| listener(Protocol::Udp, address))
            .collect(),
        ..Setup::default()
    })
}
