//! Where Bindings are answered over UDP, and which of these addresses make NAT behaviour
//! discovery (RFC 5780) possible.
//!
//! OTHER-ADDRESS is claimed where UDP is served on two ports of two addresses whose names in the
//! world are known, which are the addresses that relay: two listeners with two addresses each do,
//! or wildcard listeners and two `relay.address`. `stun.behaviour_discovery` switches it off: the
//! server can not see a firewall that makes the claim untrue, and answers grow from 32 to 68 bytes.

use std::net::IpAddr;

use crate::config::Settings;
use crate::net::{BoundAddress, Protocol};
use crate::proto::discovery::{Discovery, Endpoint};
use crate::proto::gate::special;

/// The endpoints with alternates, among the listeners as they are bound.
pub(super) fn discovery(settings: &Settings, bound: &[BoundAddress]) -> Discovery {
    if !settings.stun.behaviour_discovery {
        return Discovery::default();
    }
    let udp = bound
        .iter()
        .filter(|listener| listener.protocol == Protocol::Udp);
    let mut endpoints = Vec::new();
    for (link, listener) in (0..).zip(udp) {
        let address = listener.address;
        for relay in &settings.relay.addresses {
            let wildcard = address.ip().is_unspecified();
            if relay.local == address.ip() || wildcard && relay.local.is_ipv4() == address.is_ipv4()
            {
                endpoints.push(Endpoint {
                    local: (relay.local, address.port()).into(),
                    public: (relay.public, address.port()).into(),
                    link,
                });
            }
        }
    }
    // Who reaches a public address may reach none of the private ones beside it.
    endpoints.retain(|endpoint: &Endpoint| {
        let own = class(endpoint.public.ip());
        let family = settings.relay.addresses.iter();
        let mut family = family.filter(|r| r.public.is_ipv4() == endpoint.public.is_ipv4());
        own.is_none() || family.all(|relay| class(relay.public) == own)
    });
    Discovery::new(&endpoints)
}

/// What kind of special address it is; `None` for those of the internet.
fn class(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => special::class_v4(ip),
        IpAddr::V6(ip) => special::class_v6(ip),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use super::*;
    use crate::config::{self, Machine, Overrides};
    use crate::net::Service;

    fn found(relay: &str, listeners: &[&str]) -> Discovery {
        let text = format!("realm = \"r\"\n[signaling]\n[relay]\n{relay}\n");
        let machine = Machine {
            ipv4: Some([192, 0, 2, 1].into()),
            ipv6: None,
            ipv6_sockets: true,
        };
        let settings = config::load(&text, Path::new("t"), &Overrides::default(), &machine);
        let bound: Vec<BoundAddress> = listeners
            .iter()
            .map(|text| BoundAddress {
                protocol: Protocol::Udp,
                address: text.parse::<SocketAddr>().expect("an address"),
                service: Service::Turn,
            })
            .collect();
        discovery(&settings.expect("valid"), &bound)
    }

    #[test]
    fn it_is_claimed_only_where_it_is_true() {
        let two = "address = [\"198.51.100.1\", \"198.51.100.2\"]";
        let four = [
            "198.51.100.1:1",
            "198.51.100.1:2",
            "198.51.100.2:1",
            "198.51.100.2:2",
        ];
        assert!(!found(two, &four).is_empty());
        assert!(!found(two, &["0.0.0.0:1", "0.0.0.0:2"]).is_empty());
        let off = format!("{two}\n[stun]\nbehaviour_discovery = false");
        assert!(found(&off, &four).is_empty(), "it is switched off");
        assert!(found(two, &four[..3]).is_empty(), "a port is missing");
        assert!(found(two, &["0.0.0.0:1"]).is_empty(), "one port");
        let one = "address = \"198.51.100.1\"";
        assert!(found(one, &four).is_empty(), "how is the other one known?");
        assert!(found("", &["0.0.0.0:1", "0.0.0.0:2"]).is_empty());
        let mixed = "address = [\"8.8.8.8\", \"10.0.0.2\"]";
        let wildcards = ["0.0.0.0:1", "0.0.0.0:2"];
        assert!(
            found(mixed, &wildcards).is_empty(),
            "one of them is private"
        );
        let three = "address = [\"8.8.8.8\", \"8.8.4.4\", \"10.0.0.2\"]";
        let discovery = found(three, &wildcards);
        assert!(!discovery.is_empty());
        let nat =
            "address = [\"10.0.0.1\", \"10.0.0.2\"]\npublic_address = [\"8.8.8.8\", \"8.8.4.4\"]";
        assert!(!found(nat, &wildcards).is_empty());
    }
}
