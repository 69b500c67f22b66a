//! The only place of the data plane that reads clocks: once for every batch.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::proto::{Mono, Now};

/// Unix time in microseconds, the clock by which the kernel stamps what it receives.
pub(super) fn unix_micros() -> u64 {
    since_epoch().as_micros() as u64
}

#[allow(
    clippy::disallowed_methods,
    reason = "drivers pass the clock to the core; this is where they get it"
)]
fn since_epoch() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Both clocks. The monotonic one starts when the process first asks, and all shards share that
/// start, so that their instants can be compared.
#[allow(
    clippy::disallowed_methods,
    reason = "drivers pass the clock to the core; this is where they get it"
)]
pub fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let micros = Instant::now().duration_since(start).as_micros();
    Now {
        // From 1 s on, so that an instant a little before the first one can be named.
        mono: Mono(1_000_000 + micros as u64),
        unix: since_epoch().as_secs(),
    }
}
