use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(pairs: &[(&str, &str)], ports: RangeInclusive<u16>) -> Arc<RelayAddresses> {
    let pairs = pairs.iter().map(|(local, public)| (ip(local), ip(public)));
    RelayAddresses::new(pairs.collect(), ports)
}

fn rng(seed: u64) -> ChaCha12Rng {
    ChaCha12Rng::seed_from_u64(seed)
}

#[test]
fn the_whole_range_is_leased_once_each_and_nothing_else() {
    let addresses = pool(&[("192.0.2.1", "192.0.2.1")], 40_001..=40_300);
    let mut rng = rng(1);
    assert_eq!(addresses.capacity(), 300);
    let mut leases = Vec::new();
    while let Some(lease) = addresses.lease(Family::V4, false, &mut rng) {
        leases.push(lease);
    }
    let ports: HashSet<u16> = leases.iter().map(|lease| lease.local().port()).collect();
    assert_eq!(ports, (40_001..=40_300).collect());
    assert_eq!(addresses.in_use(), 300);
    drop(leases);
    assert_eq!(addresses.in_use(), 0);
}

#[test]
fn the_last_free_port_is_found() {
    let addresses = pool(&[("192.0.2.1", "192.0.2.1")], 1024..=65_535);
    let mut rng = rng(2);
    let mut leases: Vec<_> =
        std::iter::from_fn(|| addresses.lease(Family::V4, false, &mut rng)).collect();
    assert_eq!(leases.len(), 64_512);
    for _ in 0..20 {
        let freed = leases.swap_remove(leases.len() / 3).local();
        let lease = addresses.lease(Family::V4, false, &mut rng).unwrap();
        assert_eq!(lease.local(), freed);
        assert!(addresses.lease(Family::V4, false, &mut rng).is_none());
        leases.push(lease);
    }
}

#[test]
fn never_below_1024() {
    let addresses = pool(&[("192.0.2.1", "192.0.2.1")], 0..=1030);
    let mut rng = rng(3);
    let ports: HashSet<u16> = std::iter::from_fn(|| addresses.lease(Family::V4, false, &mut rng))
        .map(|lease| {
            let port = lease.local().port();
            std::mem::forget(lease);
            port
        })
        .collect();
    assert_eq!(ports, (1024..=1030).collect());
    assert_eq!(addresses.capacity(), 7);

    for nothing in [
        pool(&[("192.0.2.1", "192.0.2.1")], 0..=1023),
        pool(&[], 2000..=3000),
    ] {
        assert_eq!(nothing.capacity(), 0);
        assert!(nothing.lease(Family::V4, false, &mut rng).is_none());
        assert!(nothing.lease_pair(Family::V4, &mut rng).is_none());
        assert_eq!(nothing.live("192.0.2.1:80".parse().unwrap()), None);
    }
}

#[test]
fn even_ports_and_aligned_pairs() {
    let addresses = pool(&[("192.0.2.1", "192.0.2.1")], 40_001..=40_130);
    let mut rng = rng(4);
    let mut leases = Vec::new();
    while let Some((even, odd)) = addresses.lease_pair(Family::V4, &mut rng) {
        assert_eq!(even.local().port() % 2, 0);
        assert_eq!(odd.local().port(), even.local().port() + 1);
        leases.extend([even, odd]);
    }
    // 40001 has no even port below it in the range, 40130 none above.
    assert_eq!(leases.len(), 128);
    let last_even = addresses.lease(Family::V4, true, &mut rng).unwrap();
    assert_eq!(last_even.local().port(), 40_130);
    assert!(addresses.lease(Family::V4, true, &mut rng).is_none());
    let last = addresses.lease(Family::V4, false, &mut rng).unwrap();
    assert_eq!(last.local().port(), 40_001);
    assert!(addresses.lease(Family::V4, false, &mut rng).is_none());
}

#[test]
fn the_halves_of_a_pair_come_back_separately() {
    let addresses = pool(&[("192.0.2.1", "192.0.2.1")], 40_000..=40_001);
    let mut rng = rng(5);
    let (even, odd) = addresses.lease_pair(Family::V4, &mut rng).unwrap();
    drop(odd);
    assert!(addresses.lease_pair(Family::V4, &mut rng).is_none());
    let odd = addresses.lease(Family::V4, false, &mut rng).unwrap();
    assert_eq!(odd.local().port(), 40_001);
    drop((even, odd));
    assert!(addresses.lease_pair(Family::V4, &mut rng).is_some());
}

#[test]
fn addresses_of_a_pool_are_used_alike_and_families_kept_apart() {
    let pairs = [
        ("192.0.2.1", "198.51.100.1"),
        ("192.0.2.2", "198.51.100.2"),
        ("192.0.2.3", "198.51.100.3"),
        ("2001:db8::1", "2001:db8::1"),
    ];
    let addresses = pool(&pairs, 40_000..=49_999);
    let mut rng = rng(6);
    let mut counts = HashMap::<IpAddr, usize>::new();
    let leases: Vec<_> = (0..9_000)
        .map(|_| addresses.lease(Family::V4, false, &mut rng).unwrap())
        .collect();
    for lease in &leases {
        assert_eq!(lease.local().port(), lease.public().port());
        *counts.entry(lease.public().ip()).or_default() += 1;
    }
    assert_eq!(counts.len(), 3);
    assert!(
        counts.values().all(|&n| (2_700..3_300).contains(&n)),
        "{counts:?}"
    );
    let lease = addresses.lease(Family::V6, true, &mut rng).unwrap();
    assert_eq!(lease.local().ip(), ip("2001:db8::1"));
    assert!(addresses.has_family(Family::V6));
    assert!(!pool(&pairs[..3], 2000..=3000).has_family(Family::V6));
}

#[test]
fn one_public_address_is_never_two_sockets() {
    let pairs = [
        ("192.0.2.1", "198.51.100.1"),
        ("192.0.2.2", "198.51.100.1"),
        ("192.0.2.1", "198.51.100.9"),
        ("::ffff:192.0.2.1", "198.51.100.8"),
        ("192.0.2.4", "2001:db8::1"),
    ];
    let addresses = pool(&pairs, 40_000..=40_000);
    assert_eq!(addresses.capacity(), 1);
    assert_eq!(
        addresses.addresses().collect::<Vec<_>>(),
        [(ip("192.0.2.1"), ip("198.51.100.1"))]
    );
}

#[test]
fn live_by_either_name_and_only_while_it_lives() {
    let addresses = pool(&[("10.0.0.5", "198.51.100.7")], 40_000..=40_000);
    let lease = addresses.lease(Family::V4, false, &mut rng(7)).unwrap();
    let (local, public): (SocketAddr, SocketAddr) = (lease.local(), lease.public());
    assert_eq!(
        addresses.live(public),
        None,
        "leased, but nobody answers yet"
    );
    assert!(!addresses.any_live(public.ip()));
    lease.set_live(true);
    lease.set_live(true);
    let own = Some(OwnRelay { local, public });
    assert_eq!(addresses.live(public), own);
    assert_eq!(addresses.live(local), own);
    assert_eq!(addresses.to_public(local), Some(public));
    assert_eq!(addresses.to_public(public), None);
    assert!(addresses.any_live(local.ip()));
    for other in [
        "10.0.0.5:40001",
        "10.0.0.5:39999",
        "10.0.0.6:40000",
        "10.0.0.5:22",
    ] {
        assert_eq!(addresses.live(other.parse().unwrap()), None, "{other}");
    }
    lease.set_live(false);
    assert_eq!(addresses.live(public), None);
    lease.set_live(true);
    drop(lease);
    assert_eq!(addresses.live(local), None);
    assert!(!addresses.any_live(local.ip()));
    let again = addresses.lease(Family::V4, false, &mut rng(8)).unwrap();
    assert_eq!(
        addresses.live(again.local()),
        None,
        "the next holder starts as a stranger"
    );
}

/// Pearson's statistic of counts that should all be alike, in standard deviations of its
/// distribution (which is close to normal for many classes).
fn deviation(counts: &[u32]) -> f64 {
    let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    let chi2: f64 = counts
        .iter()
        .map(|&n| (f64::from(n) - expected).powi(2) / expected)
        .sum();
    let freedom = (counts.len() - 1) as f64;
    (chi2 - freedom) / (2.0 * freedom).sqrt()
}

/// The upper 1 % of the distribution of [`deviation`], with its skew for 255 degrees of freedom.
const UNLIKELY: f64 = 2.6;

#[test]
fn the_next_port_cannot_be_told_from_those_before() {
    let addresses = pool(&[("192.0.2.1", "192.0.2.1")], 40_000..=40_255);
    let mut rng = rng(9);
    // Empty, half full and nearly full.
    for held in [0, 128, 200] {
        let held: Vec<_> = (0..held)
            .map(|_| addresses.lease(Family::V4, false, &mut rng).unwrap())
            .collect();
        let taken: HashSet<u16> = held.iter().map(|lease| lease.local().port()).collect();
        let free: Vec<u16> = (40_000..=40_255)
            .filter(|port| !taken.contains(port))
            .collect();
        let (mut places, mut steps) = (vec![0; free.len()], vec![0; free.len()]);
        let mut last = 0;
        for _ in 0..20_000 {
            let port = addresses
                .lease(Family::V4, false, &mut rng)
                .unwrap()
                .local()
                .port();
            let place = free.binary_search(&port).unwrap();
            places[place] += 1;
            // The guess "so much further than last time" is no better than any other.
            steps[(place + free.len() - last) % free.len()] += 1;
            last = place;
        }
        for counts in [&places, &steps] {
            let deviation = deviation(counts);
            assert!(
                deviation.abs() < UNLIKELY,
                "{} held: {deviation}",
                held.len()
            );
        }
    }
}

/// Of a full range over several addresses a few ports are free: each is as likely as any other,
/// whatever lies around it, and so is each even one and each pair.
#[test]
fn the_last_free_ports_are_equally_likely() {
    let pairs = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| (ip, ip));
    let addresses = pool(&pairs, 1024..=65_535);
    let mut rng = rng(10);
    let mut held: HashMap<SocketAddr, PortLease> =
        std::iter::from_fn(|| addresses.lease(Family::V4, false, &mut rng))
            .map(|lease| (lease.local(), lease))
            .collect();
    assert_eq!(held.len(), 3 * 64_512);
    // 24 alone and even, 16 alone and odd, 32 pairs: crowded, scattered, at both ends.
    let mut free: [Vec<SocketAddr>; 3] = Default::default();
    let [any, even, both] = &mut free;
    let mut add = |ip: usize, port: u16, pair: bool| {
        let at = |port| SocketAddr::new(addresses.pools[ip].local, port);
        let ports = if pair {
            vec![port, port + 1]
        } else {
            vec![port]
        };
        for port in ports {
            any.push(at(port));
            if port % 2 == 0 {
                even.push(at(port));
            }
            drop(held.remove(&at(port)).expect("it was held"));
        }
        if pair {
            both.push(at(port));
        }
    };
    for n in 0..24 {
        add(0, 1024 + n * 2, false);
    }
    for n in 0..16 {
        add(1, 1025 + n * 4031 / 2 * 2, false);
    }
    for n in 0..32 {
        add(usize::from(n % 2) + 1, 65_534 - n * 1022, true);
    }
    assert_eq!(free.each_ref().map(Vec::len), [104, 56, 32]);
    for (shape, free) in Shape::ALL.iter().zip(&free) {
        let mut counts: HashMap<SocketAddr, u32> = free.iter().map(|addr| (*addr, 0)).collect();
        for _ in 0..400 * free.len() {
            let lease = match shape {
                Shape::Any => addresses.lease(Family::V4, false, &mut rng),
                Shape::Even => addresses.lease(Family::V4, true, &mut rng),
                Shape::Pair => addresses
                    .lease_pair(Family::V4, &mut rng)
                    .map(|pair| pair.0),
            };
            *counts.get_mut(&lease.unwrap().local()).expect("it is free") += 1;
        }
        let deviation = deviation(&counts.into_values().collect::<Vec<_>>());
        assert!(deviation.abs() < UNLIKELY, "{shape:?}: {deviation}");
    }
}

#[test]
fn seeds_make_different_choices() {
    let addresses = pool(&[("192.0.2.1", "192.0.2.1")], 40_000..=49_999);
    let choices = |seed| -> Vec<u16> {
        let mut rng = rng(seed);
        let lease = |_| addresses.lease(Family::V4, false, &mut rng).unwrap();
        (0..8)
            .map(lease)
            .map(|lease| lease.local().port())
            .collect()
    };
    assert_ne!(choices(1), choices(2));
}

#[derive(Clone, Debug)]
enum Step {
    Any,
    Even,
    Pair,
    Live(usize, bool),
    Free(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Any),
        Just(Step::Even),
        Just(Step::Pair),
        (any::<usize>(), any::<bool>()).prop_map(|(which, live)| Step::Live(which, live)),
        any::<usize>().prop_map(Step::Free),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against a plain set of the ports in use: what is leased is free and fits, nothing is
    /// refused that is there, and everything comes back.
    #[test]
    fn ports_are_conserved(
        steps in prop::collection::vec(step(), 0..400),
        first in 1024_u16..2000,
        count in 0_u16..150,
        seed: u64,
    ) {
        let range = first..=first + count;
        let addresses = pool(&[("192.0.2.1", "198.51.100.1")], range.clone());
        let mut rng = rng(seed);
        let mut held: Vec<(PortLease, bool)> = Vec::new();
        for step in steps {
            let taken: HashSet<u16> = held.iter().map(|(lease, _)| lease.local().port()).collect();
            let free = |port: u16| range.contains(&port) && !taken.contains(&port);
            let new = match step {
                Step::Any => {
                    let lease = addresses.lease(Family::V4, false, &mut rng);
                    prop_assert_eq!(lease.is_some(), range.clone().any(free));
                    Vec::from_iter(lease)
                }
                Step::Even => {
                    let lease = addresses.lease(Family::V4, true, &mut rng);
                    let possible = range.clone().any(|port| port % 2 == 0 && free(port));
                    prop_assert_eq!(lease.is_some(), possible);
                    prop_assert!(lease.iter().all(|lease| lease.local().port() % 2 == 0));
                    Vec::from_iter(lease)
                }
                Step::Pair => {
                    let pair = addresses.lease_pair(Family::V4, &mut rng);
                    let possible = range
                        .clone()
                        .any(|port| port % 2 == 0 && free(port) && free(port + 1));
                    prop_assert_eq!(pair.is_some(), possible);
                    pair.map_or_else(Vec::new, |(even, odd)| vec![even, odd])
                }
                Step::Live(which, live) if !held.is_empty() => {
                    let index = which % held.len();
                    held[index].0.set_live(live);
                    held[index].1 = live;
                    Vec::new()
                }
                Step::Free(which) if !held.is_empty() => {
                    held.swap_remove(which % held.len());
                    Vec::new()
                }
                Step::Live(..) | Step::Free(_) => Vec::new(),
            };
            for lease in new {
                prop_assert!(free(lease.local().port()));
                held.push((lease, false));
            }
            prop_assert_eq!(addresses.in_use(), held.len());
            for (lease, live) in &held {
                prop_assert_eq!(addresses.live(lease.public()).is_some(), *live);
            }
        }
        held.clear();
        prop_assert_eq!(addresses.in_use(), 0);
        prop_assert!(!addresses.any_live(ip("198.51.100.1")));
        let all: Vec<_> =
            std::iter::from_fn(|| addresses.lease(Family::V4, false, &mut rng)).collect();
        prop_assert_eq!(all.len(), usize::from(count) + 1);
    }
}

#[test]
fn a_place_stands_for_one_port_as_long_as_it_is_free() {
    let pairs = [("192.0.2.1", "192.0.2.1"), ("192.0.2.2", "192.0.2.2")];
    let (addresses, again) = (pool(&pairs, 40_001..=40_300), pool(&pairs, 40_001..=40_300));
    let mut leases = HashMap::new();
    for place in (0..600).chain([u64::MAX]) {
        let Some(lease) = addresses.lease_at(Family::V4, place) else {
            assert_eq!(place, u64::MAX, "600 places for 600 ports");
            continue;
        };
        let other = again.lease_at(Family::V4, place).expect("it is free there");
        assert_eq!(other.local(), lease.local(), "in another process");
        leases.insert(lease.local(), lease);
    }
    assert_eq!(leases.len(), 600);
    assert!(addresses.lease_at(Family::V6, 7).is_none());
    leases.clear();
    assert_eq!(addresses.in_use(), 0);
}
