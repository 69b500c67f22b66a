//! Credentials that are bound to a pair: its allocations talk to each other and to the addresses
//! that the server saw, and to nobody else.

use std::net::SocketAddr;

use turnserver::proto::pairs::ALLOCATIONS_PER_SIDE;
use turnserver::proto::{DropReason, Limits};
use turnserver::wire::{Builder, Method, attr};

use crate::harness::*;

/// Both sides of pair 1, one side of pair 2, and alice, who is bound to no pair.
struct Four {
    world: World,
    clients: [Client; 4],
    relayed: [SocketAddr; 4],
}

/// `shard` is where everybody but the first is.
fn four(setup: Setup, shard: usize) -> Four {
    let users = [
        User::paired(1, 'i'),
        User::paired(1, 'r'),
        User::paired(2, 'i'),
        User::new("alice", "secret-a"),
    ];
    let mut world = Setup {
        users: users.iter().chain(&setup.users).cloned().collect(),
        shards: shard + 1,
        ..setup
    }
    .world();
    let mut number = 0;
    let mut clients = users.map(|user| {
        number += 1;
        let mut client = world.client(flow(&format!("192.0.2.{number}:5000")), &user);
        client.shard = if number == 1 { 0 } else { shard };
        client
    });
    let relayed = clients.each_mut().map(|client| world.allocate(client));
    Four {
        world,
        clients,
        relayed,
    }
}

/// A client that goes on under another name of the same user.
fn renamed(world: &World, client: &Client, user: &User) -> Client {
    let mut new = world.client(client.flow, user);
    (new.shard, new.transactions) = (client.shard, client.transactions);
    new
}

/// What a datagram that goes to another shard's socket arrives as.
fn delivered(world: &mut World, from: SocketAddr, outcome: Outcome) -> Outcome {
    let Outcome::ToPeer { peer, data, .. } = &outcome else {
        return outcome;
    };
    let local = |public: SocketAddr| SocketAddr::new(ip(LOCAL_V4), public.port());
    assert_eq!(peer.ip(), ip(LOCAL_V4), "it stays on this host");
    let to = SocketAddr::new(ip(PUBLIC_V4), peer.port());
    world.arrive(to, local(from), data)
}

#[test]
fn the_two_sides_reach_each_other_and_nobody_else_of_this_server() {
    for shard in [0, 1] {
        let Four {
            mut world,
            clients: [mut a, mut b, mut other, mut alice],
            relayed: [ra, rb, ro, rl],
        } = four(Setup::default(), shard);
        assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
        assert_eq!(world.bind(&mut b, 0x4001, ra).code(), 0);
        let outcome = world.send(&mut a, rb, b"hello");
        let outcome = delivered(&mut world, ra, outcome);
        assert_eq!(outcome.to_flow(), b.flow);
        assert_eq!(outcome.channel(), (0x4001, &b"hello"[..]));
        let outcome = world.channel(&b, 0x4001, b"back");
        let outcome = delivered(&mut world, rb, outcome);
        assert_eq!(outcome.indication(), (rb, &b"back"[..]));
        // Live relayed transport addresses of others, and of the host: 403, all or none.
        for peer in [
            ro,
            rl,
            SocketAddr::new(ra.ip(), 3478),
            SocketAddr::new(ra.ip(), 0),
        ] {
            assert_eq!(world.bind(&mut a, 0x4002, peer).code(), 403, "{peer}");
        }
        let mut stranger = world.client(flow("192.0.2.9:5000"), &User::paired(1, 'i'));
        stranger.shard = shard;
        world.allocate(&mut stranger);
        for peer in [ro, rl] {
            assert_eq!(world.permit(&mut stranger, &[peer]).code(), 403, "{peer}");
            assert_eq!(world.permit(&mut stranger, &[rb, peer]).code(), 403);
            let outcome = world.send(&mut stranger, rb, b"x");
            assert_eq!(outcome.drop_reason(), DropReason::NoPermission, "none");
        }
        // A permission is by IP address, which all of them share: each datagram is looked at.
        for peer in [ro, rl] {
            let outcome = world.send(&mut a, peer, b"x");
            assert_eq!(outcome.drop_reason(), DropReason::PeerDenied, "{peer}");
        }
        // Towards the pair, also where the sender is free to send.
        for (sender, from) in [(&mut alice, rl), (&mut other, ro)] {
            let permitted = world.permit(sender, &[ra]).code();
            assert_eq!(permitted, if from == rl { 0 } else { 403 });
            if from == rl {
                let outcome = world.send(sender, ra, b"x");
                let outcome = delivered(&mut world, from, outcome);
                assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
            }
            let outcome = world.arrive(ra, from, b"x");
            assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
        }
    }
}

#[test]
fn an_address_that_the_server_saw_is_open_and_any_other_is_not() {
    let saw = User::seen(1, 'i', ["203.0.113.5", "203.0.113.66"]);
    let setup = Setup {
        allow: vec!["192.0.2.0/24", "203.0.113.0/24", "198.51.100.0/24"],
        deny: vec!["203.0.113.66/32"],
        users: vec![saw.clone()],
        ..Setup::default()
    };
    let Four {
        mut world,
        clients: [mut a, _, mut other, mut alice],
        ..
    } = four(setup, 0);
    let (seen, denied) = (addr("203.0.113.5:700"), addr("203.0.113.66:700"));
    assert_eq!(world.permit(&mut a, &[seen]).code(), 403, "not seen yet");
    let before = renamed(&world, &a, &User::paired(1, 'i'));
    a = renamed(&world, &a, &saw);
    assert_eq!(world.permit(&mut a, &[seen]).code(), 0);
    assert_eq!(world.bind(&mut a, 0x4000, seen).code(), 0);
    assert_eq!(world.channel(&a, 0x4000, b"x").to_peer().0, seen);
    // Any port, as for every permission, and both ways.
    let elsewhere = addr("203.0.113.5:9");
    assert_eq!(world.send(&mut a, elsewhere, b"x").to_peer().0, elsewhere);
    let relay = world.relay_of(world.net.leases[&(0, relay_of(&world, &a))].public());
    let outcome = world.from_peer(relay.0, relay.1, elsewhere, b"y");
    assert_eq!(outcome.indication(), (elsewhere, &b"y"[..]));
    // It narrows and opens nothing: the gate comes first.
    assert_eq!(world.permit(&mut a, &[denied]).code(), 403);
    for peer in ["203.0.113.6:700", "8.8.8.8:53", "192.0.2.1:1"] {
        assert_eq!(world.permit(&mut a, &[addr(peer)]).code(), 403, "{peer}");
        assert_eq!(world.bind(&mut a, 0x4001, addr(peer)).code(), 403, "{peer}");
        let outcome = world.send(&mut a, addr(peer), b"x");
        assert_eq!(outcome.drop_reason(), DropReason::NoPermission, "{peer}");
    }
    assert_eq!(
        world.permit(&mut other, &[seen]).code(),
        403,
        "another pair"
    );
    assert_eq!(world.permit(&mut alice, &[addr("203.0.113.6:1")]).code(), 0);
    // Under another name what there is lives out its time, and is not renewed.
    a = Client {
        transactions: a.transactions,
        ..before
    };
    assert_eq!(world.channel(&a, 0x4000, b"x").to_peer().0, seen);
    assert_eq!(world.permit(&mut a, &[seen]).code(), 403);
    world.pass(300.0);
    let outcome = world.send(&mut a, seen, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoPermission);
}

fn relay_of(world: &World, client: &Client) -> turnserver::proto::RelayId {
    let public = world.audits.iter().find_map(|audit| match audit {
        turnserver::proto::audit::Audit::Created { relay, flow, .. } => {
            (*flow == client.flow).then_some(*relay)
        }
        _ => None,
    });
    public.expect("it has an allocation")
}

#[test]
fn a_side_on_this_very_host_does_not_open_the_others_relays() {
    // The relay address is also the address that the server saw a side come from.
    let saw = User::seen(1, 'i', [PUBLIC_V4, "100::2"]);
    let setup = Setup {
        allow: vec!["198.51.100.7/32", "10.7.0.1/32"],
        users: vec![saw.clone()],
        ..Setup::default()
    };
    for shard in [0, 1] {
        let Four {
            mut world,
            clients: [mut a, mut b, _, mut alice],
            relayed: [ra, rb, ro, rl],
        } = four(setup_again(&setup), shard);
        a = renamed(&world, &a, &saw);
        let program = SocketAddr::new(ip(PUBLIC_V4), 40_000);
        assert_eq!(world.bind(&mut a, 0x4000, program).code(), 0);
        assert_eq!(world.channel(&a, 0x4000, b"x").to_peer().0, program);
        assert_eq!(world.arrive(ra, program, b"y").channel().0, 0x4000);
        // The addresses of others are live relays, which the permission does not cover.
        world.permit(&mut alice, &[ra]);
        for relay in [ro, rl] {
            let outcome = world.send(&mut a, relay, b"x");
            assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
            let outcome = world.arrive(ra, relay, b"x");
            assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
        }
        world.permit(&mut b, &[ra]);
        let outcome = world.send(&mut a, rb, b"x");
        let outcome = delivered(&mut world, ra, outcome);
        assert_eq!(outcome.indication().0, ra);
    }
}

fn setup_again(setup: &Setup) -> Setup {
    Setup {
        allow: setup.allow.clone(),
        users: setup.users.clone(),
        ..Setup::default()
    }
}

#[test]
fn an_allow_list_that_covers_the_relays_opens_no_more_of_the_host() {
    let setup = Setup {
        allow: vec!["0.0.0.0/0"],
        ..Setup::default()
    };
    let Four {
        mut world,
        clients: [mut a, ..],
        relayed: [ra, rb, ..],
    } = four(setup, 0);
    assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
    let service = SocketAddr::new(rb.ip(), 22);
    assert_eq!(world.bind(&mut a, 0x4000, service).code(), 403);
    for outcome in [
        world.send(&mut a, service, b"x"),
        world.arrive(ra, service, b"x"),
    ] {
        assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
    }
}

/// A machine without a network: what is relayed is on its loopback address.
fn lonely(deny: &[&'static str]) -> Setup {
    Setup {
        relays: vec![("127.0.0.1", "127.0.0.1")],
        deny: deny.to_vec(),
        ..Setup::default()
    }
}

#[test]
fn the_two_sides_reach_each_other_whatever_the_relay_address_is() {
    for private in [false, true] {
        let relay = if private { "10.7.0.1" } else { "127.0.0.1" };
        let saw = User::seen(1, 'i', [relay, "100::2"]);
        let setup = Setup {
            relays: vec![(relay, relay)],
            users: vec![saw.clone()],
            ..Setup::default()
        };
        let Four {
            mut world,
            clients: [mut a, mut b, mut other, mut alice],
            relayed: [ra, rb, ro, rl],
        } = four(setup, 0);
        // The server saw the two on its own machine, too.
        a = renamed(&world, &a, &saw);
        assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
        assert_eq!(world.bind(&mut b, 0x4001, ra).code(), 0);
        assert_eq!(world.send(&mut a, rb, b"x").channel().0, 0x4001);
        assert_eq!(world.channel(&b, 0x4001, b"y").indication().0, rb);
        // Programs on this machine, and what others relay, are as closed as they were.
        let program = SocketAddr::new(ra.ip(), 22);
        assert_eq!(world.bind(&mut a, 0x4002, program).code(), 403);
        for peer in [ro, rl, program] {
            for outcome in [world.send(&mut a, peer, b"x"), world.arrive(ra, peer, b"x")] {
                assert_eq!(outcome.drop_reason(), DropReason::PeerDenied, "{peer}");
            }
        }
        for stranger in [&mut other, &mut alice] {
            let code = world.bind(stranger, 0x4003, ra).code();
            let reaches = private && stranger.name == b"alice";
            assert_eq!(code, if reaches { 0 } else { 403 });
        }
        // What is held is renewed, also when the other side is gone.
        world.refresh(&mut b, 0);
        assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
        let outcome = world.send(&mut a, rb, b"x");
        assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
    }
    // What the configuration closes is closed.
    let Four {
        mut world,
        clients: [mut a, ..],
        relayed: [ra, rb, ..],
    } = four(lonely(&["127.0.0.0/8"]), 0);
    assert_eq!(world.permit(&mut a, &[rb]).code(), 403);
    assert_eq!(
        world.permit(&mut a, &[SocketAddr::new(ra.ip(), 0)]).code(),
        403
    );
    assert_eq!(world.bind(&mut a, 0x4000, rb).code(), 403);
}

#[test]
fn the_way_to_the_other_side_can_be_opened_before_it_is_there() {
    for setup in [Setup::default(), lonely(&[])] {
        let users = [
            User::paired(1, 'i'),
            User::paired(1, 'r'),
            User::paired(2, 'i'),
        ];
        let mut world = Setup {
            users: users.to_vec(),
            ..setup
        }
        .world();
        let [mut a, mut b, mut other] = [1, 2, 3].map(|number| {
            let from = flow(&format!("192.0.2.{number}:5000"));
            world.client(from, &users[number - 1])
        });
        let ra = world.allocate(&mut a);
        let all_ports = SocketAddr::new(ra.ip(), 0);
        assert_eq!(world.permit(&mut a, &[all_ports]).code(), 0);
        let elsewhere = addr("203.0.113.5:0");
        assert_eq!(world.permit(&mut a, &[elsewhere]).code(), 403);
        assert_eq!(world.bind(&mut a, 0x4000, all_ports).code(), 403);
        let (rb, ro) = (world.allocate(&mut b), world.allocate(&mut other));
        // The first datagram is right behind the request for the permission.
        assert_eq!(world.permit(&mut b, &[all_ports]).code(), 0);
        assert_eq!(world.send(&mut b, ra, b"x").indication().0, rb);
        assert_eq!(world.send(&mut a, rb, b"y").indication().0, ra);
        for peer in [ro, SocketAddr::new(ra.ip(), 22)] {
            let outcome = world.send(&mut a, peer, b"x");
            assert_eq!(outcome.drop_reason(), DropReason::PeerDenied, "{peer}");
        }
        world.permit(&mut other, &[all_ports]);
        let outcome = world.send(&mut other, ra, b"x");
        assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
    }
}

#[test]
fn a_port_that_the_other_side_gave_up_is_closed_to_the_pair() {
    let setup = Setup {
        ports: 50_000..=50_004,
        ..Setup::default()
    };
    let Four {
        mut world,
        clients: [mut a, mut b, mut other, mut alice],
        relayed: [ra, rb, ..],
    } = four(setup, 0);
    world.bind(&mut a, 0x4000, rb);
    world.refresh(&mut b, 0);
    let outcome = world.channel(&a, 0x4000, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
    // The renewal of what is held goes through, as a client renews all or none.
    assert_eq!(world.permit(&mut a, &[rb]).code(), 0);
    world.refresh(&mut other, 0);
    // Whoever gets the port next is a stranger, until one that is of the pair gets it.
    world.refresh(&mut alice, 0);
    while world.allocate(&mut alice) != rb {
        world.refresh(&mut alice, 0);
    }
    let outcome = world.channel(&a, 0x4000, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
    world.permit(&mut alice, &[ra]);
    let outcome = world.send(&mut alice, ra, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::PeerDenied);
    world.refresh(&mut alice, 0);
    while world.allocate(&mut b) != rb {
        world.refresh(&mut b, 0);
    }
    world.permit(&mut b, &[ra]);
    assert_eq!(world.channel(&a, 0x4000, b"x").indication().0, ra);
}

#[test]
fn both_families_of_a_dual_allocation_belong_to_the_pair() {
    let (mut world, mut a, mut b) = World::of_pair();
    let dual = |world: &mut World, client: &mut Client| {
        let response = world.allocate_with(client, |b| {
            b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, attr::FAMILY_IPV6);
        });
        response.relayed()
    };
    let (ra, rb) = (dual(&mut world, &mut a), dual(&mut world, &mut b));
    for half in [0, 1] {
        assert_eq!(world.permit(&mut a, &[rb[half]]).code(), 0);
        assert_eq!(world.permit(&mut b, &[ra[half]]).code(), 0);
        let outcome = world.send(&mut a, rb[half], b"x");
        assert_eq!(outcome.indication().0, ra[half]);
    }
}

/// The error code of an Allocate, 0 when it succeeds.
fn try_allocate(
    world: &mut World,
    client: &mut Client,
    build: impl FnOnce(&mut Builder<'_>),
) -> u16 {
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP);
        build(b);
    });
    world.call_bytes(client, &request).code()
}

#[test]
fn a_pair_neither_reserves_ports_nor_claims_them() {
    let mut world = Setup {
        users: vec![User::paired(1, 'i'), User::new("alice", "secret-a")],
        ..Setup::default()
    }
    .world();
    let (i, alice) = (world.setup.users[0].clone(), world.setup.users[1].clone());
    let mut a = world.client(flow("192.0.2.1:5000"), &i);
    let code = try_allocate(&mut world, &mut a, |b| {
        b.even_port(true);
    });
    assert_eq!(code, 508);
    let mut alice = world.client(flow("192.0.2.2:5000"), &alice);
    let response = world.allocate_with(&mut alice, |b| {
        b.even_port(true);
    });
    let token = response.token().expect("a reservation");
    let code = try_allocate(&mut world, &mut a, |b| {
        b.attribute(attr::RESERVATION_TOKEN, &token);
    });
    assert_eq!(code, 508);
    // It is still there for whom it was made for.
    let mut second = world.client(flow("192.0.2.2:5001"), &alice.user);
    let response = world.allocate_with(&mut second, |b| {
        b.attribute(attr::RESERVATION_TOKEN, &token);
    });
    assert_eq!(response.code(), 0);
    let response = world.allocate_with(&mut a, |b| {
        b.even_port(false);
    });
    assert_eq!(response.relayed()[0].port() % 2, 0);
}

#[test]
fn each_side_has_a_quota_of_its_own() {
    for (configured, most) in [
        (0, ALLOCATIONS_PER_SIDE),
        (1024, ALLOCATIONS_PER_SIDE),
        (2, 2),
    ] {
        let mut world = Setup {
            users: vec![User::paired(1, 'i'), User::paired(1, 'r')],
            limits: Limits {
                allocations_per_user: configured,
                ..Limits::default()
            },
            ..Setup::default()
        }
        .world();
        for (side, user) in (0..).zip(world.setup.users.clone()) {
            for number in 0..=most {
                let mut client = world.client(flow(&format!("192.0.2.1:{}", 5000 + number)), &user);
                client.flow.link = side;
                let code = try_allocate(&mut world, &mut client, |_| {});
                assert_eq!(code, if number < most { 0 } else { 486 }, "{number}");
            }
        }
    }
}
