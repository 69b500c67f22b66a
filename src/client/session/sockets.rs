//! The UDP sockets of a session, each with a task that reads it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::client::punch::Via;

/// The main IPv4 socket.
pub(super) const MAIN: u16 = 0;
/// The IPv6 socket, where there is one.
pub(super) const MAIN_V6: u16 = 1;
/// Further sockets have numbers from here.
const FURTHER: u16 = 2;
/// So many further ones are open in a process at most: those of four sessions behind NATs with
/// random ports.
const MOST_FURTHER: usize = 1024;
/// So many are given back when the system has no more: others need descriptors, too.
const RESERVE: u16 = 32;
/// What a socket's buffers should hold, in bytes.
const BUFFER: usize = 1 << 20;
/// No datagram is longer.
const LONGEST: usize = 65_535;

/// What arrived: where, from where, and what.
pub(super) type Packet = (u16, SocketAddr, Vec<u8>);

/// How many further sockets this process has.
static FURTHER_OPEN: AtomicUsize = AtomicUsize::new(0);

/// One of [`MOST_FURTHER`].
struct Place(());

impl Place {
    fn take() -> Option<Self> {
        let taken = FURTHER_OPEN.fetch_update(Relaxed, Relaxed, |open| {
            (open < MOST_FURTHER).then_some(open + 1)
        });
        // Not `then_some`: a place that is not taken must not be given back.
        taken.is_ok().then(|| Self(()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        FURTHER_OPEN.fetch_sub(1, Relaxed);
    }
}

struct Open {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
    _place: Option<Place>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// All sockets of a session. Dropping it closes them.
pub(super) struct Sockets {
    open: BTreeMap<u16, Open>,
    packets: mpsc::Sender<Packet>,
    bind: Option<IpAddr>,
}

impl Sockets {
    /// The main sockets: one for IPv4 and one for IPv6, as far as the system has them, or only
    /// the one of `bind`.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn open(bind: Option<IpAddr>, packets: mpsc::Sender<Packet>) -> io::Result<Self> {
        let mut sockets = Self {
            open: BTreeMap::new(),
            packets,
            bind,
        };
        let mut refused = None;
        for (number, ip) in sockets.main() {
            if let Err(error) = sockets.add(number, (ip, 0).into(), None) {
                refused = Some(error);
            }
        }
        match refused {
            Some(error) if sockets.open.is_empty() => Err(error),
            _ => Ok(sockets),
        }
    }

    fn main(&self) -> Vec<(u16, IpAddr)> {
        match self.bind {
            Some(ip @ IpAddr::V4(_)) => vec![(MAIN, ip)],
            Some(ip @ IpAddr::V6(_)) => vec![(MAIN_V6, ip)],
            None => vec![
                (MAIN, Ipv4Addr::UNSPECIFIED.into()),
                (MAIN_V6, Ipv6Addr::UNSPECIFIED.into()),
            ],
        }
    }

    fn add(&mut self, number: u16, address: SocketAddr, place: Option<Place>) -> io::Result<()> {
        let socket = Arc::new(bind(address)?);
        let (reading, packets) = (Arc::clone(&socket), self.packets.clone());
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; LONGEST];
            loop {
                match reading.recv_from(&mut buffer).await {
                    Ok((len, from)) => {
                        let packet = (number, from, buffer[..len].to_vec());
                        if packets.send(packet).await.is_err() {
                            return;
                        }
                    }
                    // What ICMP says of a datagram that was sent before; anybody can make it.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        let reader = task.abort_handle();
        let open = Open {
            socket,
            reader,
            _place: place,
        };
        self.open.insert(number, open);
        Ok(())
    }

    /// Opens more IPv4 sockets, as many as the system gives; returns their numbers.
    pub(super) fn open_more(&mut self, count: u16) -> Range<u16> {
        let ip = match self.bind {
            Some(ip @ IpAddr::V4(_)) => ip,
            Some(IpAddr::V6(_)) => return FURTHER..FURTHER,
            None => Ipv4Addr::UNSPECIFIED.into(),
        };
        let start = self
            .open
            .keys()
            .last()
            .map_or(FURTHER, |last| last + 1)
            .max(FURTHER);
        let mut end = start;
        for number in start..start.saturating_add(count) {
            let place = Place::take();
            if place.is_none() {
                break;
            }
            if self.add(number, (ip, 0).into(), place).is_err() {
                let kept = self.give_back(start..end);
                return start..kept;
            }
            end = number + 1;
        }
        start..end
    }

    /// Closes the last ones of those that were opened before the system had no more.
    fn give_back(&mut self, opened: Range<u16>) -> u16 {
        let kept = opened.start.max(opened.end.saturating_sub(RESERVE));
        self.open
            .retain(|number, _| !(kept..opened.end).contains(number));
        kept
    }

    /// Closes one.
    pub(super) fn close(&mut self, number: u16) {
        self.open.remove(&number);
    }

    /// Closes all but the main sockets and this one.
    pub(super) fn close_except(&mut self, keep: u16) {
        self.open
            .retain(|&number, _| number < FURTHER || number == keep);
    }

    /// The main sockets: number, and address without a port where it is any address.
    pub(super) fn mains(&self) -> Vec<(Via, SocketAddr)> {
        let mains = self.open.range(..FURTHER);
        mains
            .filter_map(|(&number, open)| {
                Some((Via::Socket(number), open.socket.local_addr().ok()?))
            })
            .collect()
    }

    /// The port of a socket.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Sends at once, or not at all where the system has no room. With a `ttl`, this datagram
    /// has that one and no other does.
    pub(super) fn send(&self, via: Via, to: SocketAddr, ttl: Option<u8>, bytes: &[u8]) {
        let Via::Socket(number) = via else {
            return;
        };
        let Some(open) = self.open.get(&number) else {
            return;
        };
        // Not by the runtime, which takes a new socket for full until it has heard of it.
        let socket = SockRef::from(&*open.socket);
        let Some(ttl) = ttl else {
            let _ = socket.send_to(bytes, &to.into());
            return;
        };
        // Nobody else sends from these sockets, so nothing gets the wrong one in between.
        let (usual, set): (_, fn(&Socket, u32) -> io::Result<()>) = match to {
            SocketAddr::V4(_) => (socket.ttl_v4(), Socket::set_ttl_v4),
            SocketAddr::V6(_) => (socket.unicast_hops_v6(), Socket::set_unicast_hops_v6),
        };
        let Ok(usual) = usual else {
            return;
        };
        if set(&socket, ttl.into()).is_ok() {
            let _ = socket.send_to(bytes, &to.into());
            // A socket that always sends so few hops would be of no use.
            let _ = set(&socket, usual);
        }
    }

    /// Takes a socket out of the session, connected to the peer.
    pub(super) fn take(&mut self, via: Via, remote: SocketAddr) -> io::Result<UdpSocket> {
        let Via::Socket(number) = via else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let open = self.open.get(&number);
        let open = open.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let socket = SockRef::from(&*open.socket).try_clone()?;
        self.open.remove(&number);
        socket.connect(&remote.into())?;
        UdpSocket::from_std(socket.into())
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As much of it as the system allows.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held by who takes places for further sockets: all of the process have the same ones.
    static PLACES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    #[tokio::test]
    async fn sends_with_a_short_life_once() {
        let _places = PLACES.lock().await;
        let (packets, mut arrived) = mpsc::channel(16);
        let ip = Ipv4Addr::LOCALHOST.into();
        let mut sockets = Sockets::open(Some(ip), packets).expect("sockets");
        let more = sockets.open_more(3);
        assert_eq!(more, 2..5);
        assert_eq!(sockets.count(), 4);
        let (via, address) = sockets.mains()[0];
        assert_eq!(via, Via::Socket(MAIN));
        // A life of one hop is enough on this machine.
        sockets.send(Via::Socket(3), address, Some(1), b"short");
        sockets.send(Via::Socket(3), address, None, b"long");
        for expected in [&b"short"[..], b"long"] {
            let (to, from, bytes) = arrived.recv().await.expect("a datagram");
            assert_eq!((to, &bytes[..]), (MAIN, expected));
            assert_eq!(from.ip(), address.ip());
        }
        let socket = SockRef::from(&*sockets.open[&3].socket)
            .ttl_v4()
            .expect("a TTL");
        assert!(socket > 1, "it is the usual one again");
        sockets.close_except(4);
        assert_eq!(sockets.open.keys().collect::<Vec<_>>(), [&0, &4]);
        sockets.send(Via::Socket(3), address, None, b"from a closed one");
        assert_eq!(sockets.open_more(1), 5..6, "numbers are not given twice");
    }

    #[tokio::test]
    async fn a_socket_that_is_taken_out_is_connected() {
        let (packets, mut arrived) = mpsc::channel(16);
        let ip = Ipv4Addr::LOCALHOST.into();
        let mut one = Sockets::open(Some(ip), packets.clone()).expect("sockets");
        let two = Sockets::open(Some(ip), packets).expect("sockets");
        let ((via, _), (_, peer)) = (one.mains()[0], two.mains()[0]);
        let socket = one.take(via, peer).expect("the socket");
        assert_eq!(socket.peer_addr().ok(), Some(peer));
        socket.send(b"raw").await.expect("sent");
        let (_, from, bytes) = arrived.recv().await.expect("a datagram");
        assert_eq!(Some(from), socket.local_addr().ok());
        assert_eq!(bytes, b"raw");
    }

    #[tokio::test]
    async fn sessions_leave_descriptors_for_others() {
        let _places = PLACES.lock().await;
        let (packets, _arrived) = mpsc::channel(16);
        let ip = Ipv4Addr::LOCALHOST.into();
        let open = || Sockets::open(Some(ip), packets.clone()).expect("sockets");
        let mut all: Vec<_> = (0..6).map(|_| open()).collect();
        let opened: Vec<_> = all
            .iter_mut()
            .map(|sockets| sockets.open_more(255).len())
            .collect();
        // Tests beside this one may have some, too, and the system may have fewer.
        assert!(opened.iter().sum::<usize>() <= MOST_FURTHER, "{opened:?}");
        assert!(opened[0] > 0 && opened[5] < 255, "{opened:?}");
        drop(all);
        assert_eq!(open().open_more(8).len(), 8, "they came back");
        let mut sockets = open();
        let opened = sockets.open_more(40);
        assert_eq!(opened.len(), 40);
        assert_eq!(sockets.give_back(opened.clone()), opened.start + 8);
        assert_eq!(sockets.count(), 1 + 8);
    }
}
