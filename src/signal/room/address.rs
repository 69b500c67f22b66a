//! Where a connection comes from, in little memory.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An IP address and a port. An IPv4 address that is mapped into IPv6 is the same as itself. Takes
/// less than a `SocketAddr`, which has room for what is always zero here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::signal) struct Address {
    ip: IpAddr,
    port: u16,
}

impl Address {
    pub(in crate::signal) const fn ip(self) -> IpAddr {
        self.ip
    }

    pub(in crate::signal) const fn socket(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: address.ip().to_canonical(),
            port: address.port(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}
