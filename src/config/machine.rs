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
            _ => interfaces().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }),
        };
        let ipv6_sockets = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
            || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
        let ipv6 = match source(
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
        ) {
            Some(IpAddr::V6(ip)) => Some(ip),
            _ => interfaces().find_map(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            }),
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

/// The addresses of all interfaces that another machine could reach.
fn interfaces() -> impl Iterator<Item = IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    interfaces
        .into_iter()
        .map(|interface| interface.ip())
        .filter(|ip| {
            !ip.is_loopback()
                && match ip {
                    IpAddr::V4(ip) => !ip.is_link_local(),
                    IpAddr::V6(ip) => !ip.is_unicast_link_local(),
                }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

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
