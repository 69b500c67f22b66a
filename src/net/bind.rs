//! Opening the listening sockets: one per shard and address, and never beside another server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

use super::patience::Patience;
use super::{
    BoundAddress, DataPath, ListenerConfig, NetConfig, Protocol, Service, StreamLimits, sys, tls,
};

/// How many connections wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What a connection may have in the kernel that is not yet on the wire, in bytes. Above it the
/// bounded queue of the server fills, where stale data can still be dropped.
const NOT_SENT_LIMIT: u32 = 128 * 1024;

/// How long a client may leave bytes unacknowledged before its connection counts as broken.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A UDP listener of one shard.
pub(super) struct UdpListener {
    pub(super) socket: Socket,
    pub(super) address: SocketAddr,
    pub(super) service: Service,
}

/// A TCP or TLS listener of one shard.
pub(super) struct StreamListener {
    pub(super) socket: Socket,
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) tls: Option<Arc<tls::Certificates>>,
}

/// The listeners of one shard.
#[derive(Default)]
pub(super) struct ShardSockets {
    pub(super) udp: Vec<UdpListener>,
    pub(super) streams: Vec<StreamListener>,
}

/// Every listening socket is open; nothing is received yet. [`Bound::start`] starts the shards.
pub struct Bound {
    pub(super) shards: Vec<ShardSockets>,
    pub(super) addresses: Vec<BoundAddress>,
    pub(super) streams: StreamLimits,
    pub(super) relay_buffer: usize,
    pub(super) pin: bool,
    pub(super) data_path: DataPath,
    pub(super) segmentation: bool,
    pub(super) fd_limit: u64,
    receive_buffer: usize,
}

impl Bound {
    /// The listeners in the order of the configuration, with the port that a port 0 became.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// How many shards there will be.
    pub fn threads(&self) -> usize {
        self.shards.len()
    }

    /// How many file descriptors this process may have: the soft limit was raised to the hard
    /// one. Every allocation takes one per relayed transport address.
    pub const fn fd_limit(&self) -> u64 {
        self.fd_limit
    }

    /// The smallest receive buffer, in bytes, that the kernel granted to a UDP listener; less
    /// than asked when `net.core.rmem_max` is lower. 0 without UDP listeners.
    pub const fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("addresses", &self.addresses)
            .field("threads", &self.shards.len())
            .finish_non_exhaustive()
    }
}

/// What went wrong with a listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindProblem {
    /// Another socket has the port.
    InUse,
    /// Ports below 1024 need a privilege that the process lacks.
    Privileged,
    /// No interface of this host has the address.
    NotLocal,
    /// The address family is switched off in this kernel or container.
    FamilyDisabled,
    /// The limit of file descriptors is too low for the listeners alone.
    FileDescriptors,
    /// A `tls` listener without a certificate.
    NoCertificate,
    /// Anything else; the source says what.
    Other,
}

/// Why a listener could not be opened: which address, at which step, and what to do about it.
#[derive(Debug)]
pub struct BindError {
    /// The listener's protocol.
    pub protocol: Protocol,
    /// The listener's address as configured.
    pub address: SocketAddr,
    /// What was being done, in words that follow "could not".
    pub step: &'static str,
    /// What is wrong.
    pub problem: BindProblem,
    /// What the kernel said.
    pub source: io::Error,
}

impl BindError {
    fn new(protocol: Protocol, address: SocketAddr, step: &'static str, source: io::Error) -> Self {
        let problem = match source.raw_os_error() {
            Some(libc::EADDRINUSE) => BindProblem::InUse,
            Some(libc::EACCES) => BindProblem::Privileged,
            Some(libc::EADDRNOTAVAIL) => BindProblem::NotLocal,
            Some(libc::EAFNOSUPPORT) => BindProblem::FamilyDisabled,
            Some(libc::EMFILE | libc::ENFILE) => BindProblem::FileDescriptors,
            _ => BindProblem::Other,
        };
        Self {
            protocol,
            address,
            step,
            problem,
            source,
        }
    }

    /// What to do about it, in plain words; empty when nothing better is known than the error.
    pub fn hint(&self) -> String {
        let port = self.address.port();
        let tool = match self.protocol {
            Protocol::Udp => "ss -lunp",
            Protocol::Tcp | Protocol::Tls => "ss -ltnp",
        };
        match self.problem {
            BindProblem::InUse => format!(
                "another program has this port, perhaps a server that still runs; \
                 `{tool} 'sport = :{port}'` shows which. Stop it or choose another port"
            ),
            BindProblem::Privileged => format!(
                "ports below 1024 need the capability CAP_NET_BIND_SERVICE \
                 (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), or a port from 1024 on \
                 instead of {port}"
            ),
            BindProblem::NotLocal => format!(
                "no interface of this host has {}; `ip address` lists those it has. Behind a \
                 1:1 NAT listen on the private address",
                self.address.ip()
            ),
            BindProblem::FamilyDisabled => format!(
                "{} is switched off here: remove this listener or enable it",
                if self.address.is_ipv6() {
                    "IPv6"
                } else {
                    "IPv4"
                }
            ),
            BindProblem::FileDescriptors => {
                "raise the limit of open files (`ulimit -n`, systemd: LimitNOFILE=)".to_owned()
            }
            BindProblem::NoCertificate => {
                "give this listener `certificate` and `key`, or make it `tcp`".to_owned()
            }
            BindProblem::Other => String::new(),
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            address,
            step,
            source,
            ..
        } = self;
        write!(f, "{protocol} {address}: could not {step}: {source}")?;
        match self.hint() {
            hint if hint.is_empty() => Ok(()),
            hint => write!(f, " ({hint})"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Opens every listener of `config` once per shard. Also raises the soft limit of file
/// descriptors to the hard one.
///
/// The first socket of an address is bound without SO_REUSEPORT, so that an address which
/// another server has is refused: with SO_REUSEPORT the kernel would quietly share the flows
/// out between the two. Up to 2 seconds are given to a server that just ended to give its
/// addresses back.
///
/// # Errors
/// The first listener that cannot be opened, with the reason and a hint.
pub fn bind(config: NetConfig) -> Result<Bound, BindError> {
    bind_patiently(config, &mut Patience::default())
}

/// As [`bind`], for a server that opens other addresses, too, and waits for all of them together.
///
/// # Errors
/// As [`bind`].
pub fn bind_patiently(config: NetConfig, patience: &mut Patience) -> Result<Bound, BindError> {
    let fd_limit = sys::raise_fd_limit().unwrap_or(1024);
    let threads = match config.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let mut shards: Vec<ShardSockets> = Vec::new();
    shards.resize_with(threads, ShardSockets::default);
    let mut addresses = Vec::with_capacity(config.listeners.len());
    let mut smallest = usize::MAX;
    for listener in &config.listeners {
        let mut address = listener.address;
        for (index, shard) in shards.iter_mut().enumerate() {
            let opener = Opener { listener, address };
            let socket = opener.open_patiently(index == 0, config.receive_buffer, patience)?;
            // Port 0 has become a port now, which the other shards share.
            address = opener.local(&socket)?;
            match listener.protocol {
                Protocol::Udp => {
                    smallest = smallest.min(socket.recv_buffer_size().unwrap_or(0));
                    let service = listener.service;
                    shard.udp.push(UdpListener {
                        socket,
                        address,
                        service,
                    });
                }
                protocol => shard.streams.push(StreamListener {
                    socket,
                    address,
                    protocol,
                    tls: listener.tls.clone(),
                }),
            }
        }
        addresses.push(BoundAddress {
            protocol: listener.protocol,
            address,
            service: listener.service,
        });
    }
    Ok(Bound {
        shards,
        addresses,
        streams: config.streams,
        relay_buffer: config.relay_buffer,
        pin: config.pin,
        data_path: config.data_path,
        segmentation: config.segmentation,
        fd_limit,
        receive_buffer: if smallest == usize::MAX { 0 } else { smallest },
    })
}

struct Opener<'a> {
    listener: &'a ListenerConfig,
    address: SocketAddr,
}

impl Opener<'_> {
    fn error(&self, step: &'static str) -> impl FnOnce(io::Error) -> BindError {
        let (protocol, address) = (self.listener.protocol, self.listener.address);
        move |source| BindError::new(protocol, address, step, source)
    }

    fn open_patiently(
        &self,
        first: bool,
        receive_buffer: usize,
        patience: &mut Patience,
    ) -> Result<Socket, BindError> {
        loop {
            match self.open(first, receive_buffer) {
                Err(error)
                    if error.problem == BindProblem::InUse
                        && patience.wait(self.listener.protocol, self.address) => {}
                opened => return opened,
            }
        }
    }

    fn open(&self, first: bool, receive_buffer: usize) -> Result<Socket, BindError> {
        let (kind, protocol) = match self.listener.protocol {
            Protocol::Udp => (Type::DGRAM, IpProtocol::UDP),
            Protocol::Tcp | Protocol::Tls => (Type::STREAM, IpProtocol::TCP),
        };
        if self.listener.protocol == Protocol::Tls && self.listener.tls.is_none() {
            let mut error = self.error("serve TLS")(io::ErrorKind::InvalidInput.into());
            error.problem = BindProblem::NoCertificate;
            return Err(error);
        }
        let socket = Socket::new(
            Domain::for_address(self.address),
            kind.nonblocking().cloexec(),
            Some(protocol),
        )
        .map_err(self.error("open a socket"))?;
        if self.address.is_ipv6() {
            socket
                .set_only_v6(true)
                .map_err(self.error("set IPV6_V6ONLY"))?;
        }
        match self.listener.protocol {
            Protocol::Udp => self.prepare_udp(&socket, receive_buffer)?,
            // So that connections of an earlier run in TIME_WAIT do not hold the port; a
            // listening socket still does.
            Protocol::Tcp | Protocol::Tls => socket
                .set_reuse_address(true)
                .map_err(self.error("set SO_REUSEADDR"))?,
        }
        if !first {
            self.share(&socket)?;
        }
        socket
            .bind(&self.address.into())
            .map_err(self.error("bind"))?;
        if first {
            // From now on the other shards may join; no window was left to anybody else's
            // socket without it.
            self.share(&socket)?;
        }
        if self.listener.protocol != Protocol::Udp {
            // Accepted connections inherit these.
            socket
                .set_tcp_nodelay(true)
                .map_err(self.error("set TCP_NODELAY"))?;
            // What is lost of the few packets that a call has under way comes again after the same
            // time, and not after twice the time before.
            let _ = socket.set_tcp_thin_linear_timeouts(true);
            let _ = socket.set_tcp_notsent_lowat(NOT_SENT_LIMIT);
            let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
            socket.listen(BACKLOG).map_err(self.error("listen"))?;
        }
        Ok(socket)
    }

    fn share(&self, socket: &Socket) -> Result<(), BindError> {
        socket
            .set_reuse_port(true)
            .map_err(self.error("set SO_REUSEPORT"))
    }

    fn prepare_udp(&self, socket: &Socket, receive_buffer: usize) -> Result<(), BindError> {
        // RFC 8489 section 6.3.1.2: the reply leaves from the address that was reached. On a
        // wildcard socket only packet info tells which one that was.
        if self.address.ip().is_unspecified() {
            let (level, name) = match self.address {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            };
            sys::set_option(socket.as_fd(), level, name, 1)
                .map_err(self.error("ask for packet info"))?;
        }
        never_fragment_bit(socket.as_fd(), self.address.is_ipv6());
        tell_arrival(socket.as_fd());
        buffer_both(socket.as_fd(), receive_buffer);
        Ok(())
    }

    fn local(&self, socket: &Socket) -> Result<SocketAddr, BindError> {
        let unknown = || io::Error::from(io::ErrorKind::InvalidData);
        socket
            .local_addr()
            .and_then(|address| address.as_socket().ok_or_else(unknown))
            .map_err(self.error("read the address back"))
    }
}

/// Sends without the DF bit and without path MTU discovery (the kernel's default sets DF): what
/// is relayed may be fragmented unless the client says otherwise (RFC 8656 section 14), and a
/// forged "fragmentation needed" cannot shrink anything.
pub(super) fn never_fragment_bit(fd: BorrowedFd<'_>, ipv6: bool) {
    let _ = set_mtu_discovery(fd, ipv6, false);
}

/// Switches path MTU discovery, and with it DF, on or off.
pub(super) fn set_mtu_discovery(fd: BorrowedFd<'_>, ipv6: bool, on: bool) -> io::Result<()> {
    let (level, name, value) = match (ipv6, on) {
        (false, false) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        ),
        (false, true) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        (true, false) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        ),
        (true, true) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    sys::set_option(fd, level, name, value)
}

/// Asks for equal datagrams of one sender that came together as one. Where the kernel cannot do
/// that, each comes for itself.
pub(super) fn merge(fd: BorrowedFd<'_>) {
    let _ = sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
}

/// Asks to be told when each datagram came, which shows how long it has waited. Where the kernel
/// does not tell, only that is missing.
pub(super) fn tell_arrival(fd: BorrowedFd<'_>) {
    let _ = sys::set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
}

/// Asks for a receive buffer: beyond the system's limit when that is allowed, else as much as
/// the limit gives. Small buffers lose packets at every short stall.
pub(super) fn receive_buffer(fd: BorrowedFd<'_>, bytes: usize) {
    buffer(fd, bytes, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
}

/// A listener answers all clients through one socket, so it gets room to send, too.
fn buffer_both(fd: BorrowedFd<'_>, bytes: usize) {
    receive_buffer(fd, bytes);
    buffer(fd, bytes, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF);
}

fn buffer(fd: BorrowedFd<'_>, bytes: usize, force: i32, ask: i32) {
    let bytes = bytes.min(i32::MAX as usize) as i32;
    if sys::set_option(fd, libc::SOL_SOCKET, force, bytes).is_err() {
        let _ = sys::set_option(fd, libc::SOL_SOCKET, ask, bytes);
    }
}
