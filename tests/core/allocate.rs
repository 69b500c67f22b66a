//! Allocate: RFC 8656 section 7.2.

use turnserver::proto::audit::{Audit, EndReason};
use turnserver::proto::counters::{Outcome as Counted, RequestMethod};
use turnserver::proto::{DropReason, Flow, Transport};
use turnserver::wire::{Method, attr};

use crate::harness::*;

fn world_and_client() -> (World, Client) {
    let world = World::new();
    let user = world.setup.users[0].clone();
    let client = world.client(flow("192.0.2.1:5000"), &user);
    (world, client)
}

#[test]
fn success_carries_relayed_and_mapped_address_lifetime_and_integrity() {
    let (mut world, mut client) = world_and_client();
    let response = world.allocate_with(&mut client, |_| {});
    assert_eq!(
        response.types(),
        [
            attr::XOR_RELAYED_ADDRESS,
            attr::LIFETIME,
            attr::XOR_MAPPED_ADDRESS,
            attr::MESSAGE_INTEGRITY
        ]
    );
    let relayed = response.relayed()[0];
    // Behind a 1:1 NAT the client is told what the world sees.
    assert_eq!(relayed.ip(), ip(PUBLIC_V4));
    assert!((50_000..=50_099).contains(&relayed.port()));
    assert_eq!(response.lifetime(), 600);
    let mapped = response.attrs().xor_mapped_address();
    assert_eq!(mapped, Ok(Some(client.flow.client)));
    assert_eq!(world.net.leases.len(), 1);
}

#[test]
fn software_is_told_to_proven_users_only() {
    let mut world = Setup {
        software: Some("turnserver"),
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let response = world.allocate_with(&mut client, |_| {});
    assert_eq!(response.attrs().software(), Some(&b"turnserver"[..]));
}

#[test]
fn lifetime_is_raised_to_the_default_and_clamped_to_the_maximum() {
    for (requested, granted) in [
        (0, 600),
        (1, 600),
        (599, 600),
        (600, 600),
        (777, 777),
        (3600, 3600),
        (3601, 3600),
        (u32::MAX, 3600),
    ] {
        let (mut world, mut client) = world_and_client();
        let response = world.allocate_with(&mut client, |b| {
            b.u32(attr::LIFETIME, requested);
        });
        assert_eq!(response.lifetime(), granted, "asked for {requested}");
        world.pass(f64::from(granted) - 0.001);
        assert!(world.shards[0].has_allocation(&client.flow));
        world.pass(1.001);
        world.assert_empty();
    }
}

#[test]
fn an_allocation_lives_exactly_its_lifetime_even_if_the_timer_is_late() {
    let (mut world, mut client) = world_and_client();
    let relayed = world.allocate(&mut client);
    let peer = addr("192.0.2.50:9");
    world.pass(400.0);
    world.permit(&mut client, &[peer]);
    world.bind(&mut client, 0x4000, peer);
    world.pass_without_timers(199.999);
    assert_eq!(
        world.arrive(relayed, peer, b"x").channel(),
        (0x4000, &b"x"[..])
    );
    world.pass_without_timers(0.001);
    let outcome = world.arrive(relayed, peer, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoRelay);
    let outcome = world.channel(&client, 0x4000, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoAllocation);
    let outcome = world.send(&mut client, peer, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoAllocation);
    client.nonce = world.fresh_nonce(&client.flow, true);
    assert_eq!(world.refresh(&mut client, 600).code(), 437);
    world.assert_empty();
}

#[test]
fn a_retransmission_gets_the_identical_success() {
    let (mut world, mut client) = world_and_client();
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        b.even_port(true);
        b.u32(attr::LIFETIME, 1000);
    });
    let first = world.call_bytes(&client, &request);
    assert_eq!(first.code(), 0);
    for _ in 0..3 {
        world.pass(10.0);
        assert_eq!(world.call_bytes(&client, &request), first);
    }
    assert_eq!(world.shards[0].allocations(), 1);
    assert_eq!(world.net.leases.len(), 1);
}

#[test]
fn another_transaction_on_the_same_5_tuple_is_437() {
    let (mut world, mut client) = world_and_client();
    world.allocate(&mut client);
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    assert_eq!(response.code(), 437);
    // Also when what it asks for is nonsense: 437 is the first check.
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 99);
    });
    assert_eq!(response.code(), 437);
    // And for another user, who cannot have it.
    let bob = world.setup.users[1].clone();
    let mut other = world.client(client.flow, &bob);
    let response = world.call(&mut other, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    assert_eq!(response.code(), 437);
}

#[test]
fn a_5_tuple_includes_the_transport_and_the_server_address() {
    let (mut world, client) = world_and_client();
    let udp = client.flow;
    let flows = [
        udp,
        Flow {
            local: addr("203.0.113.1:3478"),
            ..udp
        },
        Flow {
            local: addr("198.51.100.1:443"),
            ..udp
        },
        Flow {
            transport: Transport::Tcp,
            link: 5,
            ..udp
        },
        Flow {
            transport: Transport::Tls,
            link: 6,
            ..udp
        },
    ];
    let mut relayed = Vec::new();
    for flow in flows {
        let mut client = Client {
            flow,
            ..client.clone()
        };
        relayed.push(world.allocate(&mut client));
    }
    relayed.sort_unstable();
    relayed.dedup();
    assert_eq!(relayed.len(), flows.len());
}

#[test]
fn requested_transport_missing_or_malformed_is_400_and_unsupported_442() {
    let (mut world, mut client) = world_and_client();
    let response = world.call(&mut client, Method::ALLOCATE, |_| {});
    assert_eq!(response.code(), 400);
    for value in [&[][..], &[17], &[17, 0], &[17, 0, 0, 0, 0]] {
        let response = world.call(&mut client, Method::ALLOCATE, |b| {
            b.attribute(attr::REQUESTED_TRANSPORT, value);
        });
        assert_eq!(response.code(), 400, "{value:?}");
    }
    for protocol in [0, 1, 6, 16, 18, 255] {
        let response = world.call(&mut client, Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, protocol);
        });
        assert_eq!(response.code(), 442, "protocol {protocol}");
    }
    world.assert_empty();
}

#[test]
fn the_relayed_transport_protocol_does_not_depend_on_the_clients() {
    // 442 is about the relay side: a client over TCP asks for UDP relaying.
    let (mut world, client) = world_and_client();
    let mut client = Client {
        flow: stream_flow("192.0.2.1:5000", 1),
        ..client
    };
    world.allocate(&mut client);
}

#[test]
fn dont_fragment_is_accepted() {
    let (mut world, mut client) = world_and_client();
    world.allocate_with(&mut client, |b| {
        b.empty(attr::DONT_FRAGMENT);
    });
}

#[test]
fn attributes_of_a_wrong_length_are_400_whatever_else_is_right() {
    let (mut world, mut client) = world_and_client();
    for (ty, value) in [
        (attr::LIFETIME, &[0, 0, 1][..]),
        (attr::LIFETIME, &[0, 0, 0, 2, 88]),
        (attr::EVEN_PORT, &[]),
        (attr::EVEN_PORT, &[0, 0, 0, 0]),
        (attr::RESERVATION_TOKEN, &[1, 2, 3, 4]),
        (attr::DONT_FRAGMENT, &[1]),
        (attr::REQUESTED_ADDRESS_FAMILY, &[1]),
        (attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0]),
    ] {
        let response = world.call(&mut client, Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            b.attribute(ty, value);
        });
        assert_eq!(response.code(), 400, "{:?} {value:?}", attr::name(ty));
    }
    world.assert_empty();
}

#[test]
fn the_first_of_repeated_attributes_wins() {
    let (mut world, mut client) = world_and_client();
    let response = world.allocate_with(&mut client, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 99);
        b.u32(attr::LIFETIME, 1000);
        b.u32(attr::LIFETIME, 2000);
    });
    assert_eq!(response.lifetime(), 1000);
}

#[test]
fn unknown_required_attributes_are_420_and_unknown_optional_ones_skipped() {
    let (mut world, mut client) = world_and_client();
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        b.attribute(0x7ABC, b"");
        b.attribute(0x7ABC, b"");
    });
    assert_eq!((response.code(), response.unknown()), (420, vec![0x7ABC]));
    world.assert_empty();
    // 0x8032 is how an old draft asked for a dual allocation; clients still send it.
    let response = world.allocate_with(&mut client, |b| {
        b.attribute(0x8032, &[2, 0, 0, 0]);
        b.attribute(attr::SOFTWARE, b"client");
    });
    assert_eq!(response.relayed().len(), 1);
}

#[test]
fn no_free_port_is_508_and_leaves_nothing_behind() {
    let mut world = Setup {
        ports: 50_000..=50_001,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let mut clients: Vec<_> = (1..=3)
        .map(|port| world.client(flow(&format!("192.0.2.1:{port}")), &user))
        .collect();
    world.allocate(&mut clients[0]);
    world.allocate(&mut clients[1]);
    let response = world.call(&mut clients[2], Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    assert_eq!(response.code(), 508);
    assert!(!world.shards[0].has_allocation(&clients[2].flow));
    assert_eq!(world.shared.quotas.held_by("alice"), 2);
    // Once a port is free the same 5-tuple gets it.
    world.refresh(&mut clients[0], 0);
    world.allocate(&mut clients[2]);
}

#[test]
fn a_kernel_that_opens_no_socket_is_508() {
    let (mut world, mut client) = world_and_client();
    world.net.fail = Some(turnserver::proto::OpenError::Exhausted);
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    assert_eq!(response.code(), 508);
    let refused = world.audits.iter().any(|audit| {
        matches!(audit, Audit::AllocateRefused { code: 508, username, .. } if &**username == "alice")
    });
    assert!(refused);
    world.assert_empty();
}

#[test]
fn an_allocate_is_answered_only_once_its_socket_is_open() {
    let (mut world, mut client) = world_and_client();
    world.net.defer = true;
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    assert_eq!(world.receive(0, &client.flow, &request), Outcome::Waiting);
    // The same request again waits with it, another one is 437.
    assert_eq!(world.receive(0, &client.flow, &request), Outcome::Waiting);
    let response = world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    assert_eq!(response.code(), 437);
    // There is no allocation yet for anything else either.
    assert_eq!(world.refresh(&mut client, 600).code(), 437);
    let outcome = world.channel(&client, 0x4000, b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoAllocation);
    world.open_deferred();
    let (to, bytes) = world.answers.pop().expect("the answer");
    let response = Response { bytes };
    assert_eq!((to, response.code()), (client.flow, 0));
    response.assert_protected(&client);
    response.assert_answers(&request);
    assert!(world.answers.is_empty());
    assert_eq!(world.call_bytes(&client, &request), response);
}

#[test]
fn an_allocate_given_up_while_waiting_leaves_nothing_behind() {
    let (mut world, client) = world_and_client();
    let mut client = Client {
        flow: stream_flow("192.0.2.1:5000", 3),
        ..client
    };
    for even in [false, true] {
        world.net.defer = true;
        let request = client.request(Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            if even {
                b.even_port(true);
            }
        });
        assert_eq!(world.receive(0, &client.flow, &request), Outcome::Waiting);
        world.close_flow(0, &client.flow);
        // The socket opens too late; it is handed back.
        world.open_deferred();
        assert!(world.answers.is_empty());
        world.assert_empty();
    }
}

#[test]
fn relayed_ports_are_spread_at_random() {
    let mut world = Setup {
        ports: 20_000..=59_999,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let mut ports: Vec<u16> = (1..=200)
        .map(|port| {
            let mut client = world.client(flow(&format!("192.0.2.1:{port}")), &user);
            world.allocate(&mut client).port()
        })
        .collect();
    let ascending = ports.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!((60..140).contains(&ascending), "{ascending}");
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 200);
}

#[test]
fn creation_and_end_are_counted_and_logged_with_one_summary() {
    let (mut world, mut client) = world_and_client();
    let relayed = world.allocate(&mut client);
    let peer = addr("192.0.2.50:9");
    world.permit(&mut client, &[peer, addr("192.0.2.51:9")]);
    world.bind(&mut client, 0x4000, peer);
    world.send(&mut client, peer, b"12345");
    world.channel(&client, 0x4000, b"123");
    world.arrive(relayed, peer, b"1234567");
    world.arrive(relayed, addr("192.0.2.99:1"), b"nobody asked for this");
    world.pass(5.5);
    world.refresh(&mut client, 0);
    let created = world
        .audits
        .iter()
        .filter(|a| matches!(a, Audit::Created { .. }))
        .count();
    assert_eq!(created, 1);
    let ended: Vec<_> = world
        .audits
        .iter()
        .filter(|audit| matches!(audit, Audit::Ended { .. }))
        .collect();
    let [
        Audit::Ended {
            username,
            relayed: addresses,
            reason,
            seconds,
            peers,
            traffic,
            flow,
        },
    ] = ended[..]
    else {
        panic!("one summary, not {ended:?}");
    };
    assert_eq!((&**username, *flow), ("alice", client.flow));
    assert_eq!(
        (&addresses[..], *reason),
        (&[relayed][..], EndReason::Deleted)
    );
    assert_eq!((*seconds, *peers), (5, 2));
    assert_eq!((traffic.packets_up, traffic.bytes_up), (2, 8));
    assert_eq!((traffic.packets_down, traffic.bytes_down), (1, 7));
    assert_eq!(traffic.dropped, 1);
    let snapshot = world.snapshot();
    assert_eq!(snapshot.allocations_created, 1);
    assert_eq!(snapshot.ended(EndReason::Deleted), 1);
    assert_eq!((snapshot.packets_up, snapshot.bytes_up), (2, 8));
    assert_eq!((snapshot.packets_down, snapshot.bytes_down), (1, 7));
    assert_eq!(snapshot.dropped(DropReason::NoPermission), 1);
    let allocated = snapshot.requests(RequestMethod::Allocate, Counted::SUCCESS);
    assert_eq!(allocated, 1);
    world.assert_empty();
}
