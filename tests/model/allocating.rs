//! The steps that make allocations, make them again and give them up half made.

use std::net::SocketAddr;

use turnserver::proto::OpenError;
use turnserver::wire::{Builder, Method, attr};

use crate::harness::*;
use crate::ops::Want;
use crate::reference::*;
use crate::run::Run;

impl Run {
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

    pub fn allocate(
        &mut self,
        client: u8,
        wrong: bool,
        want: Want,
        lifetime: Option<u32>,
        fail: bool,
    ) {
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

    pub fn again(&mut self, client: usize) {
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

    pub fn abort(&mut self, client: usize, want: Want) {
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
}
