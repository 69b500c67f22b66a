//! Carries out a sequence of steps on the core and on the model, and compares.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use turnserver::proto::{Flow, Limits};
use turnserver::wire::{Builder, Method};

use crate::harness::*;
use crate::ops::{CLIENTS, Op, Peer};
use crate::reference::*;

const FIXED: [&str; 14] = [
    "192.0.2.50:9",
    "192.0.2.50:10",
    "192.0.2.51:9",
    "192.0.2.52:0",
    "192.0.2.53:9",
    "192.0.2.54:9",
    "192.0.2.55:9",
    "[2001:db8:2::5]:9",
    "[2001:db8:2::5]:10",
    "[2001:db8:2::6]:9",
    "[2001:db8:2::7]:0",
    "127.0.0.1:9",
    "10.9.9.9:9",
    "[::1]:9",
];

/// How often what happened.
pub type Tally = BTreeMap<String, u64>;

pub struct Run {
    tally: Tally,
    pub world: World,
    pub model: Model,
    pub clients: Vec<[Client; 2]>,
}

/// Runs a sequence and then ends everything. Panics where core and model differ.
pub fn run(ops: &[Op]) -> Tally {
    let mut run = Run::new();
    for (step, op) in ops.iter().enumerate() {
        run.step(op);
        if step % 64 == 0 {
            run.compare_books();
        }
    }
    run.finish();
    run.tally
}

impl Run {
    fn new() -> Self {
        let users = [User::new("alice", "secret-a"), User::new("bob", "secret-b")];
        let world = Setup {
            shards: 2,
            ports: PORTS,
            limits: Limits {
                allocations_per_user: PER_USER as u32,
                allocations: TOTAL as u32,
                permissions_per_allocation: PERMISSIONS,
                channels_per_allocation: CHANNELS,
                ..Limits::default()
            },
            users: users.to_vec(),
            ..Setup::default()
        }
        .world();
        let clients = (0..CLIENTS)
            .map(|index| {
                let flow = match index {
                    0..=3 => flow(&format!("192.0.2.1:{}", 5000 + index)),
                    4..=6 => flow(&format!("[2001:db8:9::1]:{}", 5000 + index)),
                    _ => stream_flow(&format!("192.0.2.1:{}", 5000 + index), index as u64),
                };
                [0, 1].map(|wrong| {
                    let user = &users[(index / 2 + wrong) % 2];
                    let mut client = world.client(flow, user);
                    client.shard = index % 2;
                    client.transactions = (index * 2 + wrong) as u64 * 1_000_000;
                    client
                })
            })
            .collect();
        Self {
            tally: Tally::new(),
            world,
            model: Model::default(),
            clients,
        }
    }

    pub fn now(&self) -> Time {
        self.world.now.mono.0
    }

    pub fn count(&mut self, what: impl std::fmt::Display) {
        *self.tally.entry(what.to_string()).or_default() += 1;
    }

    pub fn flow(&self, client: usize) -> Flow {
        self.clients[client][0].flow
    }

    pub fn user_of(client: usize, wrong: bool) -> usize {
        (client / 2 + usize::from(wrong)) % 2
    }

    /// Lets the timers of everything that has expired fire; ports and quotas depend on that.
    pub fn settle(&mut self) {
        while self.model.is_unsettled(self.now()) {
            self.world.pass_micros(LATE);
        }
        self.model.settle(self.world.now.mono.0);
    }

    fn compare_books(&mut self) {
        self.settle();
        let model = &self.model;
        let live: usize = self
            .world
            .shards
            .iter()
            .map(|shard| shard.allocations())
            .sum();
        assert_eq!(live, model.allocations.len(), "allocations");
        let halves: usize = model.allocations.values().map(|a| a.halves.len()).sum();
        assert_eq!(self.world.net.leases.len(), halves, "relay sockets");
        let reserved: usize = self
            .world
            .shards
            .iter()
            .map(|shard| shard.reservations())
            .sum();
        assert_eq!(reserved, model.reservations.len(), "reservations");
        assert_eq!(
            self.world.shared.relays.in_use(),
            model.ports_in_use().len(),
            "ports"
        );
        assert_eq!(
            self.world.shared.quotas.total() as usize,
            model.quota(),
            "quota"
        );
        for (index, user) in ["alice", "bob"].into_iter().enumerate() {
            let held = self.world.shared.quotas.held_by(user) as usize;
            assert_eq!(held, model.quota_of(index), "quota of {user}");
        }
        self.world.audits.clear();
        self.world.closed_flows.clear();
    }

    fn finish(&mut self) {
        self.compare_books();
        // The longest lifetime, and every timer that might still stand.
        self.world.pass(3602.0);
        self.world.assert_empty();
        self.world.pass(7200.0);
        for shard in &self.world.shards {
            assert_eq!(shard.poll_timeout(), None, "timers");
        }
    }

    pub fn request(
        &mut self,
        client: usize,
        wrong: bool,
        method: Method,
        build: impl FnOnce(&mut Builder<'_>),
    ) -> (Vec<u8>, Response) {
        let flow = self.flow(client);
        let nonce = self.world.fresh_nonce(&flow, true);
        let client = &mut self.clients[client][usize::from(wrong)];
        client.nonce = nonce;
        let request = client.request(method, build);
        let response = self.world.call_bytes(client, &request);
        self.count(format_args!("{method:?} {}", response.code()));
        (request, response)
    }

    pub fn peer(&self, acting: usize, peer: Peer) -> SocketAddr {
        match peer {
            Peer::Fixed(index) => addr(FIXED[usize::from(index) % FIXED.len()]),
            Peer::Known { which, port } => {
                let allocation = self.model.allocations.get(&acting);
                let ips = allocation.map(|a| a.permissions.keys().copied().collect::<Vec<_>>());
                let ips = ips.filter(|ips| !ips.is_empty());
                ips.map_or(addr(FIXED[0]), |ips| {
                    SocketAddr::new(ips[usize::from(which) % ips.len()], port)
                })
            }
            Peer::Own { client, half } => {
                let allocation = self.model.allocations.get(&(usize::from(client) % CLIENTS));
                allocation
                    .and_then(|a| a.halves.get(usize::from(half) % a.halves.len().max(1)))
                    .map_or(SocketAddr::new(ip(PUBLIC_V4), 50_003), |half| half.relayed)
            }
        }
    }

    pub fn is_own(peer: SocketAddr) -> bool {
        peer.ip() == ip(PUBLIC_V4) || peer.ip() == ip(PUBLIC_V6)
    }

    /// The gate: open, open by exemption, or closed.
    pub fn gate(&self, peer: SocketAddr, by_port: bool) -> Option<bool> {
        let text = peer.ip().to_string();
        if text.starts_with("192.0.2.") || text.starts_with("2001:db8:2:") {
            return (!by_port || peer.port() != 0).then_some(false);
        }
        let live = Self::is_own(peer)
            && match peer.port() {
                0 => !by_port && self.model.any_live(peer.ip()),
                _ => self.model.owner_of(peer).is_some(),
            };
        live.then_some(true)
    }

    /// What the gate says to CreatePermission: a permission that the exemption opened is renewed
    /// whatever has become of the port since.
    pub fn gate_permission(&self, client: usize, peer: SocketAddr) -> Option<bool> {
        let held = self.model.allocations.get(&client);
        let held = held.and_then(|held| held.permission(self.now(), peer.ip()));
        match held {
            Some(Permission { exempt: true, .. }) => Some(true),
            _ => self.gate(peer, false),
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Allocate {
                client,
                wrong_user,
                want,
                lifetime,
                fail,
            } => self.allocate(client % CLIENTS as u8, *wrong_user, *want, *lifetime, *fail),
            Op::Again { client } => self.again(usize::from(*client) % CLIENTS),
            Op::Abort { client, want } => self.abort(usize::from(*client) % CLIENTS, *want),
            Op::Refresh {
                client,
                wrong_user,
                lifetime,
                family,
            } => self.refresh(
                usize::from(*client) % CLIENTS,
                *wrong_user,
                *lifetime,
                *family,
            ),
            Op::Permit {
                client,
                wrong_user,
                peers,
            } => self.permit(usize::from(*client) % CLIENTS, *wrong_user, peers),
            Op::Bind {
                client,
                number,
                peer,
            } => self.bind(usize::from(*client) % CLIENTS, *number, *peer),
            Op::Send { client, peer } => self.send(usize::from(*client) % CLIENTS, *peer),
            Op::Channel { client, number } => {
                self.channel(usize::from(*client) % CLIENTS, *number);
            }
            Op::Arrive {
                client,
                half,
                peer,
                local,
            } => self.arrive(usize::from(*client) % CLIENTS, *half, *peer, *local),
            Op::Close { client } => {
                self.settle();
                let client = usize::from(*client) % CLIENTS;
                let flow = self.flow(client);
                self.world.close_flow(client % 2, &flow);
                self.model.allocations.remove(&client);
            }
            Op::Pass { micros } => self.world.pass_micros(*micros),
            Op::PassTo { which, beside } => {
                let now = self.now();
                let mut ahead = self.model.deadlines();
                ahead.retain(|at| *at > now + 1);
                // One of the next few, so that not everything else is over by then.
                ahead.sort_unstable();
                ahead.truncate(4);
                if !ahead.is_empty() {
                    let at = ahead[usize::from(*which) % ahead.len()];
                    let target = at.saturating_add_signed(i64::from(*beside));
                    self.world.pass_micros(target - now);
                }
            }
        }
    }
}
