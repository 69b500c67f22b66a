//! The sections that stand on their own: `[limits]`, `[peers]`, `[ops]`, `[runtime]`, `[drain]`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use super::addresses::socket_address;
use super::problem::{Problem, Problems};
use super::reader::{Found, Section, choose};
use super::settings::{DataPath, Drain, Limits, Peers, Runtime, Stun};

pub(super) fn stun(section: &Section<'_>) -> Stun {
    let default = Stun::default();
    Stun {
        behaviour_discovery: section
            .flag("behaviour_discovery")
            .unwrap_or(default.behaviour_discovery),
    }
}

pub(super) fn limits(section: &Section<'_>, problems: &Problems) -> Limits {
    let default = Limits::default();
    let number = |key, low, fallback| section.number32(key, low..=u32::MAX).unwrap_or(fallback);
    let capped = |key, high, fallback| section.number32(key, 1..=high).unwrap_or(fallback);
    let seconds = |key, fallback| {
        section
            .number(key, 1..=3600)
            .map_or(fallback, |found| Duration::from_secs(found.value))
    };
    let max_lifetime = capped("max_lifetime", 86_400, default.max_lifetime);
    let chosen = section.number("default_lifetime", 1..=86_400);
    if let Some(chosen) = &chosen
        && chosen.value > u64::from(max_lifetime)
    {
        problems.push(
            Problem::new(
                chosen.at.clone(),
                "`limits.default_lifetime` is above `limits.max_lifetime`",
                format!("at most {max_lifetime}"),
            )
            .help("lower default_lifetime or raise max_lifetime"),
        );
    }
    let default_lifetime = chosen
        .and_then(|found| u32::try_from(found.value).ok())
        .unwrap_or(default.default_lifetime.min(max_lifetime));
    Limits {
        allocations_per_user: number("allocations_per_user", 0, default.allocations_per_user),
        allocations: number("allocations", 0, default.allocations),
        permissions_per_allocation: capped(
            "permissions_per_allocation",
            1_000_000,
            default.permissions_per_allocation,
        ),
        channels_per_allocation: capped(
            "channels_per_allocation",
            4096,
            default.channels_per_allocation,
        ),
        bandwidth_per_allocation: section
            .number("bandwidth_per_allocation", 0..=1_000_000_000_000)
            .map_or(default.bandwidth_per_allocation, |found| found.value),
        unauthenticated_replies: number(
            "unauthenticated_replies",
            0,
            default.unauthenticated_replies,
        ),
        unauthenticated_connections: capped(
            "unauthenticated_connections",
            1_000_000,
            default.unauthenticated_connections,
        ),
        unauthenticated_connections_per_source: capped(
            "unauthenticated_connections_per_source",
            1_000_000,
            default.unauthenticated_connections_per_source,
        ),
        first_byte_timeout: seconds("first_byte_timeout", default.first_byte_timeout),
        authentication_timeout: seconds("authentication_timeout", default.authentication_timeout),
        default_lifetime,
        max_lifetime,
    }
}

pub(super) fn peers(section: &Section<'_>, problems: &Problems) -> Peers {
    let networks = |key| {
        section
            .texts(key)
            .unwrap_or_default()
            .iter()
            .filter_map(|found| network(found, &section.path(key), problems))
            .collect()
    };
    Peers {
        allow: networks("allow"),
        deny: networks("deny"),
        nat64: section
            .texts("nat64")
            .unwrap_or_default()
            .iter()
            .filter_map(|found| nat64(found, problems))
            .collect(),
    }
}

/// A CIDR, or a single address.
fn network(found: &Found<String>, path: &str, problems: &Problems) -> Option<IpNet> {
    let text = found.value.trim();
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(IpNet::from(ip));
    }
    let (reason, help) = match text.parse::<IpNet>() {
        // Host bits are refused rather than cut off: 10.0.0.1/8 is more often a slip for
        // 10.0.0.1 than a way to write 10.0.0.0/8, and the two differ by 16 million addresses.
        Ok(net) if net.trunc() != net => (
            "there are bits behind the prefix".into(),
            format!("write \"{}\" or \"{}\"", net.trunc(), net.addr()),
        ),
        Ok(net) => return Some(net),
        Err(_) => (
            match text.split_once('/') {
                Some((ip, _)) if ip.parse::<IpAddr>().is_ok() => "the prefix length is too long",
                _ => "must be an address, or an address and a prefix length",
            }
            .into(),
            "write for example \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"".into(),
        ),
    };
    refuse_network(found, path, reason, help, problems);
    None
}

/// A prefix of an IPv4/IPv6 translator (RFC 6052 section 2.2).
fn nat64(found: &Found<String>, problems: &Problems) -> Option<Ipv6Net> {
    match network(found, "peers.nat64", problems)? {
        IpNet::V6(net) if matches!(net.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) => Some(net),
        _ => {
            refuse_network(
                found,
                "peers.nat64",
                "must be an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits (RFC 6052)".into(),
                "write for example \"2001:db8:64::/96\"".into(),
                problems,
            );
            None
        }
    }
}

fn refuse_network(
    found: &Found<String>,
    path: &str,
    reason: String,
    help: String,
    problems: &Problems,
) {
    problems.push(
        Problem::new(
            found.at.clone(),
            format!("\"{}\" in `{path}` is not a network", found.value),
            reason,
        )
        .help(help),
    );
}

pub(super) fn ops(section: &Section<'_>, problems: &Problems) -> Option<Found<SocketAddr>> {
    let found = section.text("address")?;
    socket_address(&found, "ops.address", 9641, problems)
}

pub(super) fn runtime(
    section: &Section<'_>,
    outside: Option<Found<String>>,
    problems: &Problems,
) -> Runtime {
    let paths = DataPath::ALL.map(|path| (path.name(), path));
    let in_file = section.choice("data_path", &paths);
    let data_path = match outside {
        Some(word) => choose(&word, "runtime.data_path", &paths, problems),
        None => in_file,
    };
    Runtime {
        data_path: data_path.map_or_else(DataPath::default, |found| found.value),
        segmentation: section.flag("segmentation").unwrap_or(true),
        threads: section
            .number("threads", 1..=1024)
            .and_then(|found| usize::try_from(found.value).ok()),
    }
}

pub(super) fn drain(section: &Section<'_>, problems: &Problems) -> Drain {
    let mut alternate: Vec<SocketAddr> = Vec::new();
    for found in section.texts("alternate").unwrap_or_default() {
        let Some(address) = socket_address(&found, "drain.alternate", 3478, problems) else {
            continue;
        };
        let (ip, port) = (address.value.ip(), address.value.port());
        let (title, reason) = if ip.is_unspecified() || port == 0 {
            (
                "`drain.alternate` is no address to send clients to",
                "needs a host and a port",
            )
        } else if alternate.iter().any(|a| a.is_ipv4() == ip.is_ipv4()) {
            // RFC 8489 section 14.15: the alternate server has the family of the request.
            (
                "`drain.alternate` has two addresses of one family",
                "one per family",
            )
        } else {
            alternate.push(address.value);
            continue;
        };
        problems.push(
            Problem::new(found.at, title, reason).help(
                "write for example: alternate = [\"192.0.2.2:3478\", \"[2001:db8::2]:3478\"]",
            ),
        );
    }
    let default = Drain::default();
    Drain {
        deadline: section
            .number("deadline", 0..=86_400)
            .map_or(default.deadline, |found| Duration::from_secs(found.value)),
        alternate,
    }
}
