//! What the integrity attributes cover, and that nothing else is ever shown.

use turnserver::wire::{
    Builder, Integrity, IntegrityError, Key, Malformed, Message, PasswordAlgorithm, attr,
};

use super::{allocate, build, key};

/// Flips bits of a protected message. Whatever still verifies says exactly what it said before.
fn every_flip(bytes: &[u8], covered: usize) {
    let original = Message::parse(bytes).expect("well-formed");
    let before: Vec<_> = original.verify(&key()).expect("right key").raw().collect();
    for at in 0..bytes.len() {
        for flip in 1..=u8::MAX {
            let mut changed = bytes.to_vec();
            changed[at] ^= flip;
            let Ok(message) = Message::parse(&changed) else {
                continue;
            };
            if let Ok(attrs) = message.verify(&key()) {
                assert!(
                    at >= covered,
                    "byte {at} is covered and was changed by {flip:#04x}"
                );
                assert!(attrs.raw().eq(before.iter().copied()));
            }
        }
    }
}

#[test]
fn no_flip_goes_unnoticed() {
    for which in [Integrity::Sha1, Integrity::Sha256] {
        let bytes = allocate(|builder| {
            builder.integrity(which, &key());
        });
        every_flip(&bytes, bytes.len());
        let bytes = allocate(|builder| {
            builder.integrity(which, &key()).fingerprint();
        });
        // The type of FINGERPRINT is nobody's: changed, it is an ignored attribute.
        every_flip(&bytes, bytes.len() - 8);
    }
}

#[test]
fn flips_behind_the_integrity_change_nothing() {
    // MESSAGE-INTEGRITY stays in force when the SHA256 one is made unrecognisable.
    let mut covered = 0;
    let bytes = allocate(|builder| {
        builder
            .integrity(Integrity::Sha1, &key())
            .integrity(Integrity::Sha256, &key());
    });
    covered += bytes.len() - 36;
    every_flip(&bytes, covered);
    // An ignored attribute behind it is nobody's.
    let bytes = allocate(|builder| {
        builder
            .integrity(Integrity::Sha1, &key())
            .u32(attr::LIFETIME, 1);
    });
    every_flip(&bytes, bytes.len() - 8);
}

#[test]
fn what_follows_the_integrity_is_ignored() {
    type Write = fn(&mut Builder<'_>);
    let cases: [(Write, Option<Integrity>); 4] = [
        (
            |b| {
                b.integrity(Integrity::Sha1, &key()).u32(attr::LIFETIME, 1);
            },
            Some(Integrity::Sha1),
        ),
        (
            // RFC 8489 section 14.5: between the two, too, although the second covers it.
            |b| {
                b.integrity(Integrity::Sha1, &key())
                    .u32(attr::LIFETIME, 1)
                    .integrity(Integrity::Sha256, &key());
            },
            Some(Integrity::Sha256),
        ),
        (
            // RFC 8489 section 14.6: MESSAGE-INTEGRITY behind the SHA256 one does not count.
            |b| {
                b.integrity(Integrity::Sha256, &key())
                    .integrity(Integrity::Sha1, &Key::short_term(b"other"))
                    .u32(attr::LIFETIME, 1);
            },
            Some(Integrity::Sha256),
        ),
        (
            |b| {
                b.fingerprint();
            },
            None,
        ),
    ];
    for (write, integrity) in cases {
        let bytes = build(|builder| {
            builder.attribute(attr::NONCE, b"nonce");
            write(builder);
        });
        let message = Message::parse(&bytes).expect("well-formed");
        assert_eq!(message.integrity(), integrity);
        let attrs = match integrity {
            Some(_) => *message.verify(&key()).expect("right key"),
            None => {
                assert_eq!(message.verify(&key()).err(), Some(IntegrityError::Missing));
                message.unprotected()
            }
        };
        assert_eq!(attrs.lifetime(), Ok(None));
        assert_eq!(attrs.raw().count(), 1);
        assert_eq!(message.unprotected().raw().count(), 1);
        assert_eq!(message.claims().nonce, Some(&b"nonce"[..]));
        if integrity == Some(Integrity::Sha256) {
            continue;
        }
        assert!(!message.has_integrity(Integrity::Sha256));
    }
}

/// RFC 8489 section 14: of each integrity attribute the first one counts, and section 14.6:
/// none of them behind the SHA256 one.
#[test]
fn the_first_integrity_counts() {
    let other = Key::short_term(b"other");
    for which in [Integrity::Sha1, Integrity::Sha256] {
        let bytes = allocate(|builder| {
            builder.integrity(which, &key()).integrity(which, &other);
        });
        let message = Message::parse(&bytes).expect("well-formed");
        assert!(message.verify(&key()).is_ok());
        assert_eq!(message.verify(&other).err(), Some(IntegrityError::Mismatch));
    }
    let bytes = allocate(|builder| {
        builder
            .integrity(Integrity::Sha256, &key())
            .integrity(Integrity::Sha1, &key());
    });
    let message = Message::parse(&bytes).expect("well-formed");
    assert!(message.has_integrity(Integrity::Sha256));
    assert!(!message.has_integrity(Integrity::Sha1));
}

#[test]
fn claims_come_only_from_the_covered_part() {
    let bytes = build(|builder| {
        builder
            .attribute(attr::USERNAME, b"alice")
            .attribute(attr::USERNAME, b"mallory")
            .integrity(Integrity::Sha1, &key())
            .attribute(attr::REALM, b"example.org")
            .attribute(attr::NONCE, b"nonce");
    });
    let claims = Message::parse(&bytes).expect("well-formed").claims();
    assert_eq!(claims.username, Some(&b"alice"[..]));
    assert_eq!((claims.realm, claims.nonce), (None, None));
}

#[test]
fn an_unknown_or_parametrised_password_algorithm_is_an_error() {
    for (value, want) in [
        (&[0, 1, 0, 0][..], Ok(PasswordAlgorithm::Md5)),
        (&[0, 2, 0, 0][..], Ok(PasswordAlgorithm::Sha256)),
        (&[0, 3, 0, 0][..], Err(Malformed)),
        (&[0, 1][..], Err(Malformed)),
        (&[0, 1, 0, 4, 1, 2, 3, 4][..], Err(Malformed)),
        (&[][..], Err(Malformed)),
    ] {
        let bytes = build(|builder| {
            builder.attribute(attr::PASSWORD_ALGORITHM, value);
        });
        let claims = Message::parse(&bytes).expect("well-formed").claims();
        assert_eq!(claims.password_algorithm, Some(want));
    }
}

#[test]
fn claims_have_limits() {
    for (ty, most) in [
        (attr::USERNAME, 508),
        (attr::REALM, 763),
        (attr::NONCE, 763),
    ] {
        for (len, fits) in [(most, true), (most + 1, false)] {
            let bytes = build(|builder| {
                builder.attribute(ty, &vec![b'a'; len]);
            });
            let claims = Message::parse(&bytes).expect("well-formed").claims();
            assert_eq!(claims.within_limits(), fits);
        }
    }
    for (len, fits) in [(31, false), (32, true), (33, false)] {
        let bytes = build(|builder| {
            builder.attribute(attr::USERHASH, &vec![1; len]);
        });
        assert_eq!(
            Message::parse(&bytes).expect("ok").claims().within_limits(),
            fits
        );
    }
}

/// RFC 8489 section 14.6.
#[test]
fn a_truncated_sha256_integrity() {
    for len in 0..=32 {
        let bytes = allocate(|builder| {
            builder.integrity_sha256_truncated(&key(), len);
        });
        let result = Message::parse(&bytes)
            .expect("well-formed")
            .verify(&key())
            .map(drop);
        if len >= 16 && len % 4 == 0 {
            assert_eq!(result, Ok(()), "{len} bytes");
            every_flip(&bytes, bytes.len());
        } else {
            assert_eq!(result, Err(IntegrityError::Malformed), "{len} bytes");
        }
    }
    let longer = allocate(|builder| {
        builder.attribute(attr::MESSAGE_INTEGRITY_SHA256, &[0; 36]);
    });
    let message = Message::parse(&longer).expect("well-formed");
    assert_eq!(
        message.verify(&key()).err(),
        Some(IntegrityError::Malformed)
    );
}

/// RFC 8489 section 14.5.
#[test]
fn a_sha1_integrity_has_20_bytes() {
    for len in (0..=40).filter(|len| *len != 20) {
        let bytes = allocate(|builder| {
            builder.attribute(attr::MESSAGE_INTEGRITY, &vec![0; len]);
        });
        let message = Message::parse(&bytes).expect("well-formed");
        assert_eq!(
            message.verify(&key()).err(),
            Some(IntegrityError::Malformed)
        );
    }
}
