//! The error queue of a socket, where ICMP errors arrive.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_void, socklen_t};

use super::control::{Control, each_control, read};
use super::name::Name;
use crate::proto::IcmpError;

/// An entry of a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum QueuedError {
    /// The network reported by ICMP or ICMPv6.
    Icmp(IcmpError),
    /// The host itself refused.
    Local,
}

/// Takes one entry off the error queue of a socket; `None` when there is none.
pub(in crate::net) fn queued_error(fd: BorrowedFd<'_>) -> io::Result<Option<QueuedError>> {
    let mut name = Name::EMPTY;
    let mut control = Control::EMPTY;
    // SAFETY: a msghdr of zeroes has null pointers and zero lengths, which is valid.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
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
    each_control(control.first(header.msg_controllen), |level, kind, data| {
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
