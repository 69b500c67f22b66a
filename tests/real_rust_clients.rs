//! Three independent Rust implementations against the built server: webrtc-rs' TURN client, the
//! sans-IO `turn-client-proto`, and `stun-rs` reading every kind of reply strictly.

#![allow(
    clippy::disallowed_methods,
    reason = "drives clients against a running process in real time"
)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::stun::{self, Client, Echo, Message, Wire};
use support::{OTHER_USER, REALM, Server, USER};

#[path = "real_rust_clients/webrtc_rs.rs"]
mod webrtc_rs;

#[path = "real_rust_clients/turn_proto.rs"]
mod turn_proto;

#[path = "real_rust_clients/stun_rs_reads.rs"]
mod stun_rs_reads;
