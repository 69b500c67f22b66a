//! What is valid but probably not meant.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::settings::{DefaultFamily, Protocol, Settings};

/// Below so many relayed transport addresses a single busy application runs out.
const SMALL_RANGE: usize = 50;
/// Shorter secrets can be guessed from one captured message.
const SHORT_SECRET: usize = 16;
/// The same for passwords, which people choose.
const SHORT_PASSWORD: usize = 8;

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What is odd and what follows from it.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.help)
    }
}

/// Everything odd in valid settings.
pub fn warnings(settings: &Settings) -> Vec<Warning> {
    let mut found = Vec::new();
    relay(settings, &mut found);
    auth(settings, &mut found);
    limits(settings, &mut found);
    peers(settings, &mut found);
    if let Some(address) = settings.ops.address
        && !address.ip().is_loopback()
    {
        warn(
            &mut found,
            format!("`ops.address` {address} shows metrics to everybody who can reach it"),
            "listen on 127.0.0.1, or keep others out by a firewall",
        );
    }
    found
}

/// Warns when others than owner and group may read a configuration file that holds credentials,
/// or the file of secrets that it names.
pub fn file_warnings(path: Option<&Path>, settings: &Settings) -> Vec<Warning> {
    let configuration = path
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| holds_credentials(&text)));
    [configuration, settings.auth.secrets_file.as_deref()]
        .into_iter()
        .flatten()
        .filter(|path| others_may_read(path))
        .map(|path| Warning {
            message: format!(
                "{} holds credentials and everybody on this machine may read it",
                path.display()
            ),
            help: format!("chmod o-r {}", path.display()),
        })
        .collect()
}

fn others_may_read(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
}

/// Warns of addresses that no interface of this machine has: a server would not start here.
pub fn machine_warnings(settings: &Settings) -> Vec<Warning> {
    let relays = settings.relay.addresses.iter();
    let listeners = settings.listeners.iter().flat_map(|l| &l.addresses);
    let named = relays
        .map(|relay| ("relay.address", relay.local))
        .chain(listeners.map(|address| ("listener.address", address.ip())))
        .chain(settings.ops.address.map(|ops| ("ops.address", ops.ip())))
        .chain(
            (settings.signaling.iter().flat_map(|s| &s.addresses))
                .map(|address| ("signaling.address", address.ip())),
        );
    let mut found: Vec<Warning> = Vec::new();
    for (key, ip) in named {
        // The kernel is asked, for it has more addresses than its interfaces list, 127.0.0.2 for
        // one.
        let missing = UdpSocket::bind((ip, 0))
            .is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable);
        let message =
            format!("`{key}` {ip} is no address of this machine: it would not start here");
        if missing && !found.iter().any(|known| known.message == message) {
            let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
            let own: Vec<String> = interfaces.iter().map(|i| i.ip().to_string()).collect();
            found.push(Warning {
                message,
                help: format!(
                    "this machine has {}; what a NAT shows to the world belongs in \
                     `relay.public_address`",
                    own.join(", ")
                ),
            });
        }
    }
    found
}

fn holds_credentials(text: &str) -> bool {
    let Ok(table) = DeTable::parse(text) else {
        return false;
    };
    let Some(DeValue::Table(auth)) = table.get_ref().get("auth").map(|auth| auth.get_ref()) else {
        return false;
    };
    ["secrets", "users", "nonce_key"]
        .iter()
        .filter_map(|key| auth.get(*key))
        .any(|value| match value.get_ref() {
            DeValue::Array(items) => !items.is_empty(),
            DeValue::Table(users) => !users.is_empty(),
            _ => true,
        })
}

fn warn(found: &mut Vec<Warning>, message: impl Into<String>, help: impl Into<String>) {
    found.push(Warning {
        message: message.into(),
        help: help.into(),
    });
}

fn relay(settings: &Settings, found: &mut Vec<Warning>) {
    let relay = &settings.relay;
    for address in &relay.addresses {
        if address.local != address.public {
            continue;
        }
        let local = address.local;
        if local.is_loopback() {
            warn(
                found,
                format!("relaying on the loopback address {local} reaches this machine only"),
                "set `relay.address` to an address that peers can reach",
            );
        } else if is_private(local) {
            warn(
                found,
                format!("peers outside cannot reach the private address {local}"),
                "set `relay.public_address` to the address that the world sees, if there is a NAT",
            );
        }
    }
    let capacity = settings.capacity();
    if capacity < SMALL_RANGE {
        warn(
            found,
            format!("`relay.ports` holds {capacity} allocations only"),
            "widen it, also in the firewall",
        );
    }
    for listener in &settings.listeners {
        for address in &listener.addresses {
            let same_address = |ip: IpAddr| {
                address.ip() == ip
                    || (address.ip().is_unspecified() && address.is_ipv4() == ip.is_ipv4())
            };
            if listener.protocol == Protocol::Udp
                && relay.ports.contains(&address.port())
                && relay.addresses.iter().any(|a| same_address(a.local))
            {
                warn(
                    found,
                    format!("the udp listener {address} lies inside `relay.ports`"),
                    "keep the two apart: that port can never be relayed on",
                );
            }
        }
    }
    let has_ipv4 = relay.addresses.iter().any(|a| a.local.is_ipv4());
    if relay.default_family == DefaultFamily::Ipv4 && !has_ipv4 {
        warn(
            found,
            "no IPv4 address relays, so that an Allocate that names no family is refused",
            "write in [relay]: default_family = \"ipv6\"",
        );
    }
}

fn auth(settings: &Settings, found: &mut Vec<Warning>) {
    if settings.serves_pairs_only() {
        warn(
            found,
            "no user and no secret is configured: only devices that `[signaling]` pairs may \
             allocate, each pair for itself",
            "set `auth.secrets` or `auth.users` if others are to use the relay",
        );
    }
    let short = |secret: &str, least| secret.len() < least;
    if settings
        .auth
        .secrets
        .iter()
        .any(|secret| short(secret.expose(), SHORT_SECRET))
    {
        warn(
            found,
            format!("a secret in `auth.secrets` is shorter than {SHORT_SECRET} characters"),
            "use the output of: openssl rand -hex 32",
        );
    }
    let weak: Vec<&str> = settings
        .auth
        .users
        .iter()
        .filter(|user| short(user.password.expose(), SHORT_PASSWORD))
        .map(|user| user.name.as_str())
        .collect();
    if let Some(first) = weak.first() {
        let others = match weak.len() {
            1 => String::new(),
            n => format!(" and of {} more", n - 1),
        };
        warn(
            found,
            format!(
                "the password of `{first}`{others} is shorter than {SHORT_PASSWORD} characters"
            ),
            "use a longer one",
        );
    }
}

fn limits(settings: &Settings, found: &mut Vec<Warning>) {
    let limits = &settings.limits;
    let capacity = settings.capacity();
    if limits.allocations_per_user == 0 {
        warn(
            found,
            format!("`limits.allocations_per_user` is lifted: one user may take all {capacity}"),
            "leave it out for the default of 1024, unless all share one user",
        );
    }
    if usize::try_from(limits.allocations).is_ok_and(|total| total > capacity) {
        warn(
            found,
            format!(
                "`limits.allocations` is {}, but `relay.ports` holds {capacity}",
                limits.allocations
            ),
            "widen `relay.ports`",
        );
    }
    let open = settings
        .listeners
        .iter()
        .filter(|listener| listener.protocol == Protocol::Udp)
        .flat_map(|listener| &listener.addresses)
        .any(|address| !address.ip().is_loopback());
    if limits.unauthenticated_replies == 0 && open {
        warn(
            found,
            "`limits.unauthenticated_replies` is lifted: forged requests make this server send \
             to anybody, and passwords can be tried without end",
            "leave it out for the default of 10",
        );
    }
    if limits.default_lifetime < 600 {
        warn(
            found,
            format!(
                "`limits.default_lifetime` is {} s, below the 600 s that clients count on \
                 (RFC 8656 section 3.2)",
                limits.default_lifetime
            ),
            "leave it out",
        );
    }
}

fn peers(settings: &Settings, found: &mut Vec<Warning>) {
    for net in &settings.peers.allow {
        let covers = |ip: &str| ip.parse().is_ok_and(|ip: IpAddr| net.contains(&ip));
        let opened = if covers("127.0.0.1") || covers("::1") || net.network().is_loopback() {
            "services on this machine's loopback address"
        } else if covers("169.254.169.254") || covers("fd00:ec2::254") {
            "the cloud's metadata service"
        } else if net.prefix_len() == 0 || is_private(net.network()) {
            "private networks"
        } else {
            continue;
        };
        warn(
            found,
            format!("`peers.allow` {net} lets every user reach {opened}"),
            "name only the addresses that are needed, or remove it",
        );
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        // RFC 6598 shared address space is private to a carrier.
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private() || ip.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
