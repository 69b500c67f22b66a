//! Datagrams that wait to be sent, in one line per socket, and what becomes of those that the
//! kernel refuses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::sys::{self, Outgoing, Sender};

/// The most datagrams in one sendmmsg.
pub(super) const SEND_BATCH: usize = 64;

/// No datagram.
pub(super) const NONE: u32 = u32::MAX;

/// A datagram that waits to be sent.
#[derive(Clone, Copy)]
pub(super) struct Queued {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
    pub(super) dont_fragment: bool,
    pub(super) next: u32,
}

/// The first and last datagram that wait on one socket.
#[derive(Clone, Copy)]
pub(super) struct Line {
    pub(super) first: u32,
    pub(super) last: u32,
}

impl Line {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };
}

/// Datagrams of one socket that can go out together: the same DF bit, and not too many.
pub(super) struct Run<'q> {
    queue: &'q [Queued],
    start: u32,
    pub(super) count: usize,
}

impl<'q> Run<'q> {
    /// Cuts a run off a line whose first datagram is `next`, which becomes the one behind it.
    pub(super) fn take(queue: &'q [Queued], next: &mut u32) -> Self {
        let start = *next;
        let wanted = queue[start as usize].dont_fragment;
        let mut count = 0;
        while *next != NONE && count < SEND_BATCH {
            let queued = &queue[*next as usize];
            if queued.dont_fragment != wanted {
                break;
            }
            *next = queued.next;
            count += 1;
        }
        Self {
            queue,
            start,
            count,
        }
    }

    pub(super) fn first(&self) -> &'q Queued {
        &self.queue[self.start as usize]
    }

    /// Sends the run and returns how many of its datagrams were lost.
    pub(super) fn send(&self, fd: BorrowedFd<'_>, memory: &[u8], sender: &mut Sender) -> u64 {
        let first = self.first();
        if self.count == 1 && first.from.is_none() {
            let bytes = &memory[first.start..first.start + first.len];
            return send_all(1, |_| sys::send_to(fd, bytes, &first.to).map(|()| 1));
        }
        let mut next = self.start;
        let datagrams = (0..self.count).map(|_| {
            let queued = &self.queue[next as usize];
            next = queued.next;
            Outgoing {
                bytes: &memory[queued.start..queued.start + queued.len],
                to: &queued.to,
                from: queued.from,
            }
        });
        let mut batch = sender.batch(datagrams);
        send_all(batch.len(), |from| batch.send(fd, from))
    }
}

/// Whether it is the send buffer that was full: another try at once would be for nothing.
pub(super) const fn is_full(code: i32) -> bool {
    matches!(code, libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)
}

/// What to do about a datagram that the kernel refused.
enum Refusal {
    /// The send buffer is full: this one and those behind it are lost.
    Full,
    /// An ICMP error that was queued on the socket, or a destination that cannot be reached.
    Retry,
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(code) if is_full(code) => Refusal::Full,
        _ => Refusal::Retry,
    }
}

/// Sends datagrams 0 to `count`, by a function that sends from one on and says how many went
/// out; returns how many were lost.
///
/// An error that was queued on the socket stops a send, also one to another destination than
/// the error's, so the datagram is sent once more; what is refused twice is lost, and only that.
pub(super) fn send_all(count: usize, mut send: impl FnMut(usize) -> io::Result<usize>) -> u64 {
    let mut next = 0;
    let mut lost = 0;
    let mut retried = NONE as usize;
    while next < count {
        match send(next) {
            Ok(sent) => next += sent.max(1),
            Err(error) => match refusal(&error) {
                Refusal::Full => return lost + (count - next) as u64,
                Refusal::Retry if retried != next => retried = next,
                Refusal::Retry => {
                    lost += 1;
                    next += 1;
                }
            },
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_queued_error_costs_no_datagram() {
        // Five datagrams; a queued error stops the send before the third one, once.
        let mut log = Vec::new();
        let mut queued = true;
        let lost = send_all(5, |from| {
            log.push(from);
            match from {
                0 => Ok(2),
                2 if std::mem::take(&mut queued) => Err(error(libc::ECONNREFUSED)),
                _ => Ok(5 - from),
            }
        });
        assert_eq!((lost, log), (0, vec![0, 2, 2]));
    }

    #[test]
    fn an_unreachable_destination_loses_its_own_datagram_only() {
        for code in [
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
            libc::EPERM,
            libc::ECONNREFUSED,
            libc::EINVAL,
            libc::EMSGSIZE,
        ] {
            let mut sent = Vec::new();
            let lost = send_all(4, |from| {
                if from == 1 {
                    return Err(error(code));
                }
                sent.push(from);
                Ok(1)
            });
            assert_eq!((lost, sent), (1, vec![0, 2, 3]), "errno {code}");
        }
    }

    #[test]
    fn a_full_buffer_ends_the_batch_without_a_retry() {
        let mut calls = 0;
        let lost = send_all(6, |from| {
            calls += 1;
            if from == 0 {
                Ok(2)
            } else {
                Err(error(libc::EAGAIN))
            }
        });
        assert_eq!((lost, calls), (4, 2));
    }
}
