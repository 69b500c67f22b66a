//! The clients' end: one socket for a whole network of addresses, a socket each, or a stream
//! each. They differ in system calls only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use turnserver::client::datagrams::{self, Flushed, Receiver, Sender};

use super::options::{Plan, Transport};
use super::poll::Poll;
use super::stream::{Stream, Tls};

/// Datagrams of one system call.
pub(super) const BATCH: usize = 64;
/// Asked for; the system may grant less.
pub(super) const BUFFER: u32 = 8 << 20;
/// Packets taken from one socket before the others have their turn.
pub(super) const TURN: usize = 8 * BATCH;
/// Room for what a server sends: the payload and what is around it.
const OVERHEAD: usize = 128;

/// One thread's clients, numbered from 0.
pub(super) struct Clients {
    kind: Kind,
    /// What became of packets since the last flush.
    flushed: Flushed,
    /// Packets that found their stream full.
    not_taken: u64,
}

enum Kind {
    Network {
        socket: UdpSocket,
        server: SocketAddr,
        /// Addresses of the clients, one after the other.
        first: IpAddr,
        count: usize,
        sender: Sender,
        receiver: Receiver,
    },
    Sockets {
        sockets: Vec<UdpSocket>,
        /// Ports that were used, by number.
        used: Box<[bool; 1 << 16]>,
        scratch: Box<[u8]>,
        receiver: Receiver,
    },
    Streams {
        streams: Vec<Stream>,
        scratch: Box<[u8]>,
        /// Streams with something to write.
        dirty: Vec<usize>,
    },
}

impl Clients {
    /// Opens the ends of `count` clients, the first of which is number `first` of all, and has
    /// them watched with their numbers as tokens.
    pub(super) fn open(
        plan: &Plan,
        first: usize,
        count: usize,
        poll: &Poll,
    ) -> Result<Self, String> {
        // Requests of a client take their room too.
        let size = (plan.size + OVERHEAD).max(turnserver::client::turn::MAX_REQUEST);
        let bind = plan.options.bind;
        let opened = match (plan.transport, bind) {
            (Transport::Udp, Some(net)) if net.prefix_len() < net.max_prefix_len() => {
                network(plan, net, first, count, size, poll)
            }
            (Transport::Udp, _) => sockets(plan, bind.map(|net| net.addr()), count, size, poll),
            _ => return streams(plan, count, size, poll),
        };
        let kind = opened.map_err(|error| explain(&error, bind))?;
        Ok(Self {
            kind,
            flushed: Flushed::default(),
            not_taken: 0,
        })
    }

    /// Adds a packet of one client: `build` writes it into the room it gets and says how long it
    /// is. It is sent at the latest by [`Clients::flush`].
    pub(super) fn send(&mut self, client: usize, build: impl FnOnce(&mut [u8]) -> usize) {
        match &mut self.kind {
            Kind::Network {
                socket,
                server,
                first,
                sender,
                ..
            } => {
                let len = build(sender.slot());
                sender.commit(len, Some(server), Some(nth(*first, client)));
                if sender.is_full() {
                    add(&mut self.flushed, sender.flush(&*socket));
                }
            }
            Kind::Sockets {
                sockets, scratch, ..
            } => {
                let len = build(scratch);
                let sent = sockets[client].send(&scratch[..len]);
                add(&mut self.flushed, one(sent.map(drop)));
            }
            Kind::Streams {
                streams,
                scratch,
                dirty,
            } => {
                let stream = &mut streams[client];
                if stream.is_congested() {
                    // Sent, as far as a live source is concerned, and lost.
                    self.not_taken += 1;
                    return add(&mut self.flushed, one(Ok(())));
                }
                let len = build(scratch);
                if stream.queue(&scratch[..len]) {
                    dirty.push(client);
                }
                add(&mut self.flushed, one(Ok(())));
            }
        }
    }

    /// Sends what is waiting; returns what became of all packets since the last time.
    pub(super) fn flush(&mut self) -> Flushed {
        match &mut self.kind {
            Kind::Network { socket, sender, .. } => {
                if sender.waiting() > 0 {
                    add(&mut self.flushed, sender.flush(&*socket));
                }
            }
            Kind::Sockets { .. } => {}
            Kind::Streams { streams, dirty, .. } => {
                dirty.retain(|&client| !streams[client].write());
            }
        }
        std::mem::take(&mut self.flushed)
    }

    /// Whether something waits for room in the kernel.
    pub(super) fn is_stuck(&self) -> bool {
        matches!(&self.kind, Kind::Streams { dirty, .. } if !dirty.is_empty())
    }

    /// Gives each packet that is there for a socket with this token to `take`, with the number
    /// of its client. Bounded: what is left is reported again.
    pub(super) fn receive(
        &mut self,
        token: usize,
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<(), String> {
        match &mut self.kind {
            Kind::Network {
                socket,
                server,
                first,
                count,
                receiver,
                ..
            } => {
                let mut taken = 0;
                while taken < TURN {
                    let received = receiver.receive(&*socket).map_err(silent)?;
                    for index in 0..received {
                        let datagram = receiver.datagram(index);
                        // A stranger's datagrams say nothing of the server. Only sockets of one
                        // client are connected.
                        let from = datagram.source.map(|from| (from.ip(), from.port()));
                        let local = datagram.local;
                        let local = local.filter(|_| from == Some((server.ip(), server.port())));
                        let client = local.and_then(|ip| distance(*first, ip));
                        let client = client.filter(|client| client < count);
                        for bytes in datagram.segments() {
                            taken += 1;
                            if let Some(client) = client {
                                take(client, bytes);
                            }
                        }
                    }
                    if received < receiver.capacity() {
                        break;
                    }
                }
            }
            Kind::Sockets {
                sockets, receiver, ..
            } => {
                let socket = &sockets[token];
                let mut taken = 0;
                while taken < TURN {
                    let received = receiver.receive(socket).map_err(silent)?;
                    for index in 0..received {
                        take(token, receiver.datagram(index).bytes);
                    }
                    taken += received;
                    if received < receiver.capacity() {
                        break;
                    }
                }
            }
            Kind::Streams { streams, .. } => {
                streams[token].read(|message| take(token, message))?;
            }
        }
        Ok(())
    }

    /// Gives a client with a socket of its own a port that was not used before: some servers
    /// remember one for a while after its allocation is gone. Others stay as they are.
    pub(super) fn renew(&mut self, plan: &Plan, client: usize, poll: &Poll) -> Result<(), String> {
        if let Kind::Sockets { sockets, used, .. } = &mut self.kind {
            let bind = plan.options.bind;
            let renewed = fresh_port(used, || {
                let opened = socket(plan, bind.map(|net| net.addr()), client, poll)?;
                let port = opened.local_addr()?.port();
                Ok((opened, port))
            });
            sockets[client] = renewed.map_err(|error| explain(&error, bind))?;
        }
        Ok(())
    }

    /// Packets that never left, so far, because the server does not read their stream: buffers on
    /// both sides are full.
    pub(super) const fn not_taken(&self) -> u64 {
        self.not_taken
    }

    /// What this machine's receive buffers had no room for, so far.
    pub(super) fn drops(&self) -> u64 {
        let of = |socket: &UdpSocket| u64::from(datagrams::receive_drops(socket).unwrap_or(0));
        match &self.kind {
            Kind::Network { socket, .. } => of(socket),
            Kind::Sockets { sockets, .. } => sockets.iter().map(of).sum(),
            Kind::Streams { .. } => 0,
        }
    }
}

fn network(
    plan: &Plan,
    net: IpNet,
    first: usize,
    count: usize,
    size: usize,
    poll: &Poll,
) -> io::Result<Kind> {
    let socket = datagrams::bind_any(plan.server.is_ipv6(), 0, BUFFER)?;
    datagrams::coalesce(&socket);
    poll.add(&socket, 0)?;
    Ok(Kind::Network {
        socket,
        server: plan.server,
        // The network's own address is not a host's.
        first: nth(net.network(), first + 1),
        count,
        sender: Sender::new(BATCH, size),
        receiver: Receiver::new(BATCH, datagrams::COALESCED),
    })
}

fn sockets(
    plan: &Plan,
    ip: Option<IpAddr>,
    count: usize,
    size: usize,
    poll: &Poll,
) -> io::Result<Kind> {
    let mut used = Box::new([false; 1 << 16]);
    let mut sockets = Vec::with_capacity(count);
    for token in 0..count {
        let socket = socket(plan, ip, token, poll)?;
        used[usize::from(socket.local_addr()?.port())] = true;
        sockets.push(socket);
    }
    Ok(Kind::Sockets {
        sockets,
        used,
        scratch: vec![0; size].into(),
        // Many sockets have a packet or two each, few have many.
        receiver: Receiver::new((256 / count.max(1)).clamp(8, BATCH), size),
    })
}

/// Opens until the port is one that was not used; when there seems to be none left, all may be
/// used again.
fn fresh_port<T>(
    used: &mut [bool; 1 << 16],
    mut open: impl FnMut() -> io::Result<(T, u16)>,
) -> io::Result<T> {
    const TRIES: usize = 32;
    // What was not wanted stays open for so long, or it would come again.
    let mut unwanted = Vec::new();
    loop {
        let (opened, port) = open()?;
        let place = &mut used[usize::from(port)];
        if !*place {
            *place = true;
            return Ok(opened);
        }
        unwanted.push(opened);
        if unwanted.len() == TRIES {
            used.fill(false);
        }
    }
}

fn socket(plan: &Plan, ip: Option<IpAddr>, token: usize, poll: &Poll) -> io::Result<UdpSocket> {
    let any: IpAddr = match plan.server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = datagrams::bind((ip.unwrap_or(any), 0).into(), BUFFER)?;
    // Connected, so that only the server's datagrams and ICMP errors arrive.
    socket.connect(plan.server)?;
    poll.add(&socket, token)?;
    Ok(socket)
}

fn streams(plan: &Plan, count: usize, size: usize, poll: &Poll) -> Result<Clients, String> {
    let tls = match plan.transport {
        Transport::Tls => Some(Tls::new(plan)?),
        _ => None,
    };
    let mut streams = Vec::with_capacity(count);
    for token in 0..count {
        let stream = Stream::connect(plan, tls.as_ref())?;
        poll.add(&stream, token)
            .map_err(|error| error.to_string())?;
        streams.push(stream);
    }
    Ok(Clients {
        kind: Kind::Streams {
            streams,
            scratch: vec![0; size].into(),
            dirty: Vec::new(),
        },
        flushed: Flushed::default(),
        not_taken: 0,
    })
}

fn explain(error: &io::Error, bind: Option<IpNet>) -> String {
    match (error.kind(), bind) {
        (io::ErrorKind::AddrNotAvailable, Some(bind)) => {
            format!("--bind {bind} is not an address of this machine")
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            let limit = super::poll::raise_file_limit();
            format!(
                "more sockets than the {limit} open files that this process may have: raise \
                 `ulimit -n`, or --bind a network, which takes one socket"
            )
        }
        _ => format!("cannot open a socket: {error}"),
    }
}

/// An error of receiving is the server's machine speaking.
fn silent(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        _ => error.to_string(),
    }
}

/// Sums up.
pub(super) fn add(into: &mut Flushed, more: Flushed) {
    into.sent += more.sent;
    into.refused += more.refused;
    into.error = more.error.or(into.error);
}

fn one(result: io::Result<()>) -> Flushed {
    match result {
        Ok(()) => Flushed {
            sent: 1,
            ..Flushed::default()
        },
        Err(error) => Flushed {
            refused: 1,
            error: error.raw_os_error(),
            sent: 0,
        },
    }
}

/// The address `index` after this one.
fn nth(first: IpAddr, index: usize) -> IpAddr {
    match first {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(index as u32)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(index as u128)).into(),
    }
}

/// How far `ip` is behind `first`.
fn distance(first: IpAddr, ip: IpAddr) -> Option<usize> {
    match (first, ip) {
        (IpAddr::V4(first), IpAddr::V4(ip)) => {
            usize::try_from(u32::from(ip).checked_sub(u32::from(first))?).ok()
        }
        (IpAddr::V6(first), IpAddr::V6(ip)) => {
            usize::try_from(u128::from(ip).checked_sub(u128::from(first))?).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_again_only_when_all_were_used() {
        let mut used = Box::new([false; 1 << 16]);
        let mut next = 0;
        let mut seen = Vec::new();
        for _ in 0..4 {
            let port = fresh_port(&mut used, || {
                next += 1;
                Ok((next % 3, next % 3))
            });
            seen.push(port.expect("a port"));
        }
        assert_eq!(seen[..3], [1, 2, 0]);
        assert!(seen[3] < 3 && next > 30, "after many tries");
    }

    #[test]
    fn addresses_are_counted_forth_and_back() {
        for first in ["10.9.0.250", "2001:db8::fffe"] {
            let first: IpAddr = first.parse().expect("an address");
            for index in [0, 1, 7, 5000] {
                assert_eq!(distance(first, nth(first, index)), Some(index));
            }
            assert_eq!(distance(nth(first, 1), first), None);
        }
        assert_eq!(
            nth("10.9.0.250".parse().expect("an address"), 6).to_string(),
            "10.9.1.0"
        );
    }
}
