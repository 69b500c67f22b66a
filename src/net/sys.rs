//! The one room for `unsafe`: the system calls that neither std nor socket2 offers, each behind
//! a safe function. Nothing here decides anything; policy lives with the callers.
//!
//! Linux only.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, c_uint, c_void, socklen_t};

use crate::proto::IcmpError;

/// Turns the -1 of a system call into the error it stands for.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Sets an integer socket option.
pub(super) fn set_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            mem::size_of::<c_int>() as socklen_t,
        )
    })
    .map(drop)
}

/// A new eventfd, non-blocking: what wakes a sleeping shard.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are involved.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the kernel just gave us this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Raises the soft limit of file descriptors to the hard one and returns what it is now.
pub(super) fn raise_fd_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes of its type.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            rlim_max: limit.rlim_max,
        };
        // SAFETY: `raised` is valid for reads of its type.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            limit = raised;
        }
    }
    Ok(limit.rlim_cur)
}

/// The CPUs that this thread may run on, in ascending order.
pub(super) fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is a plain bit set, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is valid for writes of the given size.
    if unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) } != 0 {
        return Vec::new();
    }
    (0..libc::CPU_SETSIZE as usize)
        // SAFETY: `cpu` is below CPU_SETSIZE, the number of bits of the set.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect()
}

/// Lets this thread run on one CPU only. Failing is harmless and ignored by the caller.
pub(super) fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: as in `allowed_cpus`.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `cpu` was just checked against the number of bits of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is valid for reads of the given size.
    check(unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) }).map(drop)
}

/// Takes one connection off a listener's queue, non-blocking and close-on-exec.
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut name = Name::EMPTY;
    let mut len = mem::size_of::<Name>() as socklen_t;
    // SAFETY: the pointers describe `name` and `len`, which are valid for writes; the kernel
    // writes at most `len` bytes.
    let fd = check(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            ptr::from_mut(&mut name).cast(),
            &mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = name.get().ok_or(io::ErrorKind::InvalidData)?;
    Ok((fd, address))
}

/// Room for an IPv4 or IPv6 socket address, laid out as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    const EMPTY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// Stores an address and returns how many bytes of the name it takes.
    fn set(&mut self, address: &SocketAddr) -> socklen_t {
        match address {
            SocketAddr::V4(v4) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: in_addr(*v4.ip()),
                    sin_zero: [0; 8],
                };
                mem::size_of::<libc::sockaddr_in>() as socklen_t
            }
            SocketAddr::V6(v6) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: in6_addr(*v6.ip()),
                    sin6_scope_id: v6.scope_id(),
                };
                mem::size_of::<libc::sockaddr_in6>() as socklen_t
            }
        }
    }

    /// The address, IPv4-mapped ones as IPv4; `None` for another family.
    fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every variant begins with the family, and the whole union is always
        // initialised (it is created from EMPTY and only ever overwritten by the kernel).
        match c_int::from(unsafe { self.family }) {
            libc::AF_INET => {
                // SAFETY: any bits are valid for the integers of a sockaddr_in.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: any bits are valid for the integers of a sockaddr_in6.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(ip) => SocketAddrV4::new(ip, port).into(),
                    None => SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into(),
                })
            }
            _ => None,
        }
    }
}

fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(ip.octets()),
    }
}

fn in6_addr(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: ip.octets(),
    }
}

/// What readiness to watch a descriptor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interest(u32);

impl Interest {
    /// Errors and hang-ups only, which are always reported.
    pub(super) const NONE: Self = Self(0);
    /// Something to read, level-triggered.
    pub(super) const READ: Self = Self((libc::EPOLLIN | libc::EPOLLRDHUP) as u32);
    /// Room to write, level-triggered.
    pub(super) const WRITE: Self = Self(libc::EPOLLOUT as u32);
    /// Something to read or room to write, level-triggered.
    pub(super) const READ_WRITE: Self = Self(Self::READ.0 | Self::WRITE.0);
    /// Something new to read, edge-triggered.
    pub(super) const READ_EDGE: Self = Self((libc::EPOLLIN | libc::EPOLLET) as u32);
}

/// Readiness that was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness(u32);

impl Readiness {
    pub(super) const fn readable(self) -> bool {
        self.0 & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    pub(super) const fn writable(self) -> bool {
        self.0 & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    pub(super) const fn error(self) -> bool {
        self.0 & libc::EPOLLERR as u32 != 0
    }
}

/// An epoll instance with room for one round of events.
pub(super) struct Epoll {
    fd: OwnedFd,
    events: Box<[libc::epoll_event]>,
}

impl Epoll {
    /// An instance that reports at most `capacity` events a round.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self {
            // SAFETY: the kernel just gave us this descriptor and nobody else owns it.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; capacity].into(),
        })
    }

    fn control(
        &self,
        operation: c_int,
        fd: BorrowedFd<'_>,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.0,
            u64: token,
        };
        // SAFETY: `event` is valid for reads during the call.
        check(unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &mut event)
        })
        .map(drop)
    }

    /// Watches a descriptor; closing it ends that.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what a descriptor is watched for.
    pub(super) fn modify(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Sleeps for at most `timeout_ms` (-1: for ever) and returns how many events there are.
    /// An interrupted sleep is no event.
    pub(super) fn wait(&mut self, timeout_ms: c_int) -> io::Result<usize> {
        // SAFETY: the pointer and the length describe `events`, valid for writes.
        let result = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as c_int,
                timeout_ms,
            )
        };
        match check(result) {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// One event of the last round.
    pub(super) fn event(&self, index: usize) -> (u64, Readiness) {
        let event = self.events[index];
        (event.u64, Readiness(event.events))
    }
}

/// Bytes for the control messages of one datagram, aligned as `cmsghdr` needs it. Packet info
/// of IPv6 takes 40 bytes, an extended error with its offender 64.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 128]);

impl Control {
    const EMPTY: Self = Self([0; 128]);
}

/// What the kernel says about one received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// Its length in bytes.
    pub(super) len: usize,
    /// Who sent it.
    pub(super) source: SocketAddr,
    /// The address it was sent to, when the socket asks for packet info. `Some(None)`: it was
    /// sent to a broadcast or multicast address, from which nothing can be answered.
    pub(super) local: Option<Option<IpAddr>>,
}

struct Headers {
    messages: Box<[libc::mmsghdr]>,
    parts: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
}

impl Headers {
    fn new(count: usize) -> Self {
        // SAFETY: an mmsghdr of zeroes has null pointers and zero lengths, which is valid.
        let message: libc::mmsghdr = unsafe { mem::zeroed() };
        let part = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            messages: vec![message; count].into(),
            parts: vec![part; count].into(),
            names: vec![Name::EMPTY; count].into(),
            controls: vec![Control::EMPTY; count].into(),
        }
    }
}

/// Receives datagrams in batches into equal slots of the caller's memory.
pub(super) struct Receiver {
    headers: Headers,
    stride: usize,
    head: usize,
    size: usize,
}

impl Receiver {
    /// `count` slots of `stride` bytes each; a datagram of up to `size` bytes is put `head`
    /// bytes into its slot.
    pub(super) fn new(count: usize, stride: usize, head: usize, size: usize) -> Self {
        assert!(head + size <= stride, "a slot holds its datagram");
        Self {
            headers: Headers::new(count),
            stride,
            head,
            size,
        }
    }

    /// Receives up to `count` datagrams into the slots from `first` on, without blocking, and
    /// returns how many there were.
    ///
    /// # Panics
    /// When a slot lies outside `memory`.
    pub(super) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        memory: &mut [u8],
        first: usize,
        count: usize,
    ) -> io::Result<usize> {
        let slots = &mut memory[first * self.stride..(first + count) * self.stride];
        let messages = &mut self.headers.messages[first..first + count];
        let parts = &mut self.headers.parts[first..first + count];
        let names = &mut self.headers.names[first..first + count];
        let controls = &mut self.headers.controls[first..first + count];
        for (index, slot) in slots.chunks_exact_mut(self.stride).enumerate() {
            parts[index] = libc::iovec {
                iov_base: slot[self.head..].as_mut_ptr().cast(),
                iov_len: self.size,
            };
            let header = &mut messages[index].msg_hdr;
            header.msg_name = ptr::from_mut(&mut names[index]).cast();
            header.msg_namelen = mem::size_of::<Name>() as socklen_t;
            header.msg_iov = &mut parts[index];
            header.msg_iovlen = 1;
            header.msg_control = ptr::from_mut(&mut controls[index]).cast();
            header.msg_controllen = mem::size_of::<Control>() as _;
        }
        // SAFETY: all `count` headers were just filled with pointers into `slots`, `parts`,
        // `names` and `controls`, each with its true length, and all of them are exclusively
        // borrowed until the call is over.
        let received = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                count as c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        check(received).map(|received| received as usize)
    }

    /// What is known of the datagram in `slot` after [`Receiver::receive`]; `None` when its
    /// source is of an unknown family.
    pub(super) fn received(&self, slot: usize) -> Option<Received> {
        let message = &self.headers.messages[slot];
        let mut local = None;
        if message.msg_hdr.msg_controllen > 0 {
            let control = &self.headers.controls[slot];
            each_control(
                control,
                message.msg_hdr.msg_controllen,
                |level, kind, data| {
                    if let Some(found) = packet_info(level, kind, data) {
                        local = Some(found);
                    }
                },
            );
        }
        Some(Received {
            len: message.msg_len as usize,
            source: self.headers.names[slot].get()?,
            local,
        })
    }
}

/// Calls `visit` with level, type and data of each control message in the first `len` bytes.
fn each_control(control: &Control, len: usize, mut visit: impl FnMut(c_int, c_int, &[u8])) {
    const HEADER: usize = mem::size_of::<libc::cmsghdr>();
    let mut rest = &control.0[..len.min(control.0.len())];
    while rest.len() >= HEADER {
        // SAFETY: `rest` has at least the bytes of a header, and any bits are valid for its
        // integers; `read_unaligned` asks nothing of the alignment.
        let header: libc::cmsghdr = unsafe { ptr::read_unaligned(rest.as_ptr().cast()) };
        let total = header.cmsg_len as usize;
        if total < HEADER || total > rest.len() {
            return;
        }
        visit(header.cmsg_level, header.cmsg_type, &rest[HEADER..total]);
        rest = &rest[total
            .next_multiple_of(mem::align_of::<libc::cmsghdr>())
            .min(rest.len())..];
    }
}

/// The destination address in a packet-info control message.
fn packet_info(level: c_int, kind: c_int, data: &[u8]) -> Option<Option<IpAddr>> {
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let info: libc::in_pktinfo = read(data)?;
            // For a broadcast the kernel names another address to answer from than the one in
            // the header.
            let unicast = info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr;
            let ip = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
            Some(unicast.then_some(IpAddr::V4(ip)))
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let info: libc::in6_pktinfo = read(data)?;
            let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            Some((!ip.is_multicast()).then_some(IpAddr::V6(ip)))
        }
        _ => None,
    }
}

/// Plain structures that the kernel fills: any bits are a valid value.
trait Plain: Copy {}
impl Plain for libc::in_pktinfo {}
impl Plain for libc::in6_pktinfo {}
impl Plain for libc::sock_extended_err {}

fn read<T: Plain>(data: &[u8]) -> Option<T> {
    if data.len() < mem::size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, any bits are valid for a `Plain` type, and
    // `read_unaligned` asks nothing of the alignment.
    Some(unsafe { ptr::read_unaligned(data.as_ptr().cast()) })
}

/// One datagram to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    /// The whole payload.
    pub(super) bytes: &'a [u8],
    /// Where to.
    pub(super) to: &'a SocketAddr,
    /// The address to leave from, on a socket that is bound to the wildcard address.
    pub(super) from: Option<IpAddr>,
}

/// Sends datagrams of one socket in batches.
pub(super) struct Sender {
    headers: Headers,
}

/// A batch that is ready to be sent, from any of its datagrams on.
pub(super) struct Batch<'s, 'm> {
    headers: &'s mut Headers,
    len: usize,
    bytes: PhantomData<&'m [u8]>,
}

impl Sender {
    /// Batches of up to `count` datagrams.
    pub(super) fn new(count: usize) -> Self {
        Self {
            headers: Headers::new(count),
        }
    }

    /// Makes a batch of as many datagrams as fit.
    pub(super) fn batch<'s, 'm>(
        &'s mut self,
        datagrams: impl Iterator<Item = Outgoing<'m>>,
    ) -> Batch<'s, 'm> {
        let headers = &mut self.headers;
        let mut len = 0;
        for (index, datagram) in datagrams.take(headers.messages.len()).enumerate() {
            headers.parts[index] = libc::iovec {
                iov_base: datagram.bytes.as_ptr().cast_mut().cast(),
                iov_len: datagram.bytes.len(),
            };
            let name_len = headers.names[index].set(datagram.to);
            let control_len = match datagram.from {
                Some(ip) => write_packet_info(&mut headers.controls[index], ip, datagram.to),
                None => 0,
            };
            let header = &mut headers.messages[index].msg_hdr;
            header.msg_namelen = name_len;
            header.msg_controllen = control_len as _;
            len = index + 1;
        }
        Batch {
            headers,
            len,
            bytes: PhantomData,
        }
    }
}

impl Batch<'_, '_> {
    /// How many datagrams the batch has.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Sends the datagrams from `first` on without blocking and returns how many went out: at
    /// least one. An error is about datagram `first`.
    pub(super) fn send(&mut self, fd: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        let messages = &mut self.headers.messages[first..self.len];
        let parts = &mut self.headers.parts[first..self.len];
        let names = &mut self.headers.names[first..self.len];
        let controls = &mut self.headers.controls[first..self.len];
        for (index, message) in messages.iter_mut().enumerate() {
            let header = &mut message.msg_hdr;
            header.msg_name = ptr::from_mut(&mut names[index]).cast();
            header.msg_iov = &mut parts[index];
            header.msg_iovlen = 1;
            header.msg_control = if header.msg_controllen > 0 {
                ptr::from_mut(&mut controls[index]).cast()
            } else {
                ptr::null_mut()
            };
        }
        // SAFETY: the headers point into `parts`, `names` and `controls`, which are borrowed
        // until the call is over, and to payloads that outlive the batch ('m); the kernel only
        // reads all but `msg_len`.
        let sent = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        check(sent).map(|sent| sent as usize)
    }
}

/// Sends one datagram without blocking.
pub(super) fn send_to(fd: BorrowedFd<'_>, bytes: &[u8], to: &SocketAddr) -> io::Result<()> {
    let mut name = Name::EMPTY;
    let len = name.set(to);
    // SAFETY: the pointers and lengths describe `bytes` and `name`, both valid for reads.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            ptr::from_ref(&name).cast(),
            len,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Writes the control message that makes a datagram leave from `ip`; returns its length.
fn write_packet_info(control: &mut Control, ip: IpAddr, to: &SocketAddr) -> usize {
    const HEADER: usize = mem::size_of::<libc::cmsghdr>();
    fn put<T: Plain>(control: &mut Control, level: c_int, kind: c_int, data: T) -> usize {
        let len = HEADER + mem::size_of::<T>();
        // SAFETY: a cmsghdr of zeroes is valid; this also covers padding of other libcs.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = len as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        assert!(len <= control.0.len(), "packet info fits");
        let start = control.0.as_mut_ptr();
        // SAFETY: the header and the data fit, as just checked; `write_unaligned` asks nothing
        // of the alignment.
        unsafe {
            ptr::write_unaligned(start.cast(), header);
            ptr::write_unaligned(start.add(HEADER).cast(), data);
        }
        len.next_multiple_of(mem::align_of::<libc::cmsghdr>())
    }
    match ip {
        IpAddr::V4(ip) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr(ip),
                ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
            };
            put(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(ip) => {
            // A link-local source is only one together with its interface.
            let scope = match to {
                SocketAddr::V6(to) if ip.is_unicast_link_local() => to.scope_id(),
                _ => 0,
            };
            let info = libc::in6_pktinfo {
                ipi6_addr: in6_addr(ip),
                ipi6_ifindex: scope as _,
            };
            put(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

/// An entry of a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueuedError {
    /// The network reported by ICMP or ICMPv6.
    Icmp(IcmpError),
    /// The host itself refused.
    Local,
}

/// Takes one entry off the error queue of a socket; `None` when there is none.
pub(super) fn queued_error(fd: BorrowedFd<'_>) -> io::Result<Option<QueuedError>> {
    let mut name = Name::EMPTY;
    let mut control = Control::EMPTY;
    // SAFETY: a msghdr of zeroes has null pointers and zero lengths, which is valid.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = ptr::from_mut(&mut name).cast::<c_void>();
    header.msg_namelen = mem::size_of::<Name>() as socklen_t;
    header.msg_control = ptr::from_mut(&mut control).cast();
    header.msg_controllen = mem::size_of::<Control>() as _;
    // SAFETY: the header points to `name` and `control` with their true lengths, both valid
    // for writes; there is no room for payload, which is then discarded.
    let result = unsafe {
        libc::recvmsg(
            fd.as_raw_fd(),
            &mut header,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        };
    }
    let mut found = QueuedError::Local;
    each_control(&control, header.msg_controllen, |level, kind, data| {
        let ours = matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        let error = ours
            .then(|| read::<libc::sock_extended_err>(data))
            .flatten();
        let (Some(error), Some(destination)) = (error, name.get()) else {
            return;
        };
        let icmp = matches!(
            error.ee_origin,
            libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6
        );
        if icmp {
            found = QueuedError::Icmp(IcmpError {
                destination,
                icmp_type: error.ee_type,
                code: error.ee_code,
                data: error.ee_info,
            });
        }
    });
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_way_to_the_kernel_and_back() {
        let mut name = Name::EMPTY;
        for text in ["192.0.2.1:3478", "[2001:db8::7]:1", "[fe80::1%3]:65535"] {
            let address: SocketAddr = text.parse().expect("an address");
            name.set(&address);
            assert_eq!(name.get(), Some(address));
        }
    }

    #[test]
    fn mapped_addresses_are_unmapped() {
        let mut name = Name::EMPTY;
        name.set(&"[::ffff:192.0.2.1]:9".parse().expect("an address"));
        assert_eq!(name.get(), Some("192.0.2.1:9".parse().expect("an address")));
    }

    #[test]
    fn packet_info_is_written_as_it_is_read() {
        let to: SocketAddr = "[2001:db8::1]:1".parse().expect("an address");
        for ip in ["::1", "2001:db8::9"] {
            let ip: IpAddr = ip.parse().expect("an address");
            let mut control = Control::EMPTY;
            let len = write_packet_info(&mut control, ip, &to);
            let mut seen = Vec::new();
            each_control(&control, len, |level, kind, data| {
                seen.push(packet_info(level, kind, data));
            });
            assert_eq!(seen, [Some(Some(ip))]);
        }
    }

    #[test]
    fn a_control_message_that_lies_about_its_length_ends_the_walk() {
        for lie in [0_usize, 1, 15, 129, usize::MAX] {
            let mut control = Control::EMPTY;
            control.0[..mem::size_of::<usize>()].copy_from_slice(&lie.to_ne_bytes());
            each_control(&control, 128, |_, _, _| panic!("not a control message"));
        }
    }
}
