//! Addresses as they are written, and `[[listener]]`: where clients are served.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::certificate::{CertificateCheck, certificate};
use super::machine::Machine;
use super::problem::{At, Problem, Problems};
use super::reader::{Found, Section};
use super::settings::{Listener, Protocol};

/// The port of STUN and TURN over UDP and TCP (RFC 8656 section 5).
const PORT: u16 = 3478;
/// The port of STUN and TURN over TLS.
const TLS_PORT: u16 = 5349;

/// An address and a port. `port` is the one that error texts propose.
pub(super) fn socket_address(
    found: &Found<String>,
    path: &str,
    port: u16,
    problems: &Problems,
) -> Option<Found<SocketAddr>> {
    let text = found.value.trim();
    if let Ok(address) = text.parse::<SocketAddr>() {
        refuse_odd(address.ip(), found, path, problems)?;
        return Some(Found {
            value: address,
            at: found.at.clone(),
        });
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let (reason, help) = if let Some(help) = brackets(text, port) {
        ("an IPv6 address with a port needs brackets", help)
    } else if let Ok(ip) = bare.parse::<IpAddr>() {
        let fixed = SocketAddr::new(ip, port);
        ("the port is missing", format!("write \"{fixed}\""))
    } else if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        (
            "the address is missing",
            format!(
                "write \"0.0.0.0:{port}\" for all IPv4, \"[::]:{port}\" for all IPv6 addresses"
            ),
        )
    } else {
        (
            "must be an IP address and a port",
            format!("write for example \"192.0.2.1:{port}\" or \"[2001:db8::1]:{port}\""),
        )
    };
    refuse(found, path, reason, help, problems);
    None
}

/// What to write for "::1:3478", which without brackets is an address of its own.
fn brackets(text: &str, default: u16) -> Option<String> {
    let (head, tail) = text.rsplit_once(':')?;
    let ip = head.parse::<Ipv6Addr>().ok()?;
    let port = tail.parse::<u16>().ok().filter(|port| *port != 0)?;
    let fixed = SocketAddr::from((ip, port));
    Some(match text.parse::<Ipv6Addr>() {
        Ok(whole) => {
            let whole = SocketAddr::from((whole, default));
            format!("write \"{fixed}\", or \"{whole}\" if {text} is the address")
        }
        Err(_) => format!("write \"{fixed}\""),
    })
}

/// An address without a port that a socket can be bound to or a peer can send to.
pub(super) fn host_address(
    found: &Found<String>,
    path: &str,
    problems: &Problems,
) -> Option<Found<IpAddr>> {
    let text = found.value.trim();
    let example = "write for example \"192.0.2.1\" or \"2001:db8::1\"";
    let Ok(ip) = text.parse::<IpAddr>() else {
        let (reason, help) = match text.parse::<SocketAddr>() {
            Ok(address) => (
                "a port does not belong here",
                format!("write \"{}\"; ports are set by `relay.ports`", address.ip()),
            ),
            Err(_) => ("must be an IP address", example.into()),
        };
        refuse(found, path, reason, help, problems);
        return None;
    };
    refuse_odd(ip, found, path, problems)?;
    if ip.is_unspecified() {
        refuse(
            found,
            path,
            "a wildcard is no address that peers could send to",
            format!("{example}, or leave it out to use the machine's own address"),
            problems,
        );
        return None;
    }
    Some(Found {
        value: ip,
        at: found.at.clone(),
    })
}

/// Addresses that no socket of ours can have, or that mean another one.
fn refuse_odd(ip: IpAddr, found: &Found<String>, path: &str, problems: &Problems) -> Option<()> {
    let mapped = match ip {
        IpAddr::V6(ip) => ip.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    if let Some(inner) = mapped {
        let help = format!("write the IPv4 address: {inner}");
        refuse(
            found,
            path,
            "this is an IPv4 address in IPv6 form",
            help,
            problems,
        );
        return None;
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        let help = "use an address of one machine".into();
        refuse(found, path, "this is a group address", help, problems);
        return None;
    }
    Some(())
}

fn refuse(found: &Found<String>, path: &str, reason: &str, help: String, problems: &Problems) {
    problems.push(
        Problem::new(
            found.at.clone(),
            format!("\"{}\" in `{path}` cannot be used", found.value),
            reason,
        )
        .help(help),
    );
}

/// A socket that will be bound, to tell overlaps.
struct Bound {
    stream: bool,
    address: SocketAddr,
    at: At,
}

/// All listeners; without any in the file, UDP and TCP on the wildcards that this machine has.
/// `others` are listened on by TCP, too, for other purposes.
pub(super) fn listeners<'a>(
    entries: Option<Vec<Section<'_>>>,
    others: impl IntoIterator<Item = &'a Found<SocketAddr>>,
    directory: &Path,
    machine: &Machine,
    check: Option<&CertificateCheck>,
    problems: &Problems,
) -> Vec<Found<Listener>> {
    let mut bound = Vec::new();
    for other in others {
        refuse_overlap(&mut bound, true, other, problems);
    }
    let Some(entries) = entries else {
        return [Protocol::Udp, Protocol::Tcp]
            .map(|protocol| Found {
                value: Listener {
                    protocol,
                    addresses: wildcards(default_port(protocol), machine),
                    certificate: None,
                },
                at: At::End,
            })
            .into();
    };
    entries
        .iter()
        .filter_map(|entry| {
            let protocol = protocol(entry, problems);
            let certificate = certificate(entry, protocol, directory, check, problems);
            let port = default_port(protocol.unwrap_or(Protocol::Udp));
            let addresses = match entry.texts("address") {
                None => wildcards(default_port(protocol?), machine),
                Some(texts) => {
                    if texts.is_empty() {
                        problems.push(
                            Problem::new(
                                entry.at(),
                                "`listener.address` is empty",
                                "this listener would serve nobody",
                            )
                            .help("write an address, or leave the key out for all addresses"),
                        );
                    }
                    texts
                        .iter()
                        .filter_map(|t| socket_address(t, "listener.address", port, problems))
                        .map(|found| {
                            let stream = protocol != Some(Protocol::Udp);
                            refuse_overlap(&mut bound, stream, &found, problems);
                            found.value
                        })
                        .collect()
                }
            };
            Some(Found {
                value: Listener {
                    protocol: protocol?,
                    addresses,
                    certificate,
                },
                at: entry.at(),
            })
        })
        .collect()
}

fn default_port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Udp | Protocol::Tcp => PORT,
        Protocol::Tls => TLS_PORT,
    }
}

/// Every address of the machine, of both families if it has both.
pub(super) fn wildcards(port: u16, machine: &Machine) -> Vec<SocketAddr> {
    let mut addresses = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    if machine.ipv6_sockets {
        addresses.push(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    addresses
}

fn protocol(entry: &Section<'_>, problems: &Problems) -> Option<Protocol> {
    let before = problems.len();
    let choices = [Protocol::Udp, Protocol::Tcp, Protocol::Tls].map(|p| (p.name(), p));
    let protocol = entry.choice("protocol", &choices);
    if protocol.is_none() && problems.len() == before {
        problems.push(
            Problem::new(
                entry.at(),
                "this listener has no `protocol`",
                "needs \"udp\", \"tcp\" or \"tls\"",
            )
            .help("add to it: protocol = \"udp\""),
        );
    }
    protocol.map(|found| found.value)
}

/// Reports an address that another socket of the same transport already takes, also by a
/// wildcard. Port 0 takes any free port and never overlaps.
fn refuse_overlap(
    bound: &mut Vec<Bound>,
    stream: bool,
    found: &Found<SocketAddr>,
    problems: &Problems,
) {
    let address = found.value;
    let other = bound.iter().find(|other| {
        other.stream == stream
            && other.address.port() == address.port()
            && address.port() != 0
            && other.address.is_ipv4() == address.is_ipv4()
            && (other.address.ip() == address.ip()
                || other.address.ip().is_unspecified()
                || address.ip().is_unspecified())
    });
    if let Some(other) = other {
        let (title, reason, help) = if other.address == address {
            (
                format!("{address} is listened on twice"),
                "already taken",
                "remove one of the two; a tcp listener with a certificate speaks both TCP and TLS",
            )
        } else {
            (
                format!("{address} overlaps with {}", other.address),
                "a wildcard covers every address of its family",
                "keep the wildcard or the single address, or use another port",
            )
        };
        let mut problem = Problem::new(found.at.clone(), title, reason).help(help);
        if let At::Text(span) = &other.at {
            problem = problem.also(span.clone(), "the other one");
        }
        problems.push(problem);
    }
    bound.push(Bound {
        stream,
        address,
        at: found.at.clone(),
    });
}
