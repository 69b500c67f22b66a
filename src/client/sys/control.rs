//! What the kernel says beside a received datagram.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

use libc::c_int;

use super::CONTROL_HEADER;

/// Level, type and data of each control message.
pub(super) fn each_control(control: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    let mut rest = control;
    std::iter::from_fn(move || {
        let (header, _) = rest.split_at_checked(CONTROL_HEADER)?;
        // SAFETY: there are the bytes of a header, and any bits are valid for its integers.
        let header: libc::cmsghdr = unsafe { ptr::read_unaligned(header.as_ptr().cast()) };
        #[allow(clippy::unnecessary_cast, reason = "another type with other libcs")]
        let len = header.cmsg_len as usize;
        let data = rest.get(CONTROL_HEADER..len)?;
        rest = &rest[len
            .next_multiple_of(mem::align_of::<libc::cmsghdr>())
            .min(rest.len())..];
        Some((header.cmsg_level, header.cmsg_type, data))
    })
}

/// The destination address in a packet-info control message.
pub(super) fn read_destination((level, kind, data): (c_int, c_int, &[u8])) -> Option<IpAddr> {
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let ip: [u8; 4] = data.get(8..12)?.try_into().ok()?;
            Some(Ipv4Addr::from(ip).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let ip: [u8; 16] = data.get(..16)?.try_into().ok()?;
            Some(Ipv6Addr::from(ip).into())
        }
        _ => None,
    }
}

/// The size of each datagram in one that the kernel has put together.
pub(super) fn read_segment((level, kind, data): (c_int, c_int, &[u8])) -> Option<usize> {
    if (level, kind) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    let size = c_int::from_ne_bytes(data.get(..4)?.try_into().ok()?);
    usize::try_from(size).ok()
}
