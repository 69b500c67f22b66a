//! Memory that the kernel may write to while Rust code runs: mapped pages, never a `Box`.

use std::io;
use std::ptr::{self, NonNull};

/// Zeroed, page-aligned memory. Pages take up memory only once they are touched.
pub(super) struct Area {
    start: NonNull<u8>,
    len: usize,
}

impl Area {
    pub(super) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a private anonymous mapping at an address of the kernel's choice touches no
        // memory that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: this very mapping was made by `new`, and whoever borrowed from it borrowed
        // `self`. The rings that the kernel knows it by are closed before.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
