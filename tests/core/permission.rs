//! Permissions: RFC 8656 sections 9 and 10.2.

use std::net::SocketAddr;

use turnserver::proto::audit::Audit;
use turnserver::proto::{DropReason, PERMISSION_LIFETIME};
use turnserver::wire::{Method, attr};

use crate::harness::*;

fn allocated() -> (World, Client, SocketAddr) {
    allocated_in(Setup::default())
}

fn allocated_in(setup: Setup) -> (World, Client, SocketAddr) {
    let mut world = setup.world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world.allocate(&mut client);
    (world, client, relayed)
}

fn has_permission(world: &mut World, client: &mut Client, peer: &str) -> bool {
    match world.send(client, addr(peer), b"?") {
        Outcome::ToPeer { .. } => true,
        other => {
            assert_eq!(other.drop_reason(), DropReason::NoPermission);
            false
        }
    }
}

#[test]
fn a_permission_is_for_an_ip_address_and_any_port() {
    let (mut world, mut client, relayed) = allocated();
    assert!(!has_permission(&mut world, &mut client, "192.0.2.50:9"));
    assert_eq!(world.permit(&mut client, &[addr("192.0.2.50:9")]).code(), 0);
    for port in [1, 9, 65_535] {
        let peer = format!("192.0.2.50:{port}");
        assert!(has_permission(&mut world, &mut client, &peer));
        assert_eq!(
            world.arrive(relayed, addr(&peer), b"x").indication().0,
            addr(&peer)
        );
    }
    assert!(!has_permission(&mut world, &mut client, "192.0.2.51:9"));
    let outcome = world.arrive(relayed, addr("192.0.2.51:9"), b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
}

#[test]
fn the_port_of_create_permission_is_ignored_also_0() {
    let (mut world, mut client, _) = allocated();
    assert_eq!(world.permit(&mut client, &[addr("192.0.2.50:0")]).code(), 0);
    assert!(has_permission(&mut world, &mut client, "192.0.2.50:7"));
}

#[test]
fn a_permission_lasts_exactly_300_s() {
    assert_eq!(PERMISSION_LIFETIME, 300);
    let (mut world, mut client, relayed) = allocated();
    let peer = addr("192.0.2.50:9");
    world.permit(&mut client, &[peer]);
    world.pass_micros(300 * 1_000_000 - 1);
    assert!(has_permission(&mut world, &mut client, "192.0.2.50:9"));
    assert_eq!(world.arrive(relayed, peer, b"x").indication().0, peer);
    world.pass_micros(1);
    assert!(!has_permission(&mut world, &mut client, "192.0.2.50:9"));
    let outcome = world.arrive(relayed, peer, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
}

#[test]
fn data_does_not_refresh_a_permission_but_create_permission_does() {
    let (mut world, mut client, relayed) = allocated();
    let peer = addr("192.0.2.50:9");
    world.permit(&mut client, &[peer]);
    for _ in 0..29 {
        world.pass(10.0);
        assert!(has_permission(&mut world, &mut client, "192.0.2.50:9"));
        world.arrive(relayed, peer, b"x").indication();
    }
    world.permit(&mut client, &[peer]);
    world.pass(10.0);
    assert!(has_permission(&mut world, &mut client, "192.0.2.50:9"));
    world.pass(290.0);
    assert!(!has_permission(&mut world, &mut client, "192.0.2.50:9"));
}

#[test]
fn a_refresh_of_the_allocation_does_not_refresh_permissions() {
    let (mut world, mut client, _) = allocated();
    world.permit(&mut client, &[addr("192.0.2.50:9")]);
    world.pass(299.0);
    world.refresh(&mut client, 600);
    assert!(has_permission(&mut world, &mut client, "192.0.2.50:9"));
    world.pass(1.0);
    assert!(!has_permission(&mut world, &mut client, "192.0.2.50:9"));
}

#[test]
fn several_peers_are_installed_by_one_request() {
    let (mut world, mut client, _) = allocated();
    let peers = [
        addr("192.0.2.50:9"),
        addr("192.0.2.51:9"),
        addr("192.0.2.52:9"),
    ];
    assert_eq!(world.permit(&mut client, &peers).code(), 0);
    for peer in peers {
        assert!(has_permission(&mut world, &mut client, &peer.to_string()));
    }
}

#[test]
fn zero_peers_are_400() {
    let (mut world, mut client, _) = allocated();
    assert_eq!(world.permit(&mut client, &[]).code(), 400);
}

#[test]
fn all_peers_or_none_are_installed() {
    let (mut world, mut client, _) = allocated();
    let good = addr("192.0.2.50:9");
    for (bad, code) in [(addr("127.0.0.1:9"), 403), (addr("[2001:db8:2::5]:9"), 443)] {
        for peers in [[good, bad], [bad, good]] {
            assert_eq!(world.permit(&mut client, &peers).code(), code);
            assert!(!has_permission(&mut world, &mut client, "192.0.2.50:9"));
        }
    }
    let response = world.call(&mut client, Method::CREATE_PERMISSION, |b| {
        b.xor_address(attr::XOR_PEER_ADDRESS, good);
        b.attribute(attr::XOR_PEER_ADDRESS, &[0, 1, 2]);
    });
    assert_eq!(response.code(), 400);
    assert!(!has_permission(&mut world, &mut client, "192.0.2.50:9"));
}

#[test]
fn refusals_come_in_the_order_malformed_family_policy() {
    let (mut world, mut client, _) = allocated();
    let denied = addr("127.0.0.1:9");
    let family = addr("[2001:db8:2::5]:9");
    let malformed: &[u8] = &[0, 1, 0, 9, 1, 2, 3];
    let mut ask = |peers: &[SocketAddr], malformed: Option<&[u8]>| {
        world
            .call(&mut client, Method::CREATE_PERMISSION, |b| {
                for peer in peers {
                    b.xor_address(attr::XOR_PEER_ADDRESS, *peer);
                }
                if let Some(value) = malformed {
                    b.attribute(attr::XOR_PEER_ADDRESS, value);
                }
            })
            .code()
    };
    assert_eq!(ask(&[denied, family], Some(malformed)), 400);
    assert_eq!(ask(&[denied, family], None), 443);
    assert_eq!(ask(&[denied], None), 403);
}

#[test]
fn a_denied_peer_is_403_on_every_way_in_and_logged() {
    let (mut world, mut client, _) = allocated();
    for peer in [
        "127.0.0.1:9",
        "10.1.2.3:9",
        "169.254.169.254:80",
        "0.0.0.0:9",
        "224.0.0.1:9",
        "198.18.0.1:9",
    ] {
        let peer = addr(peer);
        assert_eq!(world.permit(&mut client, &[peer]).code(), 403, "{peer}");
        assert_eq!(world.bind(&mut client, 0x4000, peer).code(), 403, "{peer}");
        let outcome = world.send(&mut client, peer, b"x");
        assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
        let refused = world.audits.iter().any(
            |audit| matches!(audit, Audit::PeerRefused { peer: refused, .. } if *refused == peer),
        );
        assert!(refused);
    }
}

#[test]
fn deny_wins_over_allow() {
    let (mut world, mut client, _) = allocated_in(Setup {
        deny: vec!["192.0.2.128/25"],
        ..Setup::default()
    });
    assert_eq!(world.permit(&mut client, &[addr("192.0.2.5:9")]).code(), 0);
    assert_eq!(
        world.permit(&mut client, &[addr("192.0.2.200:9")]).code(),
        403
    );
}

#[test]
fn a_new_policy_judges_the_next_request_and_lets_installed_permissions_run_out() {
    let (mut world, mut client, _) = allocated();
    let peer = addr("192.0.2.50:9");
    world.permit(&mut client, &[peer]);
    let closed = Setup {
        deny: vec!["192.0.2.0/24"],
        ..Setup::default()
    };
    world.reload(closed.policy());
    assert!(has_permission(&mut world, &mut client, "192.0.2.50:9"));
    assert_eq!(world.permit(&mut client, &[peer]).code(), 403);
    world.pass(300.0);
    assert!(!has_permission(&mut world, &mut client, "192.0.2.50:9"));
}

#[test]
fn more_permissions_than_the_limit_are_508_and_none_is_installed() {
    let mut setup = Setup::default();
    setup.limits.permissions_per_allocation = 3;
    let (mut world, mut client, _) = allocated_in(setup);
    let peers: Vec<_> = (1..=5).map(|n| addr(&format!("192.0.2.{n}:9"))).collect();
    assert_eq!(world.permit(&mut client, &peers[..2]).code(), 0);
    assert_eq!(world.permit(&mut client, &peers[2..4]).code(), 508);
    assert!(!has_permission(&mut world, &mut client, "192.0.2.3:9"));
    // Refreshing and repeating count once.
    let again = [peers[0], peers[1], peers[2], peers[2]];
    assert_eq!(world.permit(&mut client, &again).code(), 0);
    assert_eq!(world.permit(&mut client, &peers[3..4]).code(), 508);
    assert_eq!(world.bind(&mut client, 0x4000, peers[3]).code(), 508);
    assert_eq!(world.bind(&mut client, 0x4000, peers[0]).code(), 0);
    // Expired ones make room.
    world.pass(300.0);
    assert_eq!(world.permit(&mut client, &peers[2..]).code(), 0);
}

#[test]
fn a_thousand_peers_work_and_expire() {
    let mut setup = Setup::default();
    setup.allow.push("100.64.0.0/10");
    setup.limits.permissions_per_allocation = 1000;
    let (mut world, mut client, relayed) = allocated_in(setup);
    let peers: Vec<_> = (0..1000)
        .map(|n| addr(&format!("100.64.{}.{}:9", n / 250, n % 250 + 1)))
        .collect();
    for some in peers.chunks(50) {
        assert_eq!(world.permit(&mut client, some).code(), 0);
    }
    let one_more = [addr("100.65.0.1:9")];
    assert_eq!(world.permit(&mut client, &one_more).code(), 508);
    for peer in &peers {
        assert_eq!(world.arrive(relayed, *peer, b"x").indication().0, *peer);
    }
    world.pass(300.0);
    assert_eq!(world.permit(&mut client, &one_more).code(), 0);
    let outcome = world.arrive(relayed, peers[0], b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
}
