//! The peer gate against a generated set: every special-purpose block of both families at its
//! edges and inside, in every notation that may lead there, and its neighbours.
//!
//! The table below was written from the registries, not from the code under test.

mod configured;
mod notations;
mod own_relays;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rand_core::Rng;
use turnserver::proto::gate::PeerGate;
use turnserver::proto::ports::RelayAddresses;

const V4_BLOCKS: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
];

/// Teredo (2001::/32) lies inside 2001::/23 and is judged by what it embeds: it is left out here.
const V6_BLOCKS: &[&str] = &[
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001:1::/32",
    "2001:2::/31",
    "2001:4::/30",
    "2001:8::/29",
    "2001:10::/28",
    "2001:20::/27",
    "2001:40::/26",
    "2001:80::/25",
    "2001:100::/24",
    "2001:db8::/32",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    // Outside 2000::/3, the only space that is assigned for global unicast.
    "200::/7",
    "400::/6",
    "1000::/4",
    "4000::/3",
    "8000::/2",
    "e000::/4",
];

/// IPv4 addresses of hosts that nobody has a reason to refuse.
const PUBLIC_V4: &[&str] = &["1.1.1.1", "8.8.8.8", "93.184.216.34", "185.199.108.153"];

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn gate(allow: &[&str], deny: &[&str]) -> PeerGate {
    PeerGate::new(nets(allow), nets(deny), Vec::new(), nat64_prefixes())
}

fn nat64_prefixes() -> Vec<Ipv6Net> {
    let prefixes = [
        "2a00:32::/32",
        "2a00:33:4000::/40",
        "2a00:34:4848::/48",
        "2a00:35:5656:5600::/56",
        "2a00:36:6464:6464::/64",
        "2a00:37:9696:9696:9696:9696::/96",
    ];
    prefixes.map(|text| text.parse().unwrap()).to_vec()
}

fn nowhere() -> Arc<RelayAddresses> {
    RelayAddresses::new(Vec::new(), 40_000..=40_000)
}

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// An IPv4 address inside an IPv6 address: the `top` bits, then at `shift` the 32 bits.
fn place(top: &str, ip: Ipv4Addr, shift: u32) -> Ipv6Addr {
    (v6(top).to_bits() | u128::from(ip.to_bits()) << shift).into()
}

/// RFC 6052 section 2.2, octet by octet: octet 8 stays zero.
fn nat64(prefix: &Ipv6Net, ip: Ipv4Addr) -> Ipv6Addr {
    let mut octets = prefix.network().octets();
    let mut next = usize::from(prefix.prefix_len()) / 8;
    for octet in ip.octets() {
        if next == 8 {
            next += 1;
        }
        octets[next] = octet;
        next += 1;
    }
    octets.into()
}

/// Every notation under which an IPv4 address may hide, by name.
fn disguises(ip: Ipv4Addr) -> Vec<(&'static str, Ipv6Addr)> {
    let inverted = Ipv4Addr::from_bits(!ip.to_bits());
    let public = Ipv4Addr::from_bits(!v4("8.8.8.8").to_bits());
    let mut all = vec![
        ("mapped", place("::ffff:0:0", ip, 0)),
        ("6to4", place("2002::1", ip, 80)),
        ("Teredo client", place("2001:0:808:808::", inverted, 0)),
        ("Teredo server", place(&format!("2001::{public}"), ip, 64)),
        ("NAT64", place("64:ff9b::", ip, 0)),
        ("ISATAP", place("2a00::5efe:0:0", ip, 0)),
        ("ISATAP, unique", place("2a00::200:5efe:0:0", ip, 0)),
    ];
    let names = [
        "NAT64/32", "NAT64/40", "NAT64/48", "NAT64/56", "NAT64/64", "NAT64/96",
    ];
    for (name, prefix) in names.into_iter().zip(&nat64_prefixes()) {
        all.push((name, nat64(prefix, ip)));
    }
    all
}

/// Notations that are closed whatever they embed.
fn closed_disguises(ip: Ipv4Addr) -> [(&'static str, Ipv6Addr); 3] {
    [
        ("compatible", place("::", ip, 0)),
        ("translated", place("::ffff:0:0:0", ip, 0)),
        ("local NAT64", place("64:ff9b:1::", ip, 0)),
    ]
}

/// First and last two, the middle, and some at random.
fn samples<N: Copy + Ord>(
    first: N,
    last: N,
    step: impl Fn(N, i8) -> N,
    mut random: impl FnMut() -> N,
) -> Vec<N> {
    let mut all = vec![first, last];
    if first < last {
        all.extend([step(first, 1), step(last, -1)]);
    }
    all.extend((0..16).map(|_| random().clamp(first, last)));
    all.sort_unstable();
    all.dedup();
    all
}

fn v4_samples(block: &Ipv4Net, rng: &mut impl Rng) -> Vec<Ipv4Addr> {
    let (first, last) = (block.network().to_bits(), block.broadcast().to_bits());
    let host = !block.netmask().to_bits();
    let random = || first | (rng.next_u32() & host);
    samples(first, last, |n, d| n.wrapping_add_signed(d.into()), random)
        .into_iter()
        .map(Ipv4Addr::from_bits)
        .collect()
}

fn v6_samples(block: &Ipv6Net, rng: &mut impl Rng) -> Vec<Ipv6Addr> {
    let (first, last) = (block.network().to_bits(), block.broadcast().to_bits());
    let host = !block.netmask().to_bits();
    let mut random = || u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    samples(
        first,
        last,
        |n, d| n.wrapping_add_signed(d.into()),
        || first | (random() & host),
    )
    .into_iter()
    .map(Ipv6Addr::from_bits)
    .collect()
}

fn v4_blocks() -> Vec<Ipv4Net> {
    V4_BLOCKS.iter().map(|text| text.parse().unwrap()).collect()
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    v4_blocks().iter().any(|block| block.contains(&ip))
}
