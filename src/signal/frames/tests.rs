//! Against the RFC's examples, against an independent implementation, and cut at every byte.

use std::io::{self, Cursor, Read, Write};

use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Message, WebSocket};

use super::*;

/// Everything that is read when `bytes` come in pieces of `step`.
fn read(bytes: &[u8], step: usize) -> (Vec<Incoming>, Option<Bad>) {
    let mut reader = Reader::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        reader.feed(piece);
        loop {
            match reader.next() {
                // Where frames end is told; what counts here is what they say.
                Ok(Some(Incoming::Part)) => {}
                Ok(Some(incoming)) => found.push(incoming),
                Ok(None) => break,
                Err(bad) => return (found, Some(bad)),
            }
        }
        let held = reader.held.as_ref().map_or(0, |held| held.bytes.len());
        assert!(held <= (MAX_MESSAGE + 14).saturating_add(step));
    }
    (found, None)
}

/// A frame as clients write it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut all = vec![first];
    match payload.len() {
        len @ 0..126 => all.push(MASKED | len as u8),
        len @ 126..65_536 => {
            all.push(MASKED | 126);
            all.extend((len as u16).to_be_bytes());
        }
        len => {
            all.push(MASKED | 127);
            all.extend((len as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    all.extend(mask);
    all.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    all
}

fn said(text: &str) -> Incoming {
    Incoming::Text(Zeroizing::new(text.to_owned()))
}

#[test]
fn the_examples_of_the_rfc() {
    // Section 5.7.
    let hello = [
        0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58,
    ];
    assert_eq!(read(&hello, 64), (vec![said("Hello")], None));
    assert_eq!(text("Hello"), b"\x81\x05Hello");
    assert_eq!(pong(b"Hello"), b"\x8a\x05Hello");
    assert_eq!(text(&"x".repeat(256))[..4], [0x81, 0x7E, 0x01, 0x00]);
    let long = text(&"x".repeat(65_536));
    assert_eq!(long[..10], [0x81, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn messages_in_any_pieces() {
    let long = "ü".repeat(MAX_MESSAGE / 2);
    let bytes = [
        masked(0x81, b"one"),
        // In three frames, with a ping between them.
        masked(0x01, b"tw"),
        masked(0x89, b"are you there?"),
        masked(0x00, b""),
        masked(0x80, b"o"),
        masked(0x8A, b""),
        masked(0x81, b""),
        masked(0x81, long.as_bytes()),
        masked(0x88, b"\x03\xE8bye"),
    ]
    .concat();
    for step in [1, 2, 3, 7, 100, 4096, bytes.len()] {
        let (found, bad) = read(&bytes, step);
        assert_eq!(bad, None);
        let expected = [
            said("one"),
            Incoming::Ping(b"are you there?".to_vec()),
            said("two"),
            Incoming::Pong,
            said(""),
            said(&long),
            Incoming::Close(Some(1000)),
        ];
        assert_eq!(found, expected, "in pieces of {step}");
    }
}

#[test]
fn one_that_waits_holds_nothing() {
    let mut reader = Reader::default();
    for _ in 0..3 {
        reader.feed(&masked(0x81, &[b'x'; 4000]));
        assert!(matches!(reader.next(), Ok(Some(Incoming::Text(_)))));
        assert_eq!(reader.next(), Ok(None));
        assert!(reader.held.is_none());
    }
}

#[test]
fn what_no_client_may_send() {
    let wrong = |bytes: &[u8]| read(bytes, usize::MAX).1;
    let protocol = Some(Bad::Protocol);
    assert_eq!(wrong(b"\x81\x02{}"), protocol, "not masked");
    assert_eq!(wrong(&masked(0xC1, b"")), protocol, "a reserved bit");
    for opcode in [0x3, 0x7, 0xB, 0xF] {
        assert_eq!(wrong(&masked(FIN | opcode, b"")), protocol, "{opcode}");
    }
    assert_eq!(wrong(&masked(0x80, b"x")), protocol, "the rest of nothing");
    let twice = [masked(0x01, b"x"), masked(0x81, b"y")].concat();
    assert_eq!(wrong(&twice), protocol, "a message within another");
    assert_eq!(wrong(&masked(0x09, b"")), protocol, "a ping in pieces");
    assert_eq!(wrong(&masked(0x89, &[0; 126])), protocol, "a long ping");
    for payload in [&b"\x03"[..], b"\x03\xED", b"\x00\x01", b"\x03\xE8\xFF"] {
        assert_eq!(wrong(&masked(0x88, payload)), protocol, "{payload:?}");
    }
    assert_eq!(wrong(&masked(0x81, b"\xFF")), Some(Bad::Utf8));
    assert_eq!(read(&masked(0x82, b"\xFF"), 64).0, [Incoming::Binary]);
    // Before any of it came.
    let long = Some(Bad::TooLong);
    assert_eq!(wrong(b"\x81\xFE\x20\x01"), long);
    assert_eq!(wrong(b"\x81\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), long);
    assert_eq!(read(b"\x81\xFE\x20\x00", 4), (vec![], None));
    let halves = [masked(0x01, &[b'x'; 5000]), masked(0x80, &[b'x'; 5000])].concat();
    assert_eq!(wrong(&halves), long);
    // It stays wrong.
    let mut reader = Reader::default();
    reader.feed(b"\x81\x02{}");
    assert_eq!(reader.next(), Err(Bad::Protocol));
    reader.feed(&masked(0x81, b"x"));
    assert_eq!(reader.next(), Err(Bad::Protocol));
}

/// Both ends of a connection in memory.
struct Pipe {
    read: Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.read.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(read: Vec<u8>) -> WebSocket<Pipe> {
    let pipe = Pipe {
        read: Cursor::new(read),
        written: Vec::new(),
    };
    WebSocket::from_raw_socket(pipe, Role::Client, None)
}

#[test]
fn an_independent_client_is_understood_and_understands() {
    let mut socket = client(Vec::new());
    let texts = ["", "short", &"ß".repeat(100), &"x".repeat(MAX_MESSAGE)];
    for text in texts {
        socket.send(Message::text(text)).expect("taken");
    }
    let data = |text: &'static [u8], kind, fin| {
        Message::Frame(Frame::message(text, OpCode::Data(kind), fin))
    };
    socket.send(data(b"in ", Data::Text, false)).expect("taken");
    socket.send(Message::Ping("p".into())).expect("taken");
    socket
        .send(data(b"two", Data::Continue, true))
        .expect("taken");
    socket.close(None).expect("taken");
    let (found, bad) = read(&socket.get_ref().written, 11);
    let mut expected: Vec<Incoming> = texts.into_iter().map(said).collect();
    expected.extend([
        Incoming::Ping(b"p".to_vec()),
        said("in two"),
        Incoming::Close(None),
    ]);
    assert_eq!((found, bad), (expected, None));

    let long = "x".repeat(70_000);
    let whole = [
        text("a"),
        text(&"b".repeat(126)),
        text(&long),
        ping(),
        pong(b"c"),
        close(CloseCode::Policy, "see the error"),
    ];
    let mut socket = client(whole.concat());
    let mut next = || socket.read().expect("a message");
    assert_eq!(next(), Message::text("a"));
    assert_eq!(next(), Message::text("b".repeat(126)));
    assert_eq!(next(), Message::text(long));
    assert_eq!(next(), Message::Ping(Default::default()));
    assert_eq!(next(), Message::Pong("c".into()));
    let Message::Close(Some(frame)) = next() else {
        panic!("a close");
    };
    assert_eq!(
        (u16::from(frame.code), &*frame.reason),
        (1008, "see the error")
    );
    let mut socket = client(closed(Some(1001)));
    assert!(
        matches!(socket.read(), Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1001)
    );
}

proptest::proptest! {
    /// Whatever comes, in whatever pieces: the same is read, and nothing panics.
    #[test]
    fn pieces_make_no_difference(
        frames in proptest::collection::vec(
            (proptest::prelude::any::<u8>(), proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)),
            0..8,
        ),
        rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20),
        step in 1_usize..50,
    ) {
        let mut bytes: Vec<u8> = Vec::new();
        for (first, payload) in frames {
            // Most of them as the RFC has it.
            let first = if first < 200 { [0x81, 0x01, 0x80, 0x00, 0x89, 0x8A][first as usize % 6] } else { first };
            bytes.extend(masked(first, &payload));
        }
        bytes.extend(rest);
        proptest::prop_assert_eq!(read(&bytes, step), read(&bytes, usize::MAX));
    }
}
