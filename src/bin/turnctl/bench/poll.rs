//! Waiting for any of many sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

/// An epoll instance.
pub(super) struct Poll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

/// The most sockets that one round reports; the others wait for the next.
const ROUND: usize = 256;

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(ROUND),
        })
    }

    /// Watches a socket for something to read.
    pub(super) fn add(&self, socket: impl AsFd, token: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        epoll::add(&self.fd, socket, data, epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Sleeps until something can be read, at most for `timeout`, and puts the tokens of those
    /// sockets into `ready`.
    pub(super) fn wait(&mut self, timeout: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        self.events.clear();
        ready.clear();
        let events = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.fd, events, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }
}

/// Makes this thread's sleeps end when they are due and not up to 50 µs later.
pub(super) fn sleep_precisely() {
    let slack = std::num::NonZero::new(1);
    // Without it the load is a little less even.
    let _ = rustix::thread::set_current_timer_slack(slack);
}

/// Lifts the limit of open files as far as it goes; returns it.
pub(super) fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    let now = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(_) => soft,
    };
    now.unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the load generator is a driver")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Sleeps through whatever arrives.
#[expect(
    clippy::disallowed_methods,
    reason = "an even load has a clock, not an event"
)]
pub(super) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}
