//! Peers that are relayed transport addresses of this server: delivered without leaving the
//! host, with the receiver's permissions, and never a way to the host itself.

use std::net::SocketAddr;

use turnserver::proto::DropReason;
use turnserver::wire::attr;

use crate::harness::*;

/// Two clients with allocations, the second on shard `second`.
fn pair(setup: Setup, second: usize) -> (World, [Client; 2], [SocketAddr; 2]) {
    let mut world = Setup {
        shards: second + 1,
        ..setup
    }
    .world();
    let (alice, bob) = (world.setup.users[0].clone(), world.setup.users[1].clone());
    let mut a = world.client(flow("192.0.2.1:5000"), &alice);
    let mut b = world.client(flow("192.0.2.2:5000"), &bob);
    b.shard = second;
    let relayed = [world.allocate(&mut a), world.allocate(&mut b)];
    (world, [a, b], relayed)
}

/// What a datagram that goes to another shard's socket arrives as.
fn carry(world: &mut World, outcome: &Outcome) -> Outcome {
    let Outcome::ToPeer {
        relay, peer, data, ..
    } = outcome
    else {
        panic!("not to a peer but {outcome:?}");
    };
    let mut leases = world.net.leases.iter();
    let source = leases
        .find(|((_, id), lease)| id == relay && lease.local() != *peer)
        .map(|(_, lease)| lease.local());
    let receiver = world
        .net
        .leases
        .iter()
        .find(|(_, lease)| lease.local() == *peer);
    let (shard, id) = *receiver.expect("a relay socket").0;
    world.from_peer(shard, id, source.expect("a relay socket"), data)
}

#[test]
fn relay_to_relay_works_with_the_default_deny_list_and_stays_in_memory() {
    let (mut world, [mut a, mut b], [ra, rb]) = pair(Setup::default(), 0);
    // Public relay addresses are documentation addresses here: closed but for the exemption.
    assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
    assert_eq!(world.permit(&mut b, &[ra]).code(), 0);
    let outcome = world.send(&mut a, rb, b"hello");
    assert_eq!(outcome.to_flow(), b.flow);
    // Behind 1:1 NAT too the peer is known by its public relayed address.
    assert_eq!(outcome.indication(), (ra, &b"hello"[..]));
    world.bind(&mut a, 0x4000, rb);
    world.bind(&mut b, 0x4001, ra);
    let outcome = world.channel(&a, 0x4000, b"by channel");
    assert_eq!(outcome.to_flow(), b.flow);
    assert_eq!(outcome.channel(), (0x4001, &b"by channel"[..]));
    let outcome = world.channel(&b, 0x4001, b"and back");
    assert_eq!(outcome.to_flow(), a.flow);
    assert_eq!(outcome.channel(), (0x4000, &b"and back"[..]));
    // Counted for both allocations, in both directions.
    let snapshot = world.snapshot();
    assert_eq!((snapshot.packets_up, snapshot.packets_down), (3, 3));
    assert_eq!(snapshot.bytes_up, snapshot.bytes_down);
}

#[test]
fn relay_to_relay_across_shards_goes_by_the_local_address() {
    let (mut world, [mut a, mut b], [ra, rb]) = pair(Setup::default(), 1);
    assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
    assert_eq!(world.bind(&mut b, 0x4001, ra).code(), 0);
    let outcome = world.send(&mut a, rb, b"hello");
    let (to, data) = outcome.to_peer();
    assert_eq!(
        (to, data),
        (SocketAddr::new(ip(LOCAL_V4), rb.port()), &b"hello"[..])
    );
    // The other shard sees the local address of the socket and reports the public one.
    let arrived = carry(&mut world, &outcome);
    assert_eq!(arrived.to_flow(), b.flow);
    assert_eq!(arrived.channel(), (0x4001, &b"hello"[..]));
}

#[test]
fn the_receiving_allocations_permissions_apply() {
    for second in [0, 1] {
        let (mut world, [mut a, mut b], [ra, rb]) = pair(Setup::default(), second);
        world.permit(&mut a, &[rb]);
        let deliver = |world: &mut World, a: &mut Client| {
            let outcome = world.send(a, rb, b"x");
            if second == 0 {
                outcome
            } else {
                carry(world, &outcome)
            }
        };
        let outcome = deliver(&mut world, &mut a);
        assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
        // 300 s, not a moment longer.
        world.permit(&mut b, &[ra]);
        assert_eq!(deliver(&mut world, &mut a).indication().0, ra);
        world.pass(299.0);
        world.permit(&mut a, &[rb]);
        assert_eq!(deliver(&mut world, &mut a).indication().0, ra);
        world.pass(1.0);
        let outcome = deliver(&mut world, &mut a);
        assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
    }
}

#[test]
fn the_exemption_covers_live_relayed_addresses_only() {
    let (mut world, [mut a, _], [_, rb]) = pair(Setup::default(), 0);
    let free = (50_000..=50_099)
        .map(|port| SocketAddr::new(ip(PUBLIC_V4), port))
        .find(|addr| world.shared.relays.live(*addr).is_none())
        .expect("a free port");
    // Ports that are not relayed addresses: the server's own services, or nobody.
    for port in [22, 80, 3478, 49_999, 50_100, free.port()] {
        for host in [PUBLIC_V4, LOCAL_V4] {
            let peer = SocketAddr::new(ip(host), port);
            assert_eq!(world.permit(&mut a, &[peer]).code(), 403, "{peer}");
            assert_eq!(world.bind(&mut a, 0x4000, peer).code(), 403, "{peer}");
        }
    }
    // A permission is by IP, and yet every datagram is held to a live relayed address.
    assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
    for port in [22, 80, 3478, 49_999, 50_100, free.port()] {
        let outcome = world.send(&mut a, SocketAddr::new(ip(PUBLIC_V4), port), b"x");
        assert_eq!(outcome.drop_reason(), DropReason::PeerDenied, "{port}");
    }
}

#[test]
fn what_comes_from_the_host_is_dropped_unless_a_live_relayed_address_sent_it() {
    let (mut world, [mut a, _], [ra, rb]) = pair(Setup::default(), 1);
    world.permit(&mut a, &[rb]);
    let local = |port| SocketAddr::new(ip(LOCAL_V4), port);
    let public = |port| SocketAddr::new(ip(PUBLIC_V4), port);
    let outcome = world.arrive(ra, public(3478), b"from the listener");
    assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
    let outcome = world.arrive(ra, local(3478), b"from the listener");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
    assert_eq!(world.arrive(ra, local(rb.port()), b"x").indication().0, rb);
    // Looped back by the gateway it has the public address already.
    assert_eq!(world.arrive(ra, public(rb.port()), b"x").indication().0, rb);
}

#[test]
fn an_address_that_is_not_live_any_more_is_closed_again() {
    for second in [0, 1] {
        let (mut world, [mut a, mut b], [ra, rb]) = pair(Setup::default(), second);
        world.bind(&mut a, 0x4000, rb);
        world.bind(&mut b, 0x4001, ra);
        world.refresh(&mut b, 0);
        for outcome in [
            world.channel(&a, 0x4000, b"x"),
            world.send(&mut a, rb, b"x"),
            world.arrive(ra, rb, b"x"),
        ] {
            assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
        }
        let mut stranger = world.client(flow("192.0.2.9:5000"), &a.user);
        world.allocate(&mut stranger);
        if world.shared.relays.live(rb).is_none() {
            assert_eq!(world.bind(&mut stranger, 0x4000, rb).code(), 403);
        }
    }
}

#[test]
fn an_allow_list_opens_the_host_and_own_relays_still_stay_in_memory() {
    let setup = Setup {
        allow: vec!["198.51.100.7/32", "10.7.0.1/32"],
        ..Setup::default()
    };
    let (mut world, [mut a, mut b], [ra, rb]) = pair(setup, 0);
    let service = SocketAddr::new(ip(PUBLIC_V4), 8080);
    assert_eq!(world.permit(&mut a, &[service]).code(), 0);
    assert_eq!(world.send(&mut a, service, b"x").to_peer().0, service);
    assert_eq!(world.arrive(ra, service, b"x").indication().0, service);
    world.permit(&mut b, &[ra]);
    let outcome = world.send(&mut a, rb, b"x");
    assert_eq!((outcome.to_flow(), outcome.indication().0), (b.flow, ra));
}

#[test]
fn own_relays_on_loopback_are_reached_only_by_allow() {
    let setup = |allow: Vec<&'static str>| Setup {
        relays: vec![("127.0.0.1", "127.0.0.1")],
        allow,
        ..Setup::default()
    };
    let (mut world, [mut a, _], [_, rb]) = pair(setup(vec![]), 0);
    assert_eq!(world.permit(&mut a, &[rb]).code(), 403);
    assert_eq!(world.bind(&mut a, 0x4000, rb).code(), 403);
    let (mut world, [mut a, mut b], [ra, rb]) = pair(setup(vec!["127.0.0.0/8"]), 0);
    assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
    assert_eq!(world.permit(&mut b, &[ra]).code(), 0);
    assert_eq!(world.send(&mut a, rb, b"x").indication().0, ra);
}

#[test]
fn deny_wins_over_the_exemption() {
    let setup = Setup {
        deny: vec!["198.51.100.7/32"],
        ..Setup::default()
    };
    let (mut world, [mut a, _], [_, rb]) = pair(setup, 0);
    assert_eq!(world.permit(&mut a, &[rb]).code(), 403);
    assert_eq!(world.bind(&mut a, 0x4000, rb).code(), 403);
}

#[test]
fn a_client_may_talk_to_its_own_relayed_address() {
    let (mut world, [mut a, _], [ra, _]) = pair(Setup::default(), 0);
    assert_eq!(world.permit(&mut a, &[ra]).code(), 0);
    let outcome = world.send(&mut a, ra, b"echo");
    assert_eq!(outcome.to_flow(), a.flow);
    assert_eq!(outcome.indication(), (ra, &b"echo"[..]));
}

#[test]
fn the_receiver_may_be_on_a_stream_and_gets_padding() {
    let mut world = World::new();
    let (alice, bob) = (world.setup.users[0].clone(), world.setup.users[1].clone());
    let mut a = world.client(flow("192.0.2.1:5000"), &alice);
    let mut b = world.client(stream_flow("192.0.2.2:5000", 4), &bob);
    let (ra, rb) = (world.allocate(&mut a), world.allocate(&mut b));
    world.bind(&mut a, 0x4000, rb);
    world.bind(&mut b, 0x4001, ra);
    let Outcome::ToClient { flow, bytes } = world.channel(&a, 0x4000, b"12345") else {
        panic!("not handed over");
    };
    assert_eq!(flow, b.flow);
    assert_eq!(
        bytes,
        [0x40, 1, 0, 5, b'1', b'2', b'3', b'4', b'5', 0, 0, 0]
    );
}

#[test]
fn relay_to_relay_works_over_ipv6() {
    let mut world = World::new();
    let (alice, bob) = (world.setup.users[0].clone(), world.setup.users[1].clone());
    let mut a = world.client(flow("192.0.2.1:5000"), &alice);
    let mut b = world.client(flow("192.0.2.2:5000"), &bob);
    let v6 = |world: &mut World, client: &mut Client| {
        world
            .allocate_with(client, |b| {
                b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, 2);
            })
            .relayed()[0]
    };
    let (ra, rb) = (v6(&mut world, &mut a), v6(&mut world, &mut b));
    assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
    assert_eq!(world.permit(&mut b, &[ra]).code(), 0);
    assert_eq!(
        world.send(&mut a, rb, b"six").indication(),
        (ra, &b"six"[..])
    );
}

#[test]
fn bandwidth_of_sender_and_receiver_applies() {
    let mut setup = Setup::default();
    setup.limits.bandwidth_per_allocation = 70_000;
    let (mut world, [mut a, mut b], [ra, rb]) = pair(setup, 0);
    world.bind(&mut a, 0x4000, rb);
    world.bind(&mut b, 0x4001, ra);
    let passed = (0..200)
        .filter(|_| {
            let outcome = world.channel(&a, 0x4000, &[0; 1000]);
            matches!(outcome, Outcome::ToClient { .. })
        })
        .count();
    assert_eq!(passed, 70);
}

#[test]
fn a_renewal_does_not_fail_because_one_peer_has_left() {
    let (mut world, [mut a, mut b], [_, rb]) = pair(Setup::default(), 0);
    let elsewhere = addr("8.8.4.4:1");
    assert_eq!(world.permit(&mut a, &[rb, elsewhere]).code(), 0);
    world.refresh(&mut b, 0);
    assert_eq!(
        world.bind(&mut a, 0x4000, rb).code(),
        403,
        "nobody is there"
    );
    world.pass(100.0);
    assert_eq!(world.permit(&mut a, &[rb, elsewhere]).code(), 0);
    world.pass(200.0);
    let outcome = world.send(&mut a, elsewhere, b"x");
    assert_eq!(outcome.to_peer().0, elsewhere);
    // It opened nothing: datagrams to the place that b left are still refused.
    let outcome = world.send(&mut a, rb, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
    // Once it has lapsed there is nothing to renew.
    world.pass(101.0);
    assert_eq!(world.permit(&mut a, &[rb, elsewhere]).code(), 403);
}
