//! UDP sockets for many datagrams: large buffers, batches, and one socket that stands for a
//! whole network of local addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub use super::sys::{Datagram, Flushed, Receiver, Sender, receive_drops};

/// A non-blocking UDP socket, bound to `address`, with buffers of `buffer` bytes, or as much of
/// that as the system allows.
///
/// # Errors
/// What the kernel says: the address is not this machine's, or the port is taken.
pub fn bind(address: SocketAddr, buffer: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    let bytes = usize::try_from(buffer).unwrap_or(usize::MAX);
    if super::sys::force_receive_buffer(&socket, buffer).is_err() {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_send_buffer_size(bytes)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// As [`bind`], on every address of this machine and on `port` (0: a free one), with packet
/// info: such a socket sends from any local address and tells which one each datagram reached.
///
/// # Errors
/// As [`bind`].
pub fn bind_any(ipv6: bool, port: u16, buffer: u32) -> io::Result<UdpSocket> {
    let any: IpAddr = match ipv6 {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    };
    let socket = bind((any, port).into(), buffer)?;
    if ipv6 {
        // A route makes all of a network local, but the kernel asks for the very address too.
        SockRef::from(&socket).set_freebind_v6(true)?;
    }
    super::sys::enable_packet_info(&socket, ipv6)?;
    Ok(socket)
}

/// Lets datagrams of one sender that come together be handed out as one, where the kernel can do
/// it: [`Datagram::segments`] tells them apart. Slots then want room for [`COALESCED`] bytes.
pub fn coalesce(socket: &UdpSocket) {
    // Without it each comes for itself.
    let _ = super::sys::enable_coalescing(socket);
}

/// The most bytes that come as one, made an odd number of cache lines, so that the slots of a
/// batch do not all begin in the same set of the cache.
pub const COALESCED: usize = (1 << 16) + 64;
