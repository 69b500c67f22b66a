//! `stun-rs` decodes our replies with MESSAGE-INTEGRITY and FINGERPRINT validated.

use super::*;
use stun_rs::attributes::stun::{ErrorCode, Nonce, Realm, XorMappedAddress};
use stun_rs::{
    Algorithm, AlgorithmId, DecoderContextBuilder, HMACKey, MessageClass, MessageDecoderBuilder,
    StunMessage,
};

/// Decodes one reply that must be protected by the user's key.
fn read_protected(bytes: &[u8]) -> StunMessage {
    let key = HMACKey::new_long_term(USER.0, REALM, USER.1, Algorithm::from(AlgorithmId::MD5))
        .expect("a key");
    let context = DecoderContextBuilder::default()
        .with_key(key)
        .with_validation()
        .build();
    let types: Vec<u16> = attribute_types(bytes);
    assert!(types.contains(&stun::MESSAGE_INTEGRITY), "{types:04x?}");
    read(bytes, context)
}

/// Decodes one reply that must not be protected.
fn read_open(bytes: &[u8]) -> StunMessage {
    let types = attribute_types(bytes);
    assert!(!types.contains(&stun::MESSAGE_INTEGRITY), "{types:04x?}");
    read(bytes, DecoderContextBuilder::default().build())
}

fn read(bytes: &[u8], context: stun_rs::DecoderContext) -> StunMessage {
    let decoder = MessageDecoderBuilder::default()
        .with_context(context)
        .build();
    let (message, size) = decoder
        .decode(bytes)
        .unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    assert_eq!(size, bytes.len(), "nothing follows the message");
    assert_zero_padding(bytes);
    assert_order(bytes);
    message
}

fn attribute_types(bytes: &[u8]) -> Vec<u16> {
    let message = Message::parse(bytes).expect("well-formed");
    message.attributes().map(|(kind, _)| kind).collect()
}

/// Padding must not leak buffer contents.
fn assert_zero_padding(bytes: &[u8]) {
    let mut at = 20;
    while at < bytes.len() {
        let len = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        let (end, next) = (at + 4 + len, at + 4 + len.next_multiple_of(4));
        assert!(bytes[end..next].iter().all(|&byte| byte == 0));
        at = next;
    }
}

/// Nothing but FINGERPRINT follows an integrity attribute, and no type comes twice (only
/// XOR-RELAYED-ADDRESS may, in a dual allocation).
fn assert_order(bytes: &[u8]) {
    let types = attribute_types(bytes);
    if let Some(at) = types
        .iter()
        .position(|&kind| kind == stun::MESSAGE_INTEGRITY)
    {
        let rest = &types[at + 1..];
        assert!(
            rest.is_empty() || rest == [stun::FINGERPRINT],
            "{types:04x?}"
        );
    }
    if let Some(at) = types.iter().position(|&kind| kind == stun::FINGERPRINT) {
        assert_eq!(at + 1, types.len(), "FINGERPRINT is last: {types:04x?}");
    }
    let mut sorted = types.clone();
    sorted.retain(|&kind| kind != stun::XOR_RELAYED_ADDRESS);
    sorted.sort_unstable();
    sorted.dedup();
    let once = types
        .iter()
        .filter(|&&kind| kind != stun::XOR_RELAYED_ADDRESS);
    assert_eq!(sorted.len(), once.count(), "{types:04x?}");
}

fn code(message: &StunMessage) -> u16 {
    assert_eq!(message.class(), MessageClass::ErrorResponse);
    let attribute = message.get::<ErrorCode>().expect("an error has its code");
    let error = attribute.as_error_code().expect("it is an ERROR-CODE");
    error.error_code().error_code()
}

fn is_success(message: &StunMessage) -> bool {
    message.class() == MessageClass::SuccessResponse
}

fn transports(server: &Server) -> [Wire; 2] {
    [
        Wire::udp(server.udp()).expect("a socket"),
        Wire::tcp(server.tcp()).expect("a connection"),
    ]
}

#[test]
fn binding() {
    let server = Server::start();
    for mut wire in transports(&server) {
        for request in [
            Message::new(stun::BINDING),
            Message::new(stun::BINDING).fingerprint(),
        ] {
            wire.send(request.bytes()).expect("sent");
            let reply = wire.receive().expect("an answer");
            let message = read_open(&reply);
            assert!(is_success(&message));
            let mapped = message
                .get::<XorMappedAddress>()
                .and_then(|attribute| attribute.as_xor_mapped_address().ok())
                .expect("the mapped address");
            assert_eq!(*mapped.socket_address(), wire.local());
        }
    }
}

#[test]
fn challenge() {
    let server = Server::start();
    for mut wire in transports(&server) {
        let request = Message::new(stun::ALLOCATE).attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        wire.send(request.bytes()).expect("sent");
        let message = read_open(&wire.receive().expect("an answer"));
        assert_eq!(code(&message), 401);
        let realm = message.get::<Realm>().expect("a realm");
        assert_eq!(realm.as_realm().expect("a realm"), REALM);
        let nonce = message.get::<Nonce>().expect("a nonce");
        let nonce = nonce.as_nonce().expect("a nonce").as_str().to_owned();
        assert!(nonce.starts_with("obMatJos2"), "{nonce}");
    }
}

#[test]
fn unknown_comprehension_required_attribute() {
    let server = Server::start();
    for mut wire in transports(&server) {
        let request = Message::new(stun::BINDING)
            .attr(0x7ABC, b"what")
            .attr(0x7ABC, b"is")
            .attr(0x7ABD, b"this");
        wire.send(request.bytes()).expect("sent");
        let reply = wire.receive().expect("an answer");
        assert_eq!(code(&read_open(&reply)), 420);
        let listed = Message::parse(&reply).expect("well-formed");
        assert_eq!(
            listed.get(0x000A),
            Some(&[0x7A, 0xBC, 0x7A, 0xBD][..]),
            "each type once"
        );
    }
}

/// Sends an authenticated request as bytes and reads its reply strictly.
fn ask(client: &mut Client, kind: u16, fill: impl Fn(Message) -> Message) -> StunMessage {
    let request = client.authenticate(fill(Message::new(kind)));
    let reply = client.exchange(&request).expect("an answer");
    read_protected(reply.bytes())
}

#[test]
fn every_protected_reply() {
    let server = Server::start();
    let peer = Echo::start(Ipv4Addr::LOCALHOST.into()).address;
    for wire in transports(&server) {
        let mut client = Client::new(wire, USER);
        let missing = client.refresh(600);
        assert_eq!(missing.error(), Some(437));
        read_protected(missing.bytes());

        let plain = |request: Message| request;
        assert_eq!(code(&ask(&mut client, stun::ALLOCATE, plain)), 400);
        let tcp = |request: Message| request.attr(stun::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
        assert_eq!(code(&ask(&mut client, stun::ALLOCATE, tcp)), 442);
        let udp = |request: Message| request.attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let family =
            |request: Message| udp(request).attr(stun::REQUESTED_ADDRESS_FAMILY, &[9, 0, 0, 0]);
        assert_eq!(code(&ask(&mut client, stun::ALLOCATE, family)), 440);
        let unknown = |request: Message| udp(request).attr(0x7ABC, b"what");
        assert_eq!(code(&ask(&mut client, stun::ALLOCATE, unknown)), 420);

        assert!(is_success(&ask(&mut client, stun::ALLOCATE, udp)));
        assert_eq!(code(&ask(&mut client, stun::ALLOCATE, udp)), 437);
        assert!(is_success(&ask(&mut client, stun::REFRESH, plain)));

        let permit = |request: Message| request.address(stun::XOR_PEER_ADDRESS, peer);
        assert!(is_success(&ask(
            &mut client,
            stun::CREATE_PERMISSION,
            permit
        )));
        assert_eq!(code(&ask(&mut client, stun::CREATE_PERMISSION, plain)), 400);
        let denied = |request: Message| {
            let peer = "169.254.169.254:80".parse().expect("an address");
            request.address(stun::XOR_PEER_ADDRESS, peer)
        };
        assert_eq!(
            code(&ask(&mut client, stun::CREATE_PERMISSION, denied)),
            403
        );
        let other_family = |request: Message| {
            let peer = "[::1]:80".parse().expect("an address");
            request.address(stun::XOR_PEER_ADDRESS, peer)
        };
        assert_eq!(
            code(&ask(&mut client, stun::CREATE_PERMISSION, other_family)),
            443
        );

        let bind = |number: u8| {
            move |request: Message| {
                request
                    .attr(stun::CHANNEL_NUMBER, &[number, 0, 0, 0])
                    .address(stun::XOR_PEER_ADDRESS, peer)
            }
        };
        assert!(is_success(&ask(
            &mut client,
            stun::CHANNEL_BIND,
            bind(0x40)
        )));
        assert_eq!(code(&ask(&mut client, stun::CHANNEL_BIND, bind(0x41))), 400);
        assert_eq!(code(&ask(&mut client, stun::CHANNEL_BIND, bind(0x80))), 400);

        let delete = |request: Message| request.attr(stun::LIFETIME, &[0; 4]);
        assert!(is_success(&ask(&mut client, stun::REFRESH, delete)));
        assert_eq!(code(&ask(&mut client, stun::REFRESH, delete)), 437);
    }
}

#[test]
fn wrong_password_gets_a_fresh_challenge() {
    let server = Server::start();
    for wire in transports(&server) {
        let mut client = Client::new(wire, (USER.0, "wrong"));
        let refused = client.allocate();
        assert_eq!(refused.error(), Some(401));
        assert_eq!(code(&read_open(refused.bytes())), 401);
        assert!(refused.get(stun::NONCE).is_some());
    }
}

#[test]
fn another_user_on_the_same_five_tuple() {
    let server = Server::start();
    for wire in transports(&server) {
        let mut owner = Client::new(wire, OTHER_USER);
        owner.allocated();
        let mut intruder = Client::new(owner.wire, USER);
        let refused = intruder.refresh(600);
        assert_eq!(refused.error(), Some(441));
        read_protected(refused.bytes());
    }
}
