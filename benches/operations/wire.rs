//! The codec: parse, build, verify, and what the relayed path does to a datagram. Each function makes
//! one operation ready and returns it, to be done over and over.

use std::hint::black_box;
use std::net::SocketAddr;

use turnserver::wire::{
    Builder, ChannelData, Class, Integrity, Key, Message, Method, PasswordAlgorithm, StreamFramer,
    TransactionId, attr, data_indication_prefix, rest_password,
};

const ID: TransactionId = TransactionId(*b"transaction!");

fn key() -> Key {
    Key::long_term(
        PasswordAlgorithm::Md5,
        b"1700000000:alice",
        b"example.org",
        b"secret",
    )
}

fn peer() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 32853))
}

/// An authenticated Allocate request, as browsers send it.
fn allocate(buffer: &mut [u8], which: Integrity, key: &Key) -> usize {
    let mut builder = Builder::new(buffer, Class::Request, Method::ALLOCATE, ID);
    builder
        .u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP)
        .u32(attr::LIFETIME, 600)
        .attribute(attr::USERNAME, b"1700000000:alice")
        .attribute(attr::REALM, b"example.org")
        .attribute(attr::NONCE, b"obMatJos2AAAA0123456789abcdefghijklmnop")
        .integrity(which, key)
        .fingerprint();
    builder.finish().expect("fits")
}

fn send_indication(buffer: &mut [u8], payload: &[u8]) -> usize {
    let mut builder = Builder::new(buffer, Class::Indication, Method::SEND, ID);
    builder
        .xor_address(attr::XOR_PEER_ADDRESS, peer())
        .attribute(attr::DATA, payload);
    builder.finish().expect("fits")
}

pub(crate) fn parse_binding() -> impl FnMut() -> bool {
    let mut buffer = [0; 64];
    let len = Builder::new(&mut buffer, Class::Request, Method::BINDING, ID)
        .finish()
        .expect("fits");
    move || Message::parse(black_box(&buffer[..len])).is_ok_and(|m| m.method() == Method::BINDING)
}

pub(crate) fn build_binding_success() -> impl FnMut() -> u8 {
    || {
        let mut buffer = [0; 64];
        let mut builder = Builder::new(&mut buffer, Class::Success, Method::BINDING, ID);
        builder.xor_address(attr::XOR_MAPPED_ADDRESS, black_box(peer()));
        buffer[builder.finish().expect("fits") - 1]
    }
}

pub(crate) fn parse_allocate() -> impl FnMut() -> bool {
    let mut buffer = [0; 512];
    let len = allocate(&mut buffer, Integrity::Sha1, &key());
    move || {
        let message = Message::parse(black_box(&buffer[..len])).expect("well-formed");
        message.claims().nonce.is_some()
    }
}

pub(crate) fn parse_and_verify_allocate(which: Integrity) -> impl FnMut() -> Option<u32> {
    let key = key();
    let mut buffer = [0; 512];
    let len = allocate(&mut buffer, which, &key);
    move || {
        let message = Message::parse(black_box(&buffer[..len])).expect("well-formed");
        let attrs = message.verify(&key).expect("right key");
        attrs.lifetime().expect("well-formed")
    }
}

pub(crate) fn build_allocate(which: Integrity) -> impl FnMut() -> u8 {
    let key = key();
    move || {
        let mut buffer = [0; 512];
        let len = allocate(&mut buffer, which, black_box(&key));
        buffer[len - 1]
    }
}

pub(crate) fn derive_key(algorithm: PasswordAlgorithm) -> impl FnMut() -> Key {
    move || Key::long_term(algorithm, black_box(b"alice"), b"example.org", b"secret")
}

pub(crate) fn time_limited_password() -> impl FnMut() -> String {
    || rest_password(black_box(b"shared secret"), b"1700000000:alice", false)
}

/// What a Send indication costs before its peer is judged.
pub(crate) fn read_send_indication(payload: usize) -> impl FnMut() -> bool {
    let mut buffer = [0; 1500];
    let len = send_indication(&mut buffer, &vec![0; payload]);
    move || {
        let message = Message::parse(black_box(&buffer[..len])).expect("well-formed");
        let attrs = message.unprotected();
        let known = [attr::XOR_PEER_ADDRESS, attr::DATA, attr::DONT_FRAGMENT];
        let _ = black_box((attrs.peer(), attrs.data_range(), attrs.dont_fragment()));
        attrs.unknown_required(&known).next().is_none()
    }
}

pub(crate) fn read_channel_data() -> impl FnMut() -> usize {
    let mut bytes = [0; 1204];
    bytes[..4].copy_from_slice(&ChannelData::header(0x4001, 1200));
    move || {
        let data = ChannelData::parse(black_box(&bytes), false).expect("well-formed");
        data.data_range().len()
    }
}

pub(crate) fn data_indication() -> impl FnMut() -> (Option<(usize, u8)>, [u8; 48]) {
    || {
        let mut prefix = [0; 48];
        let used = data_indication_prefix(&mut prefix, ID, black_box(peer()), black_box(1200));
        (used, prefix)
    }
}

pub(crate) fn frame_channel_data() -> impl FnMut() -> usize {
    let mut bytes = [0; 1204];
    bytes[..4].copy_from_slice(&ChannelData::header(0x4001, 1200));
    let framer = StreamFramer::default();
    move || {
        let frame = framer.next(black_box(&bytes)).expect("well-formed");
        frame.expect("complete").len
    }
}
