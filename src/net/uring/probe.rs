//! Does io_uring work here? Asked of the kernel by doing what the plane does, once, at start:
//! containers forbid it, old kernels lack parts of it, and others answer that they have it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use super::{Uring, new_ring};
use crate::net::Service;
use crate::net::bind::UdpListener;
use crate::net::plane::{DataPlane, Event, Origin};
use crate::proto::{Flow, Mono, Transport};

/// Longer than a datagram takes over loopback on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends a datagram through a plane of its own and takes it back.
///
/// This has a thread of its own: the kernel tidies up after a closed ring by a signal to the
/// thread that made it, which interrupts whatever system call that thread has come to.
///
/// # Errors
/// What does not work, as the kernel says it.
pub(in crate::net) fn probe() -> io::Result<()> {
    thread::Builder::new()
        .name("io_uring-probe".into())
        .spawn(run)?
        .join()
        .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

fn run() -> io::Result<()> {
    let loopback: [SocketAddr; 2] = [
        (Ipv4Addr::LOCALHOST, 0).into(),
        (Ipv6Addr::LOCALHOST, 0).into(),
    ];
    let socket = UdpSocket::bind(&loopback[..])?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let mut plane = Uring::new(
        new_ring(8)?,
        vec![UdpListener {
            socket: socket.into(),
            address,
            service: Service::Turn,
        }],
        false,
    )?;
    let flow = Flow {
        transport: Transport::Udp,
        client: address,
        local: address,
        link: 0,
    };
    plane.reply_buffer()[0] = 42;
    plane.send_reply(&flow, 1);
    for _ in 0..4 {
        plane.wait(Some(PATIENCE), Mono(0))?;
        while let Some(event) = plane.next() {
            let Event::Datagram {
                origin: Origin::Listener { .. },
                source,
                slot,
                len: 1,
                ..
            } = event
            else {
                continue;
            };
            if source == address && plane.slot_mut(slot)[0] == 42 {
                return Ok(());
            }
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
