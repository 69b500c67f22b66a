//! What is refused, and what is read: rule by rule.

use turnserver::wire::{
    Attrs, ErrorCode, Integrity, IntegrityError, Malformed, Message, ParseError, attr,
};

use super::{allocate, build, key};

#[test]
fn truncated_at_every_length() {
    let bytes = allocate(|builder| {
        builder.integrity(Integrity::Sha1, &key()).fingerprint();
    });
    for len in 0..bytes.len() {
        let want = if len < 20 {
            ParseError::Short
        } else {
            ParseError::Length
        };
        assert_eq!(Message::parse(&bytes[..len]).err(), Some(want));
        // The same with a header that agrees: only whole attributes remain well-formed, and
        // none of them is proven.
        if len >= 20 {
            let mut cut = bytes[..len].to_vec();
            cut[2..4].copy_from_slice(&((len - 20) as u16).to_be_bytes());
            match Message::parse(&cut) {
                Ok(message) => match message.verify(&key()) {
                    Ok(attrs) => {
                        assert_eq!(len, bytes.len() - 8, "only FINGERPRINT may go");
                        assert_eq!(attrs.raw().count(), 5);
                    }
                    Err(error) => assert_eq!(error, IntegrityError::Missing),
                },
                Err(error) if len % 4 != 0 => assert_eq!(error, ParseError::Length),
                Err(error) => assert_eq!(error, ParseError::Attribute),
            }
        }
    }
    let mut longer = bytes.clone();
    longer.extend([0; 4]);
    assert_eq!(Message::parse(&longer).err(), Some(ParseError::Length));
}

#[test]
fn headers_that_are_not_stun() {
    let bytes = build(|_| {});
    assert!(Message::parse(&bytes).is_ok());
    for (at, flip) in [(0, 0x40), (0, 0x80), (4, 1), (5, 1), (6, 1), (7, 1)] {
        let mut changed = bytes.clone();
        changed[at] ^= flip;
        assert_eq!(Message::parse(&changed).err(), Some(ParseError::NotStun));
    }
    // Length: not a multiple of 4 although it is the length.
    let mut odd = bytes;
    odd.extend([0, 0]);
    odd[3] = 2;
    assert_eq!(Message::parse(&odd).err(), Some(ParseError::Length));
}

/// RFC 8489 section 14.7.
#[test]
fn fingerprint_is_last_and_right() {
    // Right, but not last.
    let mut followed = build(|builder| {
        builder
            .attribute(attr::FINGERPRINT, &[0; 4])
            .empty(attr::DONT_FRAGMENT);
    });
    let right = crc32fast::hash(&followed[..20]) ^ 0x5354_554E;
    followed[24..28].copy_from_slice(&right.to_be_bytes());
    assert_eq!(
        Message::parse(&followed).err(),
        Some(ParseError::Fingerprint)
    );
    let twice = build(|builder| {
        builder.fingerprint().fingerprint();
    });
    assert_eq!(Message::parse(&twice).err(), Some(ParseError::Fingerprint));
    for len in [0, 3, 5, 8] {
        let wrong_length = build(|builder| {
            builder.attribute(attr::FINGERPRINT, &vec![0; len]);
        });
        assert_eq!(
            Message::parse(&wrong_length).err(),
            Some(ParseError::Fingerprint)
        );
    }
    // Also where everything else is ignored.
    let behind_integrity = build(|builder| {
        builder
            .integrity(Integrity::Sha1, &key())
            .attribute(attr::FINGERPRINT, &[0; 4]);
    });
    assert_eq!(
        Message::parse(&behind_integrity).err(),
        Some(ParseError::Fingerprint)
    );
}

#[test]
fn attributes_that_run_past_the_end() {
    for value_len in 1..=8_u8 {
        let mut bytes = build(|builder| {
            builder.empty(attr::DATA);
        });
        bytes[23] = value_len;
        assert_eq!(Message::parse(&bytes).err(), Some(ParseError::Attribute));
    }
    // Ill-formed behind the integrity is ill-formed all the same.
    let mut bytes = build(|builder| {
        builder
            .integrity(Integrity::Sha1, &key())
            .empty(attr::SOFTWARE);
    });
    let last = bytes.len() - 1;
    bytes[last] = 4;
    assert_eq!(Message::parse(&bytes).err(), Some(ParseError::Attribute));
}

/// RFC 8489 section 6.3.1: each type once. Section 14: only those below 0x8000.
#[test]
fn unknown_required_types_are_told_once() {
    let bytes = build(|builder| {
        for ty in [
            0x7F01,
            0x8F01,
            attr::LIFETIME,
            0x0041,
            0x7F01,
            0x0041,
            attr::EVEN_PORT,
        ] {
            builder.empty(ty);
        }
        builder.integrity(Integrity::Sha1, &key()).empty(0x7F02);
    });
    let attrs = Message::parse(&bytes).expect("well-formed").unprotected();
    let told: Vec<u16> = attrs
        .unknown_required(&[attr::LIFETIME, attr::EVEN_PORT])
        .collect();
    assert_eq!(told, [0x7F01, 0x0041]);
    assert_eq!(
        attrs
            .unknown_required(&[attr::LIFETIME, attr::EVEN_PORT, 0x7F01, 0x0041])
            .count(),
        0
    );

    let many = build(|builder| {
        for ty in 0x1000..0x1100 {
            builder.empty(ty);
        }
    });
    let attrs = Message::parse(&many).expect("well-formed").unprotected();
    assert!(
        attrs.unknown_required(&[]).eq(0x1000..0x1020),
        "the answer stays small"
    );
}

/// A value of the wrong length is an error, not an absence.
#[test]
fn wrong_lengths_are_malformed() {
    type Read = fn(&Attrs<'_>) -> Result<bool, Malformed>;
    let getters: [(u16, &[usize], Read); 19] = [
        (attr::LIFETIME, &[4], |a| a.lifetime().map(|v| v.is_some())),
        (attr::REQUESTED_TRANSPORT, &[4], |a| {
            a.requested_transport().map(|v| v.is_some())
        }),
        (attr::REQUESTED_ADDRESS_FAMILY, &[4], |a| {
            a.requested_address_family().map(|v| v.is_some())
        }),
        (attr::ADDITIONAL_ADDRESS_FAMILY, &[4], |a| {
            a.additional_address_family().map(|v| v.is_some())
        }),
        (attr::EVEN_PORT, &[1], |a| {
            a.even_port().map(|v| v.is_some())
        }),
        (attr::RESERVATION_TOKEN, &[8], |a| {
            a.reservation_token().map(|v| v.is_some())
        }),
        (attr::DONT_FRAGMENT, &[0], |a| a.dont_fragment()),
        (attr::CHANNEL_NUMBER, &[4], |a| {
            a.channel_number().map(|v| v.is_some())
        }),
        (attr::ICMP, &[8], |a| a.icmp().map(|v| v.is_some())),
        (attr::CHANGE_REQUEST, &[4], |a| {
            a.change_request().map(|v| v.is_some())
        }),
        (attr::RESPONSE_PORT, &[2, 4], |a| {
            a.response_port().map(|v| v.is_some())
        }),
        (attr::CONNECTION_ID, &[4], |a| {
            a.connection_id().map(|v| v.is_some())
        }),
        // Family 0x01 in the second byte of the value below.
        (attr::XOR_PEER_ADDRESS, &[8], |a| {
            a.peer().map(|v| v.is_some())
        }),
        (attr::XOR_PEER_ADDRESS, &[8], |a| {
            a.peers().next().transpose().map(|v| v.is_some())
        }),
        (attr::XOR_MAPPED_ADDRESS, &[8], |a| {
            a.xor_mapped_address().map(|v| v.is_some())
        }),
        (attr::XOR_RELAYED_ADDRESS, &[8], |a| {
            a.xor_relayed_address().map(|v| v.is_some())
        }),
        (attr::MAPPED_ADDRESS, &[8], |a| {
            a.mapped_address().map(|v| v.is_some())
        }),
        (attr::ALTERNATE_SERVER, &[8], |a| {
            a.alternate_server().map(|v| v.is_some())
        }),
        (attr::OTHER_ADDRESS, &[8], |a| {
            a.other_address().map(|v| v.is_some())
        }),
    ];
    for (ty, lengths, read) in getters {
        let absent = build(|_| {});
        assert_eq!(
            read(&Message::parse(&absent).expect("ok").unprotected()),
            Ok(false)
        );
        for len in 0..=24 {
            let bytes = build(|builder| {
                builder.attribute(ty, &vec![1; len]);
            });
            let want = if lengths.contains(&len) {
                Ok(true)
            } else {
                Err(Malformed)
            };
            let message = Message::parse(&bytes).expect("well-formed");
            assert_eq!(
                read(&message.unprotected()),
                want,
                "{ty:#06x} of {len} bytes"
            );
        }
    }
    // IPv6 has 20 bytes, and there is no third family.
    for (family, lengths) in [(2, 20..21), (3, 0..0), (0, 0..0)] {
        for len in 0..=24 {
            let mut value = vec![0; len];
            if let Some(byte) = value.get_mut(1) {
                *byte = family;
            }
            let bytes = build(|builder| {
                builder.attribute(attr::XOR_PEER_ADDRESS, &value);
            });
            let message = Message::parse(&bytes).expect("well-formed");
            assert_eq!(message.unprotected().peer().is_ok(), lengths.contains(&len));
        }
    }
}

#[test]
fn reserved_bits_are_ignored() {
    let bytes = build(|builder| {
        builder
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0xFF, 0xFF, 0xFF])
            .attribute(attr::CHANNEL_NUMBER, &[0x40, 0x01, 0xFF, 0xFF])
            .attribute(attr::EVEN_PORT, &[0x7F])
            .attribute(attr::ERROR_CODE, &[0xFF, 0xFF, 0xFC, 0x25])
            .attribute(attr::OTHER_ADDRESS, &[0xFF, 1, 0, 1, 127, 0, 0, 1]);
    });
    let attrs = Message::parse(&bytes).expect("well-formed").unprotected();
    assert_eq!(attrs.requested_transport(), Ok(Some(17)));
    assert_eq!(attrs.channel_number(), Ok(Some(0x4001)));
    assert_eq!(attrs.even_port(), Ok(Some(false)));
    assert_eq!(attrs.error_code(), Ok(Some(ErrorCode::ALLOCATION_MISMATCH)));
    assert_eq!(
        attrs.other_address(),
        Ok(Some("127.0.0.1:1".parse().expect("address")))
    );
}
