//! The one room for `unsafe`: the system calls that neither std nor socket2 offers, each behind
//! a safe function. Nothing here decides anything; policy lives with the callers.
//!
//! Linux only.
#![allow(unsafe_code)]

mod control;
mod datagrams;
mod errors;
mod name;
mod segments;
pub(super) mod uring;

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, socklen_t};

pub(super) use datagrams::{Outgoing, Received, Receiver, Sender, send_to};
pub(super) use errors::{QueuedError, queued_error};
use name::Name;
pub(super) use segments::{Joined, Segments};

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

/// Lets timers of this thread's sleeps be late by so many nanoseconds at most; 50,000 is usual.
pub(super) fn set_timer_slack(nanos: u32) -> io::Result<()> {
    // SAFETY: no pointers are involved.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, libc::c_ulong::from(nanos)) }).map(drop)
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

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
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
