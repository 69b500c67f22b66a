//! Carries out a sequence of steps on the core and on the model, and compares.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use turnserver::proto::{Flow, Limits, OpenError};
use turnserver::wire::{Builder, Method, attr};

use crate::harness::*;
use crate::ops::{CLIENTS, Op, Peer, Want};
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

    fn user_of(client: usize, wrong: bool) -> usize {
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

    fn request(
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
    fn gate(&self, peer: SocketAddr, by_port: bool) -> Option<bool> {
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
    fn gate_permission(&self, client: usize, peer: SocketAddr) -> Option<bool> {
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

    /// The attributes of an Allocate; the token that a step presents.
    fn build_want(&self, want: Want, lifetime: Option<u32>, b: &mut Builder<'_>) {
        match want {
            Want::NoTransport => {}
            Want::Tcp => {
                b.u8_rffu(attr::REQUESTED_TRANSPORT, 6);
            }
            _ => {
                b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            }
        }
        if let Some(lifetime) = lifetime {
            b.u32(attr::LIFETIME, lifetime);
        }
        match want {
            Want::Plain | Want::NoTransport | Want::Tcp => {}
            Want::Family(family) => {
                b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
            }
            Want::Even(reserve) => {
                b.even_port(reserve);
            }
            Want::EvenFamily(reserve, family) => {
                b.even_port(reserve);
                b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
            }
            Want::Dual => {
                b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, 2);
            }
            Want::DualEven(reserve) => {
                b.even_port(reserve);
                b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, 2);
            }
            Want::Token(which) => {
                b.attribute(attr::RESERVATION_TOKEN, &self.token(which));
            }
            Want::NobodysToken => {
                b.attribute(attr::RESERVATION_TOKEN, &[7; 8]);
            }
            Want::TokenAndEven(which) => {
                b.attribute(attr::RESERVATION_TOKEN, &self.token(which));
                b.even_port(false);
            }
            Want::BothFamilies => {
                b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, 1);
                b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, 2);
            }
            Want::AdditionalIpv4 => {
                b.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, 1);
            }
            Want::Unknown => {
                b.attribute(0x7F01, b"");
            }
            Want::BadLifetime => {
                b.attribute(attr::LIFETIME, b"xyz");
            }
        }
    }

    fn token(&self, which: u8) -> [u8; 8] {
        match self.model.reservations.len() {
            0 => [9; 8],
            len => self.model.reservations[usize::from(which) % len].token,
        }
    }

    /// The error that a request on a free 5-tuple gets before any quota or port is looked at.
    fn refusal(want: Want, lifetime: Option<u32>) -> Option<u16> {
        match want {
            Want::Unknown => Some(420),
            Want::NoTransport => Some(400),
            Want::Tcp => Some(442),
            // The first of two LIFETIMEs counts.
            Want::BadLifetime if lifetime.is_none() => Some(400),
            Want::BadLifetime => None,
            Want::TokenAndEven(_) | Want::BothFamilies | Want::AdditionalIpv4 => Some(400),
            Want::DualEven(true) => Some(400),
            Want::Family(3) | Want::EvenFamily(_, 3) => Some(440),
            _ => None,
        }
    }

    fn allocate(&mut self, client: u8, wrong: bool, want: Want, lifetime: Option<u32>, fail: bool) {
        self.settle();
        let client = usize::from(client);
        let user = Self::user_of(client, wrong);
        let v4 = ip(PUBLIC_V4);
        let v6 = ip(PUBLIC_V6);
        // What is to be expected, before the core is asked.
        let places = if matches!(want, Want::Even(true) | Want::EvenFamily(true, _)) {
            2
        } else {
            1
        };
        let presented = match want {
            Want::Token(which) => Some(self.token(which)),
            Want::NobodysToken => Some([7; 8]),
            _ => None,
        };
        let claimed = presented.and_then(|token| {
            let mut all = self.model.reservations.iter();
            all.position(|reservation| reservation.token == token)
        });
        let mine = claimed.is_some_and(|at| {
            let reservation = &self.model.reservations[at];
            reservation.held.is_some() && reservation.user == user
        });
        let even = match want {
            Want::Even(reserve) | Want::EvenFamily(reserve, _) | Want::DualEven(reserve) => {
                Some(reserve)
            }
            _ => None,
        };
        let ips = match want {
            Want::Family(2) | Want::EvenFamily(_, 2) => vec![v6],
            Want::Dual | Want::DualEven(_) => vec![v4, v6],
            Want::Token(_) | Want::NobodysToken => vec![],
            _ => vec![v4],
        };
        let available: Vec<_> = ips
            .iter()
            .copied()
            .filter(|ip| !fail && self.model.has_port(*ip, even))
            .collect();
        let expected =
            if self.model.allocations.contains_key(&client) && !matches!(want, Want::Unknown) {
                437
            } else if let Some(code) = Self::refusal(want, lifetime) {
                code
            } else if !mine && !self.model.has_room(user, places) {
                486
            } else if presented.is_some() {
                let held = claimed.and_then(|at| self.model.reservations[at].held);
                if fail || held.is_none() { 508 } else { 0 }
            } else if available.is_empty() {
                508
            } else {
                0
            };

        self.world.net.fail = fail.then_some(OpenError::NoPort);
        let mut buffer = vec![0; 512];
        let attributes = {
            let id = turnserver::wire::TransactionId([0; 12]);
            let class = turnserver::wire::Class::Request;
            let mut b = Builder::new(&mut buffer, class, Method::ALLOCATE, id);
            self.build_want(want, lifetime, &mut b);
            let len = b.finish().expect("fits");
            buffer.truncate(len);
            let message = turnserver::wire::Message::parse(&buffer).expect("well-formed");
            message.unprotected().raw().collect::<Vec<_>>()
        };
        let (request, response) = self.request(client, wrong, Method::ALLOCATE, |b| {
            for (ty, value) in &attributes {
                b.attribute(*ty, value);
            }
        });
        self.world.net.fail = None;
        assert_eq!(response.code(), expected, "{want:?}");
        if expected == 0 {
            let kind = format!("{want:?}");
            let kind = kind.split('(').next().unwrap_or_default();
            let missing = response.address_error().is_some();
            self.count(format_args!(
                "{kind}{}",
                if missing { ", one missing" } else { "" }
            ));
        }

        // A claim that failed because nobody holds the socket ends the reservation where it was
        // made.
        if let (508, Some(at), false) = (expected, claimed, fail)
            && self.model.reservations[at].shard == client % 2
        {
            self.model.reservations.remove(at);
        }
        if expected != 0 {
            return;
        }
        let granted = lifetime.unwrap_or(600).clamp(600, 3600);
        assert_eq!(response.lifetime(), granted);
        let relayed = response.relayed();
        let used = self.model.ports_in_use();
        if let Some(at) = claimed {
            assert_eq!(Some(relayed[0]), self.model.reservations[at].held);
            if self.model.reservations[at].shard == client % 2 {
                self.model.reservations.remove(at);
            } else {
                self.model.reservations[at].held = None;
            }
        } else {
            let got: Vec<_> = relayed.iter().map(|relayed| relayed.ip()).collect();
            assert_eq!(got, available);
            let missing = ips.iter().find(|ip| !available.contains(ip));
            let told = response
                .address_error()
                .map(|(family, code)| (family, code.value()));
            assert_eq!(
                told,
                missing.map(|ip| (if ip.is_ipv4() { 1 } else { 2 }, 508))
            );
            for relayed in &relayed {
                assert!(!used.contains(relayed) && PORTS.contains(&relayed.port()));
                assert!(even.is_none() || relayed.port() % 2 == 0);
            }
        }
        let now = self.now();
        assert_eq!(response.token().is_some(), even == Some(true));
        if let Some(token) = response.token() {
            let held = SocketAddr::new(relayed[0].ip(), relayed[0].port() + 1);
            assert!(!used.contains(&held));
            self.model.reservations.push(Reservation {
                token,
                shard: client % 2,
                user,
                held: Some(held),
                expires: now + 30 * SECOND,
            });
        }
        let expires = now + u64::from(granted) * SECOND;
        let halves = relayed.into_iter().map(|relayed| Half { relayed, expires });
        self.model.allocations.insert(
            client,
            Allocation {
                user,
                request,
                answer: response.bytes,
                halves: halves.collect(),
                permissions: Default::default(),
                channels: Default::default(),
            },
        );
    }

    fn again(&mut self, client: usize) {
        self.settle();
        let Some(allocation) = self.model.allocations.get(&client) else {
            return;
        };
        let (request, answer) = (allocation.request.clone(), allocation.answer.clone());
        let flow = self.flow(client);
        let response = self.world.answer(client % 2, &flow, &request);
        self.count(format_args!("Again {}", response.code()));
        match response.code() {
            0 => assert_eq!(response.bytes, answer),
            // Its nonce has expired meanwhile.
            code => assert_eq!(code, 438),
        }
    }

    fn abort(&mut self, client: usize, want: Want) {
        self.settle();
        if self.model.allocations.contains_key(&client) || Self::refusal(want, None).is_some() {
            return;
        }
        // A reservation that is claimed and given up is gone with the claim; kept out of here.
        if matches!(want, Want::Token(_) | Want::NobodysToken) {
            return;
        }
        let user = Self::user_of(client, false);
        let places = if matches!(want, Want::Even(true) | Want::EvenFamily(true, _)) {
            2
        } else {
            1
        };
        if !self.model.has_room(user, places) {
            return;
        }
        let flow = self.flow(client);
        let nonce = self.world.fresh_nonce(&flow, true);
        self.world.net.defer = true;
        let mut aborting = self.clients[client][0].clone();
        aborting.nonce = nonce;
        let request = aborting.request(Method::ALLOCATE, |b| self.build_want(want, None, b));
        self.clients[client][0].transactions = aborting.transactions;
        let outcome = self.world.receive(client % 2, &flow, &request);
        assert_eq!(outcome, Outcome::Waiting);
        self.count("Abort");
        self.world.close_flow(client % 2, &flow);
        self.world.answers.clear();
        self.world.open_deferred();
        assert!(self.world.answers.is_empty());
    }

    /// 437 and 441, the same for every request on an allocation.
    fn ownership(&self, client: usize, wrong: bool) -> Option<u16> {
        match self.model.allocations.get(&client) {
            None => Some(437),
            Some(allocation) if allocation.user != Self::user_of(client, wrong) => Some(441),
            Some(_) => None,
        }
    }

    fn refresh(&mut self, client: usize, wrong: bool, lifetime: Option<u32>, family: Option<u8>) {
        self.settle();
        let now = self.now();
        let named = family.map(|family| match family {
            1 => Some(Family::V4),
            2 => Some(Family::V6),
            _ => None,
        });
        let missing = self
            .model
            .allocations
            .get(&client)
            .is_some_and(|allocation| {
                named.is_some_and(|named| named.is_none_or(|f| allocation.half(now, f).is_none()))
            });
        let expected = match self.ownership(client, wrong) {
            Some(code) => code,
            None if missing => 443,
            None => 0,
        };
        let (_, response) = self.request(client, wrong, Method::REFRESH, |b| {
            if let Some(lifetime) = lifetime {
                b.u32(attr::LIFETIME, lifetime);
            }
            if let Some(family) = family {
                b.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family);
            }
        });
        assert_eq!(response.code(), expected);
        if expected != 0 {
            return;
        }
        let granted = match lifetime {
            Some(0) => 0,
            lifetime => lifetime.unwrap_or(600).clamp(600, 3600),
        };
        assert_eq!(response.lifetime(), granted);
        let allocation = self
            .model
            .allocations
            .get_mut(&client)
            .expect("checked above");
        for half in &mut allocation.halves {
            let this = crate::reference::family(half.relayed.ip());
            if named.is_none_or(|named| named == Some(this)) {
                half.expires = now + u64::from(granted) * SECOND;
            }
        }
        // What was deleted is gone at once.
        self.model.settle(now);
    }

    fn permit(&mut self, client: usize, wrong: bool, peers: &[Peer]) {
        self.settle();
        let now = self.now();
        let peers: Vec<_> = peers.iter().map(|peer| self.peer(client, *peer)).collect();
        let expected = match self.ownership(client, wrong) {
            Some(code) => code,
            None => {
                let allocation = &self.model.allocations[&client];
                let mut all = allocation.live_permissions(now);
                all.extend(peers.iter().map(|peer| peer.ip()));
                if peers.is_empty() {
                    400
                } else if peers
                    .iter()
                    .any(|peer| allocation.half(now, family(peer.ip())).is_none())
                {
                    443
                } else if peers
                    .iter()
                    .any(|peer| self.gate_permission(client, *peer).is_none())
                {
                    403
                } else if all.len() > PERMISSIONS
                    && all.len() > allocation.live_permissions(now).len()
                {
                    508
                } else {
                    0
                }
            }
        };
        let verdicts: Vec<_> = peers
            .iter()
            .map(|peer| self.gate_permission(client, *peer))
            .collect();
        let (_, response) = self.request(client, wrong, Method::CREATE_PERMISSION, |b| {
            for peer in &peers {
                b.xor_address(attr::XOR_PEER_ADDRESS, *peer);
            }
        });
        assert_eq!(response.code(), expected, "{peers:?}");
        if expected != 0 {
            return;
        }
        let allocation = self
            .model
            .allocations
            .get_mut(&client)
            .expect("checked above");
        for (peer, verdict) in peers.iter().zip(verdicts) {
            let permission = Permission {
                expires: now + 300 * SECOND,
                exempt: verdict == Some(true),
            };
            allocation.permissions.insert(peer.ip(), permission);
        }
    }

    fn bind(&mut self, client: usize, number: u16, peer: Peer) {
        self.settle();
        let now = self.now();
        let peer = self.peer(client, peer);
        let verdict = self.gate(peer, true);
        let expected = match self.ownership(client, false) {
            Some(code) => code,
            None => {
                let allocation = &self.model.allocations[&client];
                let by_number = allocation.channel(now, number).map(|found| found.0);
                let by_peer = allocation.channel_of(now, peer);
                let refresh = by_number == Some(peer);
                let mut permissions = allocation.live_permissions(now);
                let before = permissions.len();
                permissions.insert(peer.ip());
                if number > 0x4FFF
                    || by_number.is_some_and(|bound| bound != peer)
                    || by_peer.is_some_and(|bound| bound != number)
                {
                    400
                } else if allocation.half(now, family(peer.ip())).is_none() {
                    443
                } else if verdict.is_none() {
                    403
                } else if !refresh && allocation.live_channels(now) >= CHANNELS
                    || permissions.len() > before.max(PERMISSIONS)
                {
                    508
                } else {
                    0
                }
            }
        };
        let (_, response) = self.request(client, false, Method::CHANNEL_BIND, |b| {
            b.channel_number(number);
            b.xor_address(attr::XOR_PEER_ADDRESS, peer);
        });
        assert_eq!(response.code(), expected, "{number:#x} {peer}");
        if expected != 0 {
            return;
        }
        let exempt = verdict == Some(true);
        let allocation = self
            .model
            .allocations
            .get_mut(&client)
            .expect("checked above");
        allocation
            .channels
            .retain(|_, channel| channel.1 > now && channel.0 != peer);
        allocation
            .channels
            .insert(number, (peer, now + 600 * SECOND, exempt));
        let permission = Permission {
            expires: now + 300 * SECOND,
            exempt,
        };
        allocation.permissions.insert(peer.ip(), permission);
    }
}
