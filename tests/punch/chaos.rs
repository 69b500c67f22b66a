//! Calls in any order with any arguments: nothing panics, time goes on, and nothing grows. When
//! the chaos ends, the two find each other all the same.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use turnserver::client::punch::{
    Agent, Candidate, CandidateKind, Config, Description, Event, Filtering, Mapping, NatHint, Via,
};
use turnserver::pairing::Role;

use crate::dice::Dice;
use crate::world::SECRET;

const KINDS: [CandidateKind; 6] = [
    CandidateKind::Host,
    CandidateKind::ServerReflexive,
    CandidateKind::PeerReflexive,
    CandidateKind::Mapped,
    CandidateKind::Predicted,
    CandidateKind::Relayed,
];

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn any_instant() -> Instant {
    Instant::now()
}

fn any_address(dice: &mut Dice) -> SocketAddr {
    let port = dice.below(65_536) as u16;
    match dice.below(3) {
        0 => SocketAddr::from(([192, 0, 2, 1 + dice.below(2) as u8], 1000)),
        1 => SocketAddr::from((
            dice.seed()[..4].try_into().map_or([0; 4], |ip: [u8; 4]| ip),
            port,
        )),
        _ => SocketAddr::from((
            dice.seed()[..16]
                .try_into()
                .map_or([0; 16], |ip: [u8; 16]| ip),
            port,
        )),
    }
}

fn any_via(dice: &mut Dice) -> Via {
    match dice.below(12) {
        0 => Via::Relay,
        number => Via::Socket(number as u16 / 3),
    }
}

fn any_candidate(dice: &mut Dice) -> Candidate {
    Candidate::new(KINDS[dice.below(6) as usize], any_address(dice))
}

fn any_nat(dice: &mut Dice) -> NatHint {
    let mapping = match dice.below(3) {
        0 => Mapping::Independent,
        1 => Mapping::Sequential {
            delta: dice.below(65_536) as u16 as i16,
            next: dice.below(65_536) as u16,
        },
        _ => Mapping::Random,
    };
    let filtering = dice.chance(0.5).then_some(Filtering::AddressAndPort);
    NatHint { mapping, filtering }
}

fn any_description(dice: &mut Dice) -> Description {
    let candidates = (0..dice.below(8)).map(|_| any_candidate(dice)).collect();
    Description {
        candidates,
        nat: dice.chance(0.5).then(|| any_nat(dice)),
        end: dice.chance(0.3),
        round: match dice.below(4) {
            0 => u32::MAX - dice.below(2) as u32,
            _ => dice.below(5) as u32,
        },
        opened: (0..dice.below(4)).map(|_| any_address(dice)).collect(),
        sockets: dice.below(300) as u32,
    }
}

/// One call with arguments by chance.
fn poke(agent: &mut Agent, dice: &mut Dice, now: Instant) {
    match dice.below(12) {
        0 => agent.add_local(any_candidate(dice), any_via(dice), now),
        1 => agent.remove_socket(any_via(dice), now),
        2 => {
            let start = dice.below(65_536) as u16;
            let end = start.saturating_add(dice.below(400) as u16);
            agent.add_sockets(start..end, now);
        }
        3 => agent.set_local_nat(any_nat(dice), now),
        4 | 5 => agent.add_remote(&any_description(dice), now),
        6 => agent.restart(now),
        7 => agent.note_sent(now),
        8 => agent.note_received(now, any_via(dice), any_address(dice)),
        9 => {
            let bytes = dice.seed();
            agent.handle(now, any_via(dice), any_address(dice), &bytes);
        }
        10 => agent.handle_timeout(now),
        _ => drop(agent.selected()),
    }
}

fn address(at: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + at as u8], 1000))
}

/// The two on a perfect wire between their two addresses, until then.
fn run(agents: &mut [Agent; 2], from: Instant, until: Instant, paths: &mut [bool; 2]) {
    let mut now = from;
    while now < until {
        for at in [0, 1] {
            let mut turns = 0;
            while agents[at].poll_timeout().is_some_and(|due| due <= now) {
                agents[at].handle_timeout(now);
                turns += 1;
                assert!(turns < 5000, "time stands still: {:?}", agents[at]);
            }
            while let Some(transmit) = agents[at].poll_transmit() {
                if transmit.to == address(1 - at) && transmit.via == Via::Socket(0) {
                    agents[1 - at].handle(now, Via::Socket(0), address(at), &transmit.bytes);
                }
            }
            while let Some(event) = agents[at].poll_event() {
                match event {
                    Event::Selected(_) => paths[at] = true,
                    Event::Lost(_) => paths[at] = false,
                    _ => {}
                }
            }
        }
        now += Duration::from_millis(5);
    }
}

#[test]
fn any_calls_in_any_order() {
    let mut selected = 0;
    for seed in 0..150 {
        let mut dice = Dice::new(seed);
        let mut now = any_instant();
        let roles = [Role::Initiator, Role::Receiver];
        let mut agents = roles.map(|role| Agent::new(Config::new(role, SECRET), dice.seed()));
        let mut paths = [false; 2];
        for _ in 0..60 {
            let which = dice.below(2) as usize;
            poke(&mut agents[which], &mut dice, now);
            let next = now + Duration::from_millis(dice.below(300));
            run(&mut agents, now, next, &mut paths);
            now = next;
        }
        // Now both tell the truth. Every attempt of theirs may have to end first.
        for at in [0, 1] {
            let independent = NatHint {
                mapping: Mapping::Independent,
                filtering: None,
            };
            agents[at].set_local_nat(independent, now);
            for number in 0..4 {
                agents[at].remove_socket(Via::Socket(number), now);
            }
            let host = |at| Candidate::new(CandidateKind::Host, address(at));
            agents[at].add_local(host(at), Via::Socket(0), now);
            let description = Description {
                candidates: vec![host(1 - at)],
                nat: Some(independent),
                ..Description::default()
            };
            agents[at].add_remote(&description, now);
            agents[at].restart(now);
        }
        let end = now + Duration::from_secs(5);
        run(&mut agents, now, end, &mut paths);
        assert_eq!(paths, [true; 2], "seed {seed}: {agents:#?}");
        selected += 1;
    }
    assert_eq!(selected, 150);
}
