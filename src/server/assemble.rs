//! From settings to the parts: what each room is given.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::auth::{CredentialStore, PairSecrets, RestOptions};
use crate::config::{self, Protocol, RestHash, Settings};
use crate::net::{self, BoundAddress, ListenerConfig, NetConfig, StreamLimits};
use crate::proto::budget::ReplyBudget;
use crate::proto::gate::PeerGate;
use crate::proto::nonce::{NonceKey, Nonces};
use crate::proto::places::{PairLimits, PairPlaces};
use crate::proto::ports::RelayAddresses;
use crate::proto::quota::Quotas;
use crate::proto::reserved::ReservedQuotas;
use crate::proto::waits::Waits;
use crate::proto::{DefaultFamily, Family, Limits, Policy, Shared};

use super::StartError;
use super::certificates::Store;
use super::discovery::discovery;

/// 32 random bytes from the kernel.
pub(super) fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

/// What all shards share for the life of the process.
pub(super) fn shared(settings: &Settings, bound: &[BoundAddress]) -> io::Result<Shared> {
    let nonce_key = match &settings.auth.nonce_key {
        Some(key) => *key.expose(),
        None => seed()?,
    };
    let [a, b, c, d, e, f, g, h, ..] = seed()?;
    let relays = settings
        .relay
        .addresses
        .iter()
        .map(|a| (a.local, a.public))
        .collect();
    Ok(Shared {
        nonces: Nonces::new(NonceKey::new(nonce_key), settings.auth.nonce_lifetime),
        budget: ReplyBudget::new(
            settings.limits.unauthenticated_replies,
            u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        ),
        reserved: ReservedQuotas::new(),
        waits: Waits::new(),
        places: PairPlaces::new(),
        discovery: discovery(settings, bound),
        quotas: Quotas::new(),
        relays: RelayAddresses::new(relays, settings.relay.ports.clone()),
    })
}

/// What a reload replaces as one snapshot.
pub(super) fn policy(
    settings: &Settings,
    pair_secret: &Zeroizing<[u8; 32]>,
) -> Result<Policy, StartError> {
    let limits = &settings.limits;
    let mut credentials = credentials(settings)?;
    if settings.signaling.is_some() {
        credentials = credentials.with_pairs(pair_secrets(settings, pair_secret));
    }
    if credentials.is_empty() {
        // As after a reload that takes the last user away.
        return Err(StartError::Settings(
            "nobody could allocate: there is no user, no secret and no pairing".into(),
        ));
    }
    Ok(Policy {
        credentials: Arc::new(credentials),
        gate: PeerGate::new(
            settings.peers.allow.clone(),
            settings.peers.deny.clone(),
            endpoints(settings),
            settings.peers.nat64.clone(),
        ),
        limits: Limits {
            allocations_per_user: limits.allocations_per_user,
            allocations: limits.allocations,
            permissions_per_allocation: limits.permissions_per_allocation as usize,
            channels_per_allocation: limits.channels_per_allocation as usize,
            bandwidth_per_allocation: limits.bandwidth_per_allocation,
            default_lifetime: limits.default_lifetime,
            max_lifetime: limits.max_lifetime,
            pairs: pair_limits(settings),
        },
        default_family: match settings.relay.default_family {
            config::DefaultFamily::Ipv4 => DefaultFamily::Fixed(Family::V4),
            config::DefaultFamily::Ipv6 => DefaultFamily::Fixed(Family::V6),
            config::DefaultFamily::Client => DefaultFamily::Client,
        },
        password_algorithms: settings.auth.password_algorithms,
        match_user_id: settings.auth.match_user_id,
        rfc5766_channels: settings.relay.rfc5766_channels,
        software: Some(concat!("turnserver ", env!("CARGO_PKG_VERSION")).into()),
    })
}

/// What pairs may have of the relay. Without users or secrets there is nobody else to leave
/// ports to.
fn pair_limits(settings: &Settings) -> PairLimits {
    let Some(signaling) = &settings.signaling else {
        return PairLimits::default();
    };
    PairLimits {
        share: match settings.serves_pairs_only() {
            true => 100,
            false => signaling.relay_share,
        },
        per_source: signaling.allocations_per_source,
        bandwidth: signaling.bandwidth_per_allocation,
    }
}

/// What credentials of pairs are made from: the configured secrets, or one that lives as long as
/// the process.
pub(super) fn pair_secrets(settings: &Settings, random: &Zeroizing<[u8; 32]>) -> PairSecrets {
    let secrets = settings.auth.secrets.iter();
    PairSecrets::new(secrets.map(|secret| secret.expose().as_bytes()), random)
}

fn credentials(settings: &Settings) -> Result<CredentialStore, StartError> {
    let auth = &settings.auth;
    CredentialStore::new(
        &settings.realm,
        auth.users
            .iter()
            .map(|user| (user.name.as_str(), user.password.expose())),
        auth.secrets.iter().map(|secret| secret.expose().as_bytes()),
        RestOptions {
            leeway: auth.expiry_leeway,
            sha256: auth.rest_hash == RestHash::Sha256,
        },
    )
    .map_err(|error| StartError::Settings(error.to_string()))
}

/// The listeners with their certificates, and how many shards serve them. `paired_at` is where the
/// pairing endpoint listens.
pub(super) fn net_config(
    settings: &Settings,
    certificates: &Store,
    paired_at: &[SocketAddr],
) -> NetConfig {
    let limits = &settings.limits;
    let stunturn = settings.signaling.as_ref().is_some_and(|s| s.stunturn);
    let mut listeners = Vec::new();
    for listener in &settings.listeners {
        for &address in &listener.addresses {
            listeners.push(ListenerConfig {
                protocol: net_protocol(listener.protocol),
                address,
                tls: listener.certificate.as_ref().map(|c| certificates.get(c)),
                service: match paired_at.iter().any(|pairing| shares(address, *pairing)) {
                    true if stunturn => net::Service::TurnAndEcho,
                    _ => net::Service::Turn,
                },
            });
        }
    }
    let discovery = discovery_listeners(&listeners, paired_at, stunturn);
    listeners.extend(discovery);
    NetConfig {
        threads: settings.runtime.threads.unwrap_or(0),
        data_path: data_path(settings),
        segmentation: settings.runtime.segmentation,
        listeners,
        streams: StreamLimits {
            first_byte: limits.first_byte_timeout,
            authenticated: limits.authentication_timeout,
            per_source: limits.unauthenticated_connections_per_source as usize,
            total: limits.unauthenticated_connections as usize,
            ..StreamLimits::default()
        },
        ..NetConfig::default()
    }
}

/// The port numbers of the pairing endpoint answer Bindings over UDP: by a second port a client
/// learns how its NAT maps. Where a listener has the port already, it does that, too.
fn discovery_listeners(
    listeners: &[ListenerConfig],
    paired_at: &[SocketAddr],
    echo: bool,
) -> Vec<ListenerConfig> {
    let taken = |address: SocketAddr| {
        let mut udp = listeners.iter();
        udp.any(|other| other.protocol == net::Protocol::Udp && shares(other.address, address))
    };
    let free = paired_at.iter().filter(|address| !taken(**address));
    free.map(|&address| ListenerConfig {
        protocol: net::Protocol::Udp,
        address,
        tls: None,
        service: net::Service::Discovery { echo },
    })
    .collect()
}

/// Whether only one UDP socket can have both addresses, as far as the port and the family go.
fn shares(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4()
}

/// The IP addresses that the server itself answers on: nobody reaches them through the relay.
///
/// A wildcard listener answers on every address of the machine, so those all count.
fn endpoints(settings: &Settings) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let listeners = settings.listeners.iter().flat_map(|l| &l.addresses);
    let signaling = settings.signaling.iter();
    let compat = signaling
        .clone()
        .flat_map(|s| s.fractal.iter().chain(&s.fractal_first));
    let named = listeners
        .chain(&settings.ops.address)
        .chain(signaling.flat_map(|s| &s.addresses))
        .map(|address| address.ip())
        .chain(compat.map(|address| IpAddr::V4(*address.ip())));
    for ip in named {
        if ip.is_unspecified() {
            let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
            let family = interfaces.iter().map(if_addrs::Interface::ip);
            found.extend(family.filter(|own| own.is_ipv4() == ip.is_ipv4()));
        } else {
            found.push(ip);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// How datagrams are to be moved.
pub(super) fn data_path(settings: &Settings) -> net::DataPath {
    match settings.runtime.data_path {
        config::DataPath::Auto => net::DataPath::Auto,
        config::DataPath::IoUring => net::DataPath::IoUring,
        config::DataPath::Mmsg => net::DataPath::Mmsg,
    }
}

fn net_protocol(protocol: Protocol) -> net::Protocol {
    match protocol {
        Protocol::Udp => net::Protocol::Udp,
        Protocol::Tcp => net::Protocol::Tcp,
        Protocol::Tls => net::Protocol::Tls,
    }
}

/// The reverse of what [`net_config`] did to a listener's protocol.
pub(super) fn protocol_name(protocol: net::Protocol) -> Protocol {
    match protocol {
        net::Protocol::Udp => Protocol::Udp,
        net::Protocol::Tcp => Protocol::Tcp,
        net::Protocol::Tls => Protocol::Tls,
    }
}
