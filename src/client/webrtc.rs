//! A udp session as the `Conn` of `webrtc_util`: what DTLS, SCTP and ICE of the webrtc-rs family
//! run over.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use webrtc_util::{Conn, Error};

use super::connect::PunchedConn;

/// A udp session whose addresses are those of its path at the time of asking.
#[derive(Debug)]
pub struct WebrtcConn(PunchedConn);

impl From<PunchedConn> for WebrtcConn {
    fn from(conn: PunchedConn) -> Self {
        Self(conn)
    }
}

/// What stands for an address that is not known.
const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn closed() -> Error {
    Error::ErrUseClosedNetworkConn
}

#[async_trait]
impl Conn for WebrtcConn {
    /// There is one peer: nothing to do.
    async fn connect(&self, _: SocketAddr) -> Result<(), Error> {
        Ok(())
    }

    async fn recv(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        let datagram = self.0.recv().await.ok_or_else(closed)?;
        let room = buffer.get_mut(..datagram.len());
        room.ok_or(Error::ErrBufferShort)?
            .copy_from_slice(&datagram);
        Ok(datagram.len())
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        let len = self.recv(buffer).await?;
        Ok((len, self.remote_addr().unwrap_or(UNKNOWN)))
    }

    async fn send(&self, bytes: &[u8]) -> Result<usize, Error> {
        self.0.send(bytes).await.map_err(Error::from)?;
        Ok(bytes.len())
    }

    /// Sends to the peer, whatever the address.
    async fn send_to(&self, bytes: &[u8], _: SocketAddr) -> Result<usize, Error> {
        self.send(bytes).await
    }

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        Ok(self.0.path().local.unwrap_or(UNKNOWN))
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        self.0.path().remote
    }

    async fn close(&self) -> Result<(), Error> {
        self.0.shut().await;
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
