//! The TCP connection to the pairing server, made so that its local port can be used again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::Instant;

use super::{RendezvousError, ServerUrl, eyeballs};
use crate::client::prompt::prompt;

/// How connections are made.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// The local address; the system's choice when absent.
    pub bind: Option<IpAddr>,
    /// For resolving the name, the connection and both handshakes together.
    pub timeout: Duration,
    /// Certificates in PEM form to trust in place of the system's.
    pub roots: Option<Vec<u8>>,
}

impl Default for SocketOptions {
    /// The system's address and roots, 10 s.
    fn default() -> Self {
        Self {
            bind: None,
            timeout: Duration::from_secs(10),
            roots: None,
        }
    }
}

/// A TCP socket whose local port others of this program may have too: a listener, and further
/// connections to other places. All of them must be made by this function.
///
/// # Errors
/// What the system says: the address is not this machine's, or somebody else has the port.
pub fn shared_tcp_socket(local: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match local {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Both before bind: with SO_REUSEADDR alone a listener keeps every later dial from the port,
    // and without it the port of an ended connection is closed for a minute. On Windows
    // SO_REUSEADDR means both.
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(local)?;
    Ok(socket)
}

/// Any address of this family.
fn unspecified(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Connects to whichever of the server's addresses answers first. Returns the connection and how
/// long the server took to answer it, which is a round trip.
pub(super) async fn connect(
    server: &ServerUrl,
    options: &SocketOptions,
) -> Result<(TcpStream, Duration), RendezvousError> {
    let found = lookup_host((server.host(), server.port())).await;
    let mut addresses: Vec<_> = found.map_err(RendezvousError::Resolve)?.collect();
    if let Some(bind) = options.bind {
        addresses.retain(|address| address.is_ipv4() == bind.is_ipv4());
    }
    let dial = async |address| {
        let ip = options.bind.unwrap_or_else(|| unspecified(address));
        let dialled = Instant::now();
        let stream = shared_tcp_socket((ip, 0).into())?.connect(address).await?;
        prompt(&stream)?;
        Ok((stream, dialled.elapsed()))
    };
    let first = eyeballs::first(addresses, dial).await;
    first.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => RendezvousError::TimedOut,
        _ => RendezvousError::Connect(error),
    })
}
