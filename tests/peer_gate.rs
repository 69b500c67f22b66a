//! The peer gate against a generated set: every special-purpose block of both families at its
//! edges and inside, in every notation that may lead there, and its neighbours.
//!
//! The table below was written from the registries, not from the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use turnserver::proto::Family;
use turnserver::proto::gate::{PeerGate, Verdict};
use turnserver::proto::ports::{PortLease, RelayAddresses};

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

#[test]
fn every_special_address_in_every_disguise_is_refused() {
    let (gate, own) = (gate(&[], &[]), nowhere());
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let mut cases = 0;
    let mut refused = |name: &str, ip: IpAddr| {
        for port in [1, 80, 3478, 65_535] {
            let verdict = gate.judge(at(ip, port), &own);
            assert!(verdict.is_denied(), "{name} {ip}: {verdict:?}");
        }
        let verdict = gate.judge_permission(ip, &own);
        assert!(verdict.is_denied(), "{name} {ip}: {verdict:?}");
        cases += 1;
    };
    for block in v4_blocks() {
        for ip in v4_samples(&block, &mut rng) {
            refused("plain", ip.into());
            for (name, ip) in disguises(ip).into_iter().chain(closed_disguises(ip)) {
                refused(name, ip.into());
            }
        }
    }
    for block in V6_BLOCKS {
        for ip in v6_samples(&block.parse().unwrap(), &mut rng) {
            refused(block, ip.into());
        }
    }
    assert!(cases >= 5_000, "{cases}");
}

#[test]
fn the_neighbours_of_every_block_are_open() {
    let (gate, own) = (gate(&[], &[]), nowhere());
    let mut cases = 0;
    let mut open = |name: &str, ip: IpAddr| {
        let verdict = gate.judge(at(ip, 5000), &own);
        assert_eq!(verdict, Verdict::Allowed, "{name} {ip}");
        assert_eq!(
            gate.judge_permission(ip, &own),
            Verdict::Allowed,
            "{name} {ip}"
        );
        cases += 1;
    };
    let edges = v4_blocks().into_iter().flat_map(|block| {
        let below = block.network().to_bits().checked_sub(1);
        let above = block.broadcast().to_bits().checked_add(1);
        below.into_iter().chain(above).map(Ipv4Addr::from_bits)
    });
    let public = PUBLIC_V4.iter().map(|text| v4(text));
    for ip in edges.chain(public).filter(|&ip| !is_special_v4(ip)) {
        open("plain", ip.into());
        for (name, ip) in disguises(ip) {
            open(name, ip.into());
        }
    }
    for ip in [
        "2001:200::",
        "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db9::",
        "2001:4860:4860::8888",
        "2003::",
        "2606:4700:4700::1111",
        "2620:4f:7fff:ffff::",
        "2620:4f:8001::",
        "2a02::1",
        "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "3fff:1000::",
        "2000::",
    ] {
        open("IPv6", v6(ip).into());
    }
    assert!(cases > 400, "{cases}");
}

#[test]
fn public_addresses_in_closed_notations_stay_closed() {
    let (gate, own) = (gate(&[], &[]), nowhere());
    for (name, ip) in closed_disguises(v4("8.8.8.8")) {
        assert!(gate.judge(at(ip, 5000), &own).is_denied(), "{name} {ip}");
    }
}

#[test]
fn port_zero_is_refused_except_where_the_port_is_ignored() {
    let (gate, own) = (gate(&["0.0.0.0/0", "::/0"], &[]), nowhere());
    assert!(gate.judge(at(v4("8.8.8.8"), 0), &own).is_denied());
    assert!(gate.judge(at(v6("2a00::1"), 0), &own).is_denied());
    assert_eq!(
        gate.judge_permission(v4("8.8.8.8").into(), &own),
        Verdict::Allowed
    );
}

#[test]
fn deny_closes_every_notation_and_beats_allow() {
    let gate = gate(
        &["8.8.8.8/32", "10.0.0.0/8", "::/0"],
        &["8.8.8.0/24", "10.1.0.0/16"],
    );
    let own = nowhere();
    let verdict = Verdict::Denied("denied_by_configuration");
    for ip in [v4("8.8.8.8"), v4("8.8.8.9"), v4("10.1.2.3")] {
        assert_eq!(gate.judge(at(ip, 5000), &own), verdict, "{ip}");
        for (name, ip) in disguises(ip).into_iter().chain(closed_disguises(ip)) {
            assert_eq!(gate.judge(at(ip, 5000), &own), verdict, "{name} {ip}");
        }
    }
    assert_eq!(gate.judge(at(v4("10.2.0.1"), 5000), &own), Verdict::Allowed);
}

#[test]
fn allow_opens_the_notations_that_are_open_by_themselves() {
    let (gate, own) = (gate(&["10.0.0.0/8"], &[]), nowhere());
    let ip = v4("10.1.2.3");
    assert_eq!(gate.judge(at(ip, 5000), &own), Verdict::Allowed);
    for (name, ip) in disguises(ip) {
        assert_eq!(
            gate.judge(at(ip, 5000), &own),
            Verdict::Allowed,
            "{name} {ip}"
        );
    }
    for (name, ip) in closed_disguises(ip) {
        assert!(gate.judge(at(ip, 5000), &own).is_denied(), "{name} {ip}");
    }
    // An allowed address inside does not open a closed one around it, nor another one inside.
    let isatap = v6("fe80::5efe:10.1.2.3");
    assert!(gate.judge(at(isatap, 5000), &own).is_denied());
    let teredo = place(
        "2001:0:a01:203::",
        Ipv4Addr::from_bits(!v4("127.0.0.1").to_bits()),
        0,
    );
    assert!(gate.judge(at(teredo, 5000), &own).is_denied());
}

#[test]
fn allow_of_the_address_as_sent_opens_it() {
    let gate = gate(
        &["127.0.0.0/8", "::1/128", "fd00::/8", "2002:a01:203::/48"],
        &[],
    );
    let own = nowhere();
    for ip in ["::1", "fd12::1", "2002:a01:203::5", "::ffff:127.0.0.1"] {
        assert_eq!(gate.judge(at(v6(ip), 5000), &own), Verdict::Allowed, "{ip}");
    }
    assert_eq!(
        gate.judge(at(v4("127.9.9.9"), 5000), &own),
        Verdict::Allowed
    );
    assert!(
        gate.judge(at(v6("2002:a01:204::5"), 5000), &own)
            .is_denied()
    );
}

#[test]
fn endpoints_of_the_configuration_are_closed_until_allowed() {
    let endpoints = vec![IpAddr::V4(v4("93.184.216.34")), v6("2a00::80").into()];
    let new = |allow: &[&str]| {
        PeerGate::new(nets(allow), Vec::new(), endpoints.clone(), nat64_prefixes())
    };
    let (gate, own) = (new(&[]), nowhere());
    let closed = Verdict::Denied("server_endpoint");
    for port in [80, 3478, 40_000] {
        assert_eq!(gate.judge(at(v4("93.184.216.34"), port), &own), closed);
        assert_eq!(gate.judge(at(v6("2a00::80"), port), &own), closed);
        for (name, ip) in disguises(v4("93.184.216.34")) {
            assert_eq!(gate.judge(at(ip, port), &own), closed, "{name} {ip}");
        }
    }
    assert_eq!(
        gate.judge(at(v4("93.184.216.35"), 80), &own),
        Verdict::Allowed
    );
    let opened = new(&["93.184.216.34/32"]);
    assert_eq!(
        opened.judge(at(v4("93.184.216.34"), 80), &own),
        Verdict::Allowed
    );
}

/// Relay addresses of one pair, with one live and one merely leased port.
fn relays(local: &str, public: &str) -> (Arc<RelayAddresses>, PortLease, PortLease) {
    let pair = (local.parse().unwrap(), public.parse().unwrap());
    let own = RelayAddresses::new(vec![pair], 40_000..=40_099);
    let mut rng = ChaCha12Rng::seed_from_u64(2);
    let family = Family::of(&pair.0);
    let live = own.lease(family, false, &mut rng).unwrap();
    live.set_live(true);
    let idle = own.lease(family, false, &mut rng).unwrap();
    (own, live, idle)
}

#[test]
fn only_live_relayed_addresses_of_ours_are_exempt() {
    let gate = PeerGate::new(
        Vec::new(),
        Vec::new(),
        vec![v4("10.0.0.5").into()],
        Vec::new(),
    );
    let (own, live, idle) = relays("10.0.0.5", "203.0.113.7");
    assert_eq!(gate.judge(live.local(), &own), Verdict::OwnRelay);
    assert_eq!(gate.judge(live.public(), &own), Verdict::OwnRelay);
    assert!(gate.judge(idle.local(), &own).is_denied());
    assert!(gate.judge(idle.public(), &own).is_denied());
    assert!(gate.judge(at(live.public().ip(), 22), &own).is_denied());
    assert!(
        gate.judge(at(v4("203.0.113.8"), live.public().port()), &own)
            .is_denied()
    );
    let mapped = place("::ffff:0:0", v4("203.0.113.7"), 0);
    assert_eq!(
        gate.judge(at(mapped, live.public().port()), &own),
        Verdict::OwnRelay
    );
    let via_nat64 = place("64:ff9b::", v4("203.0.113.7"), 0);
    assert!(
        gate.judge(at(via_nat64, live.public().port()), &own)
            .is_denied()
    );
    for ip in [live.local().ip(), live.public().ip()] {
        assert_eq!(gate.judge_permission(ip, &own), Verdict::OwnRelay);
    }
    let (local, public) = (live.local(), live.public());
    drop(live);
    for addr in [local, public] {
        assert!(gate.judge(addr, &own).is_denied(), "{addr} is free again");
        assert!(gate.judge_permission(addr.ip(), &own).is_denied());
    }
}

#[test]
fn other_ports_of_a_public_relay_address_are_closed_too() {
    let (own, live, _idle) = relays("93.184.216.34", "93.184.216.34");
    let gate = gate(&[], &[]);
    assert_eq!(gate.judge(live.public(), &own), Verdict::OwnRelay);
    assert!(gate.judge(at(v4("93.184.216.34"), 22), &own).is_denied());
}

#[test]
fn deny_and_allow_go_before_the_exemption() {
    let (own, live, idle) = relays("10.0.0.5", "203.0.113.7");
    let closed = gate(&["10.0.0.0/8"], &["10.0.0.5/32", "203.0.113.0/24"]);
    assert!(closed.judge(live.local(), &own).is_denied());
    assert!(closed.judge(live.public(), &own).is_denied());
    let open = gate(&["10.0.0.0/8"], &[]);
    assert_eq!(open.judge(live.local(), &own), Verdict::Allowed);
    assert_eq!(open.judge(idle.local(), &own), Verdict::Allowed);
    assert_eq!(open.judge(live.public(), &own), Verdict::OwnRelay);
}

#[test]
fn loopback_link_local_and_unspecified_are_never_exempt() {
    for ip in [
        "127.0.0.1",
        "169.254.7.7",
        "0.0.0.0",
        "::1",
        "fe80::7",
        "::",
    ] {
        let (own, live, _idle) = relays(ip, ip);
        let verdict = gate(&[], &[]).judge(live.local(), &own);
        assert!(verdict.is_denied(), "{ip}: {verdict:?}");
        assert!(
            gate(&[], &[])
                .judge_permission(live.local().ip(), &own)
                .is_denied()
        );
        let opened = gate(&["0.0.0.0/0", "::/0"], &[]);
        assert_eq!(opened.judge(live.local(), &own), Verdict::Allowed, "{ip}");
    }
}

#[test]
fn the_addresses_of_past_advisories() {
    // One line each, in the spelling of the report.
    let (gate, own) = (gate(&[], &[]), nowhere());
    for ip in [
        "0.0.0.0",            // CVE-2020-26262
        "::",                 // CVE-2020-26262
        "::1",                // CVE-2020-26262
        "::ffff:127.0.0.1",   // CVE-2026-27624
        "::ffff:0.0.0.0",     // CVE-2026-53450
        "::127.0.0.1",        // IPv4-compatible
        "2002:7f00:1::",      // 6to4
        "64:ff9b::7f00:1",    // NAT64
        "64:ff9b::a9fe:a9fe", // metadata by NAT64
        "169.254.169.254",    // metadata
        "fd00:ec2::254",      // metadata
        "100.100.100.200",    // metadata
        "192.0.0.192",        // metadata
        "168.63.129.16",      // metadata
        "fe80::a9fe:a9fe",    // link-local
    ] {
        let ip: IpAddr = ip.parse().unwrap();
        assert!(gate.judge(at(ip, 80), &own).is_denied(), "{ip}");
    }
}
