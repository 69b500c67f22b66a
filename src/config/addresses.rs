//! Addresses as they are written, and `[[listener]]`: where clients are served.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::machine::Machine;
use super::problem::{At, Problem, Problems};
use super::reader::{Found, Section};
use super::settings::{Certificate, Listener, Protocol};

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
    let (reason, help) = if let Ok(ip) = bare.parse::<IpAddr>() {
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
pub(super) fn listeners(
    entries: Option<Vec<Section<'_>>>,
    ops: Option<&Found<SocketAddr>>,
    directory: &Path,
    machine: &Machine,
    files_must_exist: bool,
    problems: &Problems,
) -> Vec<Found<Listener>> {
    let mut bound: Vec<Bound> = ops
        .iter()
        .map(|ops| Bound {
            stream: true,
            address: ops.value,
            at: ops.at.clone(),
        })
        .collect();
    let Some(entries) = entries else {
        return [Protocol::Udp, Protocol::Tcp]
            .map(|protocol| Found {
                value: Listener {
                    protocol,
                    addresses: wildcards(protocol, machine),
                    certificate: None,
                },
                at: At::File,
            })
            .into();
    };
    entries
        .iter()
        .filter_map(|entry| {
            let protocol = protocol(entry, problems);
            let certificate = certificate(entry, protocol, directory, files_must_exist, problems);
            let port = default_port(protocol.unwrap_or(Protocol::Udp));
            let addresses = match entry.texts("address") {
                None => wildcards(protocol?, machine),
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

fn wildcards(protocol: Protocol, machine: &Machine) -> Vec<SocketAddr> {
    let port = default_port(protocol);
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

fn certificate(
    entry: &Section<'_>,
    protocol: Option<Protocol>,
    directory: &Path,
    files_must_exist: bool,
    problems: &Problems,
) -> Option<Certificate> {
    let chain = entry.text("certificate");
    let key = entry.text("key");
    let lines = "certificate = \"cert.pem\"\nkey = \"key.pem\"";
    match (&chain, &key) {
        (None, None) if protocol == Some(Protocol::Tls) => problems.push(
            Problem::new(
                entry.at(),
                "this tls listener has no certificate",
                "TLS needs a certificate and its key",
            )
            .help(format!("add to it, relative to this file:\n{lines}")),
        ),
        (Some(only), None) | (None, Some(only)) => {
            let (has, lacks) = match chain {
                Some(_) => ("certificate", "key"),
                None => ("key", "certificate"),
            };
            problems.push(
                Problem::new(
                    only.at.clone(),
                    format!("this listener has a `{has}` but no `{lacks}`"),
                    "a certificate and its key come together",
                )
                .help(format!(
                    "add to it: {lacks} = \"{}.pem\"",
                    &lacks[..lacks.len().min(4)]
                )),
            );
        }
        (Some(chain), Some(_)) if protocol == Some(Protocol::Udp) => problems.push(
            Problem::new(
                chain.at.clone(),
                "a udp listener has no use for a certificate",
                "TLS runs over TCP",
            )
            .help("remove it, or make this listener protocol = \"tls\""),
        ),
        _ => {}
    }
    let (chain, key) = (chain?, key?);
    if files_must_exist {
        must_be_readable(&chain, directory, problems);
        must_be_readable(&key, directory, problems);
    }
    Some(Certificate {
        chain: resolve(directory, &chain.value),
        key: resolve(directory, &key.value),
    })
}

fn resolve(directory: &Path, path: &str) -> PathBuf {
    // `join` takes an absolute path as it is.
    directory.join(path)
}

fn must_be_readable(found: &Found<String>, directory: &Path, problems: &Problems) {
    let path = resolve(directory, &found.value);
    if let Err(error) = std::fs::File::open(&path) {
        problems.push(
            Problem::new(
                found.at.clone(),
                format!("cannot read {}", path.display()),
                super::io_reason(&error),
            )
            .help(match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "make it readable for the user that turnserver runs as"
                }
                _ => "relative paths are relative to the directory of this file",
            }),
        );
    }
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
