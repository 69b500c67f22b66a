//! Cutting a byte stream into messages: the frames are the same however the bytes arrive, and
//! what can never become a frame is refused on the byte that says so.

use proptest::prelude::*;
use turnserver::wire::{
    Builder, ChannelData, Class, Frame, FrameError, MAX_FRAME, Message, Method, StreamFramer,
    TransactionId, attr,
};

fn stun(data_len: usize) -> Vec<u8> {
    let mut buffer = vec![0; MAX_FRAME];
    let id = TransactionId([9; 12]);
    let mut builder = Builder::new(&mut buffer, Class::Indication, Method::SEND, id);
    builder.attribute(attr::DATA, &vec![0x41; data_len]);
    let len = builder.finish().expect("fits");
    buffer.truncate(len);
    buffer
}

fn channel(data_len: usize) -> Vec<u8> {
    let len = u16::try_from(data_len).expect("16 bits");
    let mut bytes = ChannelData::header(0x4001, len).to_vec();
    bytes.extend(vec![0x17; data_len]);
    bytes
}

/// Messages as they are handed on, and the stream that carries them.
fn stream(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend(message);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Feeds a stream in chunks and collects the frames, as a connection does.
fn frames<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, FrameError> {
    let framer = StreamFramer::default();
    let (mut buffer, mut out) = (Vec::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Some(Frame { len, padded_len }) = framer.next(&buffer)? {
            out.push(buffer[..len].to_vec());
            buffer.drain(..padded_len);
        }
    }
    assert!(buffer.is_empty(), "nothing is left over");
    Ok(out)
}

fn sample() -> Vec<Vec<u8>> {
    vec![
        channel(0),
        stun(0),
        channel(1),
        channel(2),
        stun(5),
        channel(3),
        channel(4),
        stun(17),
    ]
}

#[test]
fn every_split_point() {
    let messages = sample();
    let bytes = stream(&messages);
    for split in 0..=bytes.len() {
        let (first, second) = bytes.split_at(split);
        assert_eq!(frames([first, second]).as_ref(), Ok(&messages));
    }
}

#[test]
fn a_few_bytes_at_a_time_and_all_at_once() {
    let messages = sample();
    let bytes = stream(&messages);
    for size in [1, 2, 3, 5, 7, bytes.len()] {
        assert_eq!(frames(bytes.chunks(size)).as_ref(), Ok(&messages));
    }
}

proptest! {
    #[test]
    fn any_messages_in_any_chunks(
        shape in prop::collection::vec((any::<bool>(), 0_usize..70), 0..20),
        cuts in prop::collection::vec(1_usize..50, 1..200),
    ) {
        let messages: Vec<_> =
            shape.iter().map(|&(s, len)| if s { stun(len) } else { channel(len) }).collect();
        let bytes = stream(&messages);
        let mut rest = &bytes[..];
        let mut chunks = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk);
            rest = tail;
        }
        prop_assert_eq!(frames(chunks), Ok(messages));
    }

    #[test]
    fn a_frame_is_never_longer_than_what_came(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(Some(frame)) = StreamFramer::default().next(&bytes) {
            prop_assert!(frame.len <= frame.padded_len && frame.padded_len <= bytes.len());
            prop_assert!(frame.padded_len - frame.len < 4);
        }
    }

    /// An answer, once given, stays: more bytes do not turn an error into a frame.
    #[test]
    fn errors_are_final(
        mut bytes in prop::collection::vec(any::<u8>(), 1..80),
        first in prop_oneof![0_u8..4, 64_u8..80, any::<u8>()],
        cookie: bool,
    ) {
        bytes[0] = first;
        if cookie && bytes.len() >= 8 {
            bytes[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
        }
        let framer = StreamFramer::new(64);
        let mut failed = None;
        for len in 0..=bytes.len() {
            let answer = framer.next(&bytes[..len]);
            if failed.is_some() {
                prop_assert_eq!(answer.err(), failed);
            }
            failed = answer.err();
        }
    }
}

#[test]
fn refused_on_the_byte_that_says_so() {
    let framer = StreamFramer::default();
    for first in (4..64).chain(128..=255) {
        assert_eq!(framer.next(&[first]), Err(FrameError::Kind));
    }
    for first in (0..4).chain(64..128) {
        assert_eq!(framer.next(&[first]), Ok(None));
    }
    // A STUN length that is not a multiple of 4.
    assert_eq!(framer.next(&[0, 1, 0]), Ok(None));
    assert_eq!(framer.next(&[0, 1, 0, 2]), Err(FrameError::Length));
    // Each byte of the cookie.
    let message = stun(0);
    for at in 4..8 {
        let mut bytes = message[..=at].to_vec();
        assert_eq!(framer.next(&bytes), Ok(None));
        bytes[at] ^= 1;
        assert_eq!(framer.next(&bytes), Err(FrameError::Cookie));
    }
}

#[test]
fn the_longest_frames() {
    let framer = StreamFramer::default();
    let longest = stun(65_528);
    assert_eq!(longest.len(), MAX_FRAME);
    let frame = Frame {
        len: MAX_FRAME,
        padded_len: MAX_FRAME,
    };
    assert_eq!(framer.next(&longest), Ok(Some(frame)));
    assert_eq!(framer.next(&longest[..MAX_FRAME - 1]), Ok(None));
    assert!(Message::parse(&longest).is_ok());

    let mut data = channel(65_535);
    assert_eq!(framer.next(&data), Ok(None), "its padding is still to come");
    data.push(0);
    assert_eq!(
        framer.next(&data),
        Ok(Some(Frame {
            len: 65_539,
            padded_len: 65_540
        }))
    );

    // A smaller limit is refused on the header.
    let framer = StreamFramer::new(100);
    assert_eq!(framer.next(&stun(76)[..8]), Ok(None));
    assert_eq!(framer.next(&stun(77)[..4]), Err(FrameError::TooLong));
    // The first reason stays the reason, whatever the cookie turns out to be.
    assert_eq!(framer.next(&[0, 1, 0, 116, 0]), Err(FrameError::TooLong));
    assert_eq!(framer.next(&channel(96)[..4]), Ok(None));
    assert_eq!(framer.next(&channel(97)[..4]), Err(FrameError::TooLong));
    // Padding counts.
    assert_eq!(
        StreamFramer::new(102).next(&channel(97)[..4]),
        Err(FrameError::TooLong)
    );
}
