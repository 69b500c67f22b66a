//! The core: what one datagram costs, without sockets. Each function makes one operation ready and
//! returns it, to be done over and over; nothing in it differs from run to run.

use std::hint::black_box;
use std::sync::Arc;

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use turnserver::proto::ports::{PortLease, RelayAddresses};
use turnserver::proto::{Disposition, Family, REPLY_BUFFER, RelayId};
use turnserver::wire::{Class, Key, Method, attr};

use crate::harness::*;

const PAYLOAD: [u8; 1000] = [7; 1000];

/// A server with an allocation that has `peers` permissions and channels.
fn relaying(peers: usize) -> (World, Client, RelayId) {
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
fn client_bytes(mut world: World, client: Client, bytes: Vec<u8>) -> impl FnMut() -> Disposition {
    let mut reply = [0; REPLY_BUFFER];
    move || {
        let world = &mut world;
        let core = &mut world.shards[0];
        let outcome = core.handle_client(world.now, &client.flow, black_box(&bytes), &mut reply);
        assert!(!matches!(outcome, Disposition::Drop(_)));
        outcome
    }
}

pub(crate) fn channel_data_to_peer(peers: usize) -> impl FnMut() -> Disposition {
    let (world, client, _) = relaying(peers);
    let bytes = channel_data(number(peers - 1), &PAYLOAD);
    client_bytes(world, client, bytes)
}

pub(crate) fn send_to_peer(peers: usize) -> impl FnMut() -> Disposition {
    let (world, mut client, _) = relaying(peers);
    let bytes = client.send(peer(peers - 1), &PAYLOAD);
    client_bytes(world, client, bytes)
}

fn from_peer(peers: usize, port: u16) -> impl FnMut() -> Disposition {
    let (mut world, _, relay) = relaying(peers);
    let mut source = peer(peers - 1);
    source.set_port(port);
    move || {
        let world = &mut world;
        let core = &mut world.shards[0];
        let outcome = core.handle_peer(world.now, relay, black_box(source), PAYLOAD.len());
        assert!(matches!(outcome, Disposition::ToClient { .. }));
        outcome
    }
}

pub(crate) fn peer_to_channel(peers: usize) -> impl FnMut() -> Disposition {
    from_peer(peers, 9)
}

/// The peer's port has no channel, its address has a permission.
pub(crate) fn peer_to_data_indication(peers: usize) -> impl FnMut() -> Disposition {
    from_peer(peers, 10)
}

/// From client to client through two allocations of one shard.
pub(crate) fn relay_to_relay() -> impl FnMut() -> Disposition {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut a = world.client(flow("192.0.2.1:5000"), &user);
    let mut b = world.client(flow("192.0.2.2:5000"), &user);
    let (ra, rb) = (world.allocate(&mut a), world.allocate(&mut b));
    world.bind(&mut a, 0x4000, rb);
    world.bind(&mut b, 0x4000, ra);
    client_bytes(world, a, channel_data(0x4000, &PAYLOAD))
}

/// The same between the two sides of a pair, which is looked at for every datagram.
pub(crate) fn relay_to_relay_of_a_pair() -> impl FnMut() -> Disposition {
    let (mut world, mut a, mut b) = World::of_pair();
    let (ra, rb) = (world.allocate(&mut a), world.allocate(&mut b));
    world.bind(&mut a, 0x4000, rb);
    world.bind(&mut b, 0x4000, ra);
    client_bytes(world, a, channel_data(0x4000, &PAYLOAD))
}

/// Over many allocations in turn: with 10,000, tables that no cache line holds for long.
pub(crate) fn channel_data_over_allocations(count: usize) -> impl FnMut() -> Disposition {
    let mut world = Setup {
        ports: 10_000..=59_999,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let flows: Vec<_> = (0..count)
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
    let mut next = 0;
    move || {
        // A stride that visits all of them in an order no prefetcher guesses.
        next = (next + 7919) % flows.len();
        let world = &mut world;
        let core = &mut world.shards[0];
        core.handle_client(world.now, &flows[next], black_box(&bytes), &mut reply)
    }
}

pub(crate) fn binding() -> impl FnMut() -> Disposition {
    let (world, client, _) = relaying(1);
    let bytes = plain(Class::Request, Method::BINDING, |_| {});
    client_bytes(world, client, bytes)
}

/// The first Allocate of every client: a 401 with a fresh nonce.
pub(crate) fn challenge() -> impl FnMut() -> Disposition {
    let (world, client, _) = relaying(1);
    let bytes = plain(Class::Request, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    client_bytes(world, client, bytes)
}

/// A Refresh: two HMACs to authenticate it (message and nonce), one to protect the answer.
pub(crate) fn authenticated_refresh() -> impl FnMut() -> Disposition {
    let (world, mut client, _) = relaying(1);
    let bytes = client.request(Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, 600);
    });
    client_bytes(world, client, bytes)
}

/// The same of a time-limited user, whose key is not derived again.
pub(crate) fn authenticated_refresh_of_a_secret() -> impl FnMut() -> Disposition {
    let (mut world, mut client) = of_a_secret();
    world.allocate(&mut client);
    let bytes = client.request(Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, 600);
    });
    client_bytes(world, client, bytes)
}

/// A time-limited user's client.
fn of_a_secret() -> (World, Client) {
    let world = Setup {
        credentials: Some(Arc::new(OfSecret(Key::from_bytes(b"secret")))),
        ..Setup::default()
    }
    .world();
    let user = User::of_secret(UNIX_START + 86_400, "alice", "secret");
    let client = world.client(flow("192.0.2.1:5000"), &user);
    (world, client)
}

/// An Allocate from authentication to the success response, and its deletion.
pub(crate) fn allocate_and_delete() -> impl FnMut() -> (Response, Response) {
    let world = World::new();
    let client = world.client(flow("192.0.2.1:5000"), &world.setup.users[0]);
    allocating_and_deleting(world, client)
}

/// The same of a time-limited user, whose key is derived once.
pub(crate) fn allocate_and_delete_of_a_secret() -> impl FnMut() -> (Response, Response) {
    let (world, client) = of_a_secret();
    allocating_and_deleting(world, client)
}

fn allocating_and_deleting(
    mut world: World,
    mut client: Client,
) -> impl FnMut() -> (Response, Response) {
    let allocate = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    let delete = client.request(Method::REFRESH, |b| {
        b.u32(attr::LIFETIME, 0);
    });
    move || {
        let first = world.answer(0, &client.flow, &allocate);
        let second = world.answer(0, &client.flow, &delete);
        world.audits.clear();
        (first, second)
    }
}

/// A relay port leased and given back, on four addresses of 64,512 ports each of which so many
/// are free.
pub(crate) fn lease_when_free(free: usize) -> impl FnMut() -> PortLease {
    let pairs = (1..=4)
        .map(|n| ip(&format!("192.0.2.{n}")))
        .map(|ip| (ip, ip));
    let addresses = RelayAddresses::new(pairs.collect(), 1024..=65_535);
    let mut rng = ChaCha12Rng::from_seed([3; 32]);
    let held: Vec<_> = (free..addresses.capacity())
        .map(|_| addresses.lease(Family::V4, false, &mut rng).expect("free"))
        .collect();
    move || {
        let _held = &held;
        addresses.lease(Family::V4, false, &mut rng).expect("free")
    }
}
