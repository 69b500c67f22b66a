//! Control messages: when a datagram came, and which address it reached, leaves from, or failed
//! for.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr;

use libc::c_int;

use super::name::{in_addr, in6_addr};

/// Bytes for the control messages of one datagram, aligned as `cmsghdr` needs it. Packet info
/// of IPv6 takes 40 bytes, an extended error with its offender 64.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; 128]);

impl Control {
    pub(super) const EMPTY: Self = Self([0; 128]);

    /// The first `len` bytes, or all of them.
    pub(super) fn first(&self, len: usize) -> &[u8] {
        &self.0[..len.min(self.0.len())]
    }
}

/// Calls `visit` with level, type and data of each control message.
pub(super) fn each_control(control: &[u8], mut visit: impl FnMut(c_int, c_int, &[u8])) {
    const HEADER: usize = mem::size_of::<libc::cmsghdr>();
    let mut rest = control;
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
pub(super) fn packet_info(level: c_int, kind: c_int, data: &[u8]) -> Option<Option<IpAddr>> {
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

/// When a datagram came, in microseconds of Unix time.
pub(super) fn arrival_time(level: c_int, kind: c_int, data: &[u8]) -> Option<u64> {
    if (level, kind) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
        return None;
    }
    let time: libc::timespec = read(data)?;
    let seconds = u64::try_from(time.tv_sec).ok()?;
    Some(seconds * 1_000_000 + time.tv_nsec as u64 / 1000)
}

/// The size of each but the last of the datagrams that came as one, on a socket that asks for it.
pub(super) fn merged_size(level: c_int, kind: c_int, data: &[u8]) -> Option<usize> {
    if (level, kind) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    usize::try_from(read::<c_int>(data)?).ok()
}

/// Plain structures that the kernel fills: any bits are a valid value.
pub(super) trait Plain: Copy {}
impl Plain for libc::in_pktinfo {}
impl Plain for libc::in6_pktinfo {}
impl Plain for libc::sock_extended_err {}
impl Plain for libc::timespec {}
impl Plain for u16 {}
impl Plain for c_int {}

pub(super) fn read<T: Plain>(data: &[u8]) -> Option<T> {
    if data.len() < mem::size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, any bits are valid for a `Plain` type, and
    // `read_unaligned` asks nothing of the alignment.
    Some(unsafe { ptr::read_unaligned(data.as_ptr().cast()) })
}

/// Writes a control message `at` bytes into `control`; returns its length.
fn put<T: Plain>(control: &mut Control, at: usize, level: c_int, kind: c_int, data: T) -> usize {
    const HEADER: usize = mem::size_of::<libc::cmsghdr>();
    let len = HEADER + mem::size_of::<T>();
    // SAFETY: a cmsghdr of zeroes is valid; this also covers padding of other libcs.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    header.cmsg_len = len as _;
    header.cmsg_level = level;
    header.cmsg_type = kind;
    let room = &mut control.0[at..at + len];
    let start = room.as_mut_ptr();
    // SAFETY: the header and the data fit, as just checked; `write_unaligned` asks nothing
    // of the alignment.
    unsafe {
        ptr::write_unaligned(start.cast(), header);
        ptr::write_unaligned(start.add(HEADER).cast(), data);
    }
    len.next_multiple_of(mem::align_of::<libc::cmsghdr>())
}

/// What [`write_segment`] takes.
pub(super) const SEGMENT: usize = (mem::size_of::<libc::cmsghdr>() + mem::size_of::<u16>())
    .next_multiple_of(mem::align_of::<libc::cmsghdr>());

/// Writes the control message that has the kernel cut what is sent into datagrams of `size`
/// bytes, `at` bytes into `control`; returns its length.
pub(super) fn write_segment(control: &mut Control, at: usize, size: u16) -> usize {
    put(control, at, libc::SOL_UDP, libc::UDP_SEGMENT, size)
}

/// Writes the control message that makes a datagram leave from `ip`; returns its length.
pub(super) fn write_packet_info(control: &mut Control, ip: IpAddr, to: &SocketAddr) -> usize {
    match ip {
        IpAddr::V4(ip) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr(ip),
                ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
            };
            put(control, 0, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
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
            put(control, 0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_info_is_written_as_it_is_read() {
        let to: SocketAddr = "[2001:db8::1]:1".parse().expect("an address");
        for ip in ["::1", "2001:db8::9"] {
            let ip: IpAddr = ip.parse().expect("an address");
            let mut control = Control::EMPTY;
            let len = write_packet_info(&mut control, ip, &to);
            let mut seen = Vec::new();
            each_control(control.first(len), |level, kind, data| {
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
            each_control(&control.0, |_, _, _| panic!("not a control message"));
        }
    }
}
