//! Datagrams in batches.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_uint, socklen_t};

use super::check;
use super::control::{Control, arrival_time, each_control, packet_info, write_packet_info};
use super::name::Name;

/// What the kernel says about one received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) struct Received {
    /// Its length in bytes.
    pub(in crate::net) len: usize,
    /// Who sent it.
    pub(in crate::net) source: SocketAddr,
    /// The address it was sent to, when the socket asks for packet info. `Some(None)`: it was
    /// sent to a broadcast or multicast address, from which nothing can be answered.
    pub(in crate::net) local: Option<Option<IpAddr>>,
    /// When it came, in microseconds of Unix time, when the socket asks for it.
    pub(in crate::net) arrived: Option<u64>,
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
pub(in crate::net) struct Receiver {
    headers: Headers,
    stride: usize,
    head: usize,
    size: usize,
}

impl Receiver {
    /// `count` slots of `stride` bytes each; a datagram of up to `size` bytes is put `head`
    /// bytes into its slot.
    pub(in crate::net) fn new(count: usize, stride: usize, head: usize, size: usize) -> Self {
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
    pub(in crate::net) fn receive(
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
    pub(in crate::net) fn received(&self, slot: usize) -> Option<Received> {
        let message = &self.headers.messages[slot];
        let mut local = None;
        let mut arrived = None;
        if message.msg_hdr.msg_controllen > 0 {
            let control = self.headers.controls[slot].first(message.msg_hdr.msg_controllen);
            each_control(control, |level, kind, data| {
                if let Some(found) = packet_info(level, kind, data) {
                    local = Some(found);
                }
                arrived = arrived.or_else(|| arrival_time(level, kind, data));
            });
        }
        Some(Received {
            len: message.msg_len as usize,
            source: self.headers.names[slot].get()?,
            local,
            arrived,
        })
    }
}

/// One datagram to send.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Outgoing<'a> {
    /// The whole payload.
    pub(in crate::net) bytes: &'a [u8],
    /// Where to.
    pub(in crate::net) to: &'a SocketAddr,
    /// The address to leave from, on a socket that is bound to the wildcard address.
    pub(in crate::net) from: Option<IpAddr>,
}

/// Sends datagrams of one socket in batches.
pub(in crate::net) struct Sender {
    headers: Headers,
}

/// A batch that is ready to be sent, from any of its datagrams on.
pub(in crate::net) struct Batch<'s, 'm> {
    headers: &'s mut Headers,
    len: usize,
    bytes: PhantomData<&'m [u8]>,
}

impl Sender {
    /// Batches of up to `count` datagrams.
    pub(in crate::net) fn new(count: usize) -> Self {
        Self {
            headers: Headers::new(count),
        }
    }

    /// Makes a batch of as many datagrams as fit.
    pub(in crate::net) fn batch<'s, 'm>(
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
    pub(in crate::net) const fn len(&self) -> usize {
        self.len
    }

    /// Sends the datagrams from `first` on without blocking and returns how many went out: at
    /// least one. An error is about datagram `first`.
    pub(in crate::net) fn send(&mut self, fd: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
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
pub(in crate::net) fn send_to(fd: BorrowedFd<'_>, bytes: &[u8], to: &SocketAddr) -> io::Result<()> {
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
