//! Socket addresses as the kernel wants them.

use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{c_int, socklen_t};

/// Room for an IPv4 or IPv6 socket address, laid out as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    pub(super) const EMPTY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// Stores an address and returns how many bytes of the name it takes.
    pub(super) fn set(&mut self, address: &SocketAddr) -> socklen_t {
        match address {
            SocketAddr::V4(v4) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: in_addr(*v4.ip()),
                    sin_zero: [0; 8],
                };
                mem::size_of::<libc::sockaddr_in>() as socklen_t
            }
            SocketAddr::V6(v6) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: in6_addr(*v6.ip()),
                    sin6_scope_id: v6.scope_id(),
                };
                mem::size_of::<libc::sockaddr_in6>() as socklen_t
            }
        }
    }

    /// The address, IPv4-mapped ones as IPv4; `None` for another family.
    pub(super) fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every variant begins with the family, and the whole union is always
        // initialised (it is created from EMPTY and only ever overwritten by the kernel).
        match c_int::from(unsafe { self.family }) {
            libc::AF_INET => {
                // SAFETY: any bits are valid for the integers of a sockaddr_in.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: any bits are valid for the integers of a sockaddr_in6.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(self::v6(ip, port, v6.sin6_scope_id))
            }
            _ => None,
        }
    }
}

/// The address in a name that the kernel wrote, IPv4-mapped ones as IPv4; `None` for another
/// family.
pub(super) fn parse(name: &[u8]) -> Option<SocketAddr> {
    let field = |at: usize, len: usize| name.get(at..at + len);
    let family = u16::from_ne_bytes(field(0, 2)?.try_into().ok()?);
    let port = u16::from_be_bytes(field(2, 2)?.try_into().ok()?);
    match c_int::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = field(4, 4)?.try_into().ok()?;
            Some(SocketAddrV4::new(ip.into(), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = field(8, 16)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(field(24, 4)?.try_into().ok()?);
            Some(v6(ip.into(), port, scope))
        }
        _ => None,
    }
}

fn v6(ip: Ipv6Addr, port: u16, scope: u32) -> SocketAddr {
    match ip.to_ipv4_mapped() {
        Some(ip) => SocketAddrV4::new(ip, port).into(),
        None => SocketAddrV6::new(ip, port, 0, scope).into(),
    }
}

pub(super) fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(ip.octets()),
    }
}

pub(super) fn in6_addr(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_way_to_the_kernel_and_back() {
        let mut name = Name::EMPTY;
        for text in ["192.0.2.1:3478", "[2001:db8::7]:1", "[fe80::1%3]:65535"] {
            let address: SocketAddr = text.parse().expect("an address");
            let len = name.set(&address);
            assert_eq!(name.get(), Some(address));
            let bytes = bytes_of(&name, len as usize);
            assert_eq!(parse(&bytes), Some(address));
            assert_eq!(parse(&bytes[..bytes.len() - 16]), None, "cut off");
        }
    }

    fn bytes_of(name: &Name, len: usize) -> Vec<u8> {
        let start = std::ptr::from_ref(name).cast::<u8>();
        // SAFETY: a name is initialised from its start to its end, and `len` is its length.
        unsafe { std::slice::from_raw_parts(start, len) }.to_vec()
    }

    #[test]
    fn mapped_addresses_are_unmapped() {
        let mut name = Name::EMPTY;
        name.set(&"[::ffff:192.0.2.1]:9".parse().expect("an address"));
        let unmapped = Some("192.0.2.1:9".parse().expect("an address"));
        assert_eq!(name.get(), unmapped);
        assert_eq!(parse(&bytes_of(&name, 28)), unmapped);
    }
}
