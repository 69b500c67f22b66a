//! An outer port of a home router, where this program can ask for one.

use std::net::SocketAddr;

#[cfg(feature = "client")]
use crate::client::port_mapping::PortMapping;
use crate::pairing::Protocol;

/// A home router's outer port that leads to a local one. The router is asked to keep it as long
/// as this lives, and gets it back when this is dropped.
#[derive(Debug)]
pub struct OuterPort {
    address: SocketAddr,
    #[cfg(feature = "client")]
    held: PortMapping,
}

#[cfg(feature = "client")]
impl OuterPort {
    /// Asks the router for a way to a local IPv4 port.
    pub(crate) async fn ask(protocol: Protocol, port: Option<u16>) -> Option<Self> {
        use std::num::NonZeroU16;
        use std::time::Duration;

        use crate::client::port_mapping::Routers;

        /// Routers are one hop away, but some are slow.
        const WITHIN: Duration = Duration::from_secs(5);

        let port = NonZeroU16::new(port?)?;
        let held = PortMapping::request(protocol, port, &Routers::default(), WITHIN).await?;
        let address = held.external();
        Some(Self { address, held })
    }

    /// Gives it back and waits until that is done, 1 s at most.
    pub async fn release(self) {
        self.held.release().await;
    }
}

/// Without the feature `client` nobody is asked.
#[cfg(not(feature = "client"))]
impl OuterPort {
    pub(crate) async fn ask(_: Protocol, _: Option<u16>) -> Option<Self> {
        None
    }

    /// Gives it back.
    pub async fn release(self) {}
}

impl OuterPort {
    /// Where the peer is to send to.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}
