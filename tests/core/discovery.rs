//! NAT behaviour discovery: RFC 5780 sections 6 and 7, and the address that answers nothing but
//! Bindings.

use std::net::SocketAddr;

use turnserver::proto::discovery::Endpoint;
use turnserver::proto::{DropReason, Flow, REPLY_BUFFER, Transport};
use turnserver::wire::{Builder, ChangeRequest, Class, Method, attr};

use crate::harness::*;

/// Two private addresses with two ports each, which a 1:1 NAT shows to the world.
fn endpoints() -> Vec<Endpoint> {
    let pairs = [
        ("10.7.0.1:3478", "198.51.100.7:3478"),
        ("10.7.0.1:8080", "198.51.100.7:8080"),
        ("10.7.0.2:3478", "198.51.100.8:3478"),
        ("10.7.0.2:8080", "198.51.100.8:8080"),
    ];
    (0..)
        .zip(pairs)
        .map(|(link, (local, public))| Endpoint {
            local: addr(local),
            public: addr(public),
            link,
        })
        .collect()
}

fn world() -> World {
    Setup {
        endpoints: endpoints(),
        ..Setup::default()
    }
    .world()
}

fn reaching(endpoint: &Endpoint, client: &str) -> Flow {
    Flow {
        transport: Transport::Udp,
        client: addr(client),
        local: endpoint.local,
        link: endpoint.link,
    }
}

fn binding(build: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    plain(Class::Request, Method::BINDING, build)
}

fn change(ip: bool, port: bool) -> Vec<u8> {
    binding(|b| {
        b.change_request(ChangeRequest { ip, port });
    })
}

/// An answer and the way it leaves.
fn answer(world: &mut World, flow: &Flow, request: &[u8]) -> (Flow, Response) {
    match world.receive(0, flow, request) {
        Outcome::Reply { flow, bytes, .. } => (flow, Response { bytes }),
        other => panic!("no answer but {other:?}"),
    }
}

#[test]
fn the_answer_leaves_from_the_address_and_port_of_table_1() {
    let mut world = world();
    let all = endpoints();
    // Other IP, other port, both: as places in the list above.
    for (reached, alternates) in [
        (0, [2, 1, 3]),
        (1, [3, 0, 2]),
        (2, [0, 3, 1]),
        (3, [1, 2, 0]),
    ] {
        let asked = reaching(&all[reached], "203.0.113.9:1234");
        let other = all[alternates[2]].public;
        for (ip, port, from) in [
            (false, false, reached),
            (true, false, alternates[0]),
            (false, true, alternates[1]),
            (true, true, alternates[2]),
        ] {
            let request = change(ip, port);
            let (left, response) = answer(&mut world, &asked, &request);
            response.assert_answers(&request);
            assert_eq!((left.local, left.link), (all[from].local, all[from].link));
            assert_eq!(left.client, asked.client);
            let attrs = response.attrs();
            assert_eq!(attrs.xor_mapped_address(), Ok(Some(asked.client)));
            assert_eq!(attrs.mapped_address(), Ok(Some(asked.client)));
            // What the world sees, not what the sockets are bound to.
            assert_eq!(attrs.response_origin(), Ok(Some(all[from].public)));
            assert_eq!(attrs.other_address(), Ok(Some(other)));
        }
        let (_, response) = answer(&mut world, &asked, &binding(|_| {}));
        assert_eq!(response.bytes.len(), 68);
        assert_eq!(response.attrs().other_address(), Ok(Some(other)));
    }
}

#[test]
fn without_four_combinations_nothing_is_claimed_and_change_request_is_420() {
    for some in [vec![], endpoints()[..2].to_vec(), endpoints()[..3].to_vec()] {
        let mut world = Setup {
            endpoints: some,
            ..Setup::default()
        }
        .world();
        let asked = reaching(&endpoints()[0], "203.0.113.9:1234");
        let (_, response) = answer(&mut world, &asked, &binding(|_| {}));
        assert_eq!(response.types(), [attr::XOR_MAPPED_ADDRESS]);
        let (left, response) = answer(&mut world, &asked, &change(false, true));
        assert_eq!((left, response.code()), (asked, 420));
        assert_eq!(response.unknown(), [attr::CHANGE_REQUEST]);
        assert_eq!(
            answer(&mut world, &asked, &change(false, false)).1.code(),
            0
        );
    }
    // Nor over a stream, whose answer can leave by one way only.
    let mut world = world();
    let stream = Flow {
        transport: Transport::Tcp,
        ..reaching(&endpoints()[0], "203.0.113.9:1234")
    };
    let (_, response) = answer(&mut world, &stream, &binding(|_| {}));
    assert_eq!(response.types(), [attr::XOR_MAPPED_ADDRESS]);
    let (_, response) = answer(&mut world, &stream, &change(true, true));
    assert_eq!(response.code(), 420);
}

#[test]
fn response_port_changes_the_port_alone_and_steers_no_error() {
    let mut world = world();
    let asked = reaching(&endpoints()[0], "203.0.113.9:1234");
    let ask = |port: u16, build: fn(&mut Builder<'_>)| {
        binding(|b| {
            b.response_port(port);
            build(b);
        })
    };
    let (left, response) = answer(&mut world, &asked, &ask(50_000, |_| {}));
    assert_eq!(left.client, addr("203.0.113.9:50000"));
    assert_eq!(
        response.attrs().xor_mapped_address(),
        Ok(Some(asked.client))
    );
    let both = ask(50_000, |b| {
        b.change_request(ChangeRequest {
            ip: true,
            port: true,
        });
    });
    let (left, _) = answer(&mut world, &asked, &both);
    assert_eq!((left.client.port(), left.link), (50_000, 3));
    // Services' ports, a malformed one, PADDING besides, something unknown: an error, and it goes
    // back where the request came from.
    let refused = [
        (ask(0, |_| {}), 400),
        (ask(1023, |_| {}), 400),
        (
            binding(|b| {
                b.attribute(attr::RESPONSE_PORT, b"x");
            }),
            400,
        ),
        (
            ask(50_000, |b| {
                b.padding(64);
            }),
            400,
        ),
        (
            ask(50_000, |b| {
                b.attribute(0x7F01, b"");
            }),
            420,
        ),
    ];
    for (request, code) in refused {
        let (left, response) = answer(&mut world, &asked, &request);
        assert_eq!((left, response.code()), (asked, code));
    }
    let (_, response) = answer(
        &mut world,
        &asked,
        &ask(50_000, |b| {
            b.attribute(0x7F01, b"");
        }),
    );
    assert_eq!(response.unknown(), [0x7F01], "RESPONSE-PORT is known here");
}

#[test]
fn padding_is_refused_as_an_answer_as_long_would_amplify() {
    let mut world = world();
    let asked = reaching(&endpoints()[0], "203.0.113.9:1234");
    let request = binding(|b| {
        b.padding(1000);
    });
    let (_, response) = answer(&mut world, &asked, &request);
    assert_eq!(
        (response.code(), response.unknown()),
        (420, vec![attr::PADDING])
    );
}

#[test]
fn longer_answers_cost_more_and_plain_ones_are_left_when_they_are_spent() {
    let mut world = Setup {
        endpoints: endpoints(),
        replies: 10,
        ..Setup::default()
    }
    .world();
    let asked = reaching(&endpoints()[0], "203.0.113.9:1234");
    let mut lengths = Vec::new();
    for _ in 0..20 {
        match world.receive(0, &asked, &binding(|_| {})) {
            Outcome::Reply { bytes, .. } => lengths.push(bytes.len()),
            other => assert_eq!(other.drop_reason(), DropReason::ReplyBudget),
        }
    }
    assert_eq!(lengths, [68, 68, 68, 68, 32]);
    assert!(lengths.iter().sum::<usize>() <= 320, "half of the budget");
    // One that asks for another way is not answered by a plain one.
    let outcome = world.receive(0, &asked, &change(true, true));
    assert_eq!(outcome.drop_reason(), DropReason::ReplyBudget);
    // Who forged all that keeps nobody from a challenge.
    let allocate = plain(Class::Request, Method::ALLOCATE, |_| {});
    assert_eq!(answer(&mut world, &asked, &allocate).1.code(), 401);
}

/// Hands bytes to an address that answers nothing but Bindings.
fn only(world: &mut World, client: &str, bytes: &[u8], echo: bool) -> Result<Vec<u8>, DropReason> {
    let asked = reaching(&endpoints()[1], client);
    let mut reply = [0xA5; REPLY_BUFFER];
    let now = world.now;
    let outcome = world.shards[0].handle_discovery(now, &asked, bytes, &mut reply, echo);
    match outcome {
        turnserver::proto::Disposition::Reply { flow, len, .. } => {
            assert_eq!(flow.client, asked.client);
            Ok(reply[..len].to_vec())
        }
        turnserver::proto::Disposition::Drop(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_address_for_bindings_answers_bindings_and_nothing_else() {
    let mut world = world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("203.0.113.9:1234"), &user);
    let allocate = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP);
    });
    for echo in [false, true] {
        let reply = only(&mut world, "203.0.113.9:1234", &binding(|_| {}), echo).expect("answered");
        let response = Response { bytes: reply };
        assert_eq!(
            response.attrs().xor_mapped_address(),
            Ok(Some(addr("203.0.113.9:1234")))
        );
        let mut drop_of = |bytes: &[u8]| only(&mut world, "203.0.113.9:1234", bytes, echo);
        assert_eq!(drop_of(&allocate), Err(DropReason::Unexpected));
        let indication = plain(Class::Indication, Method::BINDING, |_| {});
        assert_eq!(drop_of(&indication), Err(DropReason::Unexpected));
        let mut torn = binding(|_| {});
        torn.truncate(19);
        assert_eq!(drop_of(&torn), Err(DropReason::Malformed));
    }
    assert_eq!(world.shards[0].allocations(), 0);
}

#[test]
fn what_is_no_stun_is_answered_with_the_senders_address_by_choice_only() {
    let mut world = world();
    for (client, text) in [
        ("203.0.113.7:40000", "203.0.113.7:40000"),
        ("[2001:db8:9::1]:5", "[2001:db8:9::1]:5"),
    ] {
        for bytes in [
            &b"ping"[..],
            b"",
            b"\0\0\0\0",
            &[0x40, 0, 0, 0],
            &[0xFF; 500],
        ] {
            assert_eq!(
                only(&mut world, client, bytes, true).as_deref(),
                Ok(text.as_bytes())
            );
            assert_eq!(
                only(&mut world, client, bytes, false),
                Err(DropReason::Malformed)
            );
        }
    }
    // Two such servers do not talk to each other, whoever forges their addresses.
    for text in ["203.0.113.7:40000", "[2001:db8:9::1]:5"] {
        let dropped = only(&mut world, "203.0.113.7:8080", text.as_bytes(), true);
        assert_eq!(dropped, Err(DropReason::Unexpected));
    }
    let dropped = only(&mut world, "203.0.113.7:0", b"ping", true);
    assert_eq!(dropped, Err(DropReason::BadSource));
}

/// Hands bytes to an address where TURN is served, and texts are.
fn both(world: &mut World, client: &str, bytes: &[u8]) -> Result<Vec<u8>, DropReason> {
    let asked = reaching(&endpoints()[1], client);
    let mut reply = [0xA5; REPLY_BUFFER];
    let now = world.now;
    match world.shards[0].handle_client_or_echo(now, &asked, bytes, &mut reply) {
        turnserver::proto::Disposition::Reply { len, .. } => Ok(reply[..len].to_vec()),
        turnserver::proto::Disposition::Drop(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn texts_beside_turn() {
    let mut world = world();
    let client = "203.0.113.7:40000";
    // The text that clients send begins as a channel number does.
    for bytes in [
        &b"ping"[..],
        b"",
        b"\0\0\0\0",
        b"\x40\0\0\x01",
        &[0xFF; 500],
    ] {
        let answer = both(&mut world, client, bytes);
        assert_eq!(answer.as_deref(), Ok(client.as_bytes()), "{bytes:?}");
    }
    // ChannelData stays what it is, and so does STUN.
    for bytes in [&b"\x40\0\0\0"[..], b"\x40\0\0\x01x", b"\x50\x01\0\x02abcd"] {
        assert_eq!(
            both(&mut world, client, bytes),
            Err(DropReason::NoAllocation)
        );
    }
    let allocate = plain(Class::Request, Method::ALLOCATE, |_| {});
    let bytes = both(&mut world, client, &allocate).expect("a challenge");
    assert_eq!(Response { bytes }.code(), 401);
    let mut torn = binding(|_| {});
    torn.truncate(19);
    assert_eq!(both(&mut world, client, &torn), Err(DropReason::Malformed));
    let forged = both(&mut world, client, b"203.0.113.9:8080");
    assert_eq!(forged, Err(DropReason::Unexpected));
}

#[test]
fn texts_are_within_the_reply_budget() {
    let mut world = Setup {
        replies: 10,
        ..Setup::default()
    }
    .world();
    let sent = (0..100)
        .filter(|_| only(&mut world, "203.0.113.7:40000", b"", true).is_ok())
        .count();
    assert_eq!(sent, 10);
    let elsewhere: SocketAddr = addr("203.0.114.7:40000");
    assert!(only(&mut world, &elsewhere.to_string(), b"", true).is_ok());
}
