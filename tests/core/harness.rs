//! A server without sockets: the core of one or more shards, relay sockets that are only leases,
//! and clients that build real messages. Time stands still unless a test moves it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "several test binaries include it, each uses its own part"
)]

#[path = "harness_client.rs"]
mod client;
#[path = "harness_outcome.rs"]
mod outcome;
#[path = "harness_setup.rs"]
mod setup;
#[path = "harness_users.rs"]
mod users;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::RandomState;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use turnserver::proto::audit::Audit;
use turnserver::proto::budget::ReplyBudget;
use turnserver::proto::counters::{Counters, Snapshot};
use turnserver::proto::credentials::Credentials;
use turnserver::proto::discovery::{Discovery, Endpoint};
use turnserver::proto::gate::PeerGate;
use turnserver::proto::nonce::{NonceKey, Nonces};
use turnserver::proto::places::PairPlaces;
use turnserver::proto::ports::{PortLease, RelayAddresses};
use turnserver::proto::quota::Quotas;
use turnserver::proto::reserved::ReservedQuotas;
use turnserver::proto::waits::Waits;
use turnserver::proto::{
    DefaultFamily, Disposition, DropReason, Effect, Family, Flow, IcmpError, Limits, Mono, Now,
    OpenError, OpenSpec, OpenedRelay, Policy, REPLY_BUFFER, Relay, RelayId, ReservationToken,
    Shared, Transport,
};
use turnserver::wire::{
    Builder, ChannelData, Class, ErrorCode, Integrity, Key, Message, Method, PasswordAlgorithm,
    TransactionId, attr,
};

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub use client::{Client, Response, channel_data, flow, plain, stream_flow};
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub use outcome::Outcome;
use outcome::outcome;
pub use setup::Setup;
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub use users::{OfSecret, User, Users, pair_id};

pub const REALM: &str = "example.org.";
pub const LOCAL_V4: &str = "10.7.0.1";
pub const PUBLIC_V4: &str = "198.51.100.7";
pub const LOCAL_V6: &str = "2001:db8:7::1";
pub const PUBLIC_V6: &str = "2001:db8:7::1";
pub const NONCE_LIFETIME: u64 = 600;
pub const UNIX_START: u64 = 1_800_000_000;
/// What a 401 or 438 without integrity consists of.
pub const CHALLENGE: [u16; 4] = [
    attr::ERROR_CODE,
    attr::REALM,
    attr::NONCE,
    attr::PASSWORD_ALGORITHMS,
];

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

/// The driver's half: relay sockets, of which only the leases are real. Its seeds are fixed, so
/// that every run costs the same.
pub struct FakeNet {
    pub leases: HashMap<(usize, RelayId), PortLease, RandomState>,
    pub held: HashMap<ReservationToken, PortLease>,
    rng: ChaCha12Rng,
    /// Fail every open with this.
    pub fail: Option<OpenError>,
    /// Fail opens of one family only.
    pub fail_family: Option<Family>,
    /// Keep all effects back until [`World::open_deferred`].
    pub defer: bool,
    deferred: Vec<(usize, Effect)>,
}

pub struct World {
    pub now: Now,
    pub setup: Setup,
    pub shards: Vec<Relay>,
    pub shared: Arc<Shared>,
    pub counters: Vec<Arc<Counters>>,
    pub net: FakeNet,
    pub audits: Vec<Audit>,
    pub closed_flows: Vec<Flow>,
    /// Answers that came by `relay_opened`.
    pub answers: Vec<(Flow, Vec<u8>)>,
}

impl World {
    pub fn new() -> Self {
        Setup::default().world()
    }

    /// Lets time pass and timers fire as a driver would: never before they are due, each at the
    /// moment that `poll_timeout` names.
    pub fn pass(&mut self, seconds: f64) {
        self.pass_micros((seconds * 1e6) as u64);
    }

    pub fn pass_micros(&mut self, micros: u64) {
        let target = Mono(self.now.mono.0 + micros);
        loop {
            let due = (0..self.shards.len())
                .filter_map(|shard| Some((self.shards[shard].poll_timeout()?, shard)))
                .min()
                .filter(|(due, _)| *due <= target);
            let Some((due, shard)) = due else { break };
            self.set_mono(due.max(self.now.mono));
            let now = self.now;
            self.shards[shard].handle_timeout(now);
            self.drain_effects(shard);
        }
        self.set_mono(target);
    }

    /// Moves the clocks without letting timers fire: what has expired must be gone all the same.
    pub fn pass_without_timers(&mut self, seconds: f64) {
        let target = Mono(self.now.mono.0 + (seconds * 1e6) as u64);
        self.set_mono(target);
    }

    fn set_mono(&mut self, mono: Mono) {
        // Both clocks show the same time.
        self.now = Now {
            mono,
            unix: UNIX_START + (mono.0 - 1_000_000_000) / 1_000_000,
        };
    }

    pub fn client(&self, flow: Flow, user: &User) -> Client {
        Client {
            shard: 0,
            flow,
            name: user.name.as_bytes().to_vec(),
            userhash: None,
            user: user.clone(),
            algorithm: None,
            integrity: Integrity::Sha1,
            realm: REALM.into(),
            nonce: self.fresh_nonce(&flow, self.setup.password_algorithms),
            fingerprint: false,
            transactions: u64::from(flow.client.port()) << 32,
        }
    }

    /// A nonce as a challenge would carry it.
    pub fn fresh_nonce(&self, flow: &Flow, password_algorithms: bool) -> Vec<u8> {
        let features = turnserver::proto::nonce::Features {
            password_algorithms,
            username_anonymity: password_algorithms && self.setup.userhash,
        };
        let nonces = &self.shared.nonces;
        nonces
            .issue(self.now.unix, flow.client, features)
            .as_bytes()
            .to_vec()
    }

    /// Hands bytes from a client to a shard.
    pub fn receive(&mut self, shard: usize, flow: &Flow, bytes: &[u8]) -> Outcome {
        // Garbage, so that nothing is zero by accident.
        let mut reply = [0xA5; REPLY_BUFFER];
        let now = self.now;
        let disposition = self.shards[shard].handle_client(now, flow, bytes, &mut reply);
        let outcome = outcome(disposition, bytes, &reply);
        self.drain_effects(shard);
        outcome
    }

    #[expect(
        clippy::wrong_self_convention,
        reason = "named for the direction of the datagram"
    )]
    pub fn from_peer(
        &mut self,
        shard: usize,
        relay: RelayId,
        peer: SocketAddr,
        data: &[u8],
    ) -> Outcome {
        let now = self.now;
        let disposition = self.shards[shard].handle_peer(now, relay, peer, data.len());
        let outcome = outcome(disposition, data, &[]);
        self.drain_effects(shard);
        outcome
    }

    pub fn icmp(&mut self, shard: usize, relay: RelayId, error: IcmpError) -> Outcome {
        let mut reply = [0xA5; REPLY_BUFFER];
        let now = self.now;
        let disposition = self.shards[shard].handle_icmp(now, relay, &error, &mut reply);
        let outcome = outcome(disposition, &[], &reply);
        self.drain_effects(shard);
        outcome
    }

    pub fn close_flow(&mut self, shard: usize, flow: &Flow) {
        let now = self.now;
        self.shards[shard].flow_closed(now, flow);
        self.drain_effects(shard);
    }

    pub fn drain_effects(&mut self, shard: usize) {
        while let Some(effect) = self.shards[shard].poll_effect() {
            if self.net.defer {
                self.net.deferred.push((shard, effect));
            } else {
                self.carry_out(shard, effect);
            }
        }
    }

    /// Carries out what was kept back, in order, and what comes of it.
    pub fn open_deferred(&mut self) {
        self.net.defer = false;
        for (shard, effect) in std::mem::take(&mut self.net.deferred) {
            self.carry_out(shard, effect);
        }
        for shard in 0..self.shards.len() {
            self.drain_effects(shard);
        }
    }

    fn carry_out(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::OpenRelay { relay, spec } => self.open(shard, relay, spec),
            Effect::CloseRelay { relay } => {
                self.net.leases.remove(&(shard, relay));
            }
            Effect::ReleaseReserved { token } => {
                self.net.held.remove(&token);
            }
            Effect::CloseFlow { flow } => self.closed_flows.push(flow),
            Effect::AuthenticationFailed { flow } => {
                self.audits.push(Audit::AuthenticationFailed { flow });
            }
            Effect::Audit(audit) => self.audits.push(*audit),
        }
    }

    fn open(&mut self, shard: usize, relay: RelayId, spec: OpenSpec) {
        let lease = self.lease(spec);
        let result = lease.map(|lease| {
            let opened = OpenedRelay {
                local: lease.local(),
                public: lease.public(),
            };
            lease.set_live(true);
            self.net.leases.insert((shard, relay), lease);
            opened
        });
        let mut reply = [0xA5; REPLY_BUFFER];
        let now = self.now;
        let disposition = self.shards[shard].relay_opened(now, relay, result, &mut reply);
        match outcome(disposition, &[], &reply) {
            Outcome::Reply {
                flow,
                bytes,
                authenticated,
            } => {
                assert!(authenticated);
                self.answers.push((flow, bytes));
            }
            Outcome::Waiting | Outcome::Drop(DropReason::NoRelay) => {}
            other => panic!("relay_opened answered {other:?}"),
        }
    }

    fn lease(&mut self, spec: OpenSpec) -> Result<PortLease, OpenError> {
        let family = match spec {
            OpenSpec::Any { family }
            | OpenSpec::At { family, .. }
            | OpenSpec::Even { family }
            | OpenSpec::EvenAndReserve { family, .. } => Some(family),
            OpenSpec::Reserved { .. } => None,
        };
        if let Some(error) = self.net.fail {
            return Err(error);
        }
        if family.is_some() && family == self.net.fail_family {
            return Err(OpenError::NoPort);
        }
        let relays = &self.shared.relays;
        let rng = &mut self.net.rng;
        match spec {
            OpenSpec::Any { family } => relays.lease(family, false, rng),
            OpenSpec::At { family, place } => relays
                .lease_at(family, place)
                .or_else(|| relays.lease(family, false, rng)),
            OpenSpec::Even { family } => relays.lease(family, true, rng),
            OpenSpec::EvenAndReserve { family, token } => {
                relays.lease_pair(family, rng).map(|(even, odd)| {
                    self.net.held.insert(token, odd);
                    even
                })
            }
            OpenSpec::Reserved { token } => {
                return self.net.held.remove(&token).ok_or(OpenError::NoReservation);
            }
        }
        .ok_or(OpenError::NoPort)
    }

    /// Sends a request and returns the answer, also one that had to wait for relay sockets.
    /// Panics when there is none.
    pub fn answer(&mut self, shard: usize, flow: &Flow, bytes: &[u8]) -> Response {
        self.answers.clear();
        match self.receive(shard, flow, bytes) {
            Outcome::Reply {
                flow: to, bytes, ..
            } => {
                assert_eq!(to, *flow);
                Response { bytes }
            }
            Outcome::Waiting => {
                let (to, bytes) = self.answers.pop().expect("an answer after waiting");
                assert_eq!(to, *flow);
                Response { bytes }
            }
            other => panic!("no answer but {other:?}"),
        }
    }

    /// Sends an authenticated request and checks that the answer is protected as the request was.
    pub fn call(
        &mut self,
        client: &mut Client,
        method: Method,
        build: impl FnOnce(&mut Builder<'_>),
    ) -> Response {
        let request = client.request(method, build);
        self.call_bytes(client, &request)
    }

    pub fn call_bytes(&mut self, client: &Client, request: &[u8]) -> Response {
        let response = self.answer(client.shard, &client.flow, request);
        response.assert_protected(client);
        response.assert_answers(request);
        response
    }

    pub fn allocate(&mut self, client: &mut Client) -> SocketAddr {
        self.allocate_with(client, |_| {}).relayed()[0]
    }

    /// Allocates with REQUESTED-TRANSPORT and more; asserts success.
    pub fn allocate_with(
        &mut self,
        client: &mut Client,
        build: impl FnOnce(&mut Builder<'_>),
    ) -> Response {
        let response = self.call(client, Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            build(b);
        });
        assert_eq!(response.code(), 0, "{response:?}");
        response
    }

    pub fn refresh(&mut self, client: &mut Client, lifetime: u32) -> Response {
        self.call(client, Method::REFRESH, |b| {
            b.u32(attr::LIFETIME, lifetime);
        })
    }

    pub fn permit(&mut self, client: &mut Client, peers: &[SocketAddr]) -> Response {
        self.call(client, Method::CREATE_PERMISSION, |b| {
            for peer in peers {
                b.xor_address(attr::XOR_PEER_ADDRESS, *peer);
            }
        })
    }

    pub fn bind(&mut self, client: &mut Client, number: u16, peer: SocketAddr) -> Response {
        self.call(client, Method::CHANNEL_BIND, |b| {
            b.channel_number(number);
            b.xor_address(attr::XOR_PEER_ADDRESS, peer);
        })
    }

    /// Sends a Send indication.
    pub fn send(&mut self, client: &mut Client, peer: SocketAddr, data: &[u8]) -> Outcome {
        let bytes = client.send(peer, data);
        self.receive(client.shard, &client.flow, &bytes)
    }

    /// Sends ChannelData.
    pub fn channel(&mut self, client: &Client, number: u16, data: &[u8]) -> Outcome {
        let bytes = channel_data(number, data);
        self.receive(client.shard, &client.flow, &bytes)
    }

    /// The relay socket that the world knows by `public`.
    pub fn relay_of(&self, public: SocketAddr) -> (usize, RelayId) {
        let mut leases = self.net.leases.iter();
        *leases
            .find(|(_, lease)| lease.public() == public)
            .expect("an open relay socket")
            .0
    }

    /// A datagram arrives at a relayed transport address from the world.
    pub fn arrive(&mut self, relayed: SocketAddr, peer: SocketAddr, data: &[u8]) -> Outcome {
        let (shard, relay) = self.relay_of(relayed);
        self.from_peer(shard, relay, peer, data)
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for counters in &self.counters {
            sum += &counters.snapshot();
        }
        sum
    }

    pub fn reload(&mut self, policy: Policy) {
        let policy = Arc::new(policy);
        for shard in &mut self.shards {
            shard.set_policy(Arc::clone(&policy));
        }
    }

    /// Nothing is left: ports, quotas, reservations, tables.
    pub fn assert_empty(&self) {
        for shard in &self.shards {
            assert_eq!(shard.allocations(), 0, "allocations");
            assert_eq!(shard.reservations(), 0, "reservations");
        }
        assert!(self.net.leases.is_empty(), "relay sockets");
        assert!(self.net.held.is_empty(), "held sockets");
        assert_eq!(self.shared.relays.in_use(), 0, "ports");
        assert_eq!(self.shared.quotas.total(), 0, "quotas");
        assert_eq!(self.shared.quotas.users(), 0, "users in quotas");
        assert_eq!(self.shared.places.held(), 0, "ports of pairs");
        assert_eq!(self.shared.places.sources(), 0, "sources of pairs");
        assert_eq!(self.snapshot().allocations_active, 0, "gauge");
    }
}
