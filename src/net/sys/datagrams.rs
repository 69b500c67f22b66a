//! Datagrams in batches.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_uint, socklen_t};

use super::check;
use super::control::{
    Control, SEGMENT, arrival_time, each_control, merged_size, packet_info, write_packet_info,
    write_segment,
};
use super::name::Name;
use super::segments::{Joined, Segments};

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
    /// When it is several datagrams of one sender that came as one: the size of each but the last,
    /// which may be shorter.
    pub(in crate::net) segment: Option<usize>,
}

impl Received {
    /// The size of each datagram but the last one: of the only one when it is one.
    pub(in crate::net) fn each(&self) -> usize {
        let size = self.segment.unwrap_or(self.len);
        if size == 0 {
            self.len
        } else {
            size.min(self.len)
        }
    }
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
        let mut segment = None;
        if message.msg_hdr.msg_controllen > 0 {
            let control = self.headers.controls[slot].first(message.msg_hdr.msg_controllen);
            each_control(control, |level, kind, data| {
                if let Some(found) = packet_info(level, kind, data) {
                    local = Some(found);
                }
                arrived = arrived.or_else(|| arrival_time(level, kind, data));
                segment = segment.or_else(|| merged_size(level, kind, data));
            });
        }
        Some(Received {
            len: message.msg_len as usize,
            source: self.headers.names[slot].get()?,
            local,
            arrived,
            segment,
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
    /// Which of them leave in one.
    pub(in crate::net) segments: Segments,
}

/// A batch that is ready to be sent, from any of its datagrams on.
pub(in crate::net) struct Batch<'s, 'm> {
    sender: &'s mut Sender,
    /// Messages and datagrams: a message has several datagrams when they leave in one.
    messages: usize,
    len: usize,
    /// The datagrams before this one leave one by one.
    apart: usize,
    bytes: PhantomData<&'m [u8]>,
}

impl Sender {
    /// Batches of up to `count` datagrams.
    pub(in crate::net) fn new(count: usize, segments: Segments) -> Self {
        Self {
            headers: Headers::new(count),
            segments,
        }
    }

    /// Makes a batch of as many datagrams as fit.
    pub(in crate::net) fn batch<'s, 'm>(
        &'s mut self,
        datagrams: impl Iterator<Item = Outgoing<'m>>,
    ) -> Batch<'s, 'm> {
        let headers = &mut self.headers;
        let (mut messages, mut len) = (0, 0);
        let mut before: Option<Outgoing<'_>> = None;
        for datagram in datagrams.take(headers.messages.len()) {
            headers.parts[len] = libc::iovec {
                iov_base: datagram.bytes.as_ptr().cast_mut().cast(),
                iov_len: datagram.bytes.len(),
            };
            len += 1;
            if let Some(before) = before
                && (before.to, before.from) == (datagram.to, datagram.from)
                && headers.join(messages - 1, len - 1, &mut self.segments)
            {
                continue;
            }
            let name_len = headers.names[messages].set(datagram.to);
            let control_len = match datagram.from {
                Some(ip) => write_packet_info(&mut headers.controls[messages], ip, datagram.to),
                None => 0,
            };
            let header = &mut headers.messages[messages].msg_hdr;
            header.msg_namelen = name_len;
            header.msg_controllen = control_len as _;
            header.msg_iovlen = 1;
            messages += 1;
            before = Some(datagram);
        }
        Batch {
            sender: self,
            messages,
            len,
            apart: 0,
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
    /// least one. An error is about datagram `first`, or one that was queued on the socket.
    pub(in crate::net) fn send(&mut self, fd: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        let headers = &mut self.sender.headers;
        let (mut message, mut at) = (0, 0);
        while at + headers.count(message) <= first {
            at += headers.count(message);
            message += 1;
        }
        let count = headers.count(message);
        if count > 1 && (first < self.apart || first > at) {
            return headers.send_one(fd, message, first).map(|()| 1);
        }
        let messages = &mut headers.messages[message..self.messages];
        let names = &mut headers.names[message..self.messages];
        let controls = &mut headers.controls[message..self.messages];
        for (index, message) in messages.iter_mut().enumerate() {
            let header = &mut message.msg_hdr;
            header.msg_name = ptr::from_mut(&mut names[index]).cast();
            header.msg_iov = headers.parts[at..].as_mut_ptr();
            at += header.msg_iovlen;
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
        let error = match check(sent) {
            Ok(sent) => {
                let sent = &messages[..sent as usize];
                return Ok(sent.iter().map(|message| message.msg_hdr.msg_iovlen).sum());
            }
            Err(error) => error,
        };
        let code = error.raw_os_error().unwrap_or(0);
        if count > 1
            && self
                .sender
                .segments
                .refused(code, headers.parts[first].iov_len)
        {
            self.apart = first + count;
            return self.send(fd, first);
        }
        Err(error)
    }
}

impl Headers {
    /// How many datagrams a message has.
    fn count(&self, message: usize) -> usize {
        self.messages[message].msg_hdr.msg_iovlen
    }

    /// Adds the datagram of `part`, the next one, to a message of the same flow. `false`: it may
    /// not leave in one with those.
    fn join(&mut self, message: usize, part: usize, segments: &mut Segments) -> bool {
        let header = &mut self.messages[message].msg_hdr;
        let joined = Joined {
            count: header.msg_iovlen,
            first: self.parts[part - header.msg_iovlen].iov_len,
            last: self.parts[part - 1].iov_len,
        };
        if !segments.take(joined, self.parts[part].iov_len) {
            return false;
        }
        if joined.count == 1 {
            let control = &mut self.controls[message];
            header.msg_controllen +=
                write_segment(control, header.msg_controllen, joined.first as u16);
        }
        header.msg_iovlen += 1;
        true
    }

    /// Sends one datagram of a message that has several.
    fn send_one(&mut self, fd: BorrowedFd<'_>, message: usize, part: usize) -> io::Result<()> {
        let mut header = self.messages[message].msg_hdr;
        header.msg_name = ptr::from_mut(&mut self.names[message]).cast();
        header.msg_iov = &raw mut self.parts[part];
        header.msg_iovlen = 1;
        // What says how to cut is the last control message.
        header.msg_controllen -= SEGMENT;
        header.msg_control = match header.msg_controllen {
            0 => ptr::null_mut(),
            _ => ptr::from_mut(&mut self.controls[message]).cast(),
        };
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
        // SAFETY: the header points into `parts`, `names` and `controls`, which are borrowed
        // until the call is over, and to a payload that outlives the batch; the kernel only
        // reads.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::super::set_option;
    use super::*;

    /// Sends these datagrams to one of two sockets each, with segments, and returns what
    /// came; `refused`: the kernel does not cut for this socket.
    fn carried(datagrams: &[(usize, &[u8])], refused: bool) -> [Vec<Vec<u8>>; 2] {
        let bound = || UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let (near, far) = (bound(), [bound(), bound()]);
        let to = [0, 1].map(|at: usize| far[at].local_addr().expect("bound"));
        if refused {
            // A checksum is what cutting is built on.
            set_option(near.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("set");
        }
        let mut sender = Sender::new(256, Segments::new(true));
        let outgoing = datagrams.iter().map(|&(at, bytes)| Outgoing {
            bytes,
            to: &to[at],
            from: Some([127, 0, 0, 1].into()),
        });
        let mut batch = sender.batch(outgoing);
        assert_eq!(batch.len(), datagrams.len());
        let mut sent = 0;
        while sent < batch.len() {
            sent += batch.send(near.as_fd(), sent).expect("it goes apart");
        }
        assert_eq!(sender.segments != Segments::new(true), refused);
        far.map(|socket| {
            socket.set_nonblocking(true).expect("set");
            let mut buffer = [0; 2048];
            std::iter::from_fn(|| {
                socket
                    .recv(&mut buffer)
                    .ok()
                    .map(|len| buffer[..len].to_vec())
            })
            .collect()
        })
    }

    fn wanted(datagrams: &[(usize, &[u8])]) -> [Vec<Vec<u8>>; 2] {
        [0, 1].map(|at| {
            let of_it = datagrams.iter().filter(|(to, _)| *to == at);
            of_it.map(|(_, bytes)| bytes.to_vec()).collect()
        })
    }

    #[test]
    fn datagrams_that_leave_in_one_arrive_each_for_itself() {
        let numbered: Vec<[u8; 300]> = (0..100).map(|number| [number; 300]).collect();
        let mut datagrams: Vec<(usize, &[u8])> = Vec::new();
        // More than fit one, then others in between, other sizes, and empty ones.
        datagrams.extend(numbered.iter().map(|bytes| (0, &bytes[..])));
        datagrams.extend(
            numbered[..9]
                .iter()
                .enumerate()
                .map(|(at, bytes)| (at % 2, &bytes[..])),
        );
        datagrams.extend(
            numbered[..9]
                .iter()
                .enumerate()
                .map(|(at, bytes)| (1, &bytes[..at / 2])),
        );
        datagrams.extend([(0, &[][..]), (0, &[]), (0, &[1; 1400]), (0, &[2; 1400])]);
        // More than 64 KiB.
        datagrams.extend([(1, &[3; 1400][..]); 60]);
        for refused in [false, true] {
            assert_eq!(
                carried(&datagrams, refused),
                wanted(&datagrams),
                "{refused}"
            );
        }
    }

    #[test]
    fn equal_datagrams_of_one_flow_take_one_message() {
        let to = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let outgoing = |at: usize, bytes: &'static [u8]| Outgoing {
            bytes,
            to: &to[at],
            from: None,
        };
        let datagrams = [
            outgoing(0, b"one"),
            outgoing(0, b"two"),
            outgoing(1, b"two"),
            outgoing(1, b"four"),
            outgoing(1, b"five"),
        ];
        for (segments, messages) in [(true, 3), (false, 5)] {
            let mut sender = Sender::new(8, Segments::new(segments));
            let batch = sender.batch(datagrams.iter().copied());
            assert_eq!((batch.len(), batch.messages), (5, messages));
        }
    }
}
