//! Turns the core's audit events into log lines: one summary a finished allocation, and
//! refusals at a bounded rate, so that an attack can not flood the log.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use tracing::{debug, info, warn};

use crate::proto::Mono;
use crate::proto::audit::Audit;
use crate::proto::throttle::Throttle;

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
                if let Some(suppressed) = self.refused_peer.pass(self.now()) {
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
                if let Some(suppressed) = self.refused_allocate.pass(self.now()) {
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
                if let Some(suppressed) = self.failed_login.pass(self.now()) {
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

    fn now(&self) -> Mono {
        let micros = self.started.elapsed().as_micros();
        Mono(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl Default for AuditLog {
    fn default() -> Self {
        Self::new()
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
    fn what_a_client_chose_never_breaks_a_line() {
        let text = Clean("a\nb\r\u{1b}[31m%s").to_string();
        assert!(text.bytes().all(|byte| byte >= 0x20), "{text:?}");
        assert!(text.contains("%s"));
    }
}
