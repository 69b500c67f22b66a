//! Who the router is, as the system tells it.

use std::net::{IpAddr, Ipv4Addr};

use tokio::net::UdpSocket;

/// The gateway of the default route; `None` when there is none, or the system does not tell
/// (other than Linux: UPnP finds its router by asking around).
pub(super) fn default_gateway() -> Option<Ipv4Addr> {
    parse(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// Of all default routes the one with the lowest metric.
fn parse(table: &str) -> Option<Ipv4Addr> {
    let route = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, destination, gateway, flags, _, _, metric, mask, ..] = fields[..] else {
            return None;
        };
        let number = |text| u32::from_str_radix(text, 16).ok();
        let default = number(destination)? == 0 && number(mask)? == 0;
        // RTF_UP and RTF_GATEWAY.
        let usable = number(flags)? & 0b11 == 0b11;
        // As the kernel holds it in memory, in network byte order.
        let gateway = Ipv4Addr::from(number(gateway)?.to_ne_bytes());
        (default && usable).then_some((metric.parse::<u32>().ok()?, gateway))
    };
    let routes = table.lines().skip(1).filter_map(route);
    routes
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, gateway)| gateway)
}

/// This machine's address on the way to `router`.
pub(super) async fn towards(router: Ipv4Addr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
    // Nothing is sent by that.
    socket.connect((router, 9)).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_best_default_route_is_taken() {
        let table = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t1\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t0000FFFF\t0\t0\t0
";
        assert_eq!(parse(table), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(parse("Iface\n"), None);
        assert_eq!(parse(""), None);
    }
}
