//! The one gate that decides with whom a client may talk through this server.
//!
//! A relay lends its clients its own place in the network, so everything that is special about
//! that place is closed unless opened: loopback, private networks, cloud metadata, the server's
//! own endpoints. The order is fixed: `deny`, then `allow`, then the exemption of live relayed
//! transport addresses of this server, then the built-in list ([`special`]).
//!
//! An address is judged by all that it may turn into on its way: IPv4-mapped addresses become
//! IPv4 first of all, and the IPv4 addresses embedded in 6to4, Teredo, NAT64, ISATAP and
//! IPv4-compatible addresses are judged like the address itself. `deny` closes an address by any
//! of them. `allow` of the address as sent opens it; `allow` of an embedded one answers for that
//! one only, the rest is judged on.

mod ranges;
pub mod special;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};

use self::ranges::Ranges;
use super::ports::RelayAddresses;

/// The class of an address that `deny` closes.
const BY_CONFIGURATION: &str = "denied_by_configuration";

/// The gate's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Allowed,
    /// Allowed only because this very IP and port is a live relayed transport address of this
    /// server: ask again for every datagram.
    OwnRelay,
    /// Refused (403), with the class of address for the log.
    Denied(&'static str),
}

impl Verdict {
    /// Whether the peer is refused.
    pub const fn is_denied(self) -> bool {
        matches!(self, Self::Denied(_))
    }
}

/// Judges peers. An immutable snapshot: a reload makes a new one.
#[derive(Clone, Debug)]
pub struct PeerGate {
    allow: Ranges,
    deny: Ranges,
    endpoints: Vec<IpAddr>,
    nat64: Vec<Ipv6Net>,
}

impl PeerGate {
    /// A gate with the configured lists on top of the built-in one.
    ///
    /// `endpoints` are the IPs of everything else that the configuration names (listeners,
    /// metrics, hooks): they join the built-in list. `nat64` are the prefixes of the network's
    /// NAT64 besides 64:ff9b::/96 (RFC 6052 section 2.2: 32, 40, 48, 56, 64 or 96 bits; others
    /// are ignored): addresses in them are judged by the IPv4 address that they stand for.
    pub fn new(
        allow: Vec<IpNet>,
        deny: Vec<IpNet>,
        endpoints: Vec<IpAddr>,
        nat64: Vec<Ipv6Net>,
    ) -> Self {
        let mut endpoints: Vec<IpAddr> = endpoints.iter().map(IpAddr::to_canonical).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        Self {
            allow: Ranges::new(&allow),
            deny: Ranges::new(&deny),
            endpoints,
            nat64,
        }
    }

    /// Judges a peer by its IP and port: for ChannelBind, Send, Connect and every datagram.
    pub fn judge(&self, peer: SocketAddr, own: &RelayAddresses) -> Verdict {
        if peer.port() == 0 {
            return Verdict::Denied("port_zero");
        }
        let ip = peer.ip().to_canonical();
        self.judge_ip(ip, own, || {
            own.live(SocketAddr::new(ip, peer.port())).is_some()
        })
    }

    /// Judges a peer for CreatePermission, which ignores the port (RFC 8656 section 10.2):
    /// a relay address of this server is [`Verdict::OwnRelay`] while any port of it is live.
    pub fn judge_permission(&self, peer: IpAddr, own: &RelayAddresses) -> Verdict {
        let ip = peer.to_canonical();
        self.judge_ip(ip, own, || own.any_live(ip))
    }

    /// Judges the peer of a permission that was granted under the exemption and is renewed: the
    /// allocation behind the port that it names may have ended meanwhile, and a client renews all
    /// of its permissions or none (RFC 8656 section 10.2).
    pub fn judge_renewal(&self, peer: IpAddr, own: &RelayAddresses) -> Verdict {
        let ip = peer.to_canonical();
        self.judge_ip(ip, own, || own.is_own_ip(ip))
    }

    /// Judges a relay address of this server as that of another allocation of the sender's pair.
    /// What two of one pair send each other never leaves the host, whatever the address is: only
    /// `deny` closes it. To be asked again for every datagram, as for [`Verdict::OwnRelay`].
    pub fn judge_of_pair(&self, peer: IpAddr) -> Verdict {
        match self.is_denied(peer.to_canonical()) {
            true => Verdict::Denied(BY_CONFIGURATION),
            false => Verdict::OwnRelay,
        }
    }

    fn is_denied(&self, ip: IpAddr) -> bool {
        self.deny.contain(ip) || self.embedded(ip).any(|ip| self.deny.contain(ip))
    }

    fn judge_ip(&self, ip: IpAddr, own: &RelayAddresses, live: impl FnOnce() -> bool) -> Verdict {
        if self.is_denied(ip) {
            return Verdict::Denied(BY_CONFIGURATION);
        }
        if self.allow.contain(ip) {
            return Verdict::Allowed;
        }
        if exemptible(ip) && live() {
            return Verdict::OwnRelay;
        }
        if let Some(class) = self.built_in(ip, own) {
            return Verdict::Denied(class);
        }
        self.embedded(ip)
            .filter(|&ip| !self.allow.contain(ip))
            .find_map(|ip| self.built_in(ip, own))
            .map_or(Verdict::Allowed, Verdict::Denied)
    }

    /// Why an address by itself is closed by default; embedded ones are judged on their own.
    fn built_in(&self, ip: IpAddr, own: &RelayAddresses) -> Option<&'static str> {
        if self.endpoints.binary_search(&ip).is_ok() {
            return Some("server_endpoint");
        }
        // Other ports of a relay address are this host, or the gateway in front of it.
        if own.is_own_ip(ip) {
            return Some("relay_address");
        }
        match ip {
            IpAddr::V4(ip) => special::class_v4(ip),
            IpAddr::V6(ip) if self.nat64.iter().any(|prefix| prefix.contains(&ip)) => None,
            IpAddr::V6(ip) => special::class_v6(ip),
        }
    }

    /// The IPv4 addresses that routers and tunnels on the way may take this address for.
    fn embedded(&self, ip: IpAddr) -> impl Iterator<Item = IpAddr> {
        let ip = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip),
        };
        let well_known = ip.into_iter().flat_map(well_known_embedded);
        let configured = ip.into_iter().flat_map(|ip| {
            let prefixes = self.nat64.iter().filter(move |prefix| prefix.contains(&ip));
            prefixes.filter_map(move |prefix| nat64_embedded(ip, prefix.prefix_len()))
        });
        well_known.chain(configured).map(IpAddr::V4)
    }
}

/// Loopback, link-local and unspecified addresses open only by `allow`, even when an allocation
/// answers there.
fn exemptible(ip: IpAddr) -> bool {
    let local_only = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local_only || ip.is_loopback() || ip.is_unspecified())
}

/// Embedded addresses that can be told without configuration.
fn well_known_embedded(ip: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bits = ip.to_bits();
    let v4_at = |shift: u32| Ipv4Addr::from_bits((bits >> shift) as u32);
    let segments = ip.segments();
    let found = match segments {
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => [Some(v4_at(80)), None],
        // Teredo (RFC 4380 section 4): the server, and the client with its bits inverted.
        [0x2001, 0, ..] => [Some(v4_at(64)), Some(Ipv4Addr::from_bits(!(bits as u32)))],
        // The well-known prefix of NAT64 (RFC 6052 section 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => [Some(v4_at(0)), None],
        // Local-use NAT64 (RFC 8215), should it be used with the longest prefix.
        [0x64, 0xff9b, 1, ..] => [Some(v4_at(0)), None],
        // IPv4-compatible (RFC 4291 section 2.5.5.1) and IPv4-translated (RFC 2765 section 2.1).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [Some(v4_at(0)), None],
        _ => [None, None],
    };
    // ISATAP (RFC 5214 section 6.1): an interface identifier under any prefix.
    let isatap = matches!(segments[4..6], [0 | 0x200, 0x5efe]).then(|| v4_at(0));
    found.into_iter().chain([isatap]).flatten()
}

/// The IPv4 address in an address of a NAT64 prefix (RFC 6052 section 2.2): bits 64 to 71 are
/// skipped.
fn nat64_embedded(ip: Ipv6Addr, prefix_len: u8) -> Option<Ipv4Addr> {
    let octets = ip.octets();
    let at: [usize; 4] = match prefix_len {
        32 => [4, 5, 6, 7],
        40 => [5, 6, 7, 9],
        48 => [6, 7, 9, 10],
        56 => [7, 9, 10, 11],
        64 => [9, 10, 11, 12],
        96 => [12, 13, 14, 15],
        _ => return None,
    };
    Some(Ipv4Addr::from(at.map(|octet| octets[octet])))
}
