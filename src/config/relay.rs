//! `[relay]`: where relayed transport addresses are opened and what the world sees of them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::addresses::host_address;
use super::machine::Machine;
use super::problem::{At, Problem, Problems};
use super::reader::{Found, Section};
use super::settings::{DefaultFamily, Listener, Relay, RelayAddress};

/// The dynamic ports (RFC 8656 section 7.2 recommends them).
const DEFAULT_PORTS: RangeInclusive<u16> = 49_152..=65_535;
/// RFC 8656 section 7.2: ports below belong to services.
const LOWEST_PORT: u16 = 1024;

pub(super) fn relay(
    section: &Section<'_>,
    listeners: &[Found<Listener>],
    public_outside: Option<Vec<Found<String>>>,
    machine: &Machine,
    problems: &Problems,
) -> Option<Relay> {
    let before = problems.len();
    let ports = ports(section, problems);
    let families = families(section, problems);
    let locals = locals(section, listeners, families, machine, problems);
    let public_in_file = section.texts("public_address");
    let publics: Vec<Found<IpAddr>> = public_outside
        .or(public_in_file)
        .unwrap_or_default()
        .iter()
        .filter_map(|text| host_address(text, "relay.public_address", problems))
        .collect();
    let choices = [
        DefaultFamily::Ipv4,
        DefaultFamily::Ipv6,
        DefaultFamily::Client,
    ]
    .map(|f| (f.name(), f));
    let default_family = section.choice("default_family", &choices);
    // What follows compares these; after an error it would only say the same again.
    if problems.len() != before {
        return None;
    }
    let addresses = pair(&locals, &publics, problems);
    if let Some(family) = &default_family {
        let relayed = |v4| addresses.iter().any(|a| a.local.is_ipv4() == v4);
        let missing = match family.value {
            DefaultFamily::Ipv4 => !relayed(true),
            DefaultFamily::Ipv6 => !relayed(false),
            DefaultFamily::Client => false,
        };
        if missing && problems.len() == before {
            let name = family.value.name();
            problems.push(
                Problem::new(
                    family.at.clone(),
                    format!("`relay.default_family` is \"{name}\", but no address of it relays"),
                    "every plain Allocate would be refused",
                )
                .help("add an address of that family to `relay.address`, or write \"client\""),
            );
        }
    }
    Some(Relay {
        addresses,
        ports,
        default_family: default_family.map_or_else(DefaultFamily::default, |found| found.value),
        rfc5766_channels: section.flag("rfc5766_channels").unwrap_or(true),
    })
}

fn ports(section: &Section<'_>, problems: &Problems) -> RangeInclusive<u16> {
    let Some(found) = section.text("ports") else {
        return DEFAULT_PORTS;
    };
    let numbers = found.value.split_once('-').and_then(|(low, high)| {
        let low: u32 = low.trim().parse().ok()?;
        let high: u32 = high.trim().parse().ok()?;
        Some((low, high))
    });
    let reason = match numbers {
        None => "must be two ports with a hyphen between them",
        Some((_, high)) if high > u32::from(u16::MAX) => "ports end at 65535",
        Some((low, high)) if low > high => "the first port is above the second",
        Some((low, _)) if low < u32::from(LOWEST_PORT) => "ports below 1024 belong to services",
        Some((low, high)) => match (u16::try_from(low), u16::try_from(high)) {
            (Ok(low), Ok(high)) => return low..=high,
            _ => "ports end at 65535",
        },
    };
    problems.push(
        Problem::new(
            found.at,
            format!("\"{}\" in `relay.ports` is not a port range", found.value),
            reason,
        )
        .help("write for example: ports = \"49152-65535\""),
    );
    DEFAULT_PORTS
}

/// Which families may relay: (IPv4, IPv6).
fn families(section: &Section<'_>, problems: &Problems) -> (bool, bool) {
    let Some(words) = section.texts("families") else {
        return (true, true);
    };
    let mut wanted = (false, false);
    for word in &words {
        match word.value.as_str() {
            "ipv4" => wanted.0 = true,
            "ipv6" => wanted.1 = true,
            other => problems.push(
                Problem::new(
                    word.at.clone(),
                    format!("`relay.families` cannot hold \"{other}\""),
                    "must be \"ipv4\" or \"ipv6\"",
                )
                .help("write for example: families = [\"ipv4\", \"ipv6\"]"),
            ),
        }
    }
    if words.is_empty() {
        problems.push(
            Problem::new(
                section.at(),
                "`relay.families` is empty",
                "nothing could be relayed",
            )
            .help("write for example: families = [\"ipv4\"], or leave it out"),
        );
    }
    wanted
}

/// The addresses to open relayed transport addresses on, from the file, the listeners, or the
/// machine; see [`Relay::addresses`].
fn locals(
    section: &Section<'_>,
    listeners: &[Found<Listener>],
    families: (bool, bool),
    machine: &Machine,
    problems: &Problems,
) -> Vec<Found<IpAddr>> {
    let wanted = |ip: &IpAddr| if ip.is_ipv4() { families.0 } else { families.1 };
    let Some(texts) = section.texts("address") else {
        return default_locals(
            section,
            listeners,
            wanted,
            families != (false, false),
            machine,
            problems,
        );
    };
    let mut locals: Vec<Found<IpAddr>> = Vec::new();
    for text in &texts {
        let Some(found) = host_address(text, "relay.address", problems) else {
            continue;
        };
        let (title, reason) = if locals.iter().any(|other| other.value == found.value) {
            ("is listed twice", "listed before")
        } else if !wanted(&found.value) {
            (
                "is of a family that `relay.families` leaves out",
                "would never be used",
            )
        } else {
            locals.push(found);
            continue;
        };
        problems.push(
            Problem::new(
                found.at,
                format!("{} in `relay.address` {title}", found.value),
                reason,
            )
            .help("remove it"),
        );
    }
    if texts.is_empty() {
        problems.push(
            Problem::new(
                section.at(),
                "`relay.address` is empty",
                "nothing could be relayed",
            )
            .help("write an address, or leave the key out to use the machine's own"),
        );
    }
    locals
}

fn default_locals(
    section: &Section<'_>,
    listeners: &[Found<Listener>],
    wanted: impl Fn(&IpAddr) -> bool,
    any_family: bool,
    machine: &Machine,
    problems: &Problems,
) -> Vec<Found<IpAddr>> {
    let mut locals: Vec<IpAddr> = Vec::new();
    for v4 in [true, false] {
        let mut named: Vec<IpAddr> = Vec::new();
        let listening = listeners
            .iter()
            .flat_map(|listener| &listener.value.addresses)
            .map(|address| address.ip())
            .filter(|ip| ip.is_ipv4() == v4 && wanted(ip));
        for ip in listening {
            let ip = if ip.is_unspecified() {
                machine.address(ip)
            } else {
                Some(ip)
            };
            if let Some(ip) = ip.filter(|ip| !named.contains(ip)) {
                named.push(ip);
            }
        }
        // A loopback listener beside others is for local health checks.
        if named.iter().any(|ip| !ip.is_loopback()) {
            named.retain(|ip| !ip.is_loopback());
        }
        locals.extend(named);
    }
    // A listener that lost its addresses was reported, and with another one this may be fine.
    let all_listen = listeners.iter().all(|l| !l.value.addresses.is_empty());
    if locals.is_empty() && any_family && all_listen && !listeners.is_empty() {
        problems.push(
            Problem::new(
                section.at(),
                "no address to relay on was found",
                "the listeners are wildcards and this machine has no route to the Internet",
            )
            .help("name one in [relay]: address = \"192.0.2.1\""),
        );
    }
    locals
        .into_iter()
        .map(|value| Found {
            value,
            at: section.at(),
        })
        .collect()
}

/// Pairs local with public addresses: one for one in order, or one per family.
fn pair(
    locals: &[Found<IpAddr>],
    publics: &[Found<IpAddr>],
    problems: &Problems,
) -> Vec<RelayAddress> {
    let before = problems.len();
    for (index, public) in publics.iter().enumerate() {
        let (title, reason) = if publics[..index].iter().any(|p| p.value == public.value) {
            ("is listed twice", "listed before")
        } else if !locals.iter().any(|l| same_family(&l.value, &public.value)) {
            (
                "has no counterpart",
                "no address of this family relays (see `relay.address` and `relay.families`)",
            )
        } else {
            continue;
        };
        let title = format!("{} in `relay.public_address` {title}", public.value);
        problems.push(
            Problem::new(public.at.clone(), title, reason)
                .help("each public address stands for one address in `relay.address`"),
        );
    }
    if problems.len() != before {
        return Vec::new();
    }
    let in_order = locals.len() == publics.len()
        && locals
            .iter()
            .zip(publics)
            .all(|(local, public)| same_family(&local.value, &public.value));
    if in_order {
        return locals
            .iter()
            .zip(publics)
            .map(|(local, public)| RelayAddress {
                local: local.value,
                public: public.value,
            })
            .collect();
    }
    let mut pairs = Vec::new();
    for local in locals {
        let family = |all: &[Found<IpAddr>]| -> Vec<At> {
            all.iter()
                .filter(|other| same_family(&other.value, &local.value))
                .map(|other| other.at.clone())
                .collect()
        };
        let (siblings, matching) = (family(locals), family(publics));
        let public = publics
            .iter()
            .find(|public| same_family(&public.value, &local.value));
        if let (Some(public), true) = (public, siblings.len() != 1 || matching.len() != 1) {
            // Two relay addresses behind one public address would hand out the same relayed
            // transport address twice.
            problems.push(
                Problem::new(
                    public.at.clone(),
                    format!(
                        "{} addresses of a family relay, but {} public ones are given",
                        siblings.len(),
                        matching.len()
                    ),
                    "each needs its own, or two clients would get one relayed transport address",
                )
                .help("make `public_address` a list of the same length and order as `address`"),
            );
            return Vec::new();
        }
        pairs.push(RelayAddress {
            local: local.value,
            public: public.map_or(local.value, |public| public.value),
        });
    }
    pairs
}

fn same_family(a: &IpAddr, b: &IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
