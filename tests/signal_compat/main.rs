//! Clients of other systems against the pairing endpoint, byte by byte as they behave.

#![allow(
    clippy::disallowed_methods,
    reason = "watches sockets and connections in real time"
)]

mod fractal;
mod stunturn;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use turnserver::signal::{Compat, Config, Handle, Limits, serve};

const LIMIT: Duration = Duration::from_secs(10);
const LOCALHOST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

fn endpoint(compat: Compat) -> Handle {
    let mut config = Config::new([SocketAddr::V4(LOCALHOST)]);
    config.compat = compat;
    config.limits = Limits {
        joins_per_minute: 0,
        ..Limits::default()
    };
    serve(config).expect("started")
}

fn until(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the punching of its clients begins with: the port of the connection that was just closed,
/// with SO_REUSEADDR alone.
fn again(local: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket
        .bind(&local.into())
        .expect("the port is free at once");
    socket
}
