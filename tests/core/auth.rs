//! The long-term credential mechanism: RFC 8489 section 9.2.4, in its order.

mod algorithms;
mod budgets;

use turnserver::proto::audit::Audit;
use turnserver::wire::{Class, Integrity, Method, PasswordAlgorithm, attr};

use crate::harness::*;

fn world_and_client() -> (World, Client) {
    let world = World::new();
    let user = world.setup.users[0].clone();
    let client = world.client(flow("192.0.2.1:5000"), &user);
    (world, client)
}

/// An Allocate whose parts can be left out.
fn allocate_with(client: &Client, username: bool, realm: bool, nonce: bool) -> Vec<u8> {
    plain(Class::Request, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        if username {
            b.attribute(attr::USERNAME, &client.name);
        }
        if realm {
            b.attribute(attr::REALM, REALM.as_bytes());
        }
        if nonce {
            b.attribute(attr::NONCE, &client.nonce);
        }
        b.integrity(Integrity::Sha1, client.key());
    })
}

fn assert_challenge(response: &Response, code: u16) {
    assert_eq!(response.code(), code);
    response.assert_unprotected();
    assert_eq!(response.types(), CHALLENGE);
}

#[test]
fn integrity_without_username_realm_or_nonce_is_400_without_integrity() {
    let (mut world, client) = world_and_client();
    for (username, realm, nonce) in [
        (false, true, true),
        (true, false, true),
        (true, true, false),
    ] {
        let request = allocate_with(&client, username, realm, nonce);
        let response = world.answer(0, &client.flow, &request);
        assert_eq!(response.code(), 400);
        assert_eq!(response.types(), [attr::ERROR_CODE]);
    }
    let whole = allocate_with(&client, true, true, true);
    assert_eq!(world.answer(0, &client.flow, &whole).code(), 0);
}

#[test]
fn an_unknown_user_is_401_with_a_fresh_challenge() {
    let (mut world, mut client) = world_and_client();
    client.name = b"mallory".to_vec();
    let request = client.request(Method::ALLOCATE, |_| {});
    assert_challenge(&world.answer(0, &client.flow, &request), 401);
}

#[test]
fn a_wrong_password_is_401_with_a_fresh_challenge() {
    let (mut world, mut client) = world_and_client();
    client.user = User::new("alice", "not her password");
    let request = client.request(Method::ALLOCATE, |_| {});
    assert_challenge(&world.answer(0, &client.flow, &request), 401);
    assert_eq!(world.snapshot().authentication_failures, 1);
    let failed = Audit::AuthenticationFailed { flow: client.flow };
    assert_eq!(world.audits, [failed]);
}

#[test]
fn unknown_user_and_wrong_password_get_identical_answers() {
    let (mut world, mut client) = world_and_client();
    client.user = User::new("alice", "not her password");
    let id = client.next_id();
    let wrong = client.request_with(id, Method::ALLOCATE, |_| {});
    let wrong = world.answer(0, &client.flow, &wrong);
    client.name = b"mallory".to_vec();
    let unknown = client.request_with(id, Method::ALLOCATE, |_| {});
    let unknown = world.answer(0, &client.flow, &unknown);
    assert_eq!(wrong, unknown);
}

#[test]
fn an_altered_request_is_401() {
    let (mut world, mut client) = world_and_client();
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        b.u32(attr::LIFETIME, 600);
    });
    for at in 20..request.len() - 24 {
        let mut altered = request.clone();
        altered[at] ^= 1;
        match world.receive(0, &client.flow, &altered) {
            Outcome::Reply { bytes, .. } => {
                let response = Response { bytes };
                assert!([400, 401].contains(&response.code()), "byte {at}");
                response.assert_unprotected();
            }
            Outcome::Drop(_) => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
    world.assert_empty();
}

#[test]
fn an_expired_nonce_is_438_only_after_the_password_was_right() {
    let (mut world, mut client) = world_and_client();
    world.pass(NONCE_LIFETIME as f64 + 1.0);
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    let response = world.answer(0, &client.flow, &request);
    assert_challenge(&response, 438);
    // RFC 5389 tested the nonce first: a wrong password with a stale nonce is 401 all the same.
    let mut wrong = client.clone();
    wrong.user = User::new("alice", "not her password");
    let request = wrong.request(Method::ALLOCATE, |_| {});
    assert_challenge(&world.answer(0, &client.flow, &request), 401);
    // With the nonce that came along it works.
    client.nonce = response.nonce();
    world.allocate(&mut client);
}

#[test]
fn a_nonce_works_only_for_the_address_it_was_given_to() {
    let (mut world, client) = world_and_client();
    for other in ["192.0.2.1:5001", "192.0.2.2:5000"] {
        let mut thief = client.clone();
        thief.flow = flow(other);
        let request = thief.request(Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        });
        assert_challenge(&world.answer(0, &thief.flow, &request), 438);
    }
}

#[test]
fn a_forged_nonce_is_438() {
    let (mut world, mut client) = world_and_client();
    for at in 0..client.nonce.len() {
        let mut forger = client.clone();
        forger.nonce[at] ^= 0x01;
        let request = forger.request(Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        });
        let response = world.answer(0, &client.flow, &request);
        assert_eq!(response.code(), 438, "character {at}");
    }
    client.nonce = b"obMatJos2AAAA".to_vec();
    let request = client.request(Method::ALLOCATE, |_| {});
    assert_eq!(world.answer(0, &client.flow, &request).code(), 438);
}

#[test]
fn a_captured_request_does_not_replay_once_its_nonce_is_old() {
    let (mut world, mut client) = world_and_client();
    world.allocate(&mut client);
    let delete = client.request(Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, 0);
    });
    world.pass(NONCE_LIFETIME as f64 - 1.0);
    world.pass(2.0);
    assert_challenge(&world.answer(0, &client.flow, &delete), 438);
}

#[test]
fn a_user_may_be_named_by_userhash() {
    let mut world = Setup {
        userhash: true,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let hash = turnserver::wire::userhash(b"alice", REALM.as_bytes());
    client.userhash = Some(hash.to_vec());
    client.algorithm = Some(PasswordAlgorithm::Sha256);
    client.integrity = Integrity::Sha256;
    world.allocate(&mut client);
    // The same user by name is the same user.
    client.userhash = None;
    assert_eq!(world.refresh(&mut client, 600).code(), 0);
}

#[test]
fn an_unknown_userhash_is_401_and_one_of_a_wrong_length_400() {
    let (mut world, mut client) = world_and_client();
    for (hash, code) in [(vec![7; 32], 401), (vec![7; 31], 400), (vec![], 400)] {
        client.userhash = Some(hash);
        let request = client.request(Method::ALLOCATE, |_| {});
        assert_eq!(world.answer(0, &client.flow, &request).code(), code);
    }
}

#[test]
fn a_username_realm_or_nonce_that_is_too_long_is_400() {
    let (mut world, client) = world_and_client();
    let mut long_name = client.clone();
    long_name.name = vec![b'a'; 509];
    let mut long_realm = client.clone();
    long_realm.realm = "r".repeat(764);
    let mut long_nonce = client.clone();
    long_nonce.nonce = vec![b'n'; 764];
    for mut client in [long_name, long_realm, long_nonce] {
        let request = client.request(Method::ALLOCATE, |_| {});
        assert_eq!(world.answer(0, &client.flow, &request).code(), 400);
    }
    let mut longest = client.clone();
    longest.name = vec![b'a'; 508];
    let request = longest.request(Method::ALLOCATE, |_| {});
    assert_eq!(world.answer(0, &client.flow, &request).code(), 401);
}

#[test]
fn another_realm_is_401() {
    let (mut world, mut client) = world_and_client();
    client.realm = "example.com.".into();
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    assert_challenge(&world.answer(0, &client.flow, &request), 401);
}

#[test]
fn attributes_behind_the_integrity_are_not_acted_upon() {
    let (mut world, mut client) = world_and_client();
    world.allocate(&mut client);
    let request = plain(Class::Request, Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, 1200);
        client.credentials(b);
        b.integrity(Integrity::Sha1, client.key());
        b.u32(attr::LIFETIME, 0);
    });
    let response = world.answer(0, &client.flow, &request);
    assert_eq!((response.code(), response.lifetime()), (0, 1200));
    let request = plain(Class::Request, Method::CREATE_PERMISSION, |b| {
        client.credentials(b);
        b.integrity(Integrity::Sha1, client.key());
        b.xor_address(attr::XOR_PEER_ADDRESS, addr("192.0.2.50:1"));
    });
    assert_eq!(world.answer(0, &client.flow, &request).code(), 400);
}

#[test]
fn every_error_of_a_proven_user_is_protected() {
    let (mut world, mut client) = world_and_client();
    // `call` asserts the integrity of each of these.
    for fingerprint in [false, true] {
        client.fingerprint = fingerprint;
        for method in [
            Method::REFRESH,
            Method::CREATE_PERMISSION,
            Method::CHANNEL_BIND,
        ] {
            assert_eq!(world.call(&mut client, method, |_| {}).code(), 437);
        }
        let unknown = world.call(&mut client, Method::ALLOCATE, |b| {
            b.attribute(0x7F01, b"");
        });
        assert_eq!(unknown.code(), 420);
        assert_eq!(unknown.unknown(), [0x7F01]);
        let bad = world.call(&mut client, Method::ALLOCATE, |_| {});
        assert_eq!(bad.code(), 400);
    }
}

#[test]
fn fingerprint_comes_back_on_protected_answers_to_whom_sent_it() {
    let (mut world, mut client) = world_and_client();
    client.fingerprint = true;
    let response = world.allocate_with(&mut client, |_| {});
    assert!(response.message().has_fingerprint());
    assert_eq!(response.types().last(), Some(&attr::FINGERPRINT));
}

#[test]
fn a_stale_nonce_on_refresh_does_not_disturb_the_allocation() {
    let (mut world, mut client) = world_and_client();
    let relayed = world.allocate_with(&mut client, |b| {
        b.u32(attr::LIFETIME, 3600);
    });
    let relayed = relayed.relayed()[0];
    world.permit(&mut client, &[addr("192.0.2.50:1")]);
    world.pass(NONCE_LIFETIME as f64 + 1.0);
    let request = client.request(Method::REFRESH, |_| {});
    let response = world.answer(0, &client.flow, &request);
    assert_eq!(response.code(), 438);
    client.nonce = response.nonce();
    world.permit(&mut client, &[addr("192.0.2.50:1")]);
    let outcome = world.arrive(relayed, addr("192.0.2.50:9"), b"still here");
    assert_eq!(outcome.indication().1, b"still here");
    assert_eq!(world.refresh(&mut client, 600).code(), 0);
}

#[test]
fn a_removed_user_cannot_refresh_after_a_reload_but_the_allocation_lives_on() {
    let (mut world, mut client) = world_and_client();
    world.allocate(&mut client);
    let without_alice = Setup {
        users: vec![User::new("bob", "secret-b")],
        ..Setup::default()
    };
    world.reload(without_alice.policy());
    let request = client.request(Method::REFRESH, |_| {});
    assert_challenge(&world.answer(0, &client.flow, &request), 401);
    assert!(world.shards[0].has_allocation(&client.flow));
    world.pass(601.0);
    world.assert_empty();
}
