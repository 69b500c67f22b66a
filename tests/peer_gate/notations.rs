//! Every address in every notation that may lead to it.

use std::net::{IpAddr, Ipv4Addr};

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use turnserver::proto::gate::Verdict;

use super::{
    PUBLIC_V4, V6_BLOCKS, at, closed_disguises, disguises, gate, is_special_v4, nowhere, v4,
    v4_blocks, v4_samples, v6, v6_samples,
};

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
