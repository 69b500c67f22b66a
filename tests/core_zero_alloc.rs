//! The relayed path allocates nothing: counted by the allocator, over every way that a datagram
//! can take through the core. Nor do the requests that keep it alive, and those of
//! whoever has no password.
//! And what an idle allocation takes, by the same count.

#[path = "core/harness.rs"]
mod harness;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use harness::*;
use turnserver::auth::{CredentialStore, RestOptions};
use turnserver::proto::{Disposition, Effect, Flow, REPLY_BUFFER};
use turnserver::wire::{Method, attr};

thread_local! {
    // Per thread, so that tests beside each other do not count for one another.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(allocations: usize, bytes: isize) {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + allocations));
    let _ = BYTES.try_with(|count| count.set(count.get() + bytes));
}

#[allow(
    unsafe_code,
    reason = "a global allocator cannot be written without; it only counts"
)]
// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(1, new_size as isize - layout.size() as isize);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many times `run` allocates.
fn allocations(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(Box::new(7))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn relaying_within_a_pair_never_allocates() {
    let (mut world, mut a, mut b) = World::of_pair();
    let (ra, rb) = (world.allocate(&mut a), world.allocate(&mut b));
    world.bind(&mut a, 0x4000, rb);
    world.bind(&mut b, 0x4000, ra);
    let channel = channel_data(0x4000, &[7; 1000]);
    let denied = a.send(addr("198.51.100.7:3478"), &[7; 1000]);
    let (_, relay) = world.relay_of(ra);
    let mut reply = [0; REPLY_BUFFER];
    let (now, core) = (world.now, &mut world.shards[0]);
    let mut relayed = 0;
    let count = allocations(|| {
        for _ in 0..1000 {
            for outcome in [
                core.handle_client(now, &a.flow, &channel, &mut reply),
                core.handle_peer(now, relay, rb, 1000),
                core.handle_client(now, &a.flow, &denied, &mut reply),
            ] {
                relayed += u32::from(matches!(outcome, Disposition::ToClient { .. }));
            }
        }
    });
    assert_eq!((count, relayed), (0, 2000));
}

#[test]
fn relaying_never_allocates() {
    for peers in [1, 500] {
        let mut setup = Setup::default();
        setup.allow.push("100.64.0.0/10");
        setup.limits.bandwidth_per_allocation = 1_000_000_000;
        let mut world = setup.world();
        let (alice, bob) = (world.setup.users[0].clone(), world.setup.users[1].clone());
        let mut a = world.client(flow("192.0.2.1:5000"), &alice);
        let mut b = world.client(stream_flow("192.0.2.2:5000", 1), &bob);
        let (ra, rb) = (world.allocate(&mut a), world.allocate(&mut b));
        let peer = |n: usize| addr(&format!("100.64.{}.{}:9", n / 250, n % 250 + 1));
        // A few peers are found by scanning, many by hashing.
        for n in 0..peers {
            assert_eq!(world.bind(&mut a, 0x4000 + n as u16, peer(n)).code(), 0);
            assert_eq!(world.permit(&mut b, &[peer(n)]).code(), 0);
        }
        world.bind(&mut a, 0x4F00, rb);
        world.bind(&mut b, 0x4F01, ra);
        let peer = peer(peers - 1);
        let number = 0x4000 + peers as u16 - 1;
        let payload = [7; 1000];
        let channel = channel_data(number, &payload);
        let own_channel = channel_data(0x4F00, &payload);
        let unbound = channel_data(0x4E00, &payload);
        let send = a.send(peer, &payload);
        let own_send = b.send(ra, &payload);
        let stranger_send = b.send(addr("100.127.0.1:9"), &payload);
        let ((_, relay_a), (_, relay_b)) = (world.relay_of(ra), world.relay_of(rb));
        let stranger = flow("192.0.2.77:1");
        let mut reply = [0; REPLY_BUFFER];
        let (now, core) = (world.now, &mut world.shards[0]);
        let mut outcomes = Vec::with_capacity(100_000);
        let count = allocations(|| {
            for _ in 0..1000 {
                outcomes.push(core.handle_client(now, &a.flow, &channel, &mut reply));
                outcomes.push(core.handle_client(now, &a.flow, &send, &mut reply));
                outcomes.push(core.handle_peer(now, relay_a, peer, payload.len()));
                outcomes.push(core.handle_peer(now, relay_b, peer, payload.len()));
                outcomes.push(core.handle_client(now, &a.flow, &own_channel, &mut reply));
                outcomes.push(core.handle_client(now, &b.flow, &own_send, &mut reply));
            }
        });
        assert_eq!(count, 0);
        let relayed = outcomes.iter().filter(|outcome| {
            matches!(
                outcome,
                Disposition::ToPeer { .. } | Disposition::ToClient { .. }
            )
        });
        assert_eq!(relayed.count(), 6000, "nothing was dropped instead");
        // Dropping allocates nothing either.
        outcomes.clear();
        let count = allocations(|| {
            for _ in 0..1000 {
                outcomes.push(core.handle_client(now, &a.flow, &unbound, &mut reply));
                outcomes.push(core.handle_client(now, &b.flow, &stranger_send, &mut reply));
                outcomes.push(core.handle_client(now, &stranger, &channel, &mut reply));
                outcomes.push(core.handle_peer(now, relay_a, addr("203.0.113.1:9"), 10));
            }
        });
        assert_eq!(count, 0);
        let dropped = |outcome: &Disposition| matches!(outcome, Disposition::Drop(_));
        assert!(outcomes.iter().all(dropped));
        assert!(core.poll_effect().is_none());
    }
}

#[test]
fn binding_and_challenges_never_allocate() {
    let mut world = World::new();
    let binding = plain(
        turnserver::wire::Class::Request,
        turnserver::wire::Method::BINDING,
        |_| {},
    );
    let allocate = plain(
        turnserver::wire::Class::Request,
        turnserver::wire::Method::ALLOCATE,
        |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        },
    );
    let source = flow("192.0.2.1:5000");
    let mut reply = [0; REPLY_BUFFER];
    let (now, core) = (world.now, &mut world.shards[0]);
    let count = allocations(|| {
        for bytes in [&binding, &allocate] {
            for _ in 0..1000 {
                let answer = core.handle_client(now, &source, bytes, &mut reply);
                assert!(matches!(answer, Disposition::Reply { .. }));
            }
        }
    });
    assert_eq!(count, 0);
}

/// Users of the configuration and of two shared secrets.
fn both_kinds() -> Setup {
    let secrets: [&[u8]; 2] = [b"new", b"old"];
    let users = [("alice", "secret-a")];
    let store = CredentialStore::new(REALM, users, secrets, RestOptions::default());
    Setup {
        credentials: Some(Arc::new(store.expect("usable"))),
        ..Setup::default()
    }
}

#[test]
fn refreshes_and_renewed_channels_never_allocate() {
    let users = [
        User::new("alice", "secret-a"),
        User::of_secret(UNIX_START + 500, "carol", "old"),
    ];
    for user in users {
        let mut world = both_kinds().world();
        let mut client = world.client(flow("192.0.2.1:5000"), &user);
        world.allocate(&mut client);
        let peer = addr("192.0.2.50:9");
        let requests = [
            client.request(Method::REFRESH, |_| {}),
            client.request(Method::CHANNEL_BIND, |b| {
                b.channel_number(0x4000);
                b.xor_address(attr::XOR_PEER_ADDRESS, peer);
            }),
        ];
        // The first time there is a channel to remember.
        for request in &requests {
            assert_eq!(world.answer(0, &client.flow, request).code(), 0);
        }
        let mut reply = [0; REPLY_BUFFER];
        let (now, core) = (world.now, &mut world.shards[0]);
        let count = allocations(|| {
            for request in requests.iter().cycle().take(3000) {
                let answer = core.handle_client(now, &client.flow, request, &mut reply);
                let Disposition::Reply { authenticated, .. } = answer else {
                    panic!("{answer:?}");
                };
                assert!(authenticated);
            }
        });
        assert_eq!(count, 0);
    }
}

/// Whoever has no password takes nothing: no memory, no port, no place in a quota.
#[test]
fn nothing_is_taken_before_integrity_is_checked() {
    let mut world = both_kinds().world();
    let names = [
        User::new("alice", "guessed"),
        User::new("nobody", "guessed"),
        User::limited(UNIX_START + 500, "carol", "guessed"),
        // Right, but it has ended.
        User::of_secret(UNIX_START, "carol", "old"),
    ];
    let attempts: Vec<_> = (5000..)
        .zip(&names)
        .map(|(port, user)| {
            let mut client = world.client(flow(&format!("192.0.2.1:{port}")), user);
            let request = client.request(Method::ALLOCATE, |b| {
                b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
                b.even_port(true);
            });
            (client.flow, request)
        })
        .collect();
    let mut reply = [0; REPLY_BUFFER];
    let mut log_lines = 0;
    let (now, core) = (world.now, &mut world.shards[0]);
    let mut attempt = |(flow, request): &(Flow, Vec<u8>)| {
        let answer = core.handle_client(now, flow, request, &mut reply);
        let Disposition::Reply { authenticated, .. } = answer else {
            panic!("{answer:?}");
        };
        assert!(!authenticated);
        while let Some(effect) = core.poll_effect() {
            assert_eq!(effect, Effect::AuthenticationFailed { flow: *flow });
            log_lines += 1;
        }
    };
    // The first effect makes room for all that follow.
    attempt(&attempts[0]);
    let count = allocations(|| {
        for attempted in attempts.iter().cycle().take(4000) {
            attempt(attempted);
        }
    });
    assert_eq!(count, 0);
    assert_eq!(log_lines, 4001);
    world.assert_empty();
}

#[test]
fn an_idle_allocation_takes_well_under_a_kibibyte() {
    let static_user = User::new("alice", "secret-a");
    let time_limited = User::of_secret(UNIX_START + 500, "carol", "old");
    // A time-limited user's key is kept with the allocation.
    for (user, most) in [(static_user, 700), (time_limited, 950)] {
        let each = idle(&user);
        println!("{each} bytes for an allocation with a permission and a channel");
        assert!(each < most, "{each} bytes");
    }
}

/// Bytes for each of many idle allocations.
fn idle(user: &User) -> isize {
    const COUNT: usize = 20_000;
    let mut world = Setup {
        ports: 10_000..=59_999,
        relays: vec![(LOCAL_V4, PUBLIC_V4)],
        ..both_kinds()
    }
    .world();
    let mut clients: Vec<_> = (0..COUNT)
        .map(|n| {
            let source = format!("192.0.{}.{}:{}", n / 200 % 200, n % 200 + 1, 1024 + n);
            world.client(flow(&source), user)
        })
        .collect();
    // What the fake driver keeps is not the core's: make its room beforehand.
    world.net.leases.reserve(COUNT);
    let before = BYTES.get();
    for client in &mut clients {
        world.allocate(client);
        world.permit(client, &[addr("192.0.2.50:9")]);
        world.bind(client, 0x4000, addr("192.0.2.50:9"));
        world.audits.clear();
        world.answers.clear();
    }
    assert_eq!(world.shards[0].allocations(), COUNT);
    (BYTES.get() - before) / COUNT as isize
}
