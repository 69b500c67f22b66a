//! Turns the core's audit events into log lines: one summary a finished allocation, and
//! refusals at a bounded rate, so that an attack can not flood the log.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing::{debug, info, warn};

use crate::proto::audit::Audit;

/// Writes audit events to the log.
pub struct AuditLog {
    started: Instant,
    refused_peer: Throttle,
    refused_allocate: Throttle,
    failed_login: Throttle,
}

impl AuditLog {
    /// A log whose rate limits start now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the rate of log lines is the driver's business"
    )]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            refused_peer: Throttle::default(),
            refused_allocate: Throttle::default(),
            failed_login: Throttle::default(),
        }
    }

    /// Writes one event.
    pub fn write(&self, event: &Audit) {
        match event {
            Audit::Created {
                flow,
                username,
                relayed,
                ..
            } => debug!(
                client = %flow.client,
                server = %flow.local,
                transport = flow.transport.name(),
                username = %Clean(username),
                relayed = %List(relayed),
                "allocation created"
            ),
            Audit::Ended {
                flow,
                username,
                relayed,
                reason,
                seconds,
                peers,
                traffic,
            } => info!(
                client = %flow.client,
                server = %flow.local,
                transport = flow.transport.name(),
                username = %Clean(username),
                relayed = %List(relayed),
                reason = reason.name(),
                seconds,
                peers,
                packets_up = traffic.packets_up,
                bytes_up = traffic.bytes_up,
                packets_down = traffic.packets_down,
                bytes_down = traffic.bytes_down,
                dropped = traffic.dropped,
                "allocation ended"
            ),
            Audit::PeerRefused {
                flow,
                username,
                peer,
            } => {
                if let Some(suppressed) = self.refused_peer.pass(self.second()) {
                    warn!(
                        client = %flow.client,
                        username = %Clean(username),
                        %peer,
                        suppressed,
                        "peer refused: the address is not allowed by [peers]"
                    );
                }
            }
            Audit::AllocateRefused {
                flow,
                username,
                code,
            } => {
                if let Some(suppressed) = self.refused_allocate.pass(self.second()) {
                    warn!(
                        client = %flow.client,
                        username = %Clean(username),
                        code,
                        suppressed,
                        "allocation refused"
                    );
                }
            }
            Audit::AuthenticationFailed { flow } => {
                if let Some(suppressed) = self.failed_login.pass(self.second()) {
                    warn!(
                        client = %flow.client,
                        transport = flow.transport.name(),
                        suppressed,
                        "wrong username or password"
                    );
                }
            }
        }
    }

    fn second(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

impl Default for AuditLog {
    fn default() -> Self {
        Self::new()
    }
}

/// At most one line a second, and how many were left out since the last one.
#[derive(Default)]
struct Throttle {
    /// Second of the last line plus one (0: none yet).
    last: AtomicU64,
    suppressed: AtomicU64,
}

impl Throttle {
    fn pass(&self, second: u64) -> Option<u64> {
        let last = self.last.load(Ordering::Relaxed);
        let free = last != second + 1
            && self
                .last
                .compare_exchange(last, second + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if free {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Text that a client chose: control characters are escaped, so one event stays one line.
struct Clean<'a>(&'a str);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

struct List<'a>(&'a [SocketAddr]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, address) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_the_rest_is_counted() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pass(0), Some(0));
        for _ in 0..5 {
            assert_eq!(throttle.pass(0), None);
        }
        assert_eq!(throttle.pass(1), Some(5));
        assert_eq!(throttle.pass(1), None);
    }

    #[test]
    fn what_a_client_chose_never_breaks_a_line() {
        let text = Clean("a\nb\r\u{1b}[31m%s").to_string();
        assert!(text.bytes().all(|byte| byte >= 0x20), "{text:?}");
        assert!(text.contains("%s"));
    }
}
