//! Where this room reads the clocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::proto::{Mono, Now};

/// Both clocks; the monotonic one starts when the process first asks.
#[allow(
    clippy::disallowed_methods,
    reason = "a driver passes the clock to the core; this is where it gets it"
)]
pub(super) fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // The runtime's clock, which tests can stop and turn.
    let elapsed = tokio::time::Instant::now().into_std() - started();
    Now {
        mono: Mono(1_000_000 + elapsed.as_micros() as u64),
        unix: since.map_or(0, |since| since.as_secs()),
    }
}

/// The runtime's clock at an instant of ours.
pub(super) fn instant(mono: Mono) -> tokio::time::Instant {
    let since = std::time::Duration::from_micros(mono.0.saturating_sub(1_000_000));
    tokio::time::Instant::from_std(started() + since)
}

#[allow(clippy::disallowed_methods, reason = "as above")]
fn started() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}
