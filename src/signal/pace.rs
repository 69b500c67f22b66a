//! How often a source, and the IPv6 /48 that it is in, may do something.

use std::net::IpAddr;

use crate::proto::Mono;

use super::rate::Rate;
use super::room::{SITE, Site, Source};

/// Two budgets: that of a source, and [`SITE`] times as much for an IPv6 /48.
pub(super) struct Pace {
    source: Rate,
    site: Rate,
}

impl Pace {
    /// `per_minute` of one source; 0: no limit.
    pub(super) fn new(per_minute: u32, seed: u64) -> Self {
        Self {
            source: Rate::new(per_minute, seed),
            site: Rate::new(per_minute.saturating_mul(SITE as u32), seed.rotate_left(5)),
        }
    }

    /// Whether one more from `ip` passes now; it is counted then.
    pub(super) fn pass(&self, now: Mono, ip: IpAddr) -> bool {
        self.source.pass(now, &Source::from(ip)) && self.site.pass(now, &Site::from(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_changes_its_subnet_has_four_budgets_and_no_more() {
        let pace = Pace::new(10, 7);
        let now = Mono(5_000_000);
        let passed = |from: &dyn Fn(u32) -> String| {
            let ips = (0..1000).map(|n| from(n).parse().expect("an address"));
            ips.filter(|ip| pace.pass(now, *ip)).count()
        };
        assert_eq!(passed(&|n| format!("2001:db8:0:{n:x}::1")), 40);
        assert_eq!(passed(&|_| "2001:db8:1::1".to_owned()), 10);
        assert_eq!(passed(&|_| "192.0.2.1".to_owned()), 10);
    }
}
