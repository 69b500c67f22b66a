//! Sets of addresses for the configured lists: sorted, merged ranges and a binary search, so that
//! a list of ten thousand networks costs no more than a dozen comparisons.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    pub(super) fn new(nets: &[IpNet]) -> Self {
        let mut new = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => new
                    .v4
                    .push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => match (net.network().to_ipv4_mapped(), net.prefix_len()) {
                    // Peers are unmapped before they are judged, so networks are too.
                    (Some(first), 96..) => {
                        let last = net.broadcast().to_ipv4_mapped();
                        let last = last.map_or(u32::MAX, Ipv4Addr::to_bits);
                        new.v4.push((first.to_bits(), last));
                    }
                    _ => new
                        .v6
                        .push((net.network().to_bits(), net.broadcast().to_bits())),
                },
            }
        }
        merge(&mut new.v4);
        merge(&mut new.v6);
        new
    }

    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => within(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => within(&self.v6, ip.to_bits()),
        }
    }
}

/// Sorts, and joins ranges that overlap: at most one can hold an address afterwards.
fn merge<N: Ord + Copy>(ranges: &mut Vec<(N, N)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joined = next.0 <= kept.1;
        if joined {
            kept.1 = kept.1.max(next.1);
        }
        joined
    });
}

fn within<N: Ord + Copy>(ranges: &[(N, N)], value: N) -> bool {
    let behind = ranges.partition_point(|range| range.0 <= value);
    behind > 0 && value <= ranges[behind - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(nets: &[&str]) -> Ranges {
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        Ranges::new(&nets)
    }

    #[test]
    fn contain_exactly_the_networks() {
        let set = ranges(&["10.1.0.0/16", "10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]);
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "10.1.2.3",
            "192.0.2.7",
            "fdff::1",
        ] {
            assert!(set.contain(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.6",
            "192.0.2.8",
            "fe00::",
        ] {
            assert!(!set.contain(outside.parse().unwrap()), "{outside}");
        }
        assert!(!ranges(&[]).contain("::".parse().unwrap()));
    }

    #[test]
    fn a_nested_network_does_not_hide_the_outer_one() {
        let set = ranges(&["10.0.0.0/8", "10.0.0.0/24", "10.2.0.0/24"]);
        assert!(set.contain("10.200.0.1".parse().unwrap()));
    }

    #[test]
    fn the_whole_space_and_mapped_networks() {
        let all = ranges(&["0.0.0.0/0", "::/0"]);
        for ip in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff::"] {
            assert!(all.contain(ip.parse().unwrap()), "{ip}");
        }
        let mapped = ranges(&["::ffff:10.0.0.0/104"]);
        assert!(mapped.contain("10.9.9.9".parse().unwrap()));
        assert!(!mapped.contain("11.0.0.0".parse().unwrap()));
    }
}
