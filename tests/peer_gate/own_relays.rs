//! The server's own relayed addresses.

use std::sync::Arc;

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use turnserver::proto::Family;
use turnserver::proto::gate::{PeerGate, Verdict};
use turnserver::proto::ports::{PortLease, RelayAddresses};

use super::{at, gate, place, v4};

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
