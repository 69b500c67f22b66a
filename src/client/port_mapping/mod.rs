//! Asks the home router for an outer port: PCP (RFC 6887), then NAT-PMP (RFC 6886), and UPnP at
//! the same time; the first that says yes.
//!
//! The lease is short, renewed while the mapping is held, and given back when it is dropped, so
//! a program that is killed leaves nothing behind for long.

mod gateway;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    InternetProtocol, PortMapping as Lease, PortMappingOptions, PortMappingType, TimeoutConfig,
    natpmp, pcp,
};
use igd_next::aio::Gateway as Upnp;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{PortMappingProtocol, SearchOptions};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::pairing::Protocol;

/// Seconds of a lease; some routers refuse much shorter ones.
const LEASE: u32 = 300;
/// How long giving back may take.
const GIVING_BACK: Duration = Duration::from_secs(1);
/// Routers are one hop away.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_millis(500)),
};

/// Which protocol the router speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP, Internet Gateway Device.
    Upnp,
}

impl Spoken {
    /// As it is usually written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

/// Where the routers are.
#[derive(Clone, Copy, Debug)]
pub struct Routers {
    /// Who is asked by PCP and NAT-PMP: the default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Who is asked by UPnP: a multicast address, or the router itself.
    pub upnp: SocketAddrV4,
}

impl Default for Routers {
    /// The system's default gateway, where it tells (Linux), and UPnP's multicast address.
    fn default() -> Self {
        Self {
            gateway: gateway::default_gateway(),
            upnp: SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900),
        }
    }
}

/// An outer port that leads to a local socket, as long as this lives.
#[derive(Debug)]
pub struct PortMapping {
    external: SocketAddr,
    spoken: Spoken,
    /// Dropping it makes the keeper give the lease back.
    stop: Option<oneshot::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl PortMapping {
    /// Asks for an outer port that leads to the local IPv4 port `port`.
    ///
    /// `None` when no router granted one within `limit`.
    pub async fn request(
        protocol: Protocol,
        port: NonZeroU16,
        routers: &Routers,
        limit: Duration,
    ) -> Option<Self> {
        let held = timeout(limit, first(protocol, port, routers))
            .await
            .ok()??;
        let (external, spoken) = (held.external, held.spoken());
        let (stop, stopped) = oneshot::channel();
        Some(Self {
            external,
            spoken,
            stop: Some(stop),
            keeper: Some(tokio::spawn(held.keep(stopped))),
        })
    }

    /// The outer address and port.
    pub const fn external(&self) -> SocketAddr {
        self.external
    }

    /// How the router was asked.
    pub const fn spoken(&self) -> Spoken {
        self.spoken
    }

    /// Gives the lease back and waits until that is done, 1 s at most. Dropping the mapping does
    /// the same without waiting, as long as the runtime lives.
    pub async fn release(mut self) {
        self.stop = None;
        if let Some(keeper) = self.keeper.take() {
            // It ends by itself in time.
            let _ = keeper.await;
        }
    }
}

/// A lease, and whom to tell when it ends.
struct Held {
    external: SocketAddr,
    lease: Kind,
}

enum Kind {
    Gateway(Lease),
    Upnp {
        router: Upnp<Tokio>,
        protocol: PortMappingProtocol,
        local: SocketAddr,
    },
}

/// Asks both ways at once. The slower one is given up; should its router grant the lease all the
/// same, it ends by itself.
async fn first(protocol: Protocol, port: NonZeroU16, routers: &Routers) -> Option<Held> {
    let by_gateway = by_gateway(protocol, port, routers.gateway);
    let by_upnp = by_upnp(protocol, port, routers.upnp);
    tokio::pin!(by_gateway, by_upnp);
    tokio::select! {
        held = &mut by_gateway => match held {
            Some(held) => Some(held),
            None => by_upnp.await,
        },
        held = &mut by_upnp => match held {
            Some(held) => Some(held),
            None => by_gateway.await,
        },
    }
}

async fn by_gateway(
    protocol: Protocol,
    port: NonZeroU16,
    gateway: Option<Ipv4Addr>,
) -> Option<Held> {
    let gateway = gateway?;
    let protocol = match protocol {
        Protocol::Udp => InternetProtocol::Udp,
        Protocol::Tcp => InternetProtocol::Tcp,
    };
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LEASE),
        timeout_config: Some(PATIENCE),
    };
    let client = gateway::towards(gateway).await?;
    let request = pcp::BaseMapRequest::new(gateway.into(), client, protocol, port);
    let lease = match pcp::port_mapping(request, None, None, options).await {
        Ok(lease) => lease,
        Err(_) => natpmp::port_mapping(gateway.into(), protocol, port, options)
            .await
            .ok()?,
    };
    let ip = match lease.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
        PortMappingType::NatPmp => {
            let asked = natpmp::external_address(gateway.into(), Some(PATIENCE)).await;
            asked.ok()?.into()
        }
    };
    Held::new(ip, lease.external_port().get(), Kind::Gateway(lease))
}

async fn by_upnp(protocol: Protocol, port: NonZeroU16, search: SocketAddrV4) -> Option<Held> {
    let mut options = SearchOptions::default();
    options.broadcast_address = search.into();
    if !search.ip().is_multicast() {
        // Named rather than found: its pages may be wherever it is.
        options.allowed_gateway_ips = vec![(*search.ip()).into()];
    }
    let router = search_gateway(options).await.ok()?;
    let IpAddr::V4(address) = router.addr.ip() else {
        return None;
    };
    let local = SocketAddr::new(gateway::towards(address).await?, port.get());
    let protocol = match protocol {
        Protocol::Udp => PortMappingProtocol::UDP,
        Protocol::Tcp => PortMappingProtocol::TCP,
    };
    let asked = router.get_any_address(protocol, local, LEASE, "turnctl");
    let external = asked.await.ok()?;
    let lease = Kind::Upnp {
        router,
        protocol,
        local,
    };
    Held::new(external.ip(), external.port(), lease)
}

impl Held {
    /// `None` when the router does not know its own outer address.
    fn new(ip: IpAddr, port: u16, lease: Kind) -> Option<Self> {
        let external = SocketAddr::new(ip, port);
        (!ip.is_unspecified()).then_some(Self { external, lease })
    }

    fn spoken(&self) -> Spoken {
        match &self.lease {
            Kind::Upnp { .. } => Spoken::Upnp,
            Kind::Gateway(lease) => match lease.mapping_type() {
                PortMappingType::Pcp { .. } => Spoken::Pcp,
                PortMappingType::NatPmp => Spoken::NatPmp,
            },
        }
    }

    /// Renews the lease until told to stop, then gives it back.
    async fn keep(mut self, mut stopped: oneshot::Receiver<()>) {
        let half = Duration::from_secs(u64::from(LEASE / 2));
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = sleep(half) => self.renew().await,
            }
        }
        // A router that is gone has forgotten it, or will when the lease ends.
        let _ = timeout(GIVING_BACK, self.give_back()).await;
    }

    async fn renew(&mut self) {
        // When it fails, half of the lease is left for the next try.
        match &mut self.lease {
            Kind::Gateway(lease) => drop(lease.renew().await),
            Kind::Upnp {
                router,
                protocol,
                local,
            } => {
                let port = self.external.port();
                let renewing = router.add_port(*protocol, port, *local, LEASE, "turnctl");
                drop(renewing.await);
            }
        }
    }

    async fn give_back(self) {
        match self.lease {
            Kind::Gateway(lease) => drop(lease.try_drop().await),
            Kind::Upnp {
                router, protocol, ..
            } => drop(router.remove_port(protocol, self.external.port()).await),
        }
    }
}
