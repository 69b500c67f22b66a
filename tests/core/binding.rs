//! Binding: RFC 8489 sections 5 to 7, 12 and 14.

use turnserver::proto::counters::{Outcome as Counted, RequestMethod};
use turnserver::proto::{DropReason, Flow, Transport};
use turnserver::wire::{Class, Method, attr};

use crate::harness::*;

fn binding() -> Vec<u8> {
    plain(Class::Request, Method::BINDING, |_| {})
}

#[test]
fn binding_success_is_32_bytes_for_ipv4_and_44_for_ipv6() {
    let mut world = World::new();
    for (client, len) in [("192.0.2.1:5000", 32), ("[2001:db8:9::1]:5000", 44)] {
        let response = world.answer(0, &flow(client), &binding());
        assert_eq!(response.bytes.len(), len);
        assert_eq!(response.code(), 0);
        let mapped = response.attrs().xor_mapped_address();
        assert_eq!(mapped, Ok(Some(addr(client))));
        assert_eq!(response.types(), [attr::XOR_MAPPED_ADDRESS]);
        response.assert_answers(&binding());
    }
}

#[test]
fn binding_with_credentials_or_fingerprint_is_answered_as_without() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    client.fingerprint = true;
    for nonce in [client.nonce.clone(), b"nobody's nonce".to_vec()] {
        client.nonce = nonce;
        let request = client.request(Method::BINDING, |_| {});
        let response = world.answer(0, &client.flow, &request);
        assert_eq!((response.code(), response.bytes.len()), (0, 32));
        response.assert_unprotected();
    }
}

#[test]
fn binding_keeps_no_state() {
    let mut world = World::new();
    for port in 1..2000 {
        let response = world.answer(0, &flow(&format!("192.0.2.1:{port}")), &binding());
        assert_eq!(response.code(), 0);
    }
    assert_eq!(world.shards[0].allocations(), 0);
    assert_eq!(world.shards[0].poll_timeout(), None);
    assert!(world.shards[0].poll_effect().is_none());
    assert_eq!(world.snapshot().bindings_answered, 1999);
}

#[test]
fn binding_over_a_stream_is_answered_too() {
    let mut world = World::new();
    let response = world.answer(0, &stream_flow("192.0.2.1:5000", 7), &binding());
    assert_eq!(response.code(), 0);
}

#[test]
fn the_answer_goes_to_the_flow_that_asked_with_the_address_it_reached() {
    let mut world = World::new();
    let asked = Flow {
        transport: Transport::Udp,
        client: addr("192.0.2.1:5000"),
        local: addr("203.0.113.99:3478"),
        link: 42,
    };
    let outcome = world.receive(0, &asked, &binding());
    let to = outcome.to_flow();
    assert_eq!((to, to.local, to.link), (asked, asked.local, 42));
}

#[test]
fn unknown_required_attributes_are_420_listing_each_type_once() {
    let mut world = World::new();
    let request = plain(Class::Request, Method::BINDING, |b| {
        b.attribute(0x7F01, b"one");
        b.attribute(0x7F02, b"");
        b.attribute(0x7F01, b"again");
        b.attribute(0x7F03, b"three");
        b.attribute(0x8777, b"optional");
    });
    let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
    assert_eq!(response.code(), 420);
    assert_eq!(response.unknown(), [0x7F01, 0x7F02, 0x7F03]);
    response.assert_unprotected();
    // Never larger than the request, which may have a forged source.
    assert!(response.bytes.len() <= request.len());
}

#[test]
fn unknown_optional_attributes_are_skipped() {
    let mut world = World::new();
    let request = plain(Class::Request, Method::BINDING, |b| {
        b.attribute(0x8032, &[2, 0, 0, 0]);
        b.attribute(attr::ICE_CONTROLLED, &[0; 8]);
        b.attribute(attr::SOFTWARE, b"some client");
    });
    let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
    assert_eq!(response.code(), 0);
}

#[test]
fn change_request_is_420_unless_it_asks_for_nothing() {
    let mut world = World::new();
    for (flags, code) in [(0, 0), (2, 420), (4, 420), (6, 420)] {
        let request = plain(Class::Request, Method::BINDING, |b| {
            b.attribute(attr::CHANGE_REQUEST, &[0, 0, 0, flags]);
        });
        let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
        assert_eq!(response.code(), code, "flags {flags}");
    }
    // A RESPONSE-PORT never steers an answer.
    let request = plain(Class::Request, Method::BINDING, |b| {
        b.response_port(9);
    });
    let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
    assert_eq!(response.code(), 420);
}

#[test]
fn a_wrong_fingerprint_means_not_stun_and_is_dropped() {
    let mut world = World::new();
    let mut request = plain(Class::Request, Method::BINDING, |b| {
        b.fingerprint();
    });
    let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
    assert_eq!(response.bytes.len(), 32);
    *request.last_mut().expect("not empty") ^= 1;
    let outcome = world.receive(0, &flow("192.0.2.1:5000"), &request);
    assert_eq!(outcome.drop_reason(), DropReason::Fingerprint);
}

#[test]
fn responses_and_indications_are_never_answered() {
    let mut world = World::new();
    for (class, method) in [
        (Class::Success, Method::BINDING),
        (Class::Error, Method::BINDING),
        (Class::Indication, Method::BINDING),
        (Class::Success, Method::ALLOCATE),
        (Class::Indication, Method::ALLOCATE),
        (Class::Indication, Method::REFRESH),
        (Class::Indication, Method::CREATE_PERMISSION),
        (Class::Indication, Method::DATA),
        (Class::Request, Method::SEND),
        (Class::Request, Method::DATA),
    ] {
        let bytes = plain(class, method, |b| {
            b.attribute(0x7F01, b"unknown and required");
        });
        let outcome = world.receive(0, &flow("192.0.2.1:5000"), &bytes);
        assert_eq!(
            outcome.drop_reason(),
            DropReason::Unexpected,
            "{class:?} {method:?}"
        );
    }
}

#[test]
fn unknown_methods_are_dropped() {
    let mut world = World::new();
    for number in [0x000, 0x002, 0x005, 0x00A, 0x00B, 0x07F, 0x0FF] {
        let method = Method::new(number).expect("12 bits at most");
        let bytes = plain(Class::Request, method, |_| {});
        let outcome = world.receive(0, &flow("192.0.2.1:5000"), &bytes);
        assert_eq!(outcome.drop_reason(), DropReason::Unexpected);
    }
}

#[test]
fn malformed_bytes_are_dropped_and_the_next_binding_is_answered() {
    let mut world = World::new();
    let good = binding();
    let mut broken: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
    let change = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    broken.extend([
        change(3, 4),    // longer than what came
        change(3, 1),    // not a multiple of 4
        change(4, 0),    // no cookie: RFC 3489
        change(0, 0x80), // RTP
        change(0, 22),   // DTLS on a UDP listener without it
        [good.clone(), vec![0; 4]].concat(),
        [change(3, 4), vec![0, 6, 0, 9]].concat(), // an attribute past the end
        vec![0xFF; 1500],
        vec![0; 65_535],
    ]);
    for bytes in broken {
        let outcome = world.receive(0, &flow("192.0.2.1:5000"), &bytes);
        assert_eq!(outcome.drop_reason(), DropReason::Malformed, "{bytes:02x?}");
        let response = world.answer(0, &flow("192.0.2.1:5000"), &good);
        assert_eq!(response.code(), 0);
    }
}

#[test]
fn every_first_byte_is_told_apart() {
    let mut world = World::new();
    for first in 0..=255_u8 {
        let mut bytes = [0; 64];
        bytes[0] = first;
        let reason = world
            .receive(0, &flow("192.0.2.1:5000"), &bytes)
            .drop_reason();
        let expected = match first {
            0x40..=0x7F => DropReason::NoAllocation,
            _ => DropReason::Malformed,
        };
        assert_eq!(reason, expected, "{first}");
    }
}

#[test]
fn sources_that_cannot_be_answered_are_dropped() {
    let mut world = World::new();
    for source in [
        "192.0.2.1:0",
        "0.0.0.0:5000",
        "224.0.0.1:5000",
        "255.255.255.255:5000",
        "[::]:5000",
        "[ff02::1]:5000",
    ] {
        for bytes in [binding(), channel_data(0x4000, b"x")] {
            let outcome = world.receive(0, &flow(source), &bytes);
            assert_eq!(outcome.drop_reason(), DropReason::BadSource, "{source}");
        }
    }
}

#[test]
fn binding_answers_over_udp_draw_on_the_reply_budget() {
    let mut world = Setup {
        replies: 10,
        ..Setup::default()
    }
    .world();
    let answered = (0..1000)
        .filter(|_| {
            let outcome = world.receive(0, &flow("192.0.2.1:5000"), &binding());
            matches!(outcome, Outcome::Reply { .. })
        })
        .count();
    assert_eq!(answered, 10);
    // Streams have proven their address and are not budgeted.
    for _ in 0..100 {
        world.answer(0, &stream_flow("192.0.2.1:5000", 1), &binding());
    }
    let snapshot = world.snapshot();
    assert_eq!(snapshot.replies_suppressed, 990);
    assert_eq!(snapshot.dropped(DropReason::ReplyBudget), 990);
    assert_eq!(
        snapshot.requests(RequestMethod::Binding, Counted::SUCCESS),
        110
    );
}

#[test]
fn a_flood_from_one_source_never_gets_more_bytes_than_it_sends() {
    for requests_per_second in [30, 100, 5000] {
        let mut world = Setup {
            replies: 10,
            ..Setup::default()
        }
        .world();
        let request = plain(Class::Request, Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        });
        let (mut sent, mut received) = (0, 0);
        for _ in 0..10 * requests_per_second {
            sent += request.len();
            if let Outcome::Reply { bytes, .. } =
                world.receive(0, &flow("192.0.2.1:5000"), &request)
            {
                received += bytes.len();
            }
            world.pass(1.0 / f64::from(requests_per_second));
        }
        assert!(received > 0);
        assert!(received <= sent, "{received} bytes for {sent}");
    }
}

#[test]
fn forged_bindings_keep_nobody_from_a_challenge_or_a_fresh_nonce() {
    let mut world = Setup {
        replies: 10,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let mut live = world.client(flow("192.0.2.1:5000"), &user);
    world.allocate_with(&mut live, |b| {
        b.u32(attr::LIFETIME, 3600);
    });
    world.pass(NONCE_LIFETIME as f64 + 1.0);
    for port in 1..=2000 {
        for source in ["192.0.2.1", "192.0.2.99"] {
            world.receive(0, &flow(&format!("{source}:{port}")), &binding());
        }
    }
    let request = live.request(Method::REFRESH, |_| {});
    assert_eq!(world.answer(0, &live.flow, &request).code(), 438);
    // Nor is a newcomer behind the forged address.
    let first = plain(Class::Request, Method::ALLOCATE, |_| {});
    assert_eq!(
        world.answer(0, &flow("192.0.2.99:5000"), &first).code(),
        401
    );
}
