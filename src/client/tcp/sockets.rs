//! The listeners of one attempt, and what the peer is told of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use super::super::rendezvous::shared_tcp_socket;
use super::super::session::interfaces;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 32;

/// One listener for each address family that the machine has, for a whole attempt. Dials leave
/// from the same ports.
#[derive(Debug)]
pub struct Sockets {
    v4: Option<TcpListener>,
    v6: Option<TcpListener>,
}

impl Sockets {
    /// Listens on the port of the connection to the pairing server, whose local address this is:
    /// there the NAT's mapping is known. In the other family it may be another port, when
    /// somebody has that one. With `bind` only on that address.
    ///
    /// # Errors
    /// When no listener could be opened at all.
    pub fn open(signalling: SocketAddr, bind: Option<IpAddr>) -> io::Result<Self> {
        let port = signalling.port();
        let wanted = |any: IpAddr| match bind {
            Some(ip) if ip.is_ipv4() == any.is_ipv4() => Some(ip),
            Some(_) => None,
            None => Some(any),
        };
        let v4 = wanted(Ipv4Addr::UNSPECIFIED.into()).map(|ip| listen(ip, port));
        let v6 = wanted(Ipv6Addr::UNSPECIFIED.into()).map(|ip| listen(ip, port));
        match (v4, v6) {
            (Some(Err(error)), None | Some(Err(_))) | (None, Some(Err(error))) => Err(error),
            (v4, v6) => Ok(Self {
                v4: v4.and_then(Result::ok),
                v6: v6.and_then(Result::ok),
            }),
        }
    }

    /// This machine's own addresses with the ports of the listeners, best first, without loopback and
    /// those that only one link knows; or the one that was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let machine = interfaces::addresses(None, false);
        let listeners = [&self.v4, &self.v6].into_iter().flatten();
        let locals = listeners.filter_map(|listener| listener.local_addr().ok());
        locals
            .flat_map(|local| interfaces::of_socket(local, &machine))
            .collect()
    }

    /// The port of the IPv4 listener: the one that a home router can forward to.
    pub fn port_v4(&self) -> Option<u16> {
        Some(self.v4.as_ref()?.local_addr().ok()?.port())
    }

    /// The next connection that somebody made. Nothing is lost when the waiting is broken off.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        async fn one(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
            match listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            accepted = one(self.v4.as_ref()) => accepted,
            accepted = one(self.v6.as_ref()) => accepted,
        }
    }

    /// From where to dial an address of this family.
    pub(super) fn local(&self, to: SocketAddr) -> Option<SocketAddr> {
        let listener = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        listener.as_ref()?.local_addr().ok()
    }
}

fn listen(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    let shared = |port| {
        let socket = shared_tcp_socket((ip, port).into())?;
        socket.listen(BACKLOG)
    };
    shared(port).or_else(|_| shared(0))
}

/// Makes the connection that a dial asks for.
pub(super) async fn dial(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    shared_tcp_socket(from)?.connect(to).await
}
