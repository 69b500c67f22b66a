//! What is said to somebody who has proven nothing: RFC 8489 section 9.2.4, first step.

use turnserver::proto::nonce::Nonces;
use turnserver::wire::{Class, Method, attr};

use crate::harness::*;

const METHODS: [Method; 4] = [
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
];

#[test]
fn no_integrity_is_401_with_realm_nonce_and_algorithms_and_nothing_else() {
    let mut world = World::new();
    for method in METHODS {
        let request = plain(Class::Request, method, |_| {});
        let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
        assert_eq!(response.code(), 401);
        response.assert_answers(&request);
        assert_eq!(response.types(), CHALLENGE);
        assert_eq!(response.attrs().realm(), Some(REALM.as_bytes()));
        let list = response.attrs().password_algorithms();
        assert_eq!(list, Some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
    }
}

#[test]
fn the_first_401_is_at_most_80_bytes_and_100_with_algorithms() {
    for (password_algorithms, most) in [(false, 80), (true, 100)] {
        let mut world = Setup {
            password_algorithms,
            software: Some("a name that must not go out"),
            userhash: true,
            ..Setup::default()
        }
        .world();
        assert_eq!(REALM.len(), 12);
        let request = plain(Class::Request, Method::ALLOCATE, |_| {});
        let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
        assert!(response.bytes.len() <= most, "{}", response.bytes.len());
        let list = response.attrs().password_algorithms();
        assert_eq!(list.is_some(), password_algorithms);
    }
}

#[test]
fn an_unauthenticated_answer_has_no_reason_phrase_and_no_software() {
    let mut world = Setup {
        software: Some("turnserver"),
        ..Setup::default()
    }
    .world();
    for build in [Method::ALLOCATE, Method::BINDING] {
        let request = plain(Class::Request, build, |b| {
            b.attribute(0x7F01, b"");
        });
        let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
        assert_ne!(response.code(), 0);
        assert_eq!(response.attrs().error_reason(), Some(&b""[..]));
        assert_eq!(response.attrs().software(), None);
    }
}

#[test]
fn authentication_comes_before_every_other_check() {
    let mut world = World::new();
    // Unsupported transport, both families, unknown attributes, a malformed LIFETIME: all of
    // that is judged once the sender is proven.
    let request = plain(Class::Request, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 99);
        b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, 9);
        b.attribute(0x7F01, b"");
        b.attribute(attr::LIFETIME, b"x");
    });
    let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
    assert_eq!(response.code(), 401);
}

#[test]
fn the_username_anonymity_bit_is_set_only_when_every_user_has_a_hash() {
    for userhash in [false, true] {
        let mut world = Setup {
            userhash,
            ..Setup::default()
        }
        .world();
        let request = plain(Class::Request, Method::ALLOCATE, |_| {});
        let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
        let features = Nonces::claimed_features(&response.nonce()).expect("a cookie");
        assert!(features.password_algorithms);
        assert_eq!(features.username_anonymity, userhash);
    }
}

#[test]
fn a_flood_of_unauthenticated_requests_leaves_nothing_behind() {
    let mut world = World::new();
    let request = plain(Class::Request, Method::ALLOCATE, |_| {});
    for n in 0..5000 {
        let source = format!("192.0.{}.{}:{}", n % 200, n % 250, 1024 + n);
        world.answer(0, &flow(&source), &request);
    }
    assert_eq!(world.shards[0].poll_timeout(), None);
    assert!(world.audits.is_empty());
    world.assert_empty();
}
