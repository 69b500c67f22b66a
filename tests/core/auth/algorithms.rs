//! Password algorithms, both integrity attributes, and bidding down.

use turnserver::wire::{Class, Integrity, Key, Method, PasswordAlgorithm, attr};

use super::{assert_challenge, world_and_client};
use crate::harness::*;

#[test]
fn old_clients_without_algorithms_get_md5_and_message_integrity() {
    let (mut world, mut client) = world_and_client();
    assert_eq!(client.algorithm, None);
    let response = world.allocate_with(&mut client, |_| {});
    assert_eq!(response.message().integrity(), Some(Integrity::Sha1));
}

#[test]
fn every_algorithm_and_integrity_is_accepted_and_answered_in_kind() {
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        for integrity in [Integrity::Sha1, Integrity::Sha256] {
            let (mut world, mut client) = world_and_client();
            client.algorithm = Some(algorithm);
            client.integrity = integrity;
            // `call` checks that the answer is protected by the same key and attribute.
            world.allocate(&mut client);
            assert_eq!(world.refresh(&mut client, 600).code(), 0);
            let error = world.call(&mut client, Method::CREATE_PERMISSION, |_| {});
            assert_eq!(error.code(), 400);
        }
    }
}

#[test]
fn a_truncated_sha256_integrity_is_accepted_down_to_16_bytes() {
    let (mut world, mut client) = world_and_client();
    client.integrity = Integrity::Sha256;
    world.allocate(&mut client);
    for (len, code) in [
        (16, 0),
        (20, 0),
        (24, 0),
        (28, 0),
        (32, 0),
        (12, 400),
        (8, 400),
    ] {
        let request = plain(Class::Request, Method::REFRESH, |b| {
            client.credentials(b);
            b.integrity_sha256_truncated(client.key(), len);
        });
        let response = world.answer(0, &client.flow, &request);
        assert_eq!(response.code(), code, "{len} bytes");
    }
}

#[test]
fn with_both_integrity_attributes_the_sha256_one_decides() {
    let (mut world, mut client) = world_and_client();
    world.allocate(&mut client);
    let wrong = Key::from_bytes(b"wrong");
    for (sha1, sha256, code) in [
        (&wrong, client.key(), 0),
        (client.key(), &wrong, 401),
        (client.key(), client.key(), 0),
    ] {
        let request = plain(Class::Request, Method::REFRESH, |b| {
            client.credentials(b);
            b.integrity(Integrity::Sha1, sha1);
            b.integrity(Integrity::Sha256, sha256);
        });
        let response = world.answer(0, &client.flow, &request);
        assert_eq!(response.code(), code);
        if code == 0 {
            assert_eq!(response.message().integrity(), Some(Integrity::Sha256));
        }
    }
}

/// A request with PASSWORD-ALGORITHMS and PASSWORD-ALGORITHM as given.
fn with_algorithms(client: &Client, list: Option<&[u8]>, choice: Option<&[u8]>) -> Vec<u8> {
    plain(Class::Request, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        client.credentials(b);
        if let Some(list) = list {
            b.attribute(attr::PASSWORD_ALGORITHMS, list);
        }
        if let Some(choice) = choice {
            b.attribute(attr::PASSWORD_ALGORITHM, choice);
        }
        b.integrity(Integrity::Sha1, client.key());
    })
}

const LIST: &[u8] = &[0, 2, 0, 0, 0, 1, 0, 0];
const MD5: &[u8] = &[0, 1, 0, 0];

#[test]
fn only_one_of_the_two_algorithm_attributes_is_400() {
    let (mut world, client) = world_and_client();
    for (list, choice) in [(Some(LIST), None), (None, Some(MD5))] {
        let request = with_algorithms(&client, list, choice);
        let response = world.answer(0, &client.flow, &request);
        assert_eq!(response.code(), 400);
        assert_eq!(response.types(), [attr::ERROR_CODE]);
    }
    let both = with_algorithms(&client, Some(LIST), Some(MD5));
    assert_eq!(world.answer(0, &client.flow, &both).code(), 0);
}

#[test]
fn an_echoed_list_that_differs_is_400_bid_down_protection() {
    let (mut world, client) = world_and_client();
    for list in [
        &[0, 1, 0, 0][..],
        &[0, 1, 0, 0, 0, 2, 0, 0],
        &[0, 2, 0, 0],
        &[0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0],
        &[],
    ] {
        let request = with_algorithms(&client, Some(list), Some(MD5));
        assert_eq!(
            world.answer(0, &client.flow, &request).code(),
            400,
            "{list:?}"
        );
    }
}

#[test]
fn an_algorithm_that_was_not_offered_is_400() {
    let (mut world, client) = world_and_client();
    for choice in [
        &[0, 3, 0, 0][..],
        &[0, 0, 0, 0],
        &[0, 1],
        &[0, 1, 0, 4, 1, 2, 3, 4],
    ] {
        let request = with_algorithms(&client, Some(LIST), Some(choice));
        assert_eq!(
            world.answer(0, &client.flow, &request).code(),
            400,
            "{choice:?}"
        );
    }
}

#[test]
fn a_nonce_whose_cookie_was_stripped_is_438_and_never_a_weaker_algorithm() {
    let (mut world, mut client) = world_and_client();
    // The attacker makes the client believe that there are no algorithms: nonce without cookie,
    // or with the feature bits cleared.
    let stripped = client.nonce[13..].to_vec();
    let mut cleared = client.nonce.clone();
    cleared[9..13].copy_from_slice(b"AAAA");
    for nonce in [stripped, cleared] {
        client.nonce = nonce;
        let request = client.request(Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        });
        assert_challenge(&world.answer(0, &client.flow, &request), 438);
    }
    world.assert_empty();
}
