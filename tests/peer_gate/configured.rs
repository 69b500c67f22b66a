//! What `allow` and `deny` change, and the endpoints that are closed until allowed.

use std::net::{IpAddr, Ipv4Addr};

use turnserver::proto::gate::{PeerGate, Verdict};

use super::{at, closed_disguises, disguises, gate, nat64_prefixes, nets, nowhere, place, v4, v6};

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
