use std::collections::VecDeque;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Sends `per_second` requests a second for `seconds` from `source`, each to be answered with
/// `len` bytes; the times of the answers.
fn flood(
    budget: &ReplyBudget,
    start: Mono,
    per_second: u64,
    seconds: u64,
    source: impl Fn(u64) -> IpAddr,
    len: usize,
) -> Vec<u64> {
    (0..per_second * seconds)
        .map(|i| (i, start.0 + i * 1_000_000 / per_second))
        .filter(|&(i, at)| budget.admit(Mono(at), source(i), len))
        .map(|(_, at)| at)
        .collect()
}

/// The most events that any window of this length holds.
fn most_within(times: &[u64], window: u64) -> usize {
    let mut open = VecDeque::new();
    let mut most = 0;
    for &at in times {
        open.push_back(at);
        while open.front().is_some_and(|&first| at - first >= window) {
            open.pop_front();
        }
        most = most.max(open.len());
    }
    most
}

#[test]
fn ten_answers_in_any_second() {
    for start in [0, 1, 77_777, 999_999, 123_456_789_012] {
        let budget = ReplyBudget::new(10, 1);
        let times = flood(&budget, Mono(start), 1000, 20, |_| ip("192.0.2.1"), 44);
        assert_eq!(most_within(&times, 1_000_000), 10);
        assert!(times.len() >= 170, "and not many fewer: {}", times.len());
    }
}

#[test]
fn an_honest_burst_is_answered_at_once() {
    let budget = ReplyBudget::new(10, 1);
    for _ in 0..10 {
        assert!(budget.admit(Mono(5_000_000), ip("192.0.2.1"), 32));
    }
    assert!(!budget.admit(Mono(5_000_000), ip("192.0.2.1"), 32));
    // Eight stretches of a seventh of a second later everything is forgotten.
    for _ in 0..10 {
        assert!(budget.admit(Mono(6_200_000), ip("192.0.2.1"), 32));
    }
}

#[test]
fn no_amplification_at_thirty_requests_a_second() {
    // The smallest request there is: a header of 20 bytes (RFC 8489 section 5). The answers: the
    // Binding success of both families, and challenges from short to long.
    for len in [32, 44, 80, 92, 100, 128, 255] {
        for per_second in [30, 31, 100, 3000] {
            let budget = ReplyBudget::new(10, 2);
            let times = flood(&budget, Mono(31), per_second, 40, |_| ip("192.0.2.1"), len);
            let out = most_within(&times, 10_000_000) * len;
            assert!(out <= 30 * 10 * 20, "{len} bytes at {per_second}/s: {out}");
        }
    }
}

#[test]
fn a_prefix_gets_twenty_times_as_much() {
    let budget = ReplyBudget::new(10, 3);
    // Every address of a /24, and a /56 with a new address each time.
    let v4 = flood(
        &budget,
        Mono(0),
        2_560,
        10,
        |i| Ipv4Addr::new(192, 0, 2, i as u8).into(),
        32,
    );
    assert_eq!(most_within(&v4, 1_000_000), 200);
    let base = ip("2001:db8:1:ff00::");
    let in_56 = |i: u64| match base {
        IpAddr::V6(base) => IpAddr::V6((base.to_bits() | u128::from(i) << 40).into()),
        IpAddr::V4(_) => unreachable!("written as IPv6"),
    };
    let v6 = flood(&budget, Mono(0), 2_000, 10, in_56, 44);
    assert_eq!(most_within(&v6, 1_000_000), 200);
}

#[test]
fn wrong_passwords_have_a_smaller_budget_too() {
    let budget = ReplyBudget::new(10, 4);
    let source = ip("192.0.2.1");
    let admitted = (0..100)
        .filter(|_| budget.admit_failure(Mono(0), source, 64))
        .count();
    assert_eq!(admitted, 5);
    let others = (0..100)
        .filter(|_| budget.admit(Mono(0), source, 64))
        .count();
    assert_eq!(others, 5, "failures count as answers as well");
}

#[test]
fn refused_requests_cost_nothing() {
    // Ten a second get through however many more are asked for, so a flood that uses a victim's
    // address does not silence the victim for longer than it lasts.
    let budget = ReplyBudget::new(10, 5);
    flood(&budget, Mono(0), 10_000, 5, |_| ip("192.0.2.1"), 32);
    let after = Mono(5_000_000 + 8 * STRETCH_MICROS);
    assert!(budget.admit(after, ip("192.0.2.1"), 32));
}

#[test]
fn zero_lifts_all_three_and_the_rate_can_change() {
    let budget = ReplyBudget::new(0, 6);
    let source = ip("192.0.2.1");
    assert!((0..10_000).all(|_| budget.admit(Mono(0), source, 500)));
    assert!((0..10_000).all(|_| budget.admit_failure(Mono(0), source, 500)));
    budget.set_rate(3);
    assert_eq!(
        (0..100)
            .filter(|_| budget.admit(Mono(0), source, 1))
            .count(),
        3
    );
}

#[test]
fn the_smallest_budget_still_answers_anything_once_a_second() {
    let budget = ReplyBudget::new(1, 7);
    let times = flood(&budget, Mono(0), 100, 10, |_| ip("192.0.2.1"), 120);
    assert_eq!(most_within(&times, 1_000_000), 1);
    assert!(times.len() >= 8);
    assert!(budget.admit_failure(Mono(60_000_000), ip("192.0.2.1"), 120));
}

#[test]
fn ports_families_and_mapped_addresses() {
    let budget = ReplyBudget::new(10, 8);
    for i in 0..20 {
        let source = if i % 2 == 0 {
            "192.0.2.1"
        } else {
            "::ffff:192.0.2.1"
        };
        assert_eq!(budget.admit(Mono(0), ip(source), 32), i < 10);
    }
    assert!(budget.admit(Mono(0), ip("192.0.3.1"), 32));
    assert!(budget.admit(Mono(0), ip("2001:db8::1"), 32));
}

#[test]
fn forged_sources_share_a_fixed_table() {
    // A flood from anywhere gets at most one source's budget per bucket.
    let budget = ReplyBudget::new(10, 9);
    let mut rng = ChaCha12Rng::seed_from_u64(9);
    let admitted = (0..400_000)
        .filter(|_| budget.admit(Mono(0), Ipv4Addr::from_bits(rng.next_u32()).into(), 64))
        .count();
    assert!(admitted <= SOURCE_BUCKETS * 10, "{admitted}");
    assert!(
        admitted > SOURCE_BUCKETS * 9,
        "the hash uses the whole table: {admitted}"
    );
}

#[test]
fn the_seed_decides_who_shares() {
    let sharers = |seed| -> Vec<bool> {
        let budget = ReplyBudget::new(1, seed);
        (0..4096_u32)
            .map(|i| budget.admit(Mono(0), Ipv4Addr::from_bits(i << 8).into(), 32))
            .collect()
    };
    assert_ne!(sharers(1), sharers(2));
}

#[test]
fn a_clock_reading_from_the_past_is_harmless() {
    let budget = ReplyBudget::new(10, 11);
    let (early, late) = (Mono(9_000_000), Mono(9_000_000 + STRETCH_MICROS));
    let source = ip("192.0.2.1");
    assert_eq!(
        (0..50).filter(|_| budget.admit(late, source, 32)).count(),
        10
    );
    assert!(
        !budget.admit(early, source, 32),
        "spent by a shard slightly ahead"
    );
}

#[test]
fn a_source_that_proved_a_password_has_a_hundred_times_as_much_for_ten_minutes() {
    let budget = ReplyBudget::new(10, 1);
    let (office, stranger) = (ip("192.0.2.1"), ip("192.0.2.2"));
    let answered = |at: Mono, source| (0..5000).filter(|_| budget.admit(at, source, 64)).count();
    assert_eq!(answered(Mono(0), office), 10);
    budget.prove(Mono(0), office);
    assert_eq!(answered(Mono(0), office), 990);
    // Nobody else has any part in it, and guessing passwords gains nothing.
    assert_eq!(answered(Mono(0), stranger), 0, "the prefix is spent");
    let later = Mono(0).plus_secs(5);
    assert_eq!(answered(later, stranger), 10);
    let guesses = (0..100).filter(|_| budget.admit_failure(later, office, 64));
    assert_eq!(guesses.count(), 5);
    assert_eq!(answered(Mono(0).plus_secs(599), office), 1000);
    assert_eq!(answered(Mono(0).plus_secs(601), office), 10);
    // A proof that is renewed lasts.
    budget.prove(Mono(0).plus_secs(700), office);
    budget.prove(Mono(0).plus_secs(1200), office);
    assert_eq!(answered(Mono(0).plus_secs(1799), office), 1000);
}

#[test]
fn bindings_take_half_at_the_most() {
    let budget = ReplyBudget::new(10, 1);
    for (source, len) in [("192.0.2.1", 32), ("2001:db8::1", 44)] {
        let source = ip(source);
        let bindings = (0..1000).filter(|_| budget.admit_binding(Mono(0), source, len));
        assert_eq!(bindings.count(), 10);
        let rest = (0..1000).filter(|_| budget.admit(Mono(0), source, 92));
        assert_eq!(rest.count(), (640 - 10 * len) / 92);
    }
    // The prefix as well.
    let later = Mono(0).plus_secs(5);
    let host = |i: u32| IpAddr::from(Ipv4Addr::new(198, 51, 100, i as u8));
    let bindings = (0..10_000).filter(|i| budget.admit_binding(later, host(i % 256), 32));
    assert_eq!(bindings.count(), 200);
    assert!(budget.admit(later, host(1), 92));
}
