//! The published test vectors, byte for byte: RFC 5769 section 2 and RFC 8489 appendix B.1.

use turnserver::wire::{
    Builder, Class, Integrity, IntegrityError, Key, Message, Method, ParseError, PasswordAlgorithm,
    TransactionId, attr, rest_password, userhash,
};

/// RFC 5769 sections 2.1 to 2.3.
const SHORT_TERM_PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const SHORT_TERM_ID: TransactionId = TransactionId([
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
]);

/// RFC 5769 section 2.4 and RFC 8489 appendix B.1.
const USERNAME: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
const REALM: &[u8] = b"example.org";
/// What SASLprep and OpaqueString make of the password of the RFCs.
const PASSWORD: &[u8] = b"TheMatrIX";
const LONG_TERM_ID: TransactionId = TransactionId([
    0x78, 0xad, 0x34, 0x33, 0xc6, 0xad, 0x72, 0xc0, 0x29, 0xda, 0x41, 0x2e,
]);

/// RFC 5769 section 2.1.
const REQUEST: &str = "
    00010058 2112a442 b7e7a701bc34d686fa87dfae
    80220010 5354554e207465737420636c69656e74
    00240004 6e0001ff
    80290008 932ff9b151263b36
    00060009 6576746a3a68367659 202020
    00080014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
    80280004 e57a3bcf";

/// RFC 5769 section 2.2.
const RESPONSE_IPV4: &str = "
    0101003c 2112a442 b7e7a701bc34d686fa87dfae
    8022000b 7465737420766563746f72 20
    00200008 0001a147 e112a643
    00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
    80280004 c07d4c96";

/// RFC 5769 section 2.3.
const RESPONSE_IPV6: &str = "
    01010048 2112a442 b7e7a701bc34d686fa87dfae
    8022000b 7465737420766563746f72 20
    00200014 0002a147 0113a9faa5d3f179bc25f4b5bed2b9d9
    00080014 a382954e4be67bf11784c97c8292c275bfe3ed41
    80280004 c8fb0b4c";

/// RFC 5769 section 2.4.
const LONG_TERM_REQUEST: &str = "
    00010060 2112a442 78ad3433c6ad72c029da412e
    00060012 e3839ee38388e383aae38383e382afe382b9 0000
    0015001c 662f2f3439396b39353464364f4c33346f4c39465354767936347341
    0014000b 6578616d706c652e6f7267 00
    00080014 f67024656dd64a3e02b8e0712e85c9a28ca89666";

/// RFC 8489 appendix B.1, with verified erratum 6268.
const SHA256_REQUEST: &str = "
    00010090 2112a442 78ad3433c6ad72c029da412e
    001e0020 4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
    00150029 6f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39
             465354767936347341 000000
    0014000b 6578616d706c652e6f7267 00
    001d0004 00020000
    001c0020 b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex"))
        .collect()
}

#[test]
fn rfc5769_2_1_request() {
    let bytes = hex(REQUEST);
    let message = Message::parse(&bytes).expect("well-formed");
    assert_eq!(message.class(), Class::Request);
    assert_eq!(message.method(), Method::BINDING);
    assert_eq!(message.transaction_id(), SHORT_TERM_ID);
    assert_eq!(message.integrity(), Some(Integrity::Sha1));
    assert!(message.has_fingerprint());
    assert_eq!(message.claims().username, Some(&b"evtj:h6vY"[..]));
    let attrs = message
        .verify(&Key::short_term(SHORT_TERM_PASSWORD))
        .expect("right password");
    assert_eq!(attrs.software(), Some(&b"STUN test client"[..]));
    assert_eq!(
        attrs.get(attr::PRIORITY),
        Some(&[0x6e, 0x00, 0x01, 0xff][..])
    );
    let tie_breaker = [0x93, 0x2f, 0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36];
    assert_eq!(attrs.get(attr::ICE_CONTROLLED), Some(&tie_breaker[..]));
    assert_eq!(
        attrs.raw().count(),
        4,
        "neither integrity nor fingerprint are among them"
    );
    assert_eq!(
        message
            .verify(&Key::short_term(b"VOkJxbRl1RmTxUk/WvJxBT"))
            .err(),
        Some(IntegrityError::Mismatch)
    );
}

#[test]
fn rfc5769_2_2_and_2_3_responses() {
    for (vector, mapped) in [
        (RESPONSE_IPV4, "192.0.2.1:32853"),
        (
            RESPONSE_IPV6,
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
        ),
    ] {
        let bytes = hex(vector);
        let message = Message::parse(&bytes).expect("well-formed");
        assert_eq!(
            (message.class(), message.method()),
            (Class::Success, Method::BINDING)
        );
        let attrs = message
            .verify(&Key::short_term(SHORT_TERM_PASSWORD))
            .expect("right password");
        assert_eq!(attrs.software(), Some(&b"test vector"[..]));
        assert_eq!(
            attrs.xor_mapped_address(),
            Ok(Some(mapped.parse().expect("address")))
        );

        // Our own encoding of the address is the vector's.
        let mut buffer = [0xFF; 64];
        let mut builder = Builder::new(&mut buffer, Class::Success, Method::BINDING, SHORT_TERM_ID);
        builder.xor_address(attr::XOR_MAPPED_ADDRESS, mapped.parse().expect("address"));
        let len = builder.finish().expect("fits");
        assert_eq!(buffer[20..len], bytes[36..36 + len - 20]);
    }
}

#[test]
fn padding_is_covered_as_received() {
    let key = Key::short_term(SHORT_TERM_PASSWORD);
    let mut bytes = hex(RESPONSE_IPV4);
    bytes.truncate(72);
    bytes[3] -= 8;
    assert_eq!(bytes[35], b' ', "the padding of SOFTWARE in the vector");
    assert!(
        Message::parse(&bytes)
            .expect("without FINGERPRINT")
            .verify(&key)
            .is_ok()
    );
    bytes[35] = 0;
    let message = Message::parse(&bytes).expect("well-formed");
    assert_eq!(message.verify(&key).err(), Some(IntegrityError::Mismatch));
}

#[test]
fn rfc5769_2_4_long_term_request() {
    let bytes = hex(LONG_TERM_REQUEST);
    let message = Message::parse(&bytes).expect("well-formed");
    let claims = message.claims();
    assert_eq!(claims.username, Some(USERNAME.as_bytes()));
    assert_eq!(claims.realm, Some(REALM));
    assert_eq!(claims.nonce, Some(&b"f//499k954d6OL34oL9FSTvy64sA"[..]));
    assert_eq!(claims.password_algorithm, None);
    let key = Key::long_term(PasswordAlgorithm::Md5, USERNAME.as_bytes(), REALM, PASSWORD);
    assert!(message.verify(&key).is_ok());
    let sha256 = Key::long_term(
        PasswordAlgorithm::Sha256,
        USERNAME.as_bytes(),
        REALM,
        PASSWORD,
    );
    assert_eq!(
        message.verify(&sha256).err(),
        Some(IntegrityError::Mismatch)
    );

    let mut buffer = [0xFF; 256];
    let mut builder = Builder::new(&mut buffer, Class::Request, Method::BINDING, LONG_TERM_ID);
    builder
        .attribute(attr::USERNAME, USERNAME.as_bytes())
        .attribute(attr::NONCE, b"f//499k954d6OL34oL9FSTvy64sA")
        .attribute(attr::REALM, REALM)
        .integrity(Integrity::Sha1, &key);
    let len = builder.finish().expect("fits");
    assert_eq!(buffer[..len], bytes);
}

#[test]
fn rfc8489_b_1_sha256_request() {
    let bytes = hex(SHA256_REQUEST);
    let message = Message::parse(&bytes).expect("well-formed");
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    let claims = message.claims();
    let hash = userhash(USERNAME.as_bytes(), REALM);
    assert_eq!(claims.username, None);
    assert_eq!(claims.userhash, Some(&hash[..]));
    assert_eq!(
        claims.password_algorithm,
        Some(Ok(PasswordAlgorithm::Sha256))
    );
    assert!(claims.within_limits());
    let key = Key::long_term(
        PasswordAlgorithm::Sha256,
        USERNAME.as_bytes(),
        REALM,
        PASSWORD,
    );
    assert!(message.verify(&key).is_ok());

    let mut buffer = [0xFF; 256];
    let mut builder = Builder::new(&mut buffer, Class::Request, Method::BINDING, LONG_TERM_ID);
    builder
        .attribute(attr::USERHASH, &hash)
        .attribute(attr::NONCE, b"obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA")
        .attribute(attr::REALM, REALM)
        .password_algorithm(PasswordAlgorithm::Sha256)
        .integrity(Integrity::Sha256, &key);
    let len = builder.finish().expect("fits");
    assert_eq!(buffer[..len], bytes);
}

#[test]
fn a_wrong_fingerprint_is_not_stun() {
    for vector in [REQUEST, RESPONSE_IPV4, RESPONSE_IPV6] {
        let mut bytes = hex(vector);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(Message::parse(&bytes).err(), Some(ParseError::Fingerprint));
    }
}

/// Computed with Python's `hmac` and `base64` modules.
#[test]
fn time_limited_password() {
    assert_eq!(
        rest_password(b"rest-secret", b"1700000000:alice", false),
        "WrQyY0o5tIP/UmMNxnySXhHE4RY="
    );
    assert_eq!(
        rest_password(b"rest-secret", b"1700000000:alice", true),
        "UpS4u0oHlfFevsT5rifCU+bR6Vz3jE1LyHlYzgjJyfw="
    );
}
