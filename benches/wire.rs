//! The codec: parse, build, verify, and what the relayed path does to a datagram. The allocation
//! columns are to stay at zero, except where a key or a password is made.

use std::net::SocketAddr;

use divan::{AllocProfiler, Bencher, black_box};
use turnserver::wire::{
    Builder, ChannelData, Class, Integrity, Key, Message, Method, PasswordAlgorithm, StreamFramer,
    TransactionId, attr, data_indication_prefix, rest_password,
};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const ID: TransactionId = TransactionId(*b"transaction!");

fn main() {
    divan::main();
}

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

#[divan::bench]
fn parse_binding(bencher: Bencher<'_, '_>) {
    let mut buffer = [0; 64];
    let len = Builder::new(&mut buffer, Class::Request, Method::BINDING, ID)
        .finish()
        .expect("fits");
    bencher.bench(|| Message::parse(black_box(&buffer[..len])).map(|m| m.method()));
}

#[divan::bench]
fn build_binding_success(bencher: Bencher<'_, '_>) {
    bencher.bench(|| {
        let mut buffer = [0; 64];
        let mut builder = Builder::new(&mut buffer, Class::Success, Method::BINDING, ID);
        builder.xor_address(attr::XOR_MAPPED_ADDRESS, black_box(peer()));
        builder.finish().map(|len| buffer[len - 1])
    });
}

#[divan::bench]
fn parse_allocate(bencher: Bencher<'_, '_>) {
    let mut buffer = [0; 512];
    let len = allocate(&mut buffer, Integrity::Sha1, &key());
    bencher.bench(|| Message::parse(black_box(&buffer[..len])).map(|m| m.claims().nonce.is_some()));
}

#[divan::bench(args = [Integrity::Sha1, Integrity::Sha256])]
fn parse_and_verify_allocate(bencher: Bencher<'_, '_>, which: Integrity) {
    let key = key();
    let mut buffer = [0; 512];
    let len = allocate(&mut buffer, which, &key);
    bencher.bench(|| {
        let message = Message::parse(black_box(&buffer[..len])).expect("well-formed");
        message.verify(&key).expect("right key").lifetime()
    });
}

#[divan::bench(args = [Integrity::Sha1, Integrity::Sha256])]
fn build_allocate(bencher: Bencher<'_, '_>, which: Integrity) {
    let key = key();
    bencher.bench(|| {
        let mut buffer = [0; 512];
        let len = allocate(&mut buffer, which, black_box(&key));
        buffer[len - 1]
    });
}

#[divan::bench(args = [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256])]
fn derive_key(algorithm: PasswordAlgorithm) -> Key {
    Key::long_term(algorithm, black_box(b"alice"), b"example.org", b"secret")
}

#[divan::bench]
fn time_limited_password() -> String {
    rest_password(black_box(b"shared secret"), b"1700000000:alice", false)
}

/// What a Send indication costs before its peer is judged.
#[divan::bench(args = [100, 1200])]
fn read_send_indication(bencher: Bencher<'_, '_>, payload: usize) {
    let mut buffer = [0; 1500];
    let len = send_indication(&mut buffer, &vec![0; payload]);
    bencher.bench(|| {
        let message = Message::parse(black_box(&buffer[..len])).expect("well-formed");
        let attrs = message.unprotected();
        let unknown = attrs
            .unknown_required(&[attr::XOR_PEER_ADDRESS, attr::DATA, attr::DONT_FRAGMENT])
            .next();
        (
            unknown,
            attrs.peer(),
            attrs.data_range(),
            attrs.dont_fragment(),
        )
    });
}

#[divan::bench]
fn read_channel_data(bencher: Bencher<'_, '_>) {
    let mut bytes = [0; 1204];
    bytes[..4].copy_from_slice(&ChannelData::header(0x4001, 1200));
    bencher.bench(|| ChannelData::parse(black_box(&bytes), false).map(|c| c.data_range()));
}

#[divan::bench]
fn data_indication(bencher: Bencher<'_, '_>) {
    bencher.bench(|| {
        let mut prefix = [0; 48];
        let used = data_indication_prefix(&mut prefix, ID, black_box(peer()), black_box(1200));
        (used, prefix)
    });
}

#[divan::bench]
fn frame_channel_data(bencher: Bencher<'_, '_>) {
    let mut bytes = [0; 1204];
    bytes[..4].copy_from_slice(&ChannelData::header(0x4001, 1200));
    let framer = StreamFramer::default();
    bencher.bench(|| framer.next(black_box(&bytes)));
}
