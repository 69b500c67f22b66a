//! The hole-punching protocols of Fractal: 12 bytes over UDP and TCP, by default on port 48800,
//! and their first generation, a text over UDP. Both exist for clients that are there; they prove
//! nothing to anybody, and nothing but addresses is to be had from them.

pub mod first;
mod shell;
pub mod table;

pub(in crate::signal) use shell::Fractal;

use std::net::SocketAddrV4;

/// The 8 bytes that end a meeting: an IPv4 address, its port and another one, in network order.
pub type Entry = [u8; 8];

/// An entry about a peer.
fn entry(peer: SocketAddrV4, last: u16) -> Entry {
    let [a, b, c, d] = peer.ip().octets();
    let [high, low] = peer.port().to_be_bytes();
    let [last_high, last_low] = last.to_be_bytes();
    [a, b, c, d, high, low, last_high, last_low]
}
