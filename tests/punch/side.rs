//! One device: its agent, its sockets, and the NATs in front of it.

use super::*;

pub(crate) struct Side {
    pub(crate) agent: Agent,
    /// Inner to outer, as indices into the world's NATs.
    pub(super) nats: Vec<usize>,
    /// For IPv6, which is not translated.
    pub(super) firewall: Option<usize>,
    pub(crate) sockets: Vec<(u16, SocketAddr)>,
    pub(super) blocked: bool,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) hint: Option<NatHint>,
    /// How many sockets only looked at the NAT.
    fresh: u16,
    pub(crate) path: Option<Path>,
    pub(crate) selected_at: Option<Instant>,
    pub(crate) lost_at: Option<Instant>,
    pub(crate) gave_up: Option<(Instant, Reason)>,
    pub(crate) moves: u32,
    pub(crate) asked_sockets: u16,
    /// Data that arrived: when, which way.
    pub(crate) received: Vec<(Instant, Via, Option<SocketAddr>)>,
    /// Until then its process does not run.
    pub(crate) asleep_until: Option<Instant>,
}

impl Side {
    pub(super) fn new(
        at: usize,
        kind: Kind,
        ipv6: bool,
        shared: bool,
        nats: &mut Vec<Nat>,
        dice: &mut Dice,
    ) -> Self {
        let role = [Role::Initiator, Role::Receiver][at];
        let agent = Agent::new(Config::new(role, SECRET), dice.seed());
        let number = at + 1;
        let (public, inside) = (format!("203.0.113.{number}"), format!("10.{number}.0.2"));
        let port = 30_000 + dice.below(20_000) as u16;
        let mut sockets = Vec::new();
        let mut chain = Vec::new();
        let mut firewall = None;
        let mut nat = |external: &str, ports, lets, strays| {
            nats.push(Nat::new(ip(external), ports, lets, strays, dice));
            nats.len() - 1
        };
        let own = match kind {
            Kind::N0 => public.clone(),
            _ if shared => "10.1.0.3".to_owned(),
            _ => inside,
        };
        match kind {
            _ if shared => chain.push(0),
            Kind::N0 | Kind::N8 => {}
            Kind::N1 => chain.push(nat(&public, Ports::Keep, Lets::In, false)),
            Kind::N2 => chain.push(nat(&public, Ports::Keep, Lets::KnownAddresses, false)),
            Kind::N3 | Kind::N6 | Kind::N9 => {
                chain.push(nat(&public, Ports::Keep, Lets::KnownEnds, false));
            }
            Kind::N3b => chain.push(nat(&public, Ports::Keep, Lets::KnownEnds, true)),
            Kind::N4(delta, cross) => {
                chain.push(nat(
                    &public,
                    Ports::Count { delta, cross },
                    Lets::KnownEnds,
                    false,
                ));
            }
            Kind::N5 => chain.push(nat(&public, Ports::Random, Lets::KnownEnds, false)),
            Kind::N7 => {
                chain.push(nat(
                    &format!("100.64.{number}.2"),
                    Ports::Keep,
                    Lets::KnownEnds,
                    false,
                ));
                chain.push(nat(&public, Ports::Keep, Lets::KnownEnds, false));
            }
        }
        if kind != Kind::N8 {
            sockets.push((0, SocketAddr::new(ip(&own), port)));
        }
        if ipv6 {
            // Addresses of IPv6 are not translated, but only answers come in.
            let own = Ipv6Addr::new(0x2001, 0xdb8, number as u16, 0, 0, 0, 0, 2);
            sockets.push((1, SocketAddr::new(own.into(), port)));
            firewall = Some(nat(
                &own.to_string(),
                Ports::Untouched,
                Lets::KnownEnds,
                false,
            ));
        }
        let candidates = sockets
            .iter()
            .map(|(_, own)| Candidate::new(CandidateKind::Host, *own));
        let candidates = candidates.collect();
        Self {
            agent,
            nats: chain,
            firewall,
            sockets,
            blocked: kind == Kind::N6,
            candidates,
            hint: None,
            fresh: 0,
            path: None,
            selected_at: None,
            lost_at: None,
            gave_up: None,
            moves: 0,
            asked_sockets: 0,
            received: Vec::new(),
            asleep_until: None,
        }
        .with_mapping(kind, nats)
    }

    /// When its timers are looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.agent.poll_timeout();
        due.map(|at| self.asleep_until.map_or(at, |awake| at.max(awake)))
    }

    /// What a packet to or from this address passes, from inside to outside.
    pub(super) fn chain(&self, address: SocketAddr) -> Vec<usize> {
        match address {
            SocketAddr::V4(_) => self.nats.clone(),
            SocketAddr::V6(_) => self.firewall.into_iter().collect(),
        }
    }

    pub(super) fn with_mapping(mut self, kind: Kind, nats: &mut [Nat]) -> Self {
        if kind == Kind::N9 {
            let nat = &mut nats[self.nats[0]];
            let port = self.sockets[0].1.port().wrapping_add(7);
            nat.forwards.insert(port, self.sockets[0].1);
            let mapped = SocketAddr::new(nat.external, port);
            self.candidates
                .push(Candidate::new(CandidateKind::Mapped, mapped));
        }
        self
    }

    /// Asks both server ports from the main socket and, where they saw different ports, from
    /// fresh ones.
    pub(super) fn gather(
        &mut self,
        now: Instant,
        nats: &mut [Nat],
        dice: &mut Dice,
        refines: bool,
    ) {
        let main = self.sockets.iter().find(|(_, own)| own.is_ipv4());
        let Some(&(_, main)) = main else { return };
        if self.blocked {
            return;
        }
        let mut ask = |own: SocketAddr, server: &str| {
            let server = server.parse().expect("an address");
            let chain = self.nats.iter();
            chain.fold(own, |from, &nat| {
                nats[nat].outbound(now, from, server, dice)
            })
        };
        let mut seen: Vec<_> = SERVERS.iter().map(|server| ask(main, server)).collect();
        let hint = classify(&seen).expect("two observations");
        for &address in &seen {
            let candidate = Candidate::new(CandidateKind::ServerReflexive, address);
            if !self.candidates.contains(&candidate) {
                self.candidates.push(candidate);
            }
        }
        if refines && seen[0] != seen[1] {
            seen.clear();
            // Later more, as the driver of sessions does.
            let sockets = if self.fresh == 0 { 2 } else { 8 };
            for _ in 0..sockets {
                self.fresh += 1;
                let other = SocketAddr::new(main.ip(), main.port() + self.fresh);
                seen.extend(SERVERS.iter().map(|server| ask(other, server)));
            }
        }
        self.hint = Some(refine(hint, &seen));
    }
}
