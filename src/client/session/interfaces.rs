//! The addresses of this machine, those that matter most first, and whether they change.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// The most addresses that the peer is told. Half of them are for each family, where it has so
/// many.
const MOST: usize = 8;

/// How interfaces begin that lead to guests and containers on this machine.
const INNER: [&str; 14] = [
    "docker",
    "br-",
    "veth",
    "virbr",
    "vmnet",
    "vboxnet",
    "vEthernet",
    "cni",
    "flannel",
    "cali",
    "lxc",
    "lxd",
    "podman",
    "kube",
];

/// Addresses at which others might reach this machine, IPv6 ones that change with time included.
/// Loopback ones only where the pairing server is on this machine, or when `bind` is one.
pub(crate) fn addresses(bind: Option<IpAddr>, loopback: bool) -> Vec<IpAddr> {
    if let Some(ip) = bind {
        return vec![ip];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut found: Vec<_> = interfaces
        .into_iter()
        .map(|interface| (interface.ip(), interface.name))
        .collect();
    found.retain(|(ip, _)| is_of_use(*ip, loopback));
    choose(found, &outward())
}

/// The addresses from which the system would send into the internet.
fn outward() -> Vec<IpAddr> {
    // Addresses for documentation, to which nothing is sent.
    let ways = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let local = |(from, to)| {
        let socket = UdpSocket::bind::<&str>(from)?;
        socket.connect::<&str>(to)?;
        socket.local_addr()
    };
    let found = ways.into_iter().filter_map(|way| local(way).ok());
    found.map(|address| address.ip()).collect()
}

/// The best of them, best first: those that lead outward, then others, then those that lead to
/// what runs on this machine. None of the families crowds the other one out.
fn choose(mut found: Vec<(IpAddr, String)>, outward: &[IpAddr]) -> Vec<IpAddr> {
    let inner = |name: &str| INNER.iter().any(|inner| name.starts_with(inner));
    found.sort_by_key(|(ip, name)| (Reverse(outward.contains(ip)), inner(name), *ip));
    found.dedup_by_key(|(ip, _)| *ip);
    let mut ips: Vec<_> = found.into_iter().map(|(ip, _)| ip).collect();
    while ips.len() > MOST {
        let v4 = ips.iter().filter(|ip| ip.is_ipv4()).count();
        let crowding = v4 > MOST / 2;
        // One of the two has more than its half; its last one goes.
        if let Some(last) = ips.iter().rposition(|ip| ip.is_ipv4() == crowding) {
            ips.remove(last);
        }
    }
    ips
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
pub(crate) fn of_socket(local: SocketAddr, machine: &[IpAddr]) -> Vec<SocketAddr> {
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

    /// A machine with many containers still tells of its network, in both families.
    #[test]
    fn what_matters_is_not_crowded_out() {
        let named = |name: &str, ip: &str| (ip.parse().expect("an address"), name.to_owned());
        let mut found: Vec<(IpAddr, String)> = (17..30)
            .map(|net| named(&format!("br-{net}"), &format!("172.{net}.0.1")))
            .collect();
        found.push(named("docker0", "10.0.0.1"));
        found.push(named("eth1", "192.168.9.9"));
        found.push(named("eth0", "192.168.1.2"));
        for host in 1..=3 {
            found.push(named("eth0", &format!("2001:db8::{host}")));
        }
        let outward = ["192.168.1.2", "2001:db8::2"].map(|ip| ip.parse().expect("an address"));
        let texts = |ips: Vec<IpAddr>| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        let chosen = texts(choose(found.clone(), &outward));
        let expected = [
            "192.168.1.2",
            "2001:db8::2",
            "192.168.9.9",
            "2001:db8::1",
            "2001:db8::3",
            "10.0.0.1",
            "172.17.0.1",
            "172.18.0.1",
        ];
        assert_eq!(chosen, expected);
        // The other way round.
        found.extend((4..20).map(|host| named("eth0", &format!("2001:db8::{host}"))));
        let chosen = choose(found, &outward);
        assert_eq!(chosen.len(), MOST);
        assert_eq!(chosen.iter().filter(|ip| ip.is_ipv4()).count(), MOST / 2);
    }

    #[test]
    fn an_address_that_leads_outward_is_one_of_this_machine() {
        let own = addresses(None, true);
        for ip in outward() {
            assert!(
                !is_of_use(ip, false) || own.contains(&ip),
                "{ip} of {own:?}"
            );
        }
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
