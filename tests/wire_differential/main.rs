//! Our codec against an independent one (`stun-rs`): the same message is encoded by both, must
//! be the same bytes, and is read back by the other side, attribute for attribute.

mod attribute;

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use stun_rs::attributes::stun as s;
use stun_rs::{
    DecoderContextBuilder, HMACKey, MessageClass, MessageDecoderBuilder, MessageEncoderBuilder,
    MessageMethod, StunMessageBuilder,
};
use turnserver::wire::{
    Builder, ChangeRequest, Class, ErrorCode, Icmp, Integrity, Key, Message, Method,
    PasswordAlgorithm, TransactionId, data_indication_prefix,
};

use attribute::Attribute as A;
use attribute::{Attribute, build_ours, build_theirs, check_ours, check_theirs, their_algorithm};

const REALM: &str = "example.org";
const PASSWORD: &str = "correct-horse";

/// How a message is protected.
#[derive(Clone, Copy, Debug)]
struct Protection {
    algorithm: PasswordAlgorithm,
    sha1: bool,
    sha256: bool,
    fingerprint: bool,
}

#[derive(Clone, Debug)]
struct Spec {
    class: Class,
    method: Method,
    id: [u8; 12],
    attributes: Vec<Attribute>,
    protection: Protection,
}

impl Spec {
    fn encode_ours(&self) -> Vec<u8> {
        let mut buffer = vec![0xFF; 4096];
        let mut builder =
            Builder::new(&mut buffer, self.class, self.method, TransactionId(self.id));
        for attribute in &self.attributes {
            build_ours(&mut builder, attribute);
        }
        if self.protection.sha1 {
            builder.integrity(Integrity::Sha1, &self.our_key());
        }
        if self.protection.sha256 {
            builder.integrity(Integrity::Sha256, &self.our_key());
        }
        if self.protection.fingerprint {
            builder.fingerprint();
        }
        let len = builder.finish().expect("fits");
        buffer.truncate(len);
        buffer
    }

    fn encode_theirs(&self) -> Vec<u8> {
        let class = match self.class {
            Class::Request => MessageClass::Request,
            Class::Indication => MessageClass::Indication,
            Class::Success => MessageClass::SuccessResponse,
            Class::Error => MessageClass::ErrorResponse,
        };
        let method = MessageMethod::try_from(self.method.number()).expect("12 bits");
        let mut builder =
            StunMessageBuilder::new(method, class).with_transaction_id(self.id.into());
        for attribute in &self.attributes {
            builder = build_theirs(builder, attribute);
        }
        if self.protection.sha1 {
            builder = builder.with_attribute(s::MessageIntegrity::new(self.their_key()));
        }
        if self.protection.sha256 {
            builder = builder.with_attribute(s::MessageIntegritySha256::new(self.their_key()));
        }
        if self.protection.fingerprint {
            builder = builder.with_attribute(s::Fingerprint::default());
        }
        let mut buffer = vec![0; 4096];
        let encoder = MessageEncoderBuilder::default().build();
        let len = encoder.encode(&mut buffer, &builder.build()).expect("fits");
        buffer.truncate(len);
        buffer
    }

    fn our_key(&self) -> Key {
        let (realm, password) = (REALM.as_bytes(), PASSWORD.as_bytes());
        Key::long_term(self.protection.algorithm, b"alice", realm, password)
    }

    fn their_key(&self) -> HMACKey {
        let algorithm = their_algorithm(self.protection.algorithm);
        HMACKey::new_long_term("alice", REALM, PASSWORD, algorithm).expect("opaque strings")
    }

    fn decode_ours(&self, bytes: &[u8]) {
        let message = Message::parse(bytes).expect("our parser takes it");
        assert_eq!(
            (message.class(), message.method()),
            (self.class, self.method)
        );
        assert_eq!(message.transaction_id(), TransactionId(self.id));
        assert_eq!(message.has_fingerprint(), self.protection.fingerprint);
        assert_eq!(message.has_integrity(Integrity::Sha1), self.protection.sha1);
        assert_eq!(
            message.has_integrity(Integrity::Sha256),
            self.protection.sha256
        );
        let attrs = if self.protection.sha1 || self.protection.sha256 {
            *message.verify(&self.our_key()).expect("the key is right")
        } else {
            message.unprotected()
        };
        assert_eq!(attrs.raw().count(), self.attributes.len());
        for attribute in &self.attributes {
            check_ours(&attrs, attribute);
        }
    }

    fn decode_theirs(&self, bytes: &[u8]) {
        let context = DecoderContextBuilder::default()
            .with_key(self.their_key())
            .with_validation()
            .build();
        let decoder = MessageDecoderBuilder::default()
            .with_context(context)
            .build();
        let (message, len) = decoder.decode(bytes).expect("their decoder takes it");
        assert_eq!(len, bytes.len());
        assert_eq!(message.method().as_u16(), self.method.number());
        assert_eq!(message.transaction_id().as_bytes(), &self.id);
        for attribute in &self.attributes {
            check_theirs(&message, attribute);
        }
        assert_eq!(
            message.get::<s::MessageIntegrity>().is_some(),
            self.protection.sha1
        );
        assert_eq!(
            message.get::<s::Fingerprint>().is_some(),
            self.protection.fingerprint
        );
    }

    fn check(&self) {
        let (ours, theirs) = (self.encode_ours(), self.encode_theirs());
        self.decode_theirs(&ours);
        self.decode_ours(&theirs);
        assert_eq!(ours, theirs, "both encoders write the same bytes");
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn algorithm() -> impl Strategy<Value = PasswordAlgorithm> {
    prop_oneof![
        Just(PasswordAlgorithm::Md5),
        Just(PasswordAlgorithm::Sha256)
    ]
}

fn code() -> impl Strategy<Value = ErrorCode> {
    (300_u16..700).prop_map(|value| ErrorCode::new(value).expect("in range"))
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

/// One of every kind, in some order, some of them left out.
fn attributes() -> impl Strategy<Value = Vec<Attribute>> {
    let icmp = (0_u8..128, 0_u16..512, any::<u32>()).prop_map(|(icmp_type, code, data)| {
        A::Icmp(Icmp {
            icmp_type,
            code,
            data,
        })
    });
    let change =
        any::<(bool, bool)>().prop_map(|(ip, port)| A::ChangeRequest(ChangeRequest { ip, port }));
    let types = prop::collection::btree_set(any::<u16>(), 1..6)
        .prop_map(|types| A::UnknownAttributes(types.into_iter().collect()));
    let each: Vec<BoxedStrategy<Attribute>> = vec![
        "[a-z0-9:]{1,40}".prop_map(A::Username).boxed(),
        Just(A::Realm).boxed(),
        "[A-Za-z0-9]{1,40}".prop_map(A::Nonce).boxed(),
        "[a-z]{1,12}".prop_map(A::Software).boxed(),
        "[a-z]{1,12}".prop_map(A::UserHash).boxed(),
        algorithm().prop_map(A::PasswordAlgorithm).boxed(),
        prop::collection::vec(algorithm(), 1..4)
            .prop_map(A::PasswordAlgorithms)
            .boxed(),
        code().prop_map(A::ErrorCode).boxed(),
        types.boxed(),
        address().prop_map(A::MappedAddress).boxed(),
        address().prop_map(A::XorMappedAddress).boxed(),
        address().prop_map(A::AlternateServer).boxed(),
        any::<u32>().prop_map(A::Priority).boxed(),
        Just(A::UseCandidate).boxed(),
        any::<u64>().prop_map(A::IceControlled).boxed(),
        any::<u64>().prop_map(A::IceControlling).boxed(),
        any::<u16>().prop_map(A::ChannelNumber).boxed(),
        any::<u32>().prop_map(A::Lifetime).boxed(),
        address().prop_map(A::XorPeerAddress).boxed(),
        address().prop_map(A::XorRelayedAddress).boxed(),
        bytes().prop_map(A::Data).boxed(),
        any::<bool>().prop_map(A::RequestedAddressFamily).boxed(),
        any::<bool>().prop_map(A::AdditionalAddressFamily).boxed(),
        any::<bool>().prop_map(A::EvenPort).boxed(),
        Just(A::DontFragment).boxed(),
        Just(A::RequestedTransport).boxed(),
        any::<[u8; 8]>().prop_map(A::ReservationToken).boxed(),
        (any::<bool>(), code())
            .prop_map(|(v6, code)| A::AddressErrorCode(v6, code))
            .boxed(),
        icmp.boxed(),
        bytes().prop_map(A::MobilityTicket).boxed(),
        change.boxed(),
        address().prop_map(A::OtherAddress).boxed(),
        address().prop_map(A::ResponseOrigin).boxed(),
        any::<u16>().prop_map(A::ResponsePort).boxed(),
    ];
    let kinds = each.len();
    (each.prop_shuffle(), 0..=kinds).prop_map(|(mut attributes, keep)| {
        attributes.truncate(keep);
        attributes
    })
}

fn spec() -> impl Strategy<Value = Spec> {
    let class = prop_oneof![
        Just(Class::Request),
        Just(Class::Indication),
        Just(Class::Success),
        Just(Class::Error)
    ];
    let protection =
        (algorithm(), any::<[bool; 3]>()).prop_map(|(algorithm, [sha1, sha256, fingerprint])| {
            Protection {
                algorithm,
                sha1,
                sha256,
                fingerprint,
            }
        });
    (
        class,
        0_u16..0x1000,
        any::<[u8; 12]>(),
        attributes(),
        protection,
    )
        .prop_map(|(class, method, id, attributes, protection)| Spec {
            class,
            method: Method::new(method).expect("12 bits"),
            id,
            attributes,
            protection,
        })
}

proptest! {
    #[test]
    fn both_codecs_agree(spec in spec()) {
        spec.check();
    }

    /// The hand-written prefix is what the other codec writes as a whole message.
    #[test]
    fn data_indication(
        id in any::<[u8; 12]>(),
        peer in address(),
        payload in prop::collection::vec(any::<u8>(), 0..1200),
    ) {
        let spec = Spec {
            class: Class::Indication,
            method: Method::DATA,
            id,
            attributes: vec![A::XorPeerAddress(peer), A::Data(payload.clone())],
            protection: Protection {
                algorithm: PasswordAlgorithm::Md5,
                sha1: false,
                sha256: false,
                fingerprint: false,
            },
        };
        let mut prefix = [0xFF; 48];
        let (len, padding) =
            data_indication_prefix(&mut prefix, TransactionId(id), peer, payload.len())
                .expect("fits");
        let mut ours = prefix[..len].to_vec();
        ours.extend(payload);
        ours.extend(vec![0; padding.into()]);
        prop_assert_eq!(&ours, &spec.encode_theirs());
        spec.decode_theirs(&ours);
    }
}

/// What browsers and stock clients send, in each protection, spelled out.
#[test]
fn authenticated_allocate() {
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        for (sha1, sha256) in [(true, false), (false, true), (true, true)] {
            Spec {
                class: Class::Request,
                method: Method::ALLOCATE,
                id: *b"123456789012",
                attributes: vec![
                    A::Software("client".to_owned()),
                    A::RequestedTransport,
                    A::Lifetime(600),
                    A::RequestedAddressFamily(true),
                    A::Username("alice".to_owned()),
                    A::Realm,
                    A::Nonce("obMatJos2AAABf00".to_owned()),
                ],
                protection: Protection {
                    algorithm,
                    sha1,
                    sha256,
                    fingerprint: true,
                },
            }
            .check();
        }
    }
}
