//! What must hold for any bytes: nothing panics, what is written is read back, what the
//! integrity covers cannot be changed, and how a stream is cut does not matter.

mod building;
mod integrity;
mod parsing;

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use turnserver::wire::{
    Attrs, Builder, CHANNELS, ChannelData, ChannelError, Class, Integrity, Key, Message, Method,
    PasswordAlgorithm, TransactionId, attr, classify,
};

const ID: TransactionId = TransactionId(*b"transaction!");

fn key() -> Key {
    Key::long_term(PasswordAlgorithm::Md5, b"alice", b"example.org", b"secret")
}

/// A message in a buffer that held other bytes before.
fn build(write: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    let mut buffer = vec![0xFF; 2048];
    let mut builder = Builder::new(&mut buffer, Class::Request, Method::ALLOCATE, ID);
    write(&mut builder);
    let len = builder.finish().expect("fits");
    buffer.truncate(len);
    buffer
}

/// An Allocate as clients send it.
fn allocate(write_integrity: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    build(|builder| {
        builder
            .u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP)
            .u32(attr::LIFETIME, 600)
            .attribute(attr::USERNAME, b"alice")
            .attribute(attr::REALM, b"example.org")
            .attribute(attr::NONCE, b"nonce");
        write_integrity(builder);
    })
}

/// Calls everything that reads.
fn read_all(attrs: &Attrs<'_>) {
    let _ = (
        attrs.lifetime(),
        attrs.requested_transport(),
        attrs.requested_address_family(),
    );
    let _ = (
        attrs.additional_address_family(),
        attrs.even_port(),
        attrs.reservation_token(),
    );
    let _ = (
        attrs.dont_fragment(),
        attrs.channel_number(),
        attrs.peer(),
        attrs.data(),
    );
    let _ = (attrs.peers().count(), attrs.xor_relayed_addresses().count());
    let _ = (
        attrs.xor_relayed_address(),
        attrs.address_error_code(),
        attrs.icmp(),
    );
    let _ = (
        attrs.mapped_address(),
        attrs.xor_mapped_address(),
        attrs.error_code(),
    );
    let _ = (
        attrs.error_reason(),
        attrs.username(),
        attrs.realm(),
        attrs.nonce(),
    );
    let _ = (
        attrs.software(),
        attrs.password_algorithms(),
        attrs.alternate_server(),
    );
    let _ = (
        attrs.alternate_domain(),
        attrs.change_request(),
        attrs.response_port(),
    );
    let _ = (
        attrs.padding(),
        attrs.response_origin(),
        attrs.other_address(),
    );
    let _ = (
        attrs.connection_id(),
        attrs.mobility_ticket(),
        attrs.access_token(),
    );
    let _ = (
        attrs.third_party_authorization(),
        attrs.unknown_required(&[]).count(),
    );
    if let Ok(Some(types)) = attrs.unknown_attributes() {
        types.for_each(drop);
    }
}

/// Reads whatever there is to read in some bytes.
fn read_bytes(bytes: &[u8]) {
    if let Ok(message) = Message::parse(bytes) {
        let _ = (
            message.claims().within_limits(),
            message.verify(&key()).map(|a| read_all(&a)),
        );
        let attrs = message.unprotected();
        read_all(&attrs);
        if let Some(range) = attrs.data_range() {
            assert_eq!(attrs.data(), Some(&message.as_bytes()[range]));
        }
        let _ = format!("{message:?}");
    }
    for stream in [false, true] {
        if let Ok(channel) = ChannelData::parse(bytes, stream) {
            assert_eq!(channel.data, &bytes[channel.data_range()]);
        }
    }
    if let Some(&first) = bytes.first() {
        classify(first);
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

/// Attributes of any type but those with a meaning for the framing.
fn raw_attributes() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let ty = any::<u16>().prop_filter("framing", |ty| {
        !matches!(
            *ty,
            attr::MESSAGE_INTEGRITY | attr::MESSAGE_INTEGRITY_SHA256 | attr::FINGERPRINT
        )
    });
    // Few types, so that they repeat.
    let ty = prop_oneof![
        ty,
        0x0001_u16..0x0004,
        0x0012_u16..0x0014,
        0x8022_u16..0x8024
    ];
    prop::collection::vec((ty, prop::collection::vec(any::<u8>(), 0..30)), 0..20)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_bytes(&bytes);
    }

    /// As above, but past the header, which random bytes never are.
    #[test]
    fn arbitrary_attributes_never_panic(mut body in prop::collection::vec(any::<u8>(), 0..300)) {
        body.truncate(body.len() & !3);
        let mut bytes = build(|_| {});
        bytes[2..4].copy_from_slice(&(body.len() as u16).to_be_bytes());
        bytes.extend(body);
        read_bytes(&bytes);
    }

    /// Values of every length under every known type.
    #[test]
    fn any_value_under_any_known_type_never_panics(
        types in prop::collection::vec(0_usize..100, 1..8),
        value in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let known: Vec<u16> = (0..=u16::MAX).filter(|ty| attr::name(*ty).is_some()).collect();
        let bytes = build(|builder| {
            for index in types {
                builder.attribute(known[index % known.len()], &value);
            }
        });
        read_bytes(&bytes);
    }

    #[test]
    fn what_is_written_is_read(
        attributes in raw_attributes(),
        sha1: bool,
        sha256: bool,
        fingerprint: bool,
    ) {
        let bytes = build(|builder| {
            for (ty, value) in &attributes {
                builder.attribute(*ty, value);
            }
            if sha1 {
                builder.integrity(Integrity::Sha1, &key());
            }
            if sha256 {
                builder.integrity(Integrity::Sha256, &key());
            }
            if fingerprint {
                builder.fingerprint();
            }
        });
        let message = Message::parse(&bytes).expect("well-formed");
        let attrs = if sha1 || sha256 {
            *message.verify(&key()).expect("right key")
        } else {
            message.unprotected()
        };
        let want = || attributes.iter().map(|(ty, value)| (*ty, &value[..]));
        prop_assert!(attrs.raw().eq(want()));
        // First occurrence wins (RFC 8489 section 14), also for types in no quick index.
        for (ty, _) in want() {
            let first = want().find(|(found, _)| *found == ty).map(|(_, value)| value);
            prop_assert_eq!(attrs.get(ty), first);
        }
        for absent in [0x003F, 0x0040, 0x7FFF, 0x803F, 0x8040, 0xFFFF] {
            prop_assert_eq!(attrs.contains(absent), want().any(|(ty, _)| ty == absent));
        }
    }

    #[test]
    fn addresses_round_trip(addresses in prop::collection::vec(address(), 1..6), id: [u8; 12]) {
        let mut buffer = [0xFF; 256];
        let mut builder = Builder::new(
            &mut buffer, Class::Request, Method::CREATE_PERMISSION, TransactionId(id));
        builder.address(attr::OTHER_ADDRESS, addresses[0]);
        for &address in &addresses {
            builder.xor_address(attr::XOR_PEER_ADDRESS, address);
        }
        let len = builder.finish().expect("fits");
        let message = Message::parse(&buffer[..len]).expect("well-formed");
        let attrs = message.unprotected();
        prop_assert!(attrs.peers().eq(addresses.iter().map(|&address| Ok(address))));
        prop_assert_eq!(attrs.peer(), Ok(Some(addresses[0])));
        prop_assert_eq!(attrs.other_address(), Ok(Some(addresses[0])));
    }

    #[test]
    fn channel_data_round_trip(
        number in CHANNELS,
        data in prop::collection::vec(any::<u8>(), 0..100),
        tail in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut bytes = ChannelData::header(number, data.len() as u16).to_vec();
        bytes.extend(&data);
        let channel = ChannelData { number, data: &data };
        prop_assert_eq!(ChannelData::parse(&bytes, true), Ok(channel));
        // Shorter than it claims.
        for len in 0..bytes.len() {
            prop_assert!(ChannelData::parse(&bytes[..len], false).is_err());
        }
        // RFC 8656 section 12.5: padding up to a multiple of 4, in a stream no more than that.
        let padding = usize::from(ChannelData::padding(data.len()));
        prop_assert_eq!((data.len() + padding) % 4, 0);
        bytes.extend(&tail);
        prop_assert_eq!(ChannelData::parse(&bytes, false), Ok(channel));
        let in_stream = if tail.len() > padding { Err(ChannelError::Length) } else { Ok(channel) };
        prop_assert_eq!(ChannelData::parse(&bytes, true), in_stream);
    }
}
