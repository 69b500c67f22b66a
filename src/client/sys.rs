//! Datagrams in batches, one system call for many: what a load generator lives from and neither
//! std nor socket2 offers. Everything unsafe of this room is here, behind safe functions.
//!
//! It shares no line with the server's socket code: the two ends must not share a bug.
#![allow(unsafe_code)]

mod control;

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uint, socklen_t};

use control::{each_control, read_destination, read_segment};

/// Room for an IPv4 or IPv6 socket address.
type Name = libc::sockaddr_in6;
/// Room for one control message: packet info of IPv6 takes 40 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

const CONTROL_HEADER: usize = mem::size_of::<libc::cmsghdr>();

/// Equal slots for datagrams, with the headers that describe them to the kernel.
struct Slots {
    memory: Box<[u8]>,
    size: usize,
    messages: Box<[libc::mmsghdr]>,
    parts: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
}

// SAFETY: the raw pointers in `messages` and `parts` are only ever read by the kernel, right
// after `point` has set them to this value's own memory, under an exclusive borrow.
unsafe impl Send for Slots {}

impl Slots {
    fn new(count: usize, size: usize) -> Self {
        // SAFETY: an mmsghdr of zeroes has null pointers and zero lengths, which is valid.
        let message: libc::mmsghdr = unsafe { mem::zeroed() };
        // SAFETY: a sockaddr_in6 is integers only, for which zeroes are valid.
        let name: Name = unsafe { mem::zeroed() };
        let part = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            memory: vec![0; count * size].into(),
            size,
            messages: vec![message; count].into(),
            parts: vec![part; count].into(),
            names: vec![name; count].into(),
            controls: vec![Control([0; 64]); count].into(),
        }
    }

    fn slot(&mut self, index: usize) -> &mut [u8] {
        &mut self.memory[index * self.size..(index + 1) * self.size]
    }

    /// Points header `index` at its slot: `len` bytes of data, a name and a control message of
    /// these lengths, which are 0 for none.
    fn point(&mut self, index: usize, len: usize, name_len: usize, control_len: usize) {
        let slot = &mut self.memory[index * self.size..(index + 1) * self.size];
        assert!(
            name_len <= mem::size_of::<Name>() && control_len <= mem::size_of::<Control>(),
            "names and control messages have their room"
        );
        self.parts[index] = libc::iovec {
            iov_base: slot[..len].as_mut_ptr().cast(),
            iov_len: len,
        };
        let header = &mut self.messages[index].msg_hdr;
        header.msg_name = match name_len {
            0 => ptr::null_mut(),
            _ => ptr::from_mut(&mut self.names[index]).cast(),
        };
        header.msg_namelen = name_len as socklen_t;
        header.msg_iov = &mut self.parts[index];
        header.msg_iovlen = 1;
        header.msg_control = match control_len {
            0 => ptr::null_mut(),
            _ => ptr::from_mut(&mut self.controls[index]).cast(),
        };
        header.msg_controllen = control_len as _;
        header.msg_flags = 0;
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Datagrams that the kernel took.
    pub sent: usize,
    /// Datagrams that it did not take: no room in the socket's buffer, no route, a firewall.
    pub refused: usize,
    /// The error number of the last refusal.
    pub error: Option<i32>,
}

/// Collects datagrams and sends them together.
pub struct Sender {
    slots: Slots,
    filled: usize,
}

impl Sender {
    /// Batches of up to `count` datagrams of up to `size` bytes.
    ///
    /// # Panics
    /// When `count` or `size` is zero.
    pub fn new(count: usize, size: usize) -> Self {
        assert!(count > 0 && size > 0, "a batch has room");
        Self {
            slots: Slots::new(count, size),
            filled: 0,
        }
    }

    /// Datagrams that wait for [`Sender::flush`].
    pub const fn waiting(&self) -> usize {
        self.filled
    }

    /// Whether the batch takes no more.
    pub fn is_full(&self) -> bool {
        self.filled == self.slots.messages.len()
    }

    /// The room for the next datagram.
    ///
    /// # Panics
    /// When the batch is full.
    pub fn slot(&mut self) -> &mut [u8] {
        assert!(!self.is_full(), "a full batch is flushed first");
        self.slots.slot(self.filled)
    }

    /// Adds the first `len` bytes of the slot: to an address, or without one on a connected
    /// socket, and from one of this machine's addresses, or from that of the socket.
    ///
    /// # Panics
    /// When the batch is full or the slot is shorter than `len`.
    pub fn commit(&mut self, len: usize, to: Option<&SocketAddr>, from: Option<IpAddr>) {
        let index = self.filled;
        let name_len = to.map_or(0, |to| write_name(&mut self.slots.names[index], to));
        let control_len = from.map_or(0, |ip| write_source(&mut self.slots.controls[index], ip));
        self.slots.point(index, len, name_len, control_len);
        self.filled = index + 1;
    }

    /// Sends all that was added, without blocking. A datagram that is refused does not keep the
    /// next ones from being tried, unless the socket's buffer is full.
    pub fn flush(&mut self, socket: impl AsFd) -> Flushed {
        let mut done = Flushed::default();
        let mut first = 0;
        while first < self.filled {
            let messages = &mut self.slots.messages[first..self.filled];
            // SAFETY: `commit` pointed each of these headers into `slots`, whose boxes have
            // not moved since and are exclusively borrowed until the call is over.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_fd().as_raw_fd(),
                    messages.as_mut_ptr(),
                    messages.len() as c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            };
            if let Ok(sent) = usize::try_from(sent) {
                done.sent += sent;
                first += sent;
                continue;
            }
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            done.error = error.raw_os_error();
            let refused = match error.kind() {
                io::ErrorKind::WouldBlock => self.filled - first,
                _ => 1,
            };
            done.refused += refused;
            first += refused;
        }
        self.filled = 0;
        done
    }
}

/// One received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its bytes; fewer than were sent when `truncated`. On a socket that coalesces they may be
    /// those of several, see [`Datagram::segments`].
    pub bytes: &'a [u8],
    /// Who sent it.
    pub source: Option<SocketAddr>,
    /// The address it was sent to, on a socket with packet info.
    pub local: Option<IpAddr>,
    /// It was longer than a slot.
    pub truncated: bool,
    /// On a socket that coalesces: it is so many bytes each of several datagrams of one sender,
    /// of which the last one may be shorter. Else 0.
    segment: usize,
}

impl<'a> Datagram<'a> {
    /// The bytes of each datagram.
    pub fn segments(&self) -> impl Iterator<Item = &'a [u8]> {
        let whole = (self.segment == 0).then_some(self.bytes);
        let parts = match self.segment {
            0 => [].chunks(1),
            size => self.bytes.chunks(size),
        };
        whole.into_iter().chain(parts)
    }
}

/// Receives datagrams together.
pub struct Receiver {
    slots: Slots,
}

impl Receiver {
    /// Batches of up to `count` datagrams of up to `size` bytes.
    ///
    /// # Panics
    /// When `count` or `size` is zero.
    pub fn new(count: usize, size: usize) -> Self {
        assert!(count > 0 && size > 0, "a batch has room");
        Self {
            slots: Slots::new(count, size),
        }
    }

    /// How many datagrams a batch has at most.
    pub fn capacity(&self) -> usize {
        self.slots.messages.len()
    }

    /// Receives what is there, without blocking, in place of the last batch; returns how many
    /// datagrams that are, 0 for none.
    ///
    /// # Errors
    /// What the kernel says, as an ICMP error that arrived for a connected socket.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let count = self.capacity();
        for index in 0..count {
            let size = self.slots.size;
            let (name, control) = (mem::size_of::<Name>(), mem::size_of::<Control>());
            self.slots.point(index, size, name, control);
        }
        // SAFETY: all headers were just pointed into `slots`, with the true lengths, and it is
        // exclusively borrowed until the call is over.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.slots.messages.as_mut_ptr(),
                count as c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        if let Ok(received) = usize::try_from(received) {
            return Ok(received);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
            _ => Err(error),
        }
    }

    /// Datagram `index` of the last batch.
    ///
    /// # Panics
    /// When `index` is not below [`Receiver::capacity`].
    pub fn datagram(&self, index: usize) -> Datagram<'_> {
        let message = &self.slots.messages[index];
        let len = (message.msg_len as usize).min(self.slots.size);
        let start = index * self.slots.size;
        #[allow(clippy::unnecessary_cast, reason = "another type with other libcs")]
        let control_len = (message.msg_hdr.msg_controllen as usize).min(64);
        let control = &self.slots.controls[index].0[..control_len];
        Datagram {
            bytes: &self.slots.memory[start..start + len],
            source: read_name(&self.slots.names[index]),
            local: each_control(control).find_map(read_destination),
            segment: each_control(control).find_map(read_segment).unwrap_or(0),
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }
    }
}

/// How many datagrams the kernel dropped because this socket's receive buffer was full.
///
/// # Errors
/// On kernels before 4.12, which do not tell.
pub fn receive_drops(socket: impl AsFd) -> io::Result<u32> {
    // include/uapi/linux/sock_diag.h: nine numbers, the last one are the drops.
    let mut numbers = [0_u32; 9];
    let mut len = mem::size_of_val(&numbers) as socklen_t;
    // SAFETY: the pointers describe `numbers` and `len`, valid for writes of these lengths.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &mut len,
        )
    };
    match result {
        0 => Ok(numbers[8]),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the kernel tell where each datagram was sent to.
///
/// # Errors
/// What the kernel says.
pub(super) fn enable_packet_info(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, name) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    set_option(socket, level, name, 1)
}

/// Makes the kernel hand out equal datagrams of one sender that come together as one (UDP_GRO).
///
/// # Errors
/// What the kernel says, before Linux 5.0.
pub(super) fn enable_coalescing(socket: impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Asks for a receive buffer that may exceed the system's limit, which takes privileges.
///
/// # Errors
/// What the kernel says.
pub(super) fn force_receive_buffer(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

fn set_option(socket: impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            mem::size_of::<c_int>() as socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Since when something that was sent over TCP waits for an answer of the peer's kernel, at the
/// longest: since its last answer of any kind. `None` when nothing waits.
pub(super) fn unanswered(stream: &impl AsFd) -> io::Result<Option<Duration>> {
    // SAFETY: a tcp_info of zeroes is valid.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = mem::size_of::<libc::tcp_info>() as socklen_t;
    // SAFETY: `info` is borrowed for the call alone, and `len` is its size.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            ptr::from_mut(&mut info).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let waits = info.tcpi_unacked > 0 || info.tcpi_probes > 0;
    Ok(waits.then(|| Duration::from_millis(info.tcpi_last_ack_recv.into())))
}

/// Stores an address as the kernel wants it; returns how many bytes it takes.
fn write_name(name: &mut Name, address: &SocketAddr) -> usize {
    match address {
        SocketAddr::V4(v4) => {
            let stored = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_in is shorter than a sockaddr_in6 and aligned no stricter.
            unsafe {
                ptr::from_mut(name)
                    .cast::<libc::sockaddr_in>()
                    .write(stored)
            };
            mem::size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            *name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            mem::size_of::<Name>()
        }
    }
}

fn read_name(name: &Name) -> Option<SocketAddr> {
    match c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_in is shorter than a sockaddr_in6 and aligned no stricter, and
            // any bits are valid for its integers.
            let v4 = unsafe { ptr::from_ref(name).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Writes the control message that makes a datagram leave from `ip`; returns its length.
fn write_source(control: &mut Control, ip: IpAddr) -> usize {
    // SAFETY: a cmsghdr of zeroes is valid; this also covers the padding of other libcs.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    let mut data = [0; 20];
    // struct in_pktinfo: interface, source, (ignored) destination. struct in6_pktinfo: source,
    // interface.
    let len = match ip {
        IpAddr::V4(ip) => {
            (header.cmsg_level, header.cmsg_type) = (libc::IPPROTO_IP, libc::IP_PKTINFO);
            data[4..8].copy_from_slice(&ip.octets());
            mem::size_of::<libc::in_pktinfo>()
        }
        IpAddr::V6(ip) => {
            (header.cmsg_level, header.cmsg_type) = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO);
            data[..16].copy_from_slice(&ip.octets());
            mem::size_of::<libc::in6_pktinfo>()
        }
    };
    header.cmsg_len = (CONTROL_HEADER + len) as _;
    // SAFETY: a header and 20 bytes are less than a control message's room; `write_unaligned`
    // asks nothing of the alignment.
    unsafe { ptr::write_unaligned(control.0.as_mut_ptr().cast(), header) };
    control.0[CONTROL_HEADER..CONTROL_HEADER + len].copy_from_slice(&data[..len]);
    (CONTROL_HEADER + len).next_multiple_of(mem::align_of::<libc::cmsghdr>())
}

#[cfg(test)]
mod tests;
