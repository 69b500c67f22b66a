//! The core: what one datagram costs, without sockets. The allocation columns of everything that
//! relays are to stay at zero.

#[path = "../tests/core/harness.rs"]
mod harness;
#[path = "operations/core.rs"]
mod operations;

use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

/// How many peers the allocation has: a few are scanned, many are hashed.
const PEERS: [usize; 2] = [1, 1000];

fn main() {
    divan::main();
}

#[divan::bench(args = PEERS)]
fn channel_data_to_peer(bencher: Bencher<'_, '_>, peers: usize) {
    bencher.bench_local(operations::channel_data_to_peer(peers));
}

#[divan::bench(args = PEERS)]
fn send_to_peer(bencher: Bencher<'_, '_>, peers: usize) {
    bencher.bench_local(operations::send_to_peer(peers));
}

#[divan::bench(args = PEERS)]
fn peer_to_channel(bencher: Bencher<'_, '_>, peers: usize) {
    bencher.bench_local(operations::peer_to_channel(peers));
}

#[divan::bench(args = PEERS)]
fn peer_to_data_indication(bencher: Bencher<'_, '_>, peers: usize) {
    bencher.bench_local(operations::peer_to_data_indication(peers));
}

#[divan::bench]
fn relay_to_relay(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::relay_to_relay());
}

#[divan::bench]
fn relay_to_relay_of_a_pair(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::relay_to_relay_of_a_pair());
}

#[divan::bench(sample_size = 10_000)]
fn channel_data_over_10_000_allocations(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::channel_data_over_allocations(10_000));
}

#[divan::bench]
fn binding(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::binding());
}

#[divan::bench]
fn challenge(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::challenge());
}

#[divan::bench]
fn authenticated_refresh(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::authenticated_refresh());
}

#[divan::bench]
fn authenticated_refresh_of_a_secret(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::authenticated_refresh_of_a_secret());
}

#[divan::bench]
fn allocate_and_delete_of_a_secret(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::allocate_and_delete_of_a_secret());
}

#[divan::bench]
fn allocate_and_delete(bencher: Bencher<'_, '_>) {
    bencher.bench_local(operations::allocate_and_delete());
}

/// All are free, few, one.
#[divan::bench(args = [258_048, 1000, 1])]
fn lease_when_free(bencher: Bencher<'_, '_>, free: usize) {
    bencher.bench_local(operations::lease_when_free(free));
}
