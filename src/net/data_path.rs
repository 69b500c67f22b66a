//! Which data plane serves: the one that was asked for, or the best that works here.

use std::fmt;
use std::io;

use super::uring;

/// How datagrams are moved, as asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataPath {
    /// io_uring where it works, else recvmmsg and sendmmsg.
    #[default]
    Auto,
    /// io_uring (Linux 6.1 or later), or nothing.
    IoUring,
    /// epoll, recvmmsg and sendmmsg: works everywhere.
    Mmsg,
}

/// How datagrams are moved, as it turned out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// One completion ring for each shard.
    IoUring,
    /// epoll, recvmmsg and sendmmsg; why it is not io_uring, unless that was not asked for.
    Mmsg(Option<Unavailable>),
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring => f.write_str("io_uring"),
            Self::Mmsg(None) => f.write_str("mmsg"),
            Self::Mmsg(Some(why)) => write!(f, "mmsg ({why})"),
        }
    }
}

/// Why io_uring does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring does not work here: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

impl From<io::Error> for Unavailable {
    fn from(error: io::Error) -> Self {
        Self(match error.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel was built without it".into(),
            Some(libc::EPERM | libc::EACCES) => {
                "it is forbidden, by kernel.io_uring_disabled or the container's seccomp profile"
                    .into()
            }
            Some(libc::EINVAL) => "this kernel is too old, Linux 6.1 is needed".into(),
            Some(libc::ENOMEM) => "the limit of locked memory is too low (LimitMEMLOCK=)".into(),
            _ if error.kind() == io::ErrorKind::Unsupported => {
                "this kernel is too old, Linux 6.1 is needed".into()
            }
            _ => error.to_string(),
        })
    }
}

impl DataPath {
    /// Finds out what serves, by a datagram over loopback. It takes about a millisecond.
    ///
    /// # Errors
    /// When io_uring is asked for and does not work.
    pub fn probe(self) -> Result<Serving, Unavailable> {
        if self == Self::Mmsg {
            return Ok(Serving::Mmsg(None));
        }
        match uring::probe() {
            Ok(()) => Ok(Serving::IoUring),
            Err(error) if self == Self::IoUring => Err(error.into()),
            Err(error) => Ok(Serving::Mmsg(Some(error.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mmsg_is_not_probed_for() {
        assert_eq!(DataPath::Mmsg.probe(), Ok(Serving::Mmsg(None)));
    }

    #[test]
    fn reasons_say_what_to_do() {
        for (code, words) in [
            (libc::ENOSYS, "built without"),
            (libc::EPERM, "io_uring_disabled"),
            (libc::EINVAL, "Linux 6.1"),
            (libc::ENOMEM, "LimitMEMLOCK"),
            (libc::EMFILE, "open files"),
        ] {
            let why = Unavailable::from(io::Error::from_raw_os_error(code));
            let shown = Serving::Mmsg(Some(why)).to_string();
            assert!(shown.starts_with("mmsg (io_uring does not work here: "));
            assert!(shown.contains(words), "{shown}");
        }
    }
}
