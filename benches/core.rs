//! The core: what one datagram costs, without sockets. The allocation columns of everything that
//! relays are to stay at zero.

#[path = "../tests/core/harness.rs"]
mod harness;

use divan::{AllocProfiler, Bencher, black_box};
use harness::*;
use turnserver::proto::{Disposition, REPLY_BUFFER};
use turnserver::wire::{Class, Method, attr};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const PAYLOAD: [u8; 1000] = [7; 1000];
/// How many peers the allocation has: a few are scanned, many are hashed.
const PEERS: [usize; 2] = [1, 1000];

fn main() {
    divan::main();
}

/// A server with an allocation that has `peers` permissions and channels.
fn relaying(peers: usize) -> (World, Client, turnserver::proto::RelayId) {
    let mut setup = Setup::default();
    setup.allow.push("100.64.0.0/10");
    let mut world = setup.world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let relayed = world.allocate(&mut client);
    for n in 0..peers {
        assert_eq!(world.bind(&mut client, number(n), peer(n)).code(), 0);
    }
    let relay = world.relay_of(relayed).1;
    (world, client, relay)
}

fn peer(n: usize) -> std::net::SocketAddr {
    addr(&format!("100.64.{}.{}:9", n / 250, n % 250 + 1))
}

fn number(n: usize) -> u16 {
    0x4000 + n as u16
}

/// Hands the same bytes in over and over.
fn client_bytes(bencher: Bencher<'_, '_>, world: World, client: &Client, bytes: &[u8]) {
    let mut world = world;
    let mut reply = [0; REPLY_BUFFER];
    let (now, core) = (world.now, &mut world.shards[0]);
    bencher.bench_local(|| {
        let outcome = core.handle_client(now, &client.flow, black_box(bytes), &mut reply);
        assert!(!matches!(outcome, Disposition::Drop(_)));
        outcome
    });
}

#[divan::bench(args = PEERS)]
fn channel_data_to_peer(bencher: Bencher<'_, '_>, peers: usize) {
    let (world, client, _) = relaying(peers);
    let bytes = channel_data(number(peers - 1), &PAYLOAD);
    client_bytes(bencher, world, &client, &bytes);
}

#[divan::bench(args = PEERS)]
fn send_to_peer(bencher: Bencher<'_, '_>, peers: usize) {
    let (world, mut client, _) = relaying(peers);
    let bytes = client.send(peer(peers - 1), &PAYLOAD);
    client_bytes(bencher, world, &client, &bytes);
}

fn from_peer(bencher: Bencher<'_, '_>, peers: usize, port: u16) {
    let (mut world, _, relay) = relaying(peers);
    let mut source = peer(peers - 1);
    source.set_port(port);
    let (now, core) = (world.now, &mut world.shards[0]);
    bencher.bench_local(|| {
        let outcome = core.handle_peer(now, relay, black_box(source), PAYLOAD.len());
        assert!(matches!(outcome, Disposition::ToClient { .. }));
        outcome
    });
}

#[divan::bench(args = PEERS)]
fn peer_to_channel(bencher: Bencher<'_, '_>, peers: usize) {
    from_peer(bencher, peers, 9);
}

#[divan::bench(args = PEERS)]
fn peer_to_data_indication(bencher: Bencher<'_, '_>, peers: usize) {
    from_peer(bencher, peers, 10);
}

/// From client to client through two allocations of one shard.
#[divan::bench]
fn relay_to_relay(bencher: Bencher<'_, '_>) {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut a = world.client(flow("192.0.2.1:5000"), &user);
    let mut b = world.client(flow("192.0.2.2:5000"), &user);
    let (ra, rb) = (world.allocate(&mut a), world.allocate(&mut b));
    world.bind(&mut a, 0x4000, rb);
    world.bind(&mut b, 0x4000, ra);
    let bytes = channel_data(0x4000, &PAYLOAD);
    client_bytes(bencher, world, &a, &bytes);
}

/// The same between the two sides of a pair, which is looked at for every datagram.
#[divan::bench]
fn relay_to_relay_of_a_pair(bencher: Bencher<'_, '_>) {
    let mut world = Setup {
        users: vec![User::paired(1, 'i'), User::paired(1, 'r')],
        ..Setup::default()
    }
    .world();
    let (i, r) = (world.setup.users[0].clone(), world.setup.users[1].clone());
    let mut a = world.client(flow("192.0.2.1:5000"), &i);
    let mut b = world.client(flow("192.0.2.2:5000"), &r);
    let (ra, rb) = (world.allocate(&mut a), world.allocate(&mut b));
    world.bind(&mut a, 0x4000, rb);
    world.bind(&mut b, 0x4000, ra);
    let bytes = channel_data(0x4000, &PAYLOAD);
    client_bytes(bencher, world, &a, &bytes);
}

/// Over 10,000 allocations in turn: tables that no cache line holds for long.
#[divan::bench(sample_size = 10_000)]
fn channel_data_over_10_000_allocations(bencher: Bencher<'_, '_>) {
    let mut world = Setup {
        ports: 10_000..=59_999,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let flows: Vec<_> = (0..10_000)
        .map(|n| {
            let source = format!("192.0.2.{}:{}", n % 200 + 1, 10_000 + n);
            let mut client = world.client(flow(&source), &user);
            world.allocate(&mut client);
            world.bind(&mut client, 0x4000, addr("192.0.2.250:9"));
            client.flow
        })
        .collect();
    let bytes = channel_data(0x4000, &PAYLOAD);
    let mut reply = [0; REPLY_BUFFER];
    let (now, core) = (world.now, &mut world.shards[0]);
    let mut next = 0;
    bencher.bench_local(|| {
        // A stride that visits all of them in an order no prefetcher guesses.
        next = (next + 7919) % flows.len();
        core.handle_client(now, &flows[next], black_box(&bytes), &mut reply)
    });
}

#[divan::bench]
fn binding(bencher: Bencher<'_, '_>) {
    let (world, client, _) = relaying(1);
    let bytes = plain(Class::Request, Method::BINDING, |_| {});
    client_bytes(bencher, world, &client, &bytes);
}

/// The first Allocate of every client: a 401 with a fresh nonce.
#[divan::bench]
fn challenge(bencher: Bencher<'_, '_>) {
    let (world, client, _) = relaying(1);
    let bytes = plain(Class::Request, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    client_bytes(bencher, world, &client, &bytes);
}

/// A Refresh: two HMACs to authenticate it (message and nonce), one to protect the answer.
#[divan::bench]
fn authenticated_refresh(bencher: Bencher<'_, '_>) {
    let (world, mut client, _) = relaying(1);
    let bytes = client.request(Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, 600);
    });
    client_bytes(bencher, world, &client, &bytes);
}

/// An Allocate from authentication to the success response, and its deletion.
#[divan::bench]
fn allocate_and_delete(bencher: Bencher<'_, '_>) {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let allocate = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    let delete = client.request(Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, 0);
    });
    bencher.bench_local(|| {
        let first = world.answer(0, &client.flow, &allocate);
        let second = world.answer(0, &client.flow, &delete);
        world.audits.clear();
        (first, second)
    });
}
