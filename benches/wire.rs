//! The codec: parse, build, verify, and what the relayed path does to a datagram. The allocation
//! columns are to stay at zero, except where a key or a password is made.

#[path = "operations/wire.rs"]
mod operations;

use divan::{AllocProfiler, Bencher};
use turnserver::wire::{Integrity, PasswordAlgorithm};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench]
fn parse_binding(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::parse_binding());
}

#[divan::bench]
fn build_binding_success(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::build_binding_success());
}

#[divan::bench]
fn parse_allocate(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::parse_allocate());
}

#[divan::bench(args = [Integrity::Sha1, Integrity::Sha256])]
fn parse_and_verify_allocate(bencher: Bencher<'_, '_>, which: Integrity) {
    bencher.bench_local(operations::parse_and_verify_allocate(which));
}

#[divan::bench(args = [Integrity::Sha1, Integrity::Sha256])]
fn build_allocate(bencher: Bencher<'_, '_>, which: Integrity) {
    bencher.bench_local(operations::build_allocate(which));
}

#[divan::bench(args = [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256])]
fn derive_key(bencher: Bencher<'_, '_>, algorithm: PasswordAlgorithm) {
    bencher.bench_local(operations::derive_key(algorithm));
}

#[divan::bench]
fn time_limited_password(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::time_limited_password());
}

#[divan::bench(args = [100, 1200])]
fn read_send_indication(bencher: Bencher<'_, '_>, payload: usize) {
    bencher.bench_local(operations::read_send_indication(payload));
}

#[divan::bench]
fn read_channel_data(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::read_channel_data());
}

#[divan::bench]
fn data_indication(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::data_indication());
}

#[divan::bench]
fn frame_channel_data(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::frame_channel_data());
}
