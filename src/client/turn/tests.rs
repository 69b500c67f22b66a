//! The client against a server of a few lines.

use super::*;
use crate::wire::{Builder, Integrity, Key, PasswordAlgorithm, TransactionId};

const NONCE: &[u8] = b"nonce-1";

fn at(start: Instant, milliseconds: u64) -> Instant {
    start + Duration::from_millis(milliseconds)
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

fn key() -> Key {
    Key::long_term(PasswordAlgorithm::Md5, b"alice", b"example.org", b"secret")
}

struct Pair {
    client: Client,
    ids: Ids,
    now: Instant,
}

impl Pair {
    fn new(reliable: bool) -> Self {
        Self {
            client: Client::new(Credentials::new("alice", "secret"), reliable),
            ids: Ids::new([7; 32]),
            now: start(),
        }
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        let mut room = [0xAA; MAX_REQUEST];
        let len = self.client.poll_transmit(self.now, &mut room)?;
        Some(room[..len].to_vec())
    }

    fn request(&mut self) -> (Method, TransactionId, Vec<u8>) {
        let bytes = self.sent().expect("a request");
        let message = Message::parse(&bytes).expect("a message");
        assert_eq!(message.class(), Class::Request);
        (message.method(), message.transaction_id(), bytes)
    }

    fn error(&mut self, code: ErrorCode, nonce: Option<&[u8]>) {
        let (method, id, _) = self.request();
        let mut room = [0; 200];
        let mut builder = Builder::new(&mut room, Class::Error, method, id);
        builder.error_code(code, true);
        if let Some(nonce) = nonce {
            builder
                .attribute(attr::REALM, b"example.org")
                .attribute(attr::NONCE, nonce);
        }
        let len = builder.finish().expect("it fits");
        self.client.handle(self.now, &room[..len], &mut self.ids);
    }

    /// Answers a request that proves the right key.
    fn success(&mut self, key_of_answer: &Key) {
        let (method, id, bytes) = self.request();
        let message = Message::parse(&bytes).expect("a message");
        message.verify(&key()).expect("the right key");
        let mut room = [0; 300];
        let mut builder = Builder::new(&mut room, Class::Success, method, id);
        builder.u32(attr::LIFETIME, 600);
        if method == Method::ALLOCATE {
            let address = "192.0.2.1:50000".parse().expect("an address");
            builder
                .xor_address(attr::XOR_RELAYED_ADDRESS, address)
                .xor_address(attr::XOR_MAPPED_ADDRESS, address);
        }
        builder.integrity(Integrity::Sha1, key_of_answer);
        let len = builder.finish().expect("it fits");
        self.client.handle(self.now, &room[..len], &mut self.ids);
    }

    fn allocated() -> Self {
        let mut pair = Self::new(false);
        pair.client.allocate(pair.now, &mut pair.ids);
        pair.error(ErrorCode::UNAUTHENTICATED, Some(NONCE));
        pair.success(&key());
        assert!(matches!(
            pair.client.poll_event(),
            Some(Event::Allocated(_))
        ));
        pair
    }
}

#[test]
fn an_allocation_is_made_kept_and_released() {
    let mut pair = Pair::allocated();
    let peer = "198.51.100.1:9".parse().expect("an address");
    pair.client
        .bind_channel(0x4001, peer, pair.now, &mut pair.ids);
    pair.success(&key());
    assert_eq!(pair.client.poll_event(), Some(Event::Bound(0x4001, peer)));
    assert!(!pair.client.is_busy());

    // The channel is renewed before its permission ends, and nobody is told again.
    let due = pair.client.poll_timeout().expect("something to renew");
    assert_eq!(due - pair.now, Duration::from_secs(240));
    pair.now = due;
    pair.client.handle_timeout(pair.now, &mut pair.ids);
    pair.success(&key());
    assert_eq!(pair.client.poll_event(), None);
    assert_eq!(
        pair.client.poll_timeout(),
        Some(due + Duration::from_secs(240))
    );

    // The allocation a minute before its end.
    pair.now = due + Duration::from_secs(300);
    pair.client.handle_timeout(pair.now, &mut pair.ids);
    let (method, ..) = {
        let bytes = pair.sent().expect("a request");
        let message = Message::parse(&bytes).expect("a message");
        (message.method(), message.transaction_id())
    };
    assert_eq!(method, Method::REFRESH);

    let mut pair = Pair::allocated();
    pair.client.release(pair.now, &mut pair.ids);
    pair.success(&key());
    assert_eq!(pair.client.poll_event(), Some(Event::Released));
    assert_eq!(pair.client.allocation(), None);
    assert_eq!(pair.client.poll_timeout(), None);
}

#[test]
fn renewed_credentials_count_from_the_next_request_on() {
    let mut pair = Pair::allocated();
    let peer = "198.51.100.1:9".parse().expect("an address");
    pair.client.permit(peer, pair.now, &mut pair.ids);
    let renewed = Credentials::new("bob", "other");
    pair.client.renew(renewed, pair.now, &mut pair.ids);
    // The one under way is what it was; its answer is proven by the old key.
    pair.success(&key());
    assert_eq!(pair.client.poll_event(), Some(Event::Permitted(peer)));
    let (method, _, bytes) = pair.request();
    assert_eq!(method, Method::REFRESH);
    let message = Message::parse(&bytes).expect("a message");
    let attributes = message
        .verify(&Key::long_term(
            PasswordAlgorithm::Md5,
            b"bob",
            b"example.org",
            b"other",
        ))
        .expect("the new key");
    assert_eq!(attributes.username(), Some(&b"bob"[..]));
}

#[test]
fn retransmissions_are_the_same_bytes_and_never_far_apart() {
    let mut pair = Pair::new(false);
    let begin = pair.now;
    pair.client.allocate(begin, &mut pair.ids);
    let first = pair.sent().expect("sent at once");
    // RFC 8489 section 6.2.1, but for the longest pause.
    for due in [500, 1500, 3500, 5500, 7500, 9500] {
        assert_eq!(pair.client.poll_timeout(), Some(at(begin, due)));
        pair.now = at(begin, due - 1);
        pair.client.handle_timeout(pair.now, &mut pair.ids);
        assert_eq!(pair.sent(), None);
        pair.now = at(begin, due);
        pair.client.handle_timeout(pair.now, &mut pair.ids);
        assert_eq!(pair.sent().as_ref(), Some(&first));
        assert_eq!(pair.sent(), None);
    }
    pair.now = at(begin, 10_000);
    pair.client.handle_timeout(pair.now, &mut pair.ids);
    let failed = Event::Failed(Method::ALLOCATE, Failure::TimedOut);
    assert_eq!(pair.client.poll_event(), Some(failed));
    assert_eq!(pair.sent(), None);
}

#[test]
fn nothing_is_sent_twice_over_a_stream() {
    let mut pair = Pair::new(true);
    pair.client.allocate(pair.now, &mut pair.ids);
    assert!(pair.sent().is_some());
    pair.now = at(pair.now, 39_499);
    pair.client.handle_timeout(pair.now, &mut pair.ids);
    assert!(pair.sent().is_none() && pair.client.poll_event().is_none());
    pair.now = at(pair.now, 1);
    pair.client.handle_timeout(pair.now, &mut pair.ids);
    let failed = Event::Failed(Method::ALLOCATE, Failure::TimedOut);
    assert_eq!(pair.client.poll_event(), Some(failed));
}

#[test]
fn a_stale_nonce_is_replaced_and_a_second_401_ends_it() {
    let mut pair = Pair::new(false);
    pair.client.allocate(pair.now, &mut pair.ids);
    pair.error(ErrorCode::UNAUTHENTICATED, Some(NONCE));
    pair.error(ErrorCode::STALE_NONCE, Some(b"nonce-2"));
    let bytes = pair.sent().expect("asked again");
    let message = Message::parse(&bytes).expect("a message");
    assert_eq!(message.unprotected().nonce(), Some(&b"nonce-2"[..]));

    let mut pair = Pair::new(false);
    pair.client.allocate(pair.now, &mut pair.ids);
    pair.error(ErrorCode::UNAUTHENTICATED, Some(NONCE));
    pair.error(ErrorCode::UNAUTHENTICATED, Some(NONCE));
    let Some(Event::Failed(Method::ALLOCATE, Failure::Refused(code, _))) = pair.client.poll_event()
    else {
        panic!("refused");
    };
    assert_eq!(code, ErrorCode::UNAUTHENTICATED);
}

#[test]
fn endless_challenges_end() {
    let mut pair = Pair::new(false);
    pair.client.allocate(pair.now, &mut pair.ids);
    pair.error(ErrorCode::UNAUTHENTICATED, Some(NONCE));
    for _ in 0..3 {
        pair.error(ErrorCode::STALE_NONCE, Some(NONCE));
    }
    assert!(matches!(
        pair.client.poll_event(),
        Some(Event::Failed(Method::ALLOCATE, Failure::Refused(..)))
    ));
}

#[test]
fn an_answer_with_the_wrong_integrity_never_came() {
    let mut pair = Pair::new(false);
    pair.client.allocate(pair.now, &mut pair.ids);
    pair.error(ErrorCode::UNAUTHENTICATED, Some(NONCE));
    pair.success(&Key::short_term(b"not the password"));
    assert_eq!(pair.client.poll_event(), None);
    assert!(pair.client.allocation().is_none() && pair.client.is_busy());
}

#[test]
fn data_is_told_from_answers() {
    let mut pair = Pair::allocated();
    let peer = "198.51.100.1:9".parse().expect("an address");
    let mut room = [0; 100];
    let mut builder = Builder::new(
        &mut room,
        Class::Indication,
        Method::DATA,
        TransactionId([1; 12]),
    );
    builder
        .xor_address(attr::XOR_PEER_ADDRESS, peer)
        .attribute(attr::DATA, b"hello");
    let len = builder.finish().expect("it fits");
    let came = pair.client.handle(pair.now, &room[..len], &mut pair.ids);
    assert_eq!(came, Some(Incoming::Indication(peer, b"hello")));
    let came = pair
        .client
        .handle(pair.now, b"\x40\x01\x00\x02hi", &mut pair.ids);
    assert_eq!(came, Some(Incoming::Channel(0x4001, b"hi")));
    for noise in [&b""[..], b"\x40", b"\x00\x01\x00", &[0xFF; 40]] {
        let came = pair.client.handle(pair.now, noise, &mut pair.ids);
        assert_eq!(came, None);
    }
}

#[test]
fn a_channel_that_is_let_go_is_not_renewed() {
    let mut pair = Pair::allocated();
    let peers = ["198.51.100.1:9", "198.51.100.2:9"].map(|peer| peer.parse().expect("an address"));
    for (number, peer) in (0x4000..).zip(peers) {
        pair.client
            .bind_channel(number, peer, pair.now, &mut pair.ids);
    }
    assert!(pair.client.has_channel(0x4000) && pair.client.has_channel(0x4001));
    pair.success(&key());
    pair.error(ErrorCode::FORBIDDEN, None);
    assert!(pair.client.has_channel(0x4000) && !pair.client.has_channel(0x4001));
    pair.client.let_go(0x4000);
    assert!(!pair.client.has_channel(0x4000));
    let due = pair.client.poll_timeout().expect("the allocation is kept");
    assert_eq!(due - pair.now, Duration::from_secs(540));
}

#[test]
fn a_refresh_tells_whether_the_server_still_knows_us() {
    let mut pair = Pair::new(false);
    pair.client.refresh(pair.now, &mut pair.ids);
    assert!(!pair.client.is_busy(), "there is nothing to refresh");
    let mut pair = Pair::allocated();
    pair.client.refresh(pair.now, &mut pair.ids);
    pair.client.refresh(pair.now, &mut pair.ids);
    pair.success(&key());
    assert!(!pair.client.is_busy() && pair.client.poll_event().is_none());
    pair.client.refresh(pair.now, &mut pair.ids);
    pair.error(ErrorCode::STALE_NONCE, Some(b"of another server"));
    pair.error(ErrorCode::ALLOCATION_MISMATCH, None);
    assert!(matches!(
        pair.client.poll_event(),
        Some(Event::Failed(Method::REFRESH, Failure::Refused(..)))
    ));
    assert_eq!(pair.client.allocation(), None);
}
