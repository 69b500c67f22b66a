//! What a submitted send points to: addresses, headers and control messages, which stay in place
//! until the kernel has read them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::ptr;

use io_uring::types::{Fd, Fixed};
use io_uring::{opcode, squeue};

use super::{DATAGRAMS, SUBMISSIONS, Target};
use crate::net::sys::control::{Control, write_packet_info, write_segment};
use crate::net::sys::name::Name;

/// Where a datagram goes, and the address it leaves from on a socket that is bound to the
/// wildcard address.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Route<'a> {
    pub(in crate::net) to: &'a SocketAddr,
    pub(in crate::net) from: Option<IpAddr>,
}

/// What no other request has since the last enter that emptied the queue.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Places {
    /// The number of the request, below [`SUBMISSIONS`].
    pub(in crate::net) number: usize,
    /// Those of its datagrams, from this one on and below [`DATAGRAMS`].
    pub(in crate::net) part: usize,
}

/// One place for each request and each datagram of a batch.
pub(super) struct Sends {
    names: Box<[Name]>,
    parts: Box<[libc::iovec]>,
    headers: Box<[libc::msghdr]>,
    controls: Box<[Control]>,
}

impl Sends {
    pub(super) fn new() -> Self {
        let part = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: a msghdr of zeroes has null pointers and zero lengths, which is valid.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Self {
            names: vec![Name::EMPTY; SUBMISSIONS].into(),
            parts: vec![part; DATAGRAMS].into(),
            headers: vec![header; SUBMISSIONS].into(),
            controls: vec![Control::EMPTY; SUBMISSIONS].into(),
        }
    }

    /// The request that sends these datagrams. All but the last have the first one's size.
    pub(super) fn entry<'m>(
        &mut self,
        target: Target<'_>,
        datagrams: impl ExactSizeIterator<Item = &'m [u8]>,
        route: Route<'_>,
        places: Places,
    ) -> squeue::Entry {
        // A send that would block fails, so none is ever carried out later.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let Places { number, part } = places;
        let count = datagrams.len();
        let parts = &mut self.parts[part..part + count];
        for (part, bytes) in parts.iter_mut().zip(datagrams) {
            *part = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
        }
        let first = parts[0];
        let name = &mut self.names[number];
        let name_len = name.set(route.to);
        if count == 1 && route.from.is_none() {
            let (start, len) = (first.iov_base.cast_const().cast(), first.iov_len as u32);
            let name = ptr::from_ref(name).cast();
            return match target.place {
                Some(place) => opcode::Send::new(Fixed(place), start, len)
                    .flags(flags)
                    .dest_addr(name)
                    .dest_addr_len(name_len)
                    .build(),
                None => opcode::Send::new(Fd(target.fd.as_raw_fd()), start, len)
                    .flags(flags)
                    .dest_addr(name)
                    .dest_addr_len(name_len)
                    .build(),
            };
        }
        let control = &mut self.controls[number];
        let mut control_len = 0;
        if let Some(ip) = route.from {
            control_len += write_packet_info(control, ip, route.to);
        }
        if count > 1 {
            control_len += write_segment(control, control_len, first.iov_len as u16);
        }
        let header = &mut self.headers[number];
        header.msg_name = ptr::from_mut(name).cast();
        header.msg_namelen = name_len;
        header.msg_iov = self.parts[part..].as_mut_ptr();
        header.msg_iovlen = count as _;
        header.msg_control = ptr::from_mut(control).cast();
        header.msg_controllen = control_len as _;
        let header = &raw const self.headers[number];
        match target.place {
            Some(place) => opcode::SendMsg::new(Fixed(place), header)
                .flags(flags as u32)
                .build(),
            None => opcode::SendMsg::new(Fd(target.fd.as_raw_fd()), header)
                .flags(flags as u32)
                .build(),
        }
    }
}
