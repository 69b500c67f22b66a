//! The core's entrance: takes what was received, finds who is responsible, and keeps the books.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::RandomState;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use super::allocation::{Allocation, Entry};
use super::audit::{Audit, EndReason};
use super::counters::Counters;
use super::pairs::PairId;
use super::policy::{Drain, Policy, Shared};
use super::registry::{Registry, relay_id};
use super::slab::Key;
use super::types::{
    Disposition, DropReason, Effect, Flow, IcmpError, Mono, Now, RelayId, ReservationToken,
};
use super::wheel::Wheel;
use crate::wire::{Kind, TransactionId, classify};

/// The least size of the buffers that replies are written to.
pub const REPLY_BUFFER: usize = 1500;

/// How long the port reserved by EVEN-PORT is held, in seconds (RFC 8656 section 7.2: at least
/// 30).
pub const RESERVATION_LIFETIME: u64 = 30;

/// How many timers one call handles.
const TIMERS_AT_ONCE: usize = 512;

/// The decision making of one shard. See the [module](super) for how it is driven.
pub struct Relay {
    pub(super) shared: Arc<Shared>,
    pub(super) policy: Arc<Policy>,
    /// Counts the policies: what was proven under one is proven again under the next.
    pub(super) policy_number: u32,
    pub(super) counters: Arc<Counters>,
    pub(super) registry: Registry,
    /// Tokens of the ports that this shard reserved, until they are claimed here or expire.
    pub(super) reservations: HashSet<ReservationToken, RandomState>,
    pub(super) drain: Option<Drain>,
    pub(super) rng: ChaCha12Rng,
    timers: Wheel<Timer>,
    effects: VecDeque<Effect>,
    /// Transaction ids of indications need to differ, not to be secret: a random start, counted
    /// up.
    indication: [u8; 12],
}

/// What a timer stands for. Timers are never cancelled: they look whether they still matter.
#[derive(Clone, Copy, Debug)]
enum Timer {
    Allocation(Key),
    Reservation(ReservationToken),
}

impl Relay {
    /// A core with nothing in it. `seed` must come from a CSPRNG and differ between shards: hash
    /// seeds, reservation tokens and indications' transaction ids are drawn from it.
    pub fn new(
        seed: [u8; 32],
        shared: Arc<Shared>,
        policy: Arc<Policy>,
        counters: Arc<Counters>,
    ) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut seeds = || {
            RandomState::with_seeds(
                rng.next_u64(),
                rng.next_u64(),
                rng.next_u64(),
                rng.next_u64(),
            )
        };
        let (registry, reservations) = (Registry::new(seeds()), HashSet::with_hasher(seeds()));
        let mut indication = [0; 12];
        rng.fill_bytes(&mut indication);
        Self {
            shared,
            policy,
            policy_number: 0,
            counters,
            registry,
            reservations,
            drain: None,
            rng,
            timers: Wheel::new(),
            effects: VecDeque::new(),
            indication,
        }
    }

    /// Takes one datagram, or one framed message of a stream, from a client. `reply` must hold
    /// at least [`REPLY_BUFFER`] bytes.
    ///
    /// The first byte tells the protocols apart (RFC 7983, RFC 8656 section 12).
    // One place calls it, for each datagram: as a call it costs a twentieth of what it does.
    #[inline]
    pub fn handle_client(
        &mut self,
        now: Now,
        flow: &Flow,
        bytes: &[u8],
        reply: &mut [u8],
    ) -> Disposition {
        let result = match bytes.first().map(|first| classify(*first)) {
            Some(Kind::ChannelData) => self.channel_data(now.mono, flow, bytes),
            Some(Kind::Stun) => self.stun(now, flow, bytes, reply),
            _ => Err(DropReason::Malformed),
        };
        self.counted(result)
    }

    /// Takes a datagram of `len` bytes that a relay socket received from `peer`; the payload is
    /// all of it. Nothing in it is looked at: ICE checks travel inside as payload.
    pub fn handle_peer(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: SocketAddr,
        len: usize,
    ) -> Disposition {
        let result = self.relay_from_peer(now.mono, relay, peer, len);
        self.counted(result)
    }

    /// Takes an ICMP error about a datagram that a relay socket sent. Answers Reply with a Data
    /// indication, or Drop.
    pub fn handle_icmp(
        &mut self,
        now: Now,
        relay: RelayId,
        error: &IcmpError,
        reply: &mut [u8],
    ) -> Disposition {
        let result = self.icmp(now.mono, relay, error, reply);
        self.counted(result)
    }

    pub(super) fn counted(&self, result: Result<Disposition, DropReason>) -> Disposition {
        result.unwrap_or_else(|reason| {
            self.counters.dropped(reason);
            Disposition::Drop(reason)
        })
    }

    /// A client's connection closed: its allocation ends, also one that still waits for its
    /// relay sockets.
    pub fn flow_closed(&mut self, now: Now, flow: &Flow) {
        if let Some(key) = self.registry.find(flow) {
            self.end(now.mono, key, EndReason::Disconnected);
        }
    }

    /// A wait of this pair ended without the other side ([`waits`](super::waits)): what was
    /// allocated for it on this flow ends.
    pub fn wait_over(&mut self, now: Now, pair: PairId, flow: &Flow) {
        let key = self.registry.find(flow);
        let key = key.filter(|key| {
            let entry = self.registry.get(*key);
            entry.is_some_and(|entry| entry.owner().waits_as(pair))
        });
        if let Some(key) = key {
            self.end(now.mono, key, EndReason::Unpaired);
        }
    }

    /// Whether a 5-tuple has an allocation, or one that is about to be.
    pub fn has_allocation(&self, flow: &Flow) -> bool {
        self.registry.find(flow).is_some()
    }

    /// Number of allocations, those about to be included.
    pub fn allocations(&self) -> usize {
        self.registry.len()
    }

    /// Number of ports held under a reservation token.
    pub fn reservations(&self) -> usize {
        self.reservations.len()
    }

    /// The shard's counters, to which its driver adds what the kernel refused.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The next piece of cold work for the driver, in the order in which it has to be done.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Relay::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.next()
    }

    /// Ends what has expired, a bounded number of them: when more are due, `poll_timeout` says so
    /// and datagrams get their turn in between.
    pub fn handle_timeout(&mut self, now: Now) {
        for _ in 0..TIMERS_AT_ONCE {
            let Some(timer) = self.timers.pop_due(now.mono) else {
                break;
            };
            match timer {
                Timer::Allocation(key) => self.expire(now.mono, key),
                Timer::Reservation(token) => {
                    if self.reservations.remove(&token) {
                        self.shared.reserved.end(&token);
                        self.effect(Effect::ReleaseReserved { token });
                    }
                }
            }
        }
    }

    /// Replaces the policy. Allocations live on: their permissions and channels are judged again
    /// when they are refreshed, which is within 10 minutes, and their bandwidth is the new one
    /// from now on.
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        let rates = |policy: &Policy| [false, true].map(|pair| policy.limits.bandwidth(pair));
        let (old, new) = (rates(&self.policy), rates(&policy));
        if old != new {
            for key in self.registry.keys() {
                if let Some(allocation) = self.registry.live_mut(key) {
                    let kind = usize::from(allocation.owner.pair.is_some());
                    if old[kind] != new[kind] {
                        allocation.set_bandwidth(new[kind]);
                    }
                }
            }
        }
        self.policy = policy;
        self.policy_number = self.policy_number.wrapping_add(1);
    }

    /// Refuses allocations from now on: with 300 to the sibling of the client's family, or with
    /// 508 where there is none. Those that exist live on.
    pub fn drain(&mut self, alternates: Vec<SocketAddr>) {
        self.drain = Some(Drain { alternates });
    }

    /// Ends everything, for the end of the process.
    pub fn close_all(&mut self, now: Now) {
        for key in self.registry.keys() {
            self.end(now.mono, key, EndReason::Shutdown);
        }
        let tokens: Vec<_> = self.reservations.drain().collect();
        for token in tokens {
            self.shared.reserved.end(&token);
            self.effect(Effect::ReleaseReserved { token });
        }
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(super) fn audit(&mut self, audit: Audit) {
        self.effect(Effect::Audit(Box::new(audit)));
    }

    pub(super) fn reserve_until(&mut self, at: Mono, token: ReservationToken) {
        self.timers.insert(at, Timer::Reservation(token));
    }

    /// Makes sure that a timer fires when the allocation's next half expires. One that fires
    /// early arms itself again, so only a nearer expiry needs a new one.
    pub(super) fn arm(&mut self, key: Key) {
        let Some(allocation) = self.registry.live_mut(key) else {
            return;
        };
        let Some(expiry) = allocation.next_expiry() else {
            return;
        };
        if allocation.armed == Mono(0) || expiry < allocation.armed {
            allocation.armed = expiry;
            self.timers.insert(expiry, Timer::Allocation(key));
        }
    }

    /// Ends the halves of an allocation that have expired, and the allocation with the last one.
    pub(super) fn expire(&mut self, now: Mono, key: Key) {
        let Some(allocation) = self.registry.live_mut(key) else {
            return;
        };
        if allocation.armed <= now {
            allocation.armed = Mono(0);
        }
        if !allocation.is_live(now) {
            return self.end(now, key, EndReason::Expired);
        }
        for half in [0, 1] {
            let expired = self
                .registry
                .live(key)
                .and_then(|allocation| allocation.half(half))
                .is_some_and(|half| half.is_open() && !half.is_live(now));
            if expired {
                self.close_half(key, half);
            }
        }
        self.arm(key);
    }

    /// Closes one relayed transport address: silent at once, with everything that was installed
    /// for its family gone.
    pub(super) fn close_half(&mut self, key: Key, half: u8) {
        self.registry.unlist_local(key, half);
        let Some(allocation) = self.registry.live_mut(key) else {
            return;
        };
        let Some(closing) = &mut allocation.halves[usize::from(half)] else {
            return;
        };
        if !closing.is_open() {
            return;
        }
        closing.expires = Mono(0);
        let family = closing.family();
        allocation.peers.remove_family(family);
        let relay = relay_id(key, half);
        self.effect(Effect::CloseRelay { relay });
    }

    /// Ends an allocation, or gives up a pending one: every socket, port, place in a quota and
    /// table entry goes back.
    pub(super) fn end(&mut self, now: Mono, key: Key, reason: EndReason) {
        match self.registry.remove(key) {
            Some(Entry::Live(allocation)) => self.summarise(now, key, *allocation, reason),
            Some(Entry::Pending(pending)) => {
                for half in [0, 1] {
                    if pending.openings[usize::from(half)].is_some() {
                        let relay = relay_id(key, half);
                        self.effect(Effect::CloseRelay { relay });
                    }
                }
                if let Some(token) = pending.origin.token {
                    self.effect(Effect::ReleaseReserved { token });
                }
            }
            None => {}
        }
    }

    fn summarise(&mut self, now: Mono, key: Key, allocation: Allocation, reason: EndReason) {
        for (half, open) in (0..).zip(&allocation.halves) {
            if open.as_ref().is_some_and(|half| half.is_open()) {
                let relay = relay_id(key, half);
                self.effect(Effect::CloseRelay { relay });
            }
        }
        self.counters.allocation_ended(reason);
        let flow = allocation.flow;
        let by_itself = matches!(reason, EndReason::Expired | EndReason::Unpaired);
        if by_itself && flow.transport.is_stream() {
            self.effect(Effect::CloseFlow { flow });
        }
        self.audit(Audit::Ended {
            flow,
            relayed: allocation.relayed(),
            reason,
            seconds: now.secs_since(allocation.created),
            peers: allocation.peers_seen,
            traffic: allocation.traffic,
            username: allocation.owner.username,
        });
    }

    pub(super) fn indication_id(&mut self) -> TransactionId {
        let id = TransactionId(self.indication);
        let [_, _, _, _, count @ ..] = &mut self.indication;
        *count = u64::from_le_bytes(*count).wrapping_add(1).to_le_bytes();
        id
    }
}

/// Whether an address can be answered or relayed to: no port 0, no unspecified, multicast or
/// broadcast address.
pub(super) fn is_answerable(address: SocketAddr) -> bool {
    let special = match address.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    address.port() != 0 && !special
}
