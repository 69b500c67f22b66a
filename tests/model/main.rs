//! The core against a reference model, in virtual time: random sequences of everything that
//! clients, peers and time can do, every answer compared with what the model expects, and in the
//! end ports, quotas, reservations and tables are at zero. A sequence that fails is shrunk to a
//! short one, to become a named test.

#![allow(unreachable_pub, reason = "modules of a test binary")]

#[path = "../core/harness.rs"]
mod harness;

mod allocating;
mod data;
mod ops;
mod reference;
mod rights;
mod run;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ops::Op;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use run::{Tally, run};

/// Steps of one sequence. Each ends with everything ended.
const STEPS: usize = 5_000;

/// What fifty sequences reach at the very least.
const REACHED: &[(&str, u64)] = &[
    ("Abort", 200),
    ("Again 0", 1000),
    ("Again 438", 300),
    ("Allocate 0", 2000),
    ("Allocate 400", 500),
    ("Allocate 420", 100),
    ("Allocate 437", 5000),
    ("Allocate 440", 100),
    ("Allocate 442", 50),
    ("Allocate 486", 200),
    ("Allocate 508", 300),
    ("Arrive: channel", 1000),
    ("Arrive: indication", 2000),
    ("Arrive: no_permission", 5000),
    ("Arrive: no_relay", 2),
    ("Arrive: peer_denied", 300),
    ("ChannelBind 0", 3000),
    ("ChannelBind 400", 2000),
    ("ChannelBind 403", 1000),
    ("ChannelBind 437", 3000),
    ("ChannelBind 441", 200),
    ("ChannelBind 443", 1000),
    ("ChannelBind 508", 100),
    ("ChannelData: channel", 20),
    ("ChannelData: no_channel", 1000),
    ("ChannelData: peer_denied", 100),
    ("ChannelData: to peer", 1000),
    ("CreatePermission 0", 3000),
    ("CreatePermission 400", 1000),
    ("CreatePermission 403", 1000),
    ("CreatePermission 437", 3000),
    ("CreatePermission 441", 500),
    ("CreatePermission 443", 1000),
    ("CreatePermission 508", 15),
    ("Dual", 150),
    ("DualEven", 30),
    ("DualEven, one missing", 1),
    ("Even", 200),
    ("EvenFamily", 50),
    ("Family", 150),
    ("Plain", 800),
    ("Refresh 0", 2000),
    ("Refresh 437", 1500),
    ("Refresh 441", 200),
    ("Refresh 443", 500),
    ("Send: channel", 20),
    ("Send: indication", 150),
    ("Send: no_allocation", 4000),
    ("Send: no_permission", 4000),
    ("Send: peer_denied", 500),
    ("Send: peer_family", 1000),
    ("Send: to peer", 1500),
    ("Token", 20),
];

fn holds(ops: &[Op]) -> Option<Tally> {
    catch_unwind(AssertUnwindSafe(|| run(ops))).ok()
}

/// Leaves out what is not needed to fail: halves, quarters, …, single steps.
fn shrink(mut ops: Vec<Op>) -> Vec<Op> {
    let mut size = ops.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + size).min(ops.len()));
            if holds(&fewer).is_some() {
                at += size;
            } else {
                ops = fewer;
            }
        }
        size /= 2;
    }
    ops
}

fn sequences(seeds: std::ops::Range<u64>) {
    let mut tally = Tally::default();
    for seed in seeds {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let ops: Vec<Op> = (0..STEPS).map(|_| Op::random(&mut rng)).collect();
        if let Some(counts) = holds(&ops) {
            for (what, count) in counts {
                *tally.entry(what).or_default() += count;
            }
        } else {
            let ops = shrink(ops);
            eprintln!("seed {seed} fails by these {} steps: {ops:#?}", ops.len());
            run(&ops);
            panic!("seed {seed} fails only with all of its steps");
        }
    }
    // The steps went everywhere: a comparison that never happens proves nothing.
    for (what, least) in REACHED {
        let count = tally.get(*what).copied().unwrap_or(0);
        assert!(count >= *least, "{what}: {count} times, {tally:#?}");
    }
}

// Two hundred sequences, a million steps; four tests so that cores share them.

#[test]
fn the_core_agrees_with_the_model_1() {
    sequences(0..50);
}

#[test]
fn the_core_agrees_with_the_model_2() {
    sequences(50..100);
}

#[test]
fn the_core_agrees_with_the_model_3() {
    sequences(100..150);
}

#[test]
fn the_core_agrees_with_the_model_4() {
    sequences(150..200);
}
