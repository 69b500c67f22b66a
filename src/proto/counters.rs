//! Counters of one shard: written by one thread, read by any.
//!
//! A shard is the only writer of its counters, so that an increment is a plain load and a plain
//! store: no locked instruction, no line shared between cores. Readers take a [`Snapshot`] and
//! add the snapshots of all shards up. Every array is indexed by an enum: the number of series
//! never depends on what clients send.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::audit::{EndReason, Traffic};
use super::types::DropReason;

/// Why an allocation can end, in the order of their discriminants.
pub const END_REASONS: [EndReason; 5] = [
    EndReason::Deleted,
    EndReason::Expired,
    EndReason::Disconnected,
    EndReason::Shutdown,
    EndReason::Unpaired,
];

/// The error codes that have a counter of their own; all others share the last slot, which
/// [`Outcome::name`] calls `other`.
const CODES: [u16; 17] = [
    300, 400, 401, 403, 405, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 500, 508,
];
const OUTCOMES: usize = CODES.len() + 2;

/// The request methods that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestMethod {
    /// Binding.
    Binding,
    /// Allocate.
    Allocate,
    /// Refresh.
    Refresh,
    /// CreatePermission.
    CreatePermission,
    /// ChannelBind.
    ChannelBind,
    /// Connect (RFC 6062).
    Connect,
    /// ConnectionBind (RFC 6062).
    ConnectionBind,
    /// Any other method.
    Other,
}

impl RequestMethod {
    /// All methods, in the order of their discriminants.
    pub const ALL: [Self; 8] = [
        Self::Binding,
        Self::Allocate,
        Self::Refresh,
        Self::CreatePermission,
        Self::ChannelBind,
        Self::Connect,
        Self::ConnectionBind,
        Self::Other,
    ];

    /// The label used in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Allocate => "allocate",
            Self::Refresh => "refresh",
            Self::CreatePermission => "create_permission",
            Self::ChannelBind => "channel_bind",
            Self::Connect => "connect",
            Self::ConnectionBind => "connection_bind",
            Self::Other => "other",
        }
    }
}

/// How a request was answered: a slot of [`Snapshot::requests`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome(usize);

impl Outcome {
    /// A success response.
    pub const SUCCESS: Self = Self(0);

    /// An error response with this code.
    pub fn error(code: u16) -> Self {
        let slot = CODES.iter().position(|&known| known == code);
        Self(1 + slot.unwrap_or(CODES.len()))
    }

    /// All outcomes.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..OUTCOMES).map(Self)
    }

    /// The error code; `None` for a success and for the shared slot of all other codes.
    pub fn code(self) -> Option<u16> {
        CODES.get(self.0.wrapping_sub(1)).copied()
    }

    /// The label used in metrics: `success`, the error code, or `other`.
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; OUTCOMES] = [
            "success", "300", "400", "401", "403", "405", "420", "437", "438", "440", "441", "442",
            "443", "446", "447", "486", "500", "508", "other",
        ];
        NAMES[self.0]
    }
}

/// Adds on a counter that only the calling thread writes.
#[inline]
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

macro_rules! plain_counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// The counters of one shard. Only the shard's own thread may call the functions that
        /// count; [`Counters::snapshot`] is for everybody.
        #[derive(Debug)]
        #[repr(align(128))] // two cache lines: neighbours are fetched in pairs
        pub struct Counters {
            requests: [[AtomicU64; OUTCOMES]; RequestMethod::ALL.len()],
            ended: [AtomicU64; END_REASONS.len()],
            dropped: [AtomicU64; DropReason::ALL.len()],
            $($field: AtomicU64,)*
        }

        /// What the counters said at one moment. Snapshots of several shards add up.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Snapshot {
            /// Requests answered, by method and outcome; read by [`Snapshot::requests`].
            requests: [[u64; OUTCOMES]; RequestMethod::ALL.len()],
            ended: [u64; END_REASONS.len()],
            dropped: [u64; DropReason::ALL.len()],
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Default for Counters {
            fn default() -> Self {

                Self {
                    requests: [const { [const { AtomicU64::new(0) }; OUTCOMES] };
                        RequestMethod::ALL.len()],
                    ended: [const { AtomicU64::new(0) }; END_REASONS.len()],
                    dropped: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
                    $($field: AtomicU64::new(0),)*
                }
            }
        }

        impl Default for Snapshot {
            fn default() -> Self {
                Self {
                    requests: [[0; OUTCOMES]; RequestMethod::ALL.len()],
                    ended: [0; END_REASONS.len()],
                    dropped: [0; DropReason::ALL.len()],
                    $($field: 0,)*
                }
            }
        }

        impl Counters {
            /// Reads everything. Each number is exact, the set is not one instant's.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot {
                    requests: std::array::from_fn(|method| {
                        std::array::from_fn(|slot| self.requests[method][slot].load(Relaxed))
                    }),
                    ended: std::array::from_fn(|slot| self.ended[slot].load(Relaxed)),
                    dropped: std::array::from_fn(|slot| self.dropped[slot].load(Relaxed)),
                    $($field: self.$field.load(Relaxed),)*
                }
            }
        }

        impl AddAssign<&Snapshot> for Snapshot {
            fn add_assign(&mut self, other: &Snapshot) {
                for (mine, theirs) in self.requests.iter_mut().zip(&other.requests) {
                    add_all(mine, theirs);
                }
                add_all(&mut self.ended, &other.ended);
                add_all(&mut self.dropped, &other.dropped);
                // Gauges may wrap on one shard's own account, never in the sum.
                $(self.$field = self.$field.wrapping_add(other.$field);)*
            }
        }
    };
}

fn add_all(mine: &mut [u64], theirs: &[u64]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine = mine.wrapping_add(*theirs);
    }
}

impl AddAssign for Snapshot {
    fn add_assign(&mut self, other: Self) {
        *self += &other;
    }
}

plain_counters! {
    /// Allocations made.
    allocations_created,
    /// Allocations that live now (a gauge).
    allocations_active,
    /// Packets relayed from clients to peers.
    packets_up,
    /// Application bytes relayed from clients to peers.
    bytes_up,
    /// Packets relayed from peers to clients.
    packets_down,
    /// Application bytes relayed from peers to clients.
    bytes_down,
    /// Binding requests answered with success.
    bindings_answered,
    /// Requests that carried credentials which did not match.
    authentication_failures,
    /// ICMP errors forwarded to clients (RFC 8656 section 11.5).
    icmp_forwarded,
    /// Answers withheld because the reply budget of an unauthenticated source was spent.
    replies_suppressed,
    /// Client connections (TCP, TLS) accepted.
    connections_accepted,
    /// Client connections closed.
    connections_closed,
    /// Client connections refused or closed early because of a limit or a deadline.
    connections_refused,
    /// Client connections open now (a gauge).
    connections_active,
}

impl Counters {
    /// All at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request was answered.
    pub fn request(&self, method: RequestMethod, outcome: Outcome) {
        add(&self.requests[method as usize][outcome.0], 1);
        if method == RequestMethod::Binding && outcome == Outcome::SUCCESS {
            add(&self.bindings_answered, 1);
        }
    }

    /// An allocation was made.
    pub fn allocation_created(&self) {
        add(&self.allocations_created, 1);
        add(&self.allocations_active, 1);
    }

    /// An allocation ended.
    pub fn allocation_ended(&self, reason: EndReason) {
        add(&self.ended[reason as usize], 1);
        add(&self.allocations_active, 1_u64.wrapping_neg());
    }

    /// One packet with `bytes` of application data was relayed from a client to a peer.
    #[inline]
    pub fn relayed_up(&self, bytes: usize) {
        add(&self.packets_up, 1);
        add(&self.bytes_up, bytes as u64);
    }

    /// One packet with `bytes` of application data was relayed from a peer to a client.
    #[inline]
    pub fn relayed_down(&self, bytes: usize) {
        add(&self.packets_down, 1);
        add(&self.bytes_down, bytes as u64);
    }

    /// Something received was dropped.
    #[inline]
    pub fn dropped(&self, reason: DropReason) {
        self.dropped_many(reason, 1);
    }

    /// `count` packets were dropped for one reason, for a driver that counts by batch.
    #[inline]
    pub fn dropped_many(&self, reason: DropReason, count: u64) {
        add(&self.dropped[reason as usize], count);
    }

    /// A request carried credentials that did not match.
    pub fn authentication_failed(&self) {
        add(&self.authentication_failures, 1);
    }

    /// An ICMP error was forwarded to a client.
    pub fn icmp_forwarded(&self) {
        add(&self.icmp_forwarded, 1);
    }

    /// An answer was withheld by the reply budget.
    pub fn reply_suppressed(&self) {
        add(&self.replies_suppressed, 1);
    }

    /// A client connection was accepted.
    pub fn connection_accepted(&self) {
        add(&self.connections_accepted, 1);
        add(&self.connections_active, 1);
    }

    /// A client connection that had been accepted is closed.
    pub fn connection_closed(&self) {
        add(&self.connections_closed, 1);
        add(&self.connections_active, 1_u64.wrapping_neg());
    }

    /// A client connection was refused, or closed early because of a limit or a deadline.
    pub fn connection_refused(&self) {
        add(&self.connections_refused, 1);
    }
}

impl Snapshot {
    /// Requests of one method answered with one outcome.
    pub fn requests(&self, method: RequestMethod, outcome: Outcome) -> u64 {
        self.requests[method as usize][outcome.0]
    }

    /// Allocations that ended for one reason.
    pub fn ended(&self, reason: EndReason) -> u64 {
        self.ended[reason as usize]
    }

    /// Packets dropped for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// All traffic, as one allocation's summary has it.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            packets_up: self.packets_up,
            bytes_up: self.bytes_up,
            packets_down: self.packets_down,
            bytes_down: self.bytes_down,
            dropped: self.dropped.iter().sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_index_their_own_slot() {
        for (slot, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(slot, *reason as usize);
        }
        for (slot, reason) in END_REASONS.iter().enumerate() {
            assert_eq!(slot, *reason as usize);
        }
        for (slot, method) in RequestMethod::ALL.iter().enumerate() {
            assert_eq!(slot, *method as usize);
        }
    }

    #[test]
    fn outcomes_are_bounded_and_named_by_their_code() {
        assert_eq!(Outcome::all().count(), OUTCOMES);
        for outcome in Outcome::all() {
            match outcome.code() {
                Some(code) => {
                    assert_eq!(outcome.name(), code.to_string());
                    assert_eq!(Outcome::error(code), outcome);
                }
                None => assert!(["success", "other"].contains(&outcome.name())),
            }
        }
        assert_eq!(Outcome::error(499), Outcome::error(699));
        assert_eq!(Outcome::error(499).name(), "other");
    }

    #[test]
    fn snapshots_add_up_and_gauges_follow_the_ends() {
        let (one, two) = (Counters::new(), Counters::new());
        one.allocation_created();
        two.allocation_created();
        two.allocation_created();
        two.allocation_ended(EndReason::Expired);
        one.relayed_up(100);
        two.relayed_up(11);
        two.relayed_down(7);
        one.dropped(DropReason::Icmp);
        two.dropped_many(DropReason::Icmp, 4);
        one.request(RequestMethod::Allocate, Outcome::error(437));
        one.request(RequestMethod::Binding, Outcome::SUCCESS);
        two.connection_accepted();

        let mut sum = one.snapshot();
        sum += two.snapshot();
        assert_eq!(sum.allocations_created, 3);
        assert_eq!(sum.allocations_active, 2);
        assert_eq!(sum.ended(EndReason::Expired), 1);
        assert_eq!((sum.packets_up, sum.bytes_up), (2, 111));
        assert_eq!((sum.packets_down, sum.bytes_down), (1, 7));
        assert_eq!(sum.dropped(DropReason::Icmp), 5);
        assert_eq!(sum.traffic().dropped, 5);
        assert_eq!(
            sum.requests(RequestMethod::Allocate, Outcome::error(437)),
            1
        );
        assert_eq!(sum.requests(RequestMethod::Allocate, Outcome::SUCCESS), 0);
        assert_eq!(sum.bindings_answered, 1);
        assert_eq!(sum.connections_active, 1);
    }
}
