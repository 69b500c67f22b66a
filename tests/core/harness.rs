//! A server without sockets: the core of one or more shards, relay sockets that are only leases,
//! and clients that build real messages. Time stands still unless a test moves it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "several test binaries include it, each uses its own part"
)]

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
use turnserver::proto::pairs::PairScopes;
use turnserver::proto::ports::{PortLease, RelayAddresses};
use turnserver::proto::quota::Quotas;
use turnserver::proto::reserved::ReservedQuotas;
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
pub use users::{OfSecret, User, Users, pair_id};

pub const REALM: &str = "example.org.";
pub const LOCAL_V4: &str = "10.7.0.1";
pub const PUBLIC_V4: &str = "198.51.100.7";
pub const LOCAL_V6: &str = "2001:db8:7::1";
pub const PUBLIC_V6: &str = "2001:db8:7::1";
pub const NONCE_LIFETIME: u64 = 600;
pub const UNIX_START: u64 = 1_800_000_000;

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

/// What a test server is made with.
pub struct Setup {
    pub users: Vec<User>,
    /// Other credentials than those of `users`.
    pub credentials: Option<Arc<dyn Credentials>>,
    pub userhash: bool,
    pub limits: Limits,
    pub default_family: DefaultFamily,
    pub password_algorithms: bool,
    pub match_user_id: bool,
    pub rfc5766_channels: bool,
    pub software: Option<&'static str>,
    pub allow: Vec<&'static str>,
    pub deny: Vec<&'static str>,
    /// Relay addresses as (local, public).
    pub relays: Vec<(&'static str, &'static str)>,
    pub ports: std::ops::RangeInclusive<u16>,
    /// Where Bindings are answered, for RFC 5780.
    pub endpoints: Vec<Endpoint>,
    pub replies: u32,
    pub shards: usize,
    pub seed: u8,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            users: vec![User::new("alice", "secret-a"), User::new("bob", "secret-b")],
            credentials: None,
            userhash: false,
            limits: Limits::default(),
            default_family: DefaultFamily::Fixed(Family::V4),
            password_algorithms: true,
            match_user_id: false,
            rfc5766_channels: false,
            software: None,
            // Documentation addresses are closed by default, and everything here uses them.
            allow: vec!["192.0.2.0/24", "203.0.113.0/24", "2001:db8:2::/48"],
            deny: vec![],
            relays: vec![(LOCAL_V4, PUBLIC_V4), (LOCAL_V6, PUBLIC_V6)],
            ports: 50_000..=50_099,
            endpoints: vec![],
            replies: 0,
            shards: 1,
            seed: 1,
        }
    }
}

impl Setup {
    pub fn policy(&self) -> Policy {
        let nets = |list: &[&str]| {
            list.iter()
                .map(|net| net.parse().expect("a network"))
                .collect()
        };
        let users = Users::new(self.users.iter().cloned());
        let users: Arc<dyn Credentials> = Arc::new(if self.userhash {
            users.with_userhash()
        } else {
            users
        });
        Policy {
            credentials: self.credentials.clone().unwrap_or(users),
            gate: PeerGate::new(nets(&self.allow), nets(&self.deny), vec![], vec![]),
            limits: self.limits.clone(),
            default_family: self.default_family,
            password_algorithms: self.password_algorithms,
            match_user_id: self.match_user_id,
            rfc5766_channels: self.rfc5766_channels,
            software: self.software.map(Into::into),
        }
    }

    pub fn world(self) -> World {
        let relays = RelayAddresses::new(
            self.relays
                .iter()
                .map(|(local, public)| (ip(local), ip(public)))
                .collect(),
            self.ports.clone(),
        );
        let shared = Arc::new(Shared {
            nonces: Nonces::new(NonceKey::new([7; 32]), NONCE_LIFETIME),
            budget: ReplyBudget::new(self.replies, 5),
            reserved: ReservedQuotas::new(),
            pairs: PairScopes::new(),
            discovery: Discovery::new(&self.endpoints),
            quotas: Quotas::new(),
            relays,
        });
        let policy = Arc::new(self.policy());
        let counters: Vec<_> = (0..self.shards)
            .map(|_| Arc::new(Counters::new()))
            .collect();
        let shards = (0_u8..)
            .zip(&counters)
            .map(|(shard, counters)| {
                let mut seed = [shard; 32];
                seed[0] = self.seed;
                Relay::new(
                    seed,
                    Arc::clone(&shared),
                    Arc::clone(&policy),
                    Arc::clone(counters),
                )
            })
            .collect();
        World {
            now: Now {
                mono: Mono(1_000_000_000),
                unix: UNIX_START,
            },
            setup: self,
            shards,
            shared,
            counters,
            net: FakeNet {
                leases: HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4)),
                held: HashMap::new(),
                rng: ChaCha12Rng::from_seed([9; 32]),
                fail: None,
                fail_family: None,
                defer: false,
                deferred: Vec::new(),
            },
            audits: Vec::new(),
            closed_flows: Vec::new(),
            answers: Vec::new(),
        }
    }
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

/// What came of something that was handed to the core, with the bytes put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    ToPeer {
        relay: RelayId,
        peer: SocketAddr,
        data: Vec<u8>,
        dont_fragment: bool,
    },
    ToClient {
        flow: Flow,
        bytes: Vec<u8>,
    },
    Reply {
        flow: Flow,
        bytes: Vec<u8>,
        authenticated: bool,
    },
    Waiting,
    Drop(DropReason),
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
        assert_eq!(self.snapshot().allocations_active, 0, "gauge");
    }
}

fn outcome(disposition: Disposition, bytes: &[u8], reply: &[u8]) -> Outcome {
    match disposition {
        Disposition::ToPeer {
            relay,
            peer,
            payload,
            dont_fragment,
        } => Outcome::ToPeer {
            relay,
            peer,
            data: bytes[payload].to_vec(),
            dont_fragment,
        },
        Disposition::ToClient {
            flow,
            prefix,
            payload,
            padding,
        } => {
            let mut out = prefix.as_slice().to_vec();
            out.extend_from_slice(&bytes[payload]);
            out.resize(out.len() + usize::from(padding), 0);
            Outcome::ToClient { flow, bytes: out }
        }
        Disposition::Reply {
            flow,
            len,
            authenticated,
        } => Outcome::Reply {
            flow,
            bytes: reply[..len].to_vec(),
            authenticated,
        },
        Disposition::Waiting => Outcome::Waiting,
        Disposition::Drop(reason) => Outcome::Drop(reason),
    }
}

impl Outcome {
    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ToPeer { .. } => "to peer",
            Self::ToClient { bytes, .. } if bytes[0] >= 0x40 => "channel",
            Self::ToClient { .. } => "indication",
            Self::Reply { .. } => "reply",
            Self::Waiting => "waiting",
            Self::Drop(reason) => reason.name(),
        }
    }

    /// The data that goes to a peer.
    pub fn to_peer(&self) -> (SocketAddr, &[u8]) {
        match self {
            Self::ToPeer { peer, data, .. } => (*peer, data),
            other => panic!("not to a peer but {other:?}"),
        }
    }

    pub fn drop_reason(&self) -> DropReason {
        match self {
            Self::Drop(reason) => *reason,
            other => panic!("not dropped but {other:?}"),
        }
    }

    /// Channel number and data that go to a client.
    pub fn channel(&self) -> (u16, &[u8]) {
        match self {
            Self::ToClient { flow, bytes } => {
                let data = ChannelData::parse(bytes, flow.transport.is_stream());
                let data = data.expect("ChannelData");
                (data.number, data.data)
            }
            other => panic!("not to a client but {other:?}"),
        }
    }

    /// Peer and data of a Data indication that goes to a client.
    pub fn indication(&self) -> (SocketAddr, &[u8]) {
        let bytes = match self {
            Self::ToClient { bytes, .. } => bytes,
            other => panic!("not to a client but {other:?}"),
        };
        let message = Message::parse(bytes).expect("a STUN message");
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Method::DATA)
        );
        // RFC 8656 section 11: Data indications carry no integrity.
        assert_eq!(message.integrity(), None);
        let attrs = message.unprotected();
        let peer = attrs.peer().expect("well-formed").expect("a peer");
        (peer, attrs.data().expect("DATA"))
    }

    pub fn to_flow(&self) -> Flow {
        match self {
            Self::ToClient { flow, .. } | Self::Reply { flow, .. } => *flow,
            other => panic!("not to a client but {other:?}"),
        }
    }
}

pub fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = ChannelData::header(number, data.len() as u16).to_vec();
    bytes.extend_from_slice(data);
    bytes
}

pub fn flow(client: &str) -> Flow {
    Flow {
        transport: Transport::Udp,
        client: addr(client),
        local: if addr(client).is_ipv4() {
            addr("198.51.100.1:3478")
        } else {
            addr("[2001:db8:5::1]:3478")
        },
        link: 0,
    }
}

pub fn stream_flow(client: &str, link: u64) -> Flow {
    Flow {
        transport: Transport::Tcp,
        link,
        ..flow(client)
    }
}

/// A message without credentials.
pub fn plain(class: Class, method: Method, build: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let id = TransactionId(*b"plain-messag");
    let mut builder = Builder::new(&mut buffer, class, method, id);
    build(&mut builder);
    let len = builder.finish().expect("fits");
    buffer.truncate(len);
    buffer
}

/// One client: a 5-tuple and a user, with what it learned from a challenge.
#[derive(Clone)]
pub struct Client {
    pub shard: usize,
    pub flow: Flow,
    pub name: Vec<u8>,
    /// Send USERHASH with this value rather than USERNAME.
    pub userhash: Option<Vec<u8>>,
    pub user: User,
    /// Send PASSWORD-ALGORITHMS and PASSWORD-ALGORITHM; `None` as an old client.
    pub algorithm: Option<PasswordAlgorithm>,
    pub integrity: Integrity,
    pub realm: String,
    pub nonce: Vec<u8>,
    pub fingerprint: bool,
    pub transactions: u64,
}

impl Client {
    pub fn key(&self) -> &Key {
        self.user
            .key(self.algorithm.unwrap_or(PasswordAlgorithm::Md5))
    }

    pub fn next_id(&mut self) -> TransactionId {
        self.transactions += 1;
        let mut id = *b"tid_........";
        id[4..].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }

    /// An authenticated request with the next transaction id.
    pub fn request(&mut self, method: Method, build: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
        let id = self.next_id();
        self.request_with(id, method, build)
    }

    pub fn request_with(
        &self,
        id: TransactionId,
        method: Method,
        build: impl FnOnce(&mut Builder<'_>),
    ) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let mut builder = Builder::new(&mut buffer, Class::Request, method, id);
        build(&mut builder);
        self.credentials(&mut builder);
        builder.integrity(self.integrity, self.key());
        if self.fingerprint {
            builder.fingerprint();
        }
        let len = builder.finish().expect("fits");
        buffer.truncate(len);
        buffer
    }

    /// Appends what goes in front of the integrity.
    pub fn credentials(&self, builder: &mut Builder<'_>) {
        match &self.userhash {
            Some(hash) => builder.attribute(attr::USERHASH, hash),
            None => builder.attribute(attr::USERNAME, &self.name),
        };
        builder.attribute(attr::REALM, self.realm.as_bytes());
        builder.attribute(attr::NONCE, &self.nonce);
        if let Some(algorithm) = self.algorithm {
            builder.attribute(attr::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0]);
            builder.password_algorithm(algorithm);
        }
    }

    pub fn send(&mut self, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; data.len() + 64];
        let id = self.next_id();
        let mut builder = Builder::new(&mut buffer, Class::Indication, Method::SEND, id);
        builder.xor_address(attr::XOR_PEER_ADDRESS, peer);
        builder.attribute(attr::DATA, data);
        let len = builder.finish().expect("fits");
        buffer.truncate(len);
        buffer
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let attributes: Vec<_> = self.attrs().raw().map(|(ty, _)| attr::name(ty)).collect();
        write!(f, "{} with {attributes:?}", self.code())
    }
}

impl Response {
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("a STUN message")
    }

    pub fn attrs(&self) -> turnserver::wire::Attrs<'_> {
        self.message().unprotected()
    }

    /// 0 for a success, else the error code.
    pub fn code(&self) -> u16 {
        match self.message().class() {
            Class::Success => 0,
            Class::Error => {
                let code = self.attrs().error_code().expect("well-formed");
                code.expect("ERROR-CODE").value()
            }
            other => panic!("not a response but {other:?}"),
        }
    }

    pub fn lifetime(&self) -> u32 {
        let lifetime = self.attrs().lifetime().expect("well-formed");
        lifetime.expect("LIFETIME")
    }

    pub fn relayed(&self) -> Vec<SocketAddr> {
        let relayed = self.attrs().xor_relayed_addresses();
        relayed
            .map(|relayed| relayed.expect("well-formed"))
            .collect()
    }

    pub fn token(&self) -> Option<ReservationToken> {
        self.attrs().reservation_token().expect("well-formed")
    }

    pub fn nonce(&self) -> Vec<u8> {
        self.attrs().nonce().expect("NONCE").to_vec()
    }

    pub fn unknown(&self) -> Vec<u16> {
        let unknown = self.attrs().unknown_attributes().expect("well-formed");
        unknown.expect("UNKNOWN-ATTRIBUTES").collect()
    }

    pub fn address_error(&self) -> Option<(u8, ErrorCode)> {
        let error = self.attrs().address_error_code().expect("well-formed");
        error.map(|error| (error.family, error.code))
    }

    /// The types of all attributes, in order.
    pub fn types(&self) -> Vec<u16> {
        let mut types = Vec::new();
        let mut rest = &self.bytes[20..];
        while let [t0, t1, l0, l1, ..] = rest {
            types.push(u16::from_be_bytes([*t0, *t1]));
            let len = usize::from(u16::from_be_bytes([*l0, *l1])).next_multiple_of(4);
            rest = &rest[4 + len..];
        }
        types
    }

    /// RFC 8489 section 9.2.4: answers carry integrity by the algorithm that the request used.
    pub fn assert_protected(&self, client: &Client) {
        let message = self.message();
        assert_eq!(message.integrity(), Some(client.integrity), "{self:?}");
        assert!(message.verify(client.key()).is_ok(), "{self:?}");
        assert_eq!(message.has_fingerprint(), client.fingerprint);
    }

    /// RFC 8489 section 6.3.3: the answer has the method and the id of its request.
    pub fn assert_answers(&self, request: &[u8]) {
        let request = Message::parse(request).expect("a request");
        assert_eq!(self.message().method(), request.method());
        assert_eq!(self.message().transaction_id(), request.transaction_id());
    }

    pub fn assert_unprotected(&self) {
        assert_eq!(self.message().integrity(), None, "{self:?}");
    }
}
