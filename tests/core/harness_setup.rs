//! What a test server is made with.

use super::*;

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
            waits: Waits::new(),
            places: PairPlaces::new(),
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

impl World {
    /// A world with the two sides of a pair, who have not allocated yet.
    pub fn of_pair() -> (Self, Client, Client) {
        let world = Setup {
            users: vec![User::paired(1, 'i'), User::paired(1, 'r')],
            ..Setup::default()
        }
        .world();
        let [i, r] = [0, 1].map(|side| world.setup.users[side].clone());
        let a = world.client(flow("192.0.2.1:5000"), &i);
        let b = world.client(flow("192.0.2.2:5000"), &r);
        (world, a, b)
    }
}
