//! Keeps a few file descriptors back for the operator: when calls have used up all the others,
//! health checks, reloads and new certificates still work.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The limit of file descriptors less those that are kept back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    ceiling: u64,
}

impl Descriptors {
    pub(super) const fn new(limit: u64) -> Self {
        Self {
            ceiling: limit - reserve(limit),
        }
    }

    /// Passes a fresh descriptor on, or closes it when it is one of those kept back. The kernel
    /// hands out the lowest free number, so a high one means that the others are in use.
    pub(super) fn admit<T: AsFd>(&self, fresh: T) -> io::Result<T> {
        let number = fresh.as_fd().as_raw_fd();
        match u64::try_from(number) {
            Ok(number) if number < self.ceiling => Ok(fresh),
            _ => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        }
    }
}

/// How many descriptors of a limit no call may take.
pub(super) const fn reserve(limit: u64) -> u64 {
    let eighth = limit / 8;
    if eighth < 64 { eighth } else { 64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_kept_back() {
        let file = || std::fs::File::open("/dev/null").expect("it opens");
        let number = file().as_raw_fd() as u64;
        assert!(Descriptors::new(1 << 20).admit(file()).is_ok());
        let full = Descriptors { ceiling: number };
        let error = full.admit(file()).expect_err("kept back");
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        assert_eq!((reserve(16), reserve(128), reserve(1 << 20)), (2, 16, 64));
    }
}
