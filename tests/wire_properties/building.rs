//! What is written: layout, zero padding, limits.

use std::net::SocketAddr;

use turnserver::wire::{
    Builder, CHANNELS, ChangeRequest, ChannelData, ChannelError, Class, ErrorCode, Icmp, Integrity,
    Kind, Message, Method, Overflow, PasswordAlgorithm, RFC5766_CHANNELS, attr, classify,
    data_indication_prefix,
};

use super::{ID, allocate, build, key};

/// RFC 8656 section 18.13, figure 11: 7 bits of type, 9 of code.
#[test]
fn icmp_layout() {
    let bytes = build(|builder| {
        builder.icmp(Icmp {
            icmp_type: 3,
            code: 4,
            data: 1280,
        });
    });
    assert_eq!(bytes[24..], [0, 0, 0x06, 0x04, 0, 0, 0x05, 0x00]);
}

/// Every encoder, every value length, a buffer full of ones: what is not value is zero.
#[test]
fn padding_is_always_zero() {
    fn write(builder: &mut Builder<'_>, len: usize) {
        let v4 = "192.0.2.1:1".parse().expect("address");
        let v6 = "[2001:db8::1]:1".parse().expect("address");
        builder
            .attribute(attr::DATA, &vec![0xAA; len])
            .empty(attr::DONT_FRAGMENT)
            .u32(attr::LIFETIME, u32::MAX)
            .u8_rffu(attr::REQUESTED_TRANSPORT, u8::MAX)
            .address(attr::OTHER_ADDRESS, v4)
            .address(attr::OTHER_ADDRESS, v6)
            .xor_address(attr::XOR_PEER_ADDRESS, v4)
            .xor_address(attr::XOR_PEER_ADDRESS, v6)
            .error_code(ErrorCode::FORBIDDEN, true)
            .error_code(ErrorCode::FORBIDDEN, false)
            .address_error_code(attr::FAMILY_IPV6, ErrorCode::INSUFFICIENT_CAPACITY)
            .unknown_attributes((0..len as u16).map(|n| 0x7FFF - n))
            .password_algorithms(&[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5])
            .password_algorithm(PasswordAlgorithm::Sha256)
            .channel_number(0x4FFF)
            .even_port(true)
            .icmp(Icmp {
                icmp_type: 127,
                code: 511,
                data: u32::MAX,
            })
            .change_request(ChangeRequest {
                ip: true,
                port: true,
            })
            .response_port(u16::MAX)
            .padding(len)
            .integrity(Integrity::Sha1, &key())
            .integrity_sha256_truncated(&key(), 16 + len)
            .fingerprint();
    }
    for len in 0..=16 {
        let mut messages = [0x00, 0xFF].map(|dirt| {
            let mut buffer = vec![dirt; 2048];
            let mut builder = Builder::new(&mut buffer, Class::Request, Method::ALLOCATE, ID);
            write(&mut builder, len);
            let used = builder.finish().expect("fits");
            buffer.truncate(used);
            buffer
        });
        assert_eq!(
            messages[0], messages[1],
            "what the buffer held does not shine through"
        );
        // And what is padding is zero: walk the attributes by hand.
        let bytes = std::mem::take(&mut messages[0]);
        let mut at = 20;
        let mut count = 0;
        while at < bytes.len() {
            let value_len = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
            let end = at + 4 + value_len;
            at = end.next_multiple_of(4);
            assert!(bytes[end..at].iter().all(|byte| *byte == 0));
            count += 1;
        }
        assert_eq!(count, 23);
    }
}

#[test]
fn overflow_is_remembered() {
    let whole = allocate(|builder| {
        builder.integrity(Integrity::Sha1, &key()).fingerprint();
    });
    for room in 0..whole.len() + 8 {
        let mut buffer = vec![0; room];
        let mut builder = Builder::new(&mut buffer, Class::Request, Method::ALLOCATE, ID);
        builder
            .u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP)
            .u32(attr::LIFETIME, 600)
            .attribute(attr::USERNAME, b"alice")
            .attribute(attr::REALM, b"example.org")
            .attribute(attr::NONCE, b"nonce")
            .integrity(Integrity::Sha1, &key())
            .fingerprint();
        if room < whole.len() {
            assert_eq!(builder.finish(), Err(Overflow));
        } else {
            assert_eq!(builder.finish(), Ok(whole.len()));
            assert_eq!(buffer[..whole.len()], whole);
        }
    }
    // A later, smaller attribute does not make up for one that did not fit.
    let mut buffer = [0; 40];
    let mut builder = Builder::new(&mut buffer, Class::Request, Method::ALLOCATE, ID);
    builder
        .attribute(attr::DATA, &[0; 20])
        .empty(attr::DONT_FRAGMENT);
    builder.xor_address(
        attr::XOR_PEER_ADDRESS,
        "192.0.2.1:1".parse().expect("address"),
    );
    builder.unknown_attributes([1, 2]);
    assert_eq!(builder.finish(), Err(Overflow));
    // Nor does an empty list that does not fit.
    for room in 0..24 {
        let mut buffer = vec![0; room];
        let mut builder = Builder::new(&mut buffer, Class::Error, Method::ALLOCATE, ID);
        builder.unknown_attributes([]);
        assert_eq!(builder.finish(), Err(Overflow));
    }
    // Types that do not fit, one by one.
    let mut buffer = [0; 28];
    let mut builder = Builder::new(&mut buffer, Class::Error, Method::ALLOCATE, ID);
    builder.unknown_attributes([1, 2, 3]);
    assert_eq!(builder.finish(), Err(Overflow));
}

#[test]
fn the_longest_message() {
    let mut buffer = vec![0; 70_000];
    for (len, want) in [
        (65_536, Err(Overflow)),
        (65_529, Err(Overflow)),
        (65_528, Ok(65_552)),
    ] {
        let mut builder = Builder::new(&mut buffer, Class::Indication, Method::SEND, ID);
        builder.attribute(attr::DATA, &vec![1; len]);
        assert_eq!(builder.finish(), want);
    }
    let message = Message::parse(&buffer[..65_552]).expect("well-formed");
    assert_eq!(message.unprotected().data_range(), Some(24..65_552));
}

#[test]
fn data_indication_limits() {
    let v4: SocketAddr = "192.0.2.1:1".parse().expect("address");
    let v6: SocketAddr = "[2001:db8::1]:1".parse().expect("address");
    for (peer, prefix_len, most) in [(v4, 36, 65_516), (v6, 48, 65_504)] {
        let mut out = [0xFF; 48];
        assert_eq!(
            data_indication_prefix(&mut out, ID, peer, most),
            Some((prefix_len, 0))
        );
        assert_eq!(data_indication_prefix(&mut out, ID, peer, most + 1), None);
        for len in 0..9 {
            let (used, padding) =
                data_indication_prefix(&mut out, ID, peer, len).expect("short enough");
            let mut bytes = out[..used].to_vec();
            bytes.extend(vec![7; len]);
            bytes.extend(vec![0; padding.into()]);
            let message = Message::parse(&bytes).expect("well-formed");
            assert_eq!(
                (message.class(), message.method()),
                (Class::Indication, Method::DATA)
            );
            assert_eq!(message.transaction_id(), ID);
            let attrs = message.unprotected();
            assert_eq!(attrs.peer(), Ok(Some(peer)));
            assert_eq!(attrs.data_range(), Some(prefix_len..prefix_len + len));
        }
    }
}

/// RFC 7983 section 7, RFC 8656 section 12 and RFC 5766 section 11.
#[test]
fn first_bytes() {
    for byte in 0..=u8::MAX {
        let want = match byte {
            0..=3 => Kind::Stun,
            20..=63 => Kind::Tls,
            64..=127 => Kind::ChannelData,
            _ => Kind::Other,
        };
        assert_eq!(classify(byte), want);
        // A channel number can be bound exactly when its first byte says ChannelData.
        let number = u16::from_be_bytes([byte, 0x12]);
        assert_eq!(CHANNELS.contains(&number), (64..=79).contains(&byte));
        assert_eq!(
            RFC5766_CHANNELS.contains(&number),
            want == Kind::ChannelData
        );
        let bytes = [byte, 0x12, 0, 0];
        let parsed = ChannelData::parse(&bytes, false);
        assert_eq!(
            parsed.err() == Some(ChannelError::Number),
            want != Kind::ChannelData
        );
    }
}
