//! The machine's own addresses, for what the configuration leaves out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// What the loader wants to know about the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The IPv4 address that the machine would reach the Internet from.
    pub ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether IPv6 sockets can be opened at all.
    pub ipv6_sockets: bool,
}

impl Machine {
    /// Asks the kernel. Nothing is sent: connecting a UDP socket only looks up the route and
    /// with it the source address. A machine without a default route answers with the first
    /// address of its interfaces.
    pub fn detect() -> Self {
        // The destinations are documentation addresses (RFC 5737, RFC 3849): any global one does.
        let ipv4 = match source(
            (Ipv4Addr::UNSPECIFIED, 0).into(),
            (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
        ) {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => read("/proc/net/fib_trie").and_then(|text| local_ipv4(&text)),
        };
        let ipv6_sockets = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
            || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
        let ipv6 = match source(
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
        ) {
            Some(IpAddr::V6(ip)) => Some(ip),
            _ => read("/proc/net/if_inet6").and_then(|text| local_ipv6(&text)),
        };
        Self {
            ipv4,
            ipv6,
            ipv6_sockets,
        }
    }

    /// Its address of the family that `like` is of.
    pub fn address(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        }
    }
}

fn source(from: SocketAddr, to: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    let usable = !ip.is_unspecified() && !ip.is_loopback();
    usable.then_some(ip)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The first address that is not loopback or link-local in the kernel's local routing table.
fn local_ipv4(fib_trie: &str) -> Option<Ipv4Addr> {
    let mut last: Option<Ipv4Addr> = None;
    for line in fib_trie.lines() {
        let line = line.trim_start();
        if let Some(leaf) = line.strip_prefix("|-- ") {
            last = leaf.trim().parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(ip) = last
            && !ip.is_loopback()
            && !ip.is_link_local()
        {
            return Some(ip);
        }
    }
    None
}

/// The first address of global scope in the kernel's list of IPv6 addresses.
fn local_ipv6(if_inet6: &str) -> Option<Ipv6Addr> {
    if_inet6.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let scope = fields.nth(2)?;
        (scope == "00").then(|| Ipv6Addr::from_bits(address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_lists_are_understood() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     \
            |-- 169.254.3.4\n        /32 host LOCAL\n     |-- 10.1.0.0\n        /24 link UNICAST\n     \
            |-- 10.1.0.2\n        /32 host LOCAL\n";
        assert_eq!(local_ipv4(trie), Some(Ipv4Addr::new(10, 1, 0, 2)));
        assert_eq!(local_ipv4("Main:\n"), None);
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
            fe80000000000000000000000000000a 02 40 20 80     eth0\n\
            20010db8000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(local_ipv6(inet6), Some("2001:db8::7".parse().unwrap()));
    }

    #[test]
    fn a_detected_address_can_be_bound() {
        let machine = Machine::detect();
        for ip in [machine.ipv4.map(IpAddr::V4), machine.ipv6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
        {
            assert!(UdpSocket::bind((ip, 0)).is_ok(), "{ip}");
        }
    }
}
