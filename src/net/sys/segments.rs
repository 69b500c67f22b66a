//! Datagrams that leave in one, which the kernel or the network device cuts (UDP_SEGMENT).

use libc::c_int;

/// The most datagrams in one.
const MOST: usize = 64;

/// The largest of them: it passes every path whose MTU is that of Ethernet.
const LARGEST: usize = 1452;

/// What all of them have together: more is no UDP datagram over IPv4.
const WHOLE: usize = 65_507;

/// So many datagrams too large for where one was refused leave alone before it is tried again:
/// what cannot pass here may pass elsewhere, and no client decides for the others.
const PATIENCE: u32 = 4096;

/// Which datagrams may leave in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) struct Segments {
    on: bool,
    largest: usize,
    patience: u32,
    told: bool,
}

/// Datagrams of one flow that are to leave in one: all have the size of the first, but for the
/// last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) struct Joined {
    pub(in crate::net) count: usize,
    pub(in crate::net) first: usize,
    pub(in crate::net) last: usize,
}

impl Segments {
    pub(in crate::net) const fn new(on: bool) -> Self {
        Self {
            on,
            largest: LARGEST,
            patience: 0,
            told: false,
        }
    }

    /// Whether anything leaves, or comes, in one at all.
    pub(in crate::net) const fn is_on(&self) -> bool {
        self.on
    }

    /// Whether a datagram of `len` bytes may join those.
    pub(in crate::net) fn take(&mut self, joined: Joined, len: usize) -> bool {
        let Joined { count, first, last } = joined;
        let fits = self.on
            && last == first
            && (1..=first).contains(&len)
            && count < MOST
            && count * first + len <= WHOLE
            && first <= LARGEST;
        if fits && first > self.largest {
            self.patience -= 1;
            if self.patience == 0 {
                self.largest = LARGEST;
            }
            return false;
        }
        fits
    }

    /// The kernel refused datagrams of `len` bytes in one. Whether that is for being in one: the
    /// device cannot do it, or the path's MTU is smaller.
    pub(in crate::net) fn refused(&mut self, code: c_int, len: usize) -> bool {
        let largest = match code {
            libc::EIO => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::info!(
                        "a network device cannot cut datagrams that leave in one: there they leave \
                         one by one, which costs more processor time"
                    );
                }
                0
            }
            libc::EINVAL | libc::EMSGSIZE => len - 1,
            _ => return false,
        };
        self.largest = largest.min(self.largest);
        self.patience = PATIENCE;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(count: usize, first: usize, last: usize) -> Joined {
        Joined { count, first, last }
    }

    #[test]
    fn equal_ones_and_a_shorter_last_one_leave_together() {
        let mut segments = Segments::new(true);
        for (before, len, wanted) in [
            (joined(1, 100, 100), 100, true),
            (joined(1, 100, 100), 40, true),
            (joined(1, 100, 100), 101, false),
            (joined(1, 100, 100), 0, false),
            (joined(1, 0, 0), 0, false),
            (joined(3, 100, 40), 40, false),
            (joined(63, 100, 100), 100, true),
            (joined(64, 100, 100), 100, false),
            (joined(1, 1452, 1452), 1452, true),
            (joined(1, 1453, 1453), 1453, false),
            // 65,507 bytes are the most.
            (joined(53, 1212, 1212), 1212, true),
            (joined(54, 1212, 1212), 59, true),
            (joined(54, 1212, 1212), 60, false),
        ] {
            assert_eq!(segments.take(before, len), wanted, "{before:?} and {len}");
            assert!(!Segments::new(false).take(before, len));
        }
    }

    #[test]
    fn a_refusal_for_the_size_holds_for_a_while() {
        let mut segments = Segments::new(true);
        assert!(
            !segments.refused(libc::ECONNREFUSED, 1200),
            "another's error"
        );
        assert!(segments.take(joined(1, 1200, 1200), 1200));
        assert!(segments.refused(libc::EMSGSIZE, 1200));
        let count = (0..)
            .take_while(|_| !segments.take(joined(1, 1200, 1200), 1200))
            .count();
        assert_eq!(count, PATIENCE as usize);
        assert!(segments.refused(libc::EMSGSIZE, 1200));
        assert!(segments.take(joined(1, 1199, 1199), 1199), "smaller ones");
        assert!(segments.refused(libc::EIO, 1199));
        assert!(!segments.take(joined(1, 10, 10), 10), "none at all");
    }
}
