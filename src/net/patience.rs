//! Waiting for an address that a server which just ended still holds.
//!
//! The kernel takes the sockets of a killed process back when it gets around to it, those that
//! io_uring received from a moment after the process is gone. So a server that is restarted at
//! once may find its own addresses in use.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::clock;
use crate::proto::Mono;

/// How long all listeners together wait at most.
const LIMIT: Duration = Duration::from_secs(2);
/// How long between two tries.
const STEP: Duration = Duration::from_millis(20);

/// The time that is left for waiting; it starts with the first address that is in use.
#[derive(Debug, Default)]
pub struct Patience {
    until: Option<Mono>,
}

impl Patience {
    /// Waits a step before an address that is in use is tried again; false when the time is up.
    /// `listener` names what is to be served there.
    pub fn wait(&mut self, listener: impl fmt::Display, address: SocketAddr) -> bool {
        let now = clock::now().mono;
        let until = *self.until.get_or_insert_with(|| {
            let limit = LIMIT.as_secs();
            tracing::info!(
                %listener, %address,
                "the address is in use, perhaps by a server that just ended: trying for {limit} s"
            );
            now.plus_secs(limit)
        });
        if now >= until {
            return false;
        }
        pause();
        true
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when an address becomes free"
)]
fn pause() {
    std::thread::sleep(STEP);
}
