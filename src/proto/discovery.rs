//! What NAT behaviour discovery (RFC 5780) needs of the server: a second address and a second
//! port to answer from. Known only where all four combinations are served; anywhere else a
//! Binding is answered plainly and OTHER-ADDRESS is not claimed.

use std::net::SocketAddr;

/// An address that answers Bindings over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What a request reaches, never a wildcard.
    pub local: SocketAddr,
    /// What the world sees: differs from `local` behind a 1:1 NAT.
    pub public: SocketAddr,
    /// The driver's handle, as in [`Flow::link`](super::Flow::link).
    pub link: u64,
}

/// An endpoint with its three alternates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    own: Endpoint,
    /// The other address with the same port.
    other_ip: Endpoint,
    /// The same address with the other port.
    other_port: Endpoint,
    /// Both: OTHER-ADDRESS.
    pub(super) other: Endpoint,
}

impl Site {
    /// Where the answer comes from (RFC 5780 section 6.1, table 1).
    pub(super) const fn answers_from(&self, change_ip: bool, change_port: bool) -> Endpoint {
        match (change_ip, change_port) {
            (false, false) => self.own,
            (true, false) => self.other_ip,
            (false, true) => self.other_port,
            (true, true) => self.other,
        }
    }
}

/// The endpoints of this server that have alternates.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    sites: Vec<Site>,
}

impl Discovery {
    /// Finds the alternates among the endpoints of the server: the first of another address of
    /// the same family, and of another port, of which all combinations are there.
    pub fn new(endpoints: &[Endpoint]) -> Self {
        let at = |ip, port| {
            let wanted = SocketAddr::new(ip, port);
            endpoints.iter().find(|endpoint| endpoint.local == wanted)
        };
        let site = |own: &Endpoint| {
            let (ip, port) = (own.local.ip(), own.local.port());
            let elsewhere = |other: &&Endpoint| {
                let theirs = other.local;
                // Two names in the world must be two as well.
                theirs.is_ipv4() == own.local.is_ipv4()
                    && theirs.ip() != ip
                    && theirs.port() != port
                    && other.public.ip() != own.public.ip()
                    && other.public.port() != own.public.port()
            };
            endpoints.iter().filter(elsewhere).find_map(|other| {
                Some(Site {
                    own: *own,
                    other_ip: *at(other.local.ip(), port)?,
                    other_port: *at(ip, other.local.port())?,
                    other: *other,
                })
            })
        };
        Self {
            sites: endpoints.iter().filter_map(site).collect(),
        }
    }

    /// The alternates of an address that a request reached.
    pub(super) fn site(&self, local: SocketAddr) -> Option<&Site> {
        self.sites.iter().find(|site| site.own.local == local)
    }

    /// Whether any address has alternates.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(addresses: &[&str]) -> Vec<Endpoint> {
        (0..)
            .zip(addresses)
            .map(|(link, text)| {
                let local = text.parse().unwrap();
                Endpoint {
                    local,
                    public: local,
                    link,
                }
            })
            .collect()
    }

    #[test]
    fn it_takes_two_addresses_times_two_ports() {
        let none: [&[&str]; 5] = [
            &["192.0.2.1:3478"],
            &["192.0.2.1:3478", "192.0.2.1:8080"],
            &["192.0.2.1:3478", "192.0.2.2:3478"],
            &["192.0.2.1:3478", "192.0.2.2:8080", "192.0.2.1:8080"],
            &[
                "192.0.2.1:1",
                "192.0.2.1:2",
                "[2001:db8::1]:1",
                "[2001:db8::1]:2",
            ],
        ];
        for addresses in none {
            assert!(
                Discovery::new(&endpoints(addresses)).is_empty(),
                "{addresses:?}"
            );
        }
        let four = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "192.0.2.2:2"];
        let discovery = Discovery::new(&endpoints(&four));
        let site = discovery
            .site("192.0.2.2:1".parse().unwrap())
            .expect("four");
        let from = |ip, port| site.answers_from(ip, port).local.to_string();
        assert_eq!(from(false, false), "192.0.2.2:1");
        assert_eq!(from(true, false), "192.0.2.1:1");
        assert_eq!(from(false, true), "192.0.2.2:2");
        assert_eq!(from(true, true), "192.0.2.1:2");
        assert_eq!(site.other.link, 1);
    }

    #[test]
    fn one_name_in_the_world_is_one_address() {
        let mut four = endpoints(&["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "10.0.0.2:2"]);
        for endpoint in &mut four {
            endpoint.public.set_ip("203.0.113.1".parse().unwrap());
        }
        assert!(Discovery::new(&four).is_empty());
    }
}
