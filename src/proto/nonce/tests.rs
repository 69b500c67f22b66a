use std::collections::HashSet;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use super::*;

const BOTH: Features = Features {
    password_algorithms: true,
    username_anonymity: true,
};
const ALGORITHMS: Features = Features {
    password_algorithms: true,
    username_anonymity: false,
};
const NONE: Features = Features {
    password_algorithms: false,
    username_anonymity: false,
};
const T: u64 = 1_790_000_000;

fn nonces() -> Nonces {
    Nonces::new(NonceKey::new([7; 32]), 600)
}

fn client(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn the_cookie_has_bit_0_leftmost() {
    // RFC 8489 section 9.2: the 24-bit set in base64, bit 0 being the leftmost.
    let cases = [
        (NONE, "obMatJos2AAAA"),
        (ALGORITHMS, "obMatJos2gAAA"),
        (BOTH, "obMatJos2wAAA"),
    ];
    for (features, start) in cases {
        let nonce = nonces().issue(T, client("192.0.2.1:1"), features);
        assert!(nonce.as_bytes().starts_with(start.as_bytes()), "{nonce:?}");
        assert_eq!(Nonces::claimed_features(nonce.as_bytes()), Some(features));
    }
    assert_eq!(Nonces::claimed_features(b"obMatJos2"), None);
    assert_eq!(Nonces::claimed_features(b"something-else-AAAA"), None);
}

#[test]
fn a_nonce_is_qdtext_and_fits_the_small_answer() {
    let nonce = nonces().issue(T, client("[2001:db8::1]:65535"), BOTH);
    assert_eq!(nonce.as_bytes().len(), 32);
    assert!(nonce.as_bytes().iter().all(u8::is_ascii_graphic));
    // RFC 8489 section 14.10: neither a quote nor a backslash.
    assert!(!nonce.as_bytes().iter().any(|byte| b"\"\\".contains(byte)));
}

#[test]
fn valid_for_its_lifetime_and_no_longer() {
    let (nonces, client) = (nonces(), client("192.0.2.1:4000"));
    let nonce = nonces.issue(T, client, BOTH);
    for age in [0, 1, 599] {
        let state = nonces.check(T + age, client, nonce.as_bytes());
        assert_eq!(state, NonceState::Valid, "age {age}");
    }
    // Also after the short form of the time came round.
    for age in [600, 601, 86_400, 1 << 18, (1 << 18) + 5, 1 << 32] {
        let state = nonces.check(T + age, client, nonce.as_bytes());
        assert_eq!(state, NonceState::Stale, "age {age}");
    }
}

#[test]
fn a_sibling_may_be_ahead_by_seconds_only() {
    let (nonces, client) = (nonces(), client("192.0.2.1:4000"));
    let nonce = nonces.issue(T + 5, client, BOTH);
    assert_eq!(nonces.check(T, client, nonce.as_bytes()), NonceState::Valid);
    let nonce = nonces.issue(T + 6, client, BOTH);
    assert_eq!(nonces.check(T, client, nonce.as_bytes()), NonceState::Stale);
}

#[test]
fn bound_to_address_and_port_and_key() {
    let nonces = nonces();
    let nonce = nonces.issue(T, client("192.0.2.1:4000"), BOTH);
    for other in ["192.0.2.1:4001", "192.0.2.2:4000", "[::c000:201]:4000"] {
        let state = nonces.check(T, client(other), nonce.as_bytes());
        assert_eq!(state, NonceState::Stale, "{other}");
    }
    let mapped = client("[::ffff:192.0.2.1]:4000");
    assert_eq!(nonces.check(T, mapped, nonce.as_bytes()), NonceState::Valid);

    let restarted = Nonces::new(NonceKey::new([7; 32]), 600);
    let state = restarted.check(T + 9, client("192.0.2.1:4000"), nonce.as_bytes());
    assert_eq!(state, NonceState::Valid, "the same key knows its nonces");
    let stranger = Nonces::new(NonceKey::new([8; 32]), 600);
    let state = stranger.check(T, client("192.0.2.1:4000"), nonce.as_bytes());
    assert_eq!(state, NonceState::Stale);
}

#[test]
fn a_stripped_or_altered_cookie_is_never_valid() {
    // The bid-down attack of RFC 8489 section 9.2.4: someone on the path removes or weakens the
    // announcement.
    let (nonces, client) = (nonces(), client("192.0.2.1:4000"));
    let nonce = nonces.issue(T, client, BOTH);
    let bytes = nonce.as_bytes();
    assert_eq!(nonces.check(T, client, &bytes[9..]), NonceState::Stale);
    assert_eq!(nonces.check(T, client, &bytes[13..]), NonceState::Stale);
    for features in [NONE, ALGORITHMS] {
        let weaker = nonces.issue(T, client, features);
        let mut mixed = *bytes.first_chunk::<NONCE_LEN>().unwrap();
        mixed[9..13].copy_from_slice(&weaker.as_bytes()[9..13]);
        assert_eq!(nonces.check(T, client, &mixed), NonceState::Stale);
    }
}

#[test]
fn every_single_altered_character_is_noticed() {
    let (nonces, client) = (nonces(), client("[2001:db8::7]:4000"));
    let nonce = nonces.issue(T, client, ALGORITHMS);
    for place in 0..NONCE_LEN {
        for byte in 0..=255_u8 {
            let mut altered = *nonce.as_bytes().first_chunk::<NONCE_LEN>().unwrap();
            if altered[place] == byte {
                continue;
            }
            altered[place] = byte;
            let state = nonces.check(T, client, &altered);
            assert_eq!(state, NonceState::Stale, "character {place} = {byte}");
        }
    }
    for len in 0..NONCE_LEN {
        let state = nonces.check(T, client, &nonce.as_bytes()[..len]);
        assert_eq!(state, NonceState::Stale);
    }
    let longer = [nonce.as_bytes(), b"A"].concat();
    assert_eq!(nonces.check(T, client, &longer), NonceState::Stale);
}

#[test]
fn a_million_forgeries_are_refused() {
    let (nonces, client) = (nonces(), client("192.0.2.1:4000"));
    let mut rng = ChaCha12Rng::seed_from_u64(1);
    let mut forged = *nonces
        .issue(T, client, BOTH)
        .as_bytes()
        .first_chunk::<NONCE_LEN>()
        .unwrap();
    for _ in 0..1_000_000 {
        // The best forgery: the right cookie and a fresh time, only the MAC is guessed.
        let token = u128::from(T & TIME_MASK) << MAC_BITS
            | (u128::from(rng.next_u64()) << 32 | u128::from(rng.next_u32()));
        encode(token, &mut forged[FEATURES_END..]);
        assert_eq!(nonces.check(T, client, &forged), NonceState::Stale);
    }
}

#[test]
fn different_clients_get_different_nonces() {
    let nonces = nonces();
    let mut seen = HashSet::new();
    for port in 1..=10_000_u16 {
        let client = SocketAddr::new("192.0.2.1".parse().unwrap(), port);
        assert!(seen.insert(nonces.issue(T, client, BOTH).as_bytes().to_vec()));
    }
}

#[test]
fn the_key_is_not_printed() {
    let key = NonceKey::new([42; 32]);
    assert!(!format!("{key:?} {:?}", Nonces::new(key.clone(), 600)).contains("42"));
}
