//! What all shards share (ports, quotas, the reply budget) under several threads at once: limits
//! hold, nothing is handed out twice, and everything comes back.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use turnserver::proto::budget::ReplyBudget;
use turnserver::proto::ports::{PortLease, RelayAddresses};
use turnserver::proto::quota::Quotas;
use turnserver::proto::{Family, Mono};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn rng(seed: u64) -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(seed)
}

fn user(name: &str) -> Arc<str> {
    name.into()
}

#[test]
fn threads_never_share_a_port_and_all_come_back() {
    let pairs = ["192.0.2.1", "192.0.2.2"].map(|text| (ip(text), ip(text)));
    let addresses = RelayAddresses::new(pairs.to_vec(), 40_000..=40_099);
    let holders: HashMap<SocketAddr, AtomicU32> = addresses
        .addresses()
        .flat_map(|(ip, _)| (40_000..=40_099).map(move |port| SocketAddr::new(ip, port)))
        .map(|addr| (addr, AtomicU32::new(0)))
        .collect();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (addresses, holders) = (&addresses, &holders);
            scope.spawn(move || {
                let mut rng = rng(seed);
                let mut held: Vec<PortLease> = Vec::new();
                for step in 0..20_000_u32 {
                    let taken: Vec<PortLease> = match step % 3 {
                        0 => addresses
                            .lease(Family::V4, true, &mut rng)
                            .into_iter()
                            .collect(),
                        1 => addresses
                            .lease_pair(Family::V4, &mut rng)
                            .map_or_else(Vec::new, |(even, odd)| vec![even, odd]),
                        _ => addresses
                            .lease(Family::V4, false, &mut rng)
                            .into_iter()
                            .collect(),
                    };
                    // All threads together hold fewer than 190 of the 200.
                    assert!(step % 3 != 2 || !taken.is_empty(), "a free port was missed");
                    for lease in taken {
                        lease.set_live(true);
                        assert_eq!(holders[&lease.local()].fetch_add(1, Relaxed), 0);
                        held.push(lease);
                    }
                    while held.len() > 45 || (held.len() > 10 && rng.next_u32() & 1 == 0) {
                        let lease = held.swap_remove(rng.next_u32() as usize % held.len());
                        holders[&lease.local()].fetch_sub(1, Relaxed);
                    }
                }
                for lease in held {
                    holders[&lease.local()].fetch_sub(1, Relaxed);
                }
            });
        }
    });
    assert_eq!(addresses.in_use(), 0);
    for addr in holders.keys() {
        assert_eq!(addresses.live(*addr), None);
        assert!(!addresses.any_live(addr.ip()));
    }
    let mut rng = rng(99);
    let all: Vec<_> = std::iter::from_fn(|| addresses.lease(Family::V4, false, &mut rng)).collect();
    assert_eq!(all.len(), 200);
}

/// All of two full ranges is held but for a few ports, which threads take and give back all the
/// time: none is ever leased twice or lost, and one that is nobody's is always found.
#[test]
fn threads_share_the_last_free_ports() {
    let pairs = ["192.0.2.1", "192.0.2.2"].map(|text| (ip(text), ip(text)));
    let addresses = RelayAddresses::new(pairs.to_vec(), 1024..=65_535);
    let mut held: HashMap<SocketAddr, PortLease> =
        std::iter::from_fn(|| addresses.lease(Family::V4, false, &mut rng(9)))
            .map(|lease| (lease.local(), lease))
            .collect();
    assert_eq!(held.len(), 2 * 64_512);
    // Ten free ports for four threads that hold two at most each.
    let free = [
        1024, 1025, 1027, 31_000, 31_001, 31_002, 31_003, 65_534, 65_535, 65_533,
    ]
    .map(|port| SocketAddr::new(ip("192.0.2.2"), port));
    let holders: HashMap<SocketAddr, AtomicU32> =
        free.iter().map(|addr| (*addr, AtomicU32::new(0))).collect();
    for addr in &free {
        drop(held.remove(addr).expect("it was held"));
    }
    let pairs: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let (addresses, holders) = (&addresses, &holders);
                scope.spawn(move || {
                    let mut rng = rng(seed);
                    let mut pairs = 0;
                    for step in 0..20_000_u32 {
                        let mut leases = Vec::new();
                        if step % 3 == 0 {
                            let pair = addresses.lease_pair(Family::V4, &mut rng);
                            pairs += usize::from(pair.is_some());
                            leases.extend(pair.into_iter().flat_map(<[_; 2]>::from));
                        } else {
                            let lease = addresses.lease(Family::V4, false, &mut rng);
                            leases.push(lease.expect("there are more than can be held"));
                            leases.extend(addresses.lease(Family::V4, true, &mut rng));
                        }
                        for lease in &leases {
                            assert_eq!(holders[&lease.local()].fetch_add(1, Relaxed), 0);
                        }
                        for lease in leases {
                            holders[&lease.local()].fetch_sub(1, Relaxed);
                        }
                    }
                    pairs
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!(pairs > 0);
    assert_eq!(addresses.in_use(), held.len());
    let mut rng = rng(99);
    let pairs: Vec<_> = std::iter::from_fn(|| addresses.lease_pair(Family::V4, &mut rng)).collect();
    let rest: Vec<_> =
        std::iter::from_fn(|| addresses.lease(Family::V4, false, &mut rng)).collect();
    assert_eq!((pairs.len(), rest.len()), (4, 2), "all came back");
    assert_eq!(addresses.in_use(), addresses.capacity());
    drop((pairs, rest, held));
    assert_eq!(addresses.in_use(), 0);
}

#[test]
fn threads_together_get_no_more() {
    let budget = ReplyBudget::new(100, 10);
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..20_000)
                        .filter(|_| budget.admit(Mono(0), ip("192.0.2.1"), 64))
                        .count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(admitted, 100);
}

#[test]
fn threads_never_exceed_a_limit_and_leave_nothing() {
    let quotas = Quotas::new();
    std::thread::scope(|scope| {
        for seed in 0..4_usize {
            let quotas = &quotas;
            scope.spawn(move || {
                let names = [user("a"), user("b"), user("c")];
                let mut held = Vec::new();
                for step in 0..20_000 {
                    if let Ok(guard) = quotas.take(&names[(step + seed) % 3], 4, 10) {
                        held.push(guard);
                    }
                    assert!(quotas.total() <= 10);
                    assert!(quotas.held_by("a") <= 4);
                    if held.len() > step % 4 {
                        held.swap_remove(step % held.len());
                    }
                }
            });
        }
    });
    assert_eq!((quotas.total(), quotas.users()), (0, 0));
}
