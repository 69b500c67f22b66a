//! The addresses of this machine, and whether they change.

use std::net::{IpAddr, SocketAddr};

/// The most addresses that the peer is told.
const MOST: usize = 8;

/// Addresses at which others might reach this machine, IPv6 ones that change with time included.
/// Loopback ones only where the pairing server is on this machine, or when `bind` is one.
pub(super) fn addresses(bind: Option<IpAddr>, loopback: bool) -> Vec<IpAddr> {
    if let Some(ip) = bind {
        return vec![ip];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut found: Vec<_> = interfaces.iter().map(|interface| interface.ip()).collect();
    found.retain(|ip| is_of_use(*ip, loopback));
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST);
    found
}

fn is_of_use(ip: IpAddr, loopback: bool) -> bool {
    if ip.is_unspecified() || ip.is_multicast() || (ip.is_loopback() && !loopback) {
        return false;
    }
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        // Without the interface's name such an address leads nowhere.
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

/// The addresses of a socket: its own one, or all of its family where it has any.
pub(super) fn of_socket(local: SocketAddr, machine: &[IpAddr]) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let family = machine.iter().filter(|ip| ip.is_ipv4() == local.is_ipv4());
    family.map(|ip| (*ip, local.port()).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_lead_somewhere() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for text in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1"] {
            assert!(is_of_use(ip(text), false), "{text}");
        }
        for text in [
            "0.0.0.0",
            "169.254.1.1",
            "224.0.0.1",
            "::",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_of_use(ip(text), true), "{text}");
        }
        assert!(is_of_use(ip("127.0.0.1"), true) && !is_of_use(ip("::1"), false));
    }

    #[test]
    fn a_socket_has_the_addresses_of_its_family() {
        let machine = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address"));
        let any: SocketAddr = "0.0.0.0:5".parse().expect("an address");
        let one: SocketAddr = "127.0.0.1:5".parse().expect("an address");
        let expected: SocketAddr = "192.0.2.1:5".parse().expect("an address");
        assert_eq!(of_socket(any, &machine), [expected]);
        assert_eq!(of_socket(one, &machine), [one]);
    }
}
