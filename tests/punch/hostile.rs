//! P10: who does not know the secret gets nothing; what is heard twice counts once; nothing grows.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use turnserver::client::punch::{
    Agent, Candidate, CandidateKind, Config, Description, Event, Handled, Transmit, Via,
};
use turnserver::pairing::{AccessKey, Role, Salt, Salts, SessionId};
use turnserver::wire::{Builder, Class, Integrity, Key, Message, Method, TransactionId, attr};

use crate::dice::Dice;
use crate::world::{Kind, Net, SECRET, World};

const MAIN: Via = Via::Socket(0);

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn any_instant() -> Instant {
    Instant::now()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn host(at: SocketAddr) -> Candidate {
    Candidate::new(CandidateKind::Host, at)
}

/// An agent with a public address that knows the address of its peer.
fn agent(role: Role, own: SocketAddr, peer: SocketAddr, secret: [u8; 32], now: Instant) -> Agent {
    let mut agent = Agent::new(Config::new(role, secret), [role as u8; 32]);
    agent.add_local(host(own), MAIN, now);
    let description = Description {
        candidates: vec![host(peer)],
        ..Description::default()
    };
    agent.add_remote(&description, now);
    agent
}

fn drain(agent: &mut Agent) -> (Vec<Transmit>, Vec<Event>) {
    let sent = std::iter::from_fn(|| agent.poll_transmit()).collect();
    let events = std::iter::from_fn(|| agent.poll_event()).collect();
    (sent, events)
}

/// Lets an agent do what is due until then; gives what it sent.
fn advance(agent: &mut Agent, until: Instant) -> Vec<Transmit> {
    let mut all = Vec::new();
    while let Some(at) = agent.poll_timeout().filter(|at| *at <= until) {
        agent.handle_timeout(at);
        all.extend(drain(agent).0);
    }
    all
}

fn is_selected(events: &[Event]) -> bool {
    events
        .iter()
        .any(|event| matches!(event, Event::Selected(_)))
}

/// The key of the checks of a session: its name is always the same one.
fn check_key(salts: [u8; 2]) -> [u8; 32] {
    let [initiator, receiver] = salts.map(|byte| Salt([byte; 16]));
    let key = AccessKey::new("k").expect("a key");
    let salts = Salts {
        initiator,
        receiver,
    };
    key.session(&SessionId([1; 16]), &salts).check
}

/// A server that pairs two devices under the name of an older session of theirs, and repeats all
/// that was checked then.
#[test]
fn checks_of_an_older_session_of_the_same_name_are_refused() {
    let now = any_instant();
    let [one, two] = ["192.0.2.1:1000", "198.51.100.1:2000"].map(address);
    let pair = |salts| {
        let key = check_key(salts);
        [
            agent(Role::Initiator, one, two, key, now),
            agent(Role::Receiver, two, one, key, now),
        ]
    };
    // The old session: everything that the two say until they have a path.
    let mut old = pair([1, 2]);
    let mut heard = Vec::new();
    let mut selected = [false; 2];
    for step in 0..100 {
        let now = now + Duration::from_millis(10 * step);
        for at in 0..2 {
            old[at].handle_timeout(now);
            let (sent, events) = drain(&mut old[at]);
            selected[at] |= is_selected(&events);
            for transmit in sent {
                let from = [one, two][at];
                old[1 - at].handle(now, MAIN, from, &transmit.bytes);
                heard.push((1 - at, from, transmit.bytes));
            }
        }
    }
    assert_eq!(selected, [true; 2]);
    // The new one: one of the two draws another salt, as each does.
    for salts in [[3, 2], [1, 3]] {
        let mut new = pair(salts);
        for agent in &mut new {
            drain(agent);
        }
        for (to, from, bytes) in &heard {
            let taken = new[*to].handle(now, MAIN, *from, bytes);
            assert_eq!(taken, Handled::NotMine, "{salts:?}");
            let (sent, events) = drain(&mut new[*to]);
            assert!(sent.is_empty() && events.is_empty(), "{salts:?}");
        }
    }
}

/// Before the peer's salt came there is no key, and nothing is sent or taken.
#[test]
fn without_a_key_nothing_is_sent_or_taken() {
    let now = any_instant();
    let [own, peer] = ["192.0.2.1:1000", "198.51.100.1:2000"].map(address);
    let mut agent = Agent::new(Config::keyless(Role::Initiator), [1; 32]);
    agent.add_local(host(own), MAIN, now);
    let mut known = self::agent(Role::Receiver, peer, own, SECRET, now);
    known.handle_timeout(now);
    let check = drain(&mut known).0.pop().expect("a check").bytes;
    assert_eq!(agent.handle(now, MAIN, peer, &check), Handled::NotMine);
    assert!(drain(&mut agent).0.is_empty());
    agent.begin(&SECRET);
    agent.begin(&[9; 32]);
    assert_eq!(agent.handle(now, MAIN, peer, &check), Handled::Consumed);
    assert!(!drain(&mut agent).0.is_empty(), "it is answered");
}

/// Every genuine message of a punch, both ways.
fn genuine(kinds: [Kind; 2], seed: u64) -> (World, Vec<(SocketAddr, SocketAddr, Vec<u8>)>) {
    let net = Net {
        latency: Duration::from_millis(20),
        loss: 0.0,
        burst: 1.0,
        signals: true,
        refines: true,
    };
    let mut world = World::new(kinds, net, seed);
    world.tap = Some(Vec::new());
    assert!(world.run(Duration::from_secs(5), World::both_selected));
    let heard = world.tap.take().expect("a tap");
    (world, heard)
}

/// A message in every way right, but under another key.
fn forged(dice: &mut Dice, key: &Key, id: Option<TransactionId>) -> Vec<u8> {
    let mut random = [0; 12];
    random.copy_from_slice(&dice.seed()[..12]);
    let id = id.unwrap_or(TransactionId(random));
    let class = [
        Class::Request,
        Class::Success,
        Class::Error,
        Class::Indication,
    ];
    let class = class[dice.below(4) as usize];
    let mut room = [0; 200];
    let mut builder = Builder::new(&mut room, class, Method::BINDING, id);
    builder.xor_address(attr::XOR_MAPPED_ADDRESS, address("203.0.113.9:9"));
    builder.u32(attr::PRIORITY, u32::MAX);
    let role = [attr::ICE_CONTROLLING, attr::ICE_CONTROLLED][dice.below(2) as usize];
    builder.attribute(role, &(1 + dice.below(10_000)).to_be_bytes());
    builder.empty(attr::USE_CANDIDATE);
    match dice.below(4) {
        0 => {}
        1 => drop(builder.integrity(Integrity::Sha1, key)),
        2 => drop(builder.integrity_sha256_truncated(key, 16)),
        _ => drop(builder.integrity(Integrity::Sha256, key)),
    }
    if dice.chance(0.5) {
        builder.fingerprint();
    }
    let len = builder.finish().expect("it fits");
    room[..len].to_vec()
}

#[test]
fn of_a_hundred_thousand_forgeries_none_is_taken() {
    let (mut world, heard) = genuine([Kind::N0, Kind::N0], 1);
    world.run(Duration::from_millis(500), |_| false);
    let mut dice = Dice::new(10);
    let wrong = Key::from_bytes(&[0x5D; 32]);
    let peer = world.sides[1].sockets[0].1;
    let now = world.now;
    let agent = &mut world.sides[0].agent;
    drain(agent);
    let before = *agent.stats();
    let mut refused = 0;
    for round in 0..100_000 {
        let (_, _, known) = &heard[dice.below(heard.len() as u64) as usize];
        let bytes = match round % 3 {
            // Under another key, also with the id of a request that was made.
            0 => {
                let id = Message::parse(known).expect("STUN").transaction_id();
                forged(&mut dice, &wrong, Some(id))
            }
            1 => forged(&mut dice, &wrong, None),
            // A genuine one with some bits turned, or cut.
            _ => {
                let mut bytes = known.clone();
                for _ in 0..=dice.below(3) {
                    let at = dice.below(bytes.len() as u64 - 4) as usize;
                    bytes[at] ^= 1 << dice.below(8);
                }
                if &bytes == known {
                    continue;
                }
                if dice.chance(0.2) {
                    bytes.truncate(dice.below(bytes.len() as u64) as usize);
                }
                bytes
            }
        };
        let spoofed = SocketAddr::from(([203, 0, 113, 200], 1 + dice.below(60_000) as u16));
        let from = if dice.chance(0.5) { peer } else { spoofed };
        assert_eq!(agent.handle(now, MAIN, from, &bytes), Handled::NotMine);
        refused += 1;
    }
    assert!(refused > 99_000);
    assert_eq!(*agent.stats(), before, "as if nothing had come");
    assert_eq!(
        drain(agent),
        (Vec::new(), Vec::new()),
        "nothing is answered"
    );
    assert!(world.agree());
}

#[test]
fn an_impostor_with_another_secret_never_connects() {
    let now = any_instant();
    let (a, b) = (address("192.0.2.1:1000"), address("192.0.2.2:2000"));
    let mut honest = agent(Role::Initiator, a, b, SECRET, now);
    let mut impostor = agent(Role::Receiver, b, a, [0; 32], now);
    for step in 0..1200 {
        let at = now + Duration::from_millis(10 * step);
        for transmit in advance(&mut honest, at) {
            impostor.handle(at, MAIN, a, &transmit.bytes);
        }
        for transmit in advance(&mut impostor, at) {
            let handled = honest.handle(at, MAIN, b, &transmit.bytes);
            assert_eq!(handled, Handled::NotMine);
        }
        assert!(!is_selected(&drain(&mut honest).1));
    }
    assert_eq!((honest.stats().heard, honest.stats().answers), (0, 0));
}

/// Everything that both sides ever sent, again, from where it came and from elsewhere.
#[test]
fn replays_are_refused() {
    let (mut world, heard) = genuine([Kind::N0, Kind::N0], 2);
    let path = world.sides[0].path;
    let now = world.now;
    let own = world.sides[0].sockets[0].1;
    let agent = &mut world.sides[0].agent;
    drain(agent);
    let before = *agent.stats();
    let elsewhere = address("203.0.113.66:666");
    let to_us = heard.iter().filter(|(_, to, _)| *to == own);
    for (from, _, bytes) in to_us {
        for from in [*from, elsewhere] {
            agent.handle(now, MAIN, from, bytes);
        }
    }
    let after = *agent.stats();
    assert!(after.replays > before.replays);
    assert_eq!((after.heard, after.answers), (before.heard, before.answers));
    assert_eq!(drain(agent), (Vec::new(), Vec::new()));
    assert_eq!(
        world.sides[0].agent.selected().map(|p| p.remote),
        path.map(|p| p.remote)
    );
}

/// A network that sends everything back: own checks prove nothing.
#[test]
fn reflections_are_refused() {
    for role in [Role::Initiator, Role::Receiver] {
        let now = any_instant();
        let (a, b) = (address("192.0.2.1:1000"), address("192.0.2.2:2000"));
        let mut agent = agent(role, a, b, SECRET, now);
        let mut returned = 0;
        for step in 0..100 {
            let at = now + Duration::from_millis(50 * step);
            for transmit in advance(&mut agent, at) {
                assert_eq!(
                    agent.handle(at, MAIN, b, &transmit.bytes),
                    Handled::Consumed
                );
                returned += 1;
            }
            let (sent, events) = drain(&mut agent);
            assert!(sent.is_empty(), "a reflection is not answered");
            assert!(!is_selected(&events));
        }
        assert_eq!(agent.stats().reflections, returned);
        assert!(returned > 20);
    }
}

/// An answer counts only on the socket, and from the address, that the request went to.
#[test]
fn an_answer_from_elsewhere_is_none() {
    let now = any_instant();
    let (a, b) = (address("192.0.2.1:1000"), address("192.0.2.2:2000"));
    let mut one = agent(Role::Initiator, a, b, SECRET, now);
    let mut other = agent(Role::Receiver, b, a, SECRET, now);
    let request = advance(&mut one, now).remove(0);
    other.handle(now, MAIN, a, &request.bytes);
    let (sent, _) = drain(&mut other);
    let answer = sent.first().expect("an answer");
    let elsewhere = address("192.0.2.3:2000");
    assert_eq!(
        one.handle(now, MAIN, elsewhere, &answer.bytes),
        Handled::NotMine
    );
    assert_eq!(
        one.handle(now, Via::Socket(1), b, &answer.bytes),
        Handled::NotMine
    );
    assert_eq!(
        one.handle(now, Via::Relay, b, &answer.bytes),
        Handled::NotMine
    );
    assert_eq!(one.stats().answers, 0);
    assert_eq!(one.handle(now, MAIN, b, &answer.bytes), Handled::Consumed);
    assert_eq!(one.stats().answers, 1);
    assert_eq!(one.handle(now, MAIN, b, &answer.bytes), Handled::NotMine);
}

/// One direction is not enough, whichever of the two hears nothing.
#[test]
fn half_a_path_is_none() {
    for [deaf, hearing] in [
        [Role::Initiator, Role::Receiver],
        [Role::Receiver, Role::Initiator],
    ] {
        let now = any_instant();
        let (a, b) = (address("192.0.2.1:1000"), address("192.0.2.2:2000"));
        let mut one = agent(deaf, a, b, SECRET, now);
        let mut other = agent(hearing, b, a, SECRET, now);
        let mut events = Vec::new();
        for step in 0..1000 {
            let at = now + Duration::from_millis(10 * step);
            for transmit in advance(&mut one, at) {
                other.handle(at, MAIN, a, &transmit.bytes);
            }
            advance(&mut other, at);
            events.extend(drain(&mut one).1);
            events.extend(drain(&mut other).1);
        }
        let heard = [&one, &other].map(|agent| agent.stats().heard);
        assert!(heard[0] == 0 && heard[1] > 20, "{deaf:?}: {heard:?}");
        assert!(!is_selected(&events), "{deaf:?} is deaf");
    }
}

/// A peer that tells ten thousand addresses, and a driver that does not send.
#[test]
fn what_the_peer_tells_is_bounded() {
    let now = any_instant();
    let (a, b) = (address("192.0.2.1:1000"), address("192.0.2.2:2000"));
    let mut agent = agent(Role::Initiator, a, b, SECRET, now);
    for block in 0..1000_u32 {
        let candidates = (0..64).map(|at| {
            let ip = std::net::Ipv4Addr::from_bits(0x0A00_0000 + block * 64 + at);
            Candidate::new(CandidateKind::ServerReflexive, SocketAddr::from((ip, 9)))
        });
        let description = Description {
            candidates: candidates.collect(),
            opened: vec![a; 5000],
            round: block,
            sockets: u32::MAX,
            ..Description::default()
        };
        agent.add_remote(&description, now);
    }
    let sent: VecDeque<_> = advance(&mut agent, now + Duration::from_secs(8)).into();
    assert!(sent.len() <= 1601, "one every 5 ms: {}", sent.len());
    let mut to: Vec<_> = sent.iter().map(|transmit| transmit.to).collect();
    to.sort();
    to.dedup();
    assert!(to.len() <= 100, "{}", to.len());
    // Nobody takes what is to be sent.
    let end = now + Duration::from_secs(600);
    while let Some(at) = agent.poll_timeout().filter(|at| *at <= end) {
        agent.handle_timeout(at);
    }
    let (sent, events) = drain(&mut agent);
    assert!(sent.len() <= 1024, "{}", sent.len());
    assert!(events.len() <= 100, "{}", events.len());
}

/// Addresses that cannot be meant.
#[test]
fn senseless_addresses_are_not_sent_to() {
    let now = any_instant();
    let mut agent = Agent::new(Config::new(Role::Initiator, SECRET), [1; 32]);
    agent.add_local(host(address("192.0.2.1:1000")), MAIN, now);
    agent.add_local(host(address("[2001:db8::1]:1000")), MAIN, now);
    let senseless = [
        "192.0.2.2:0",
        "0.0.0.0:9",
        "255.255.255.255:9",
        "224.0.0.1:9",
        "127.0.0.1:9",
        "[::]:9",
        "[::1]:9",
        "[ff02::1]:9",
    ];
    let description = Description {
        candidates: senseless.map(|text| host(address(text))).to_vec(),
        end: true,
        ..Description::default()
    };
    agent.add_remote(&description, now);
    assert!(advance(&mut agent, now + Duration::from_secs(20)).is_empty());
    assert!(matches!(drain(&mut agent).1[..], [Event::GaveUp(_)]));
}
