//! The built-in list: addresses that no honest peer on the Internet has.
//!
//! Every block of the IANA special-purpose registries of both families is closed, and for IPv6
//! everything outside 2000::/3, the only space assigned for global unicast. Deliberate choices:
//!
//! - Blocks that the registries call globally reachable are closed too (AS112 sinks, AMT relays,
//!   PCP and TURN anycast, ORCHID, drone identifiers): none of them is a peer of a call.
//! - 6to4, Teredo and the well-known NAT64 prefix stay open as far as the IPv4 addresses inside
//!   them are open: an IPv6-only server reaches IPv4 peers by NAT64.
//! - 168.63.129.16 is not special to IANA, but to every virtual machine at Azure: it is the
//!   provider's metadata and management endpoint.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A block of IPv4 addresses: first address, prefix length, class.
pub type V4Block = (Ipv4Addr, u8, &'static str);
/// A block of IPv6 addresses: first address, prefix length, class.
pub type V6Block = (Ipv6Addr, u8, &'static str);

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8, class: &'static str) -> V4Block {
    (Ipv4Addr::new(a, b, c, d), len, class)
}

const fn v6(first: [u16; 4], len: u8, class: &'static str) -> V6Block {
    let [a, b, c, d] = first;
    (Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), len, class)
}

/// Closed IPv4 blocks (IANA IPv4 special-purpose address registry; multicast is RFC 5771).
pub const V4: &[V4Block] = &[
    v4(0, 0, 0, 0, 8, "this_network"),
    v4(10, 0, 0, 0, 8, "private"),
    v4(100, 64, 0, 0, 10, "shared"),
    v4(127, 0, 0, 0, 8, "loopback"),
    v4(168, 63, 129, 16, 32, "cloud_metadata"),
    v4(169, 254, 0, 0, 16, "link_local"),
    v4(172, 16, 0, 0, 12, "private"),
    v4(192, 0, 0, 0, 24, "protocol_assignments"),
    v4(192, 0, 2, 0, 24, "documentation"),
    v4(192, 31, 196, 0, 24, "as112"),
    v4(192, 52, 193, 0, 24, "amt"),
    v4(192, 88, 99, 0, 24, "6to4_relay"),
    v4(192, 168, 0, 0, 16, "private"),
    v4(192, 175, 48, 0, 24, "as112"),
    v4(198, 18, 0, 0, 15, "benchmarking"),
    v4(198, 51, 100, 0, 24, "documentation"),
    v4(203, 0, 113, 0, 24, "documentation"),
    v4(224, 0, 0, 0, 4, "multicast"),
    v4(255, 255, 255, 255, 32, "broadcast"),
    v4(240, 0, 0, 0, 4, "reserved"),
];

/// Closed IPv6 blocks (IANA IPv6 special-purpose address registry, RFC 4291, RFC 3879). The
/// first that matches names the class.
pub const V6: &[V6Block] = &[
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    v6([0, 0, 0, 0], 96, "ipv4_compatible"),
    (
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0),
        96,
        "ipv4_mapped",
    ),
    (
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0),
        96,
        "ipv4_translated",
    ),
    v6([0x64, 0xff9b, 1, 0], 48, "local_nat64"),
    v6([0x100, 0, 0, 0], 64, "discard"),
    v6([0x100, 0, 0, 1], 64, "dummy"),
    v6([0x2001, 0, 0, 0], 23, "protocol_assignments"),
    v6([0x2001, 0xdb8, 0, 0], 32, "documentation"),
    v6([0x2620, 0x4f, 0x8000, 0], 48, "as112"),
    v6([0x3fff, 0, 0, 0], 20, "documentation"),
    v6([0x5f00, 0, 0, 0], 16, "segment_routing"),
    v6([0xfc00, 0, 0, 0], 7, "unique_local"),
    v6([0xfe80, 0, 0, 0], 10, "link_local"),
    v6([0xfec0, 0, 0, 0], 10, "site_local"),
    v6([0xff00, 0, 0, 0], 8, "multicast"),
];

/// IPv6 blocks that are open by themselves and judged by the IPv4 addresses inside: NAT64 (RFC
/// 6052), Teredo (RFC 4380), 6to4 (RFC 3056).
pub const V6_BY_EMBEDDED: &[V6Block] = &[
    v6([0x64, 0xff9b, 0, 0], 96, "nat64"),
    v6([0x2001, 0, 0, 0], 32, "teredo"),
    v6([0x2002, 0, 0, 0], 16, "6to4"),
];

/// Why an IPv4 address is closed, `None` when it is open.
pub fn class_v4(ip: Ipv4Addr) -> Option<&'static str> {
    V4.iter()
        .find(|(first, len, _)| (first.to_bits() ^ ip.to_bits()) >> (32 - len) == 0)
        .map(|block| block.2)
}

/// Why an IPv6 address is closed, `None` when it is open. What is embedded in it is not looked at.
pub fn class_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let inside = |(first, len, _): &&V6Block| (first.to_bits() ^ ip.to_bits()) >> (128 - len) == 0;
    if V6_BY_EMBEDDED.iter().any(|block| inside(&block)) {
        return None;
    }
    let listed = V6.iter().find(inside).map(|block| block.2);
    listed.or_else(|| (ip.octets()[0] >> 5 != 1).then_some("not_global_unicast"))
}
