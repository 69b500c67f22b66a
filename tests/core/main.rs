//! The core in virtual time: every rule of RFC 8489 and RFC 8656 that it enforces, one test a
//! rule, through the same calls that a driver makes.

mod harness;

mod allocate;
mod auth;
mod binding;
mod challenge;
mod channel;
mod data;
mod discovery;
mod drain;
mod dual;
mod even_port;
mod family;
mod icmp;
mod lifecycle;
mod own_relays;
mod pair_renewal;
mod pair_waits;
mod pairs;
mod permission;
mod proof;
mod quota;
mod refresh;
