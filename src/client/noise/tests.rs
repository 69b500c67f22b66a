//! Two sides over a link that loses, repeats, reorders and changes, in virtual time.

use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use super::*;
use crate::client::origin;
use crate::pairing::AccessKey;
use crate::wire::{Kind as Protocol, classify};

/// What a link does to a datagram, in percent.
#[derive(Clone, Copy, Debug, Default)]
struct Harm {
    lost: u64,
    doubled: u64,
    /// Changed in one bit; the original is lost.
    changed: u64,
    /// Milliseconds of delay, at most.
    late: u64,
}

struct World {
    start: Instant,
    now: Instant,
    sides: [Secure; 2],
    harm: Harm,
    rng: ChaCha12Rng,
    /// When, to whom, what.
    flying: Vec<(Instant, usize, Vec<u8>)>,
    got: [Vec<Vec<u8>>; 2],
    events: [Vec<Event>; 2],
    /// Everything that was ever sent, for those who repeat it.
    seen: Vec<(usize, Vec<u8>)>,
}

fn psk(key: &str) -> Zeroizing<[u8; 32]> {
    let key = AccessKey::new(key).expect("a key");
    key.psk(&SessionId([5; 16]))
}

impl World {
    fn new(keys: [&str; 2], harm: Harm, seed: u64) -> Self {
        let start = origin();
        let side = |key, role| Secure::new(&psk(key), SessionId([5; 16]), role, start);
        Self {
            start,
            now: start,
            sides: [
                side(keys[0], Role::Initiator),
                side(keys[1], Role::Receiver),
            ],
            harm,
            rng: ChaCha12Rng::seed_from_u64(seed),
            flying: Vec::new(),
            got: Default::default(),
            events: Default::default(),
            seen: Vec::new(),
        }
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.rng.next_u64() % 100 < percent
    }

    fn send(&mut self, from: usize, bytes: Vec<u8>) {
        assert_eq!(
            classify(bytes[0]),
            Protocol::Other,
            "not STUN, not a channel"
        );
        self.seen.push((1 - from, bytes.clone()));
        if self.happens(self.harm.lost) {
            return;
        }
        let copies = 1 + usize::from(self.happens(self.harm.doubled));
        for _ in 0..copies {
            let mut bytes = bytes.clone();
            if self.happens(self.harm.changed) {
                let bit = self.rng.next_u64() as usize % (8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let delay = 1 + self.rng.next_u64() % (self.harm.late + 1);
            self.flying
                .push((self.now + Duration::from_millis(delay), 1 - from, bytes));
        }
    }

    fn say(&mut self, from: usize, data: &[u8]) {
        let mut out = Vec::new();
        let sealed = self.sides[from].seal(self.now, Kind::Data, data, &mut out);
        assert_eq!(sealed, Ok(()));
        self.send(from, out);
    }

    fn deliver(&mut self, to: usize, bytes: &[u8]) {
        let mut plain = Vec::new();
        if let Received::Message(kind, data) = self.sides[to].handle(self.now, bytes, &mut plain) {
            assert_eq!(kind, Kind::Data);
            self.got[to].push(data.to_vec());
        }
    }

    fn drain(&mut self) {
        for side in 0..2 {
            while let Some(bytes) = self.sides[side].poll_transmit() {
                self.send(side, bytes);
            }
            while let Some(event) = self.sides[side].poll_event() {
                self.events[side].push(event);
            }
        }
    }

    /// Runs for so long, or until `done`.
    fn run(&mut self, millis: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + Duration::from_millis(millis);
        loop {
            self.drain();
            if done(self) {
                return true;
            }
            let due = self.sides.iter().filter_map(Secure::poll_timeout);
            let Some(next) = due.chain(self.flying.iter().map(|flight| flight.0)).min() else {
                return false;
            };
            if next > end {
                self.now = end;
                return false;
            }
            self.now = self.now.max(next);
            let now = self.now;
            let (arrived, flying) = self.flying.drain(..).partition(|flight| flight.0 <= now);
            self.flying = flying;
            let arrived: Vec<_> = arrived;
            for (_, to, bytes) in arrived {
                self.deliver(to, &bytes);
            }
            for side in &mut self.sides {
                side.handle_timeout(now);
            }
        }
    }

    fn both_ready(&self) -> bool {
        self.sides.iter().all(Secure::is_ready)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_datagram_arrives_at_most_once_and_unchanged(
        lost in 0_u64..30,
        doubled in 0_u64..50,
        changed in 0_u64..30,
        late in 0_u64..300,
        seed in any::<u64>(),
    ) {
        let harm = Harm { lost, doubled, changed, late };
        let mut world = World::new(["k", "k"], harm, seed);
        prop_assert!(world.run(60_000, World::both_ready), "{harm:?}");
        prop_assert_eq!(world.sides[0].binding(), world.sides[1].binding());
        for number in 0_u32..200 {
            world.say(0, &number.to_be_bytes());
            world.say(1, &number.to_be_bytes());
            world.run(3, |_| false);
        }
        world.run(2000, |_| false);
        // Somebody repeats all that was ever said.
        for (to, bytes) in std::mem::take(&mut world.seen) {
            world.deliver(to, &bytes);
        }
        for got in &world.got {
            let mut numbers: Vec<_> = got.iter().map(|data| {
                u32::from_be_bytes(data[..].try_into().expect("4 bytes, as they were sent"))
            }).collect();
            numbers.sort_unstable();
            let all = numbers.len();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), all, "one came twice");
            prop_assert!(numbers.iter().all(|&number| number < 200));
            prop_assert!(lost + changed > 0 || all == 200, "{all} came");
        }
    }

    #[test]
    fn closing_ends_both_sides(lost in 0_u64..20, late in 0_u64..100, seed in any::<u64>()) {
        let mut world = World::new(["k", "k"], Harm { lost, late, ..Harm::default() }, seed);
        prop_assert!(world.run(60_000, World::both_ready));
        world.sides[0].close(world.now, 7);
        prop_assert!(world.run(5_000, |world| world.events[0].contains(&Event::Left)));
        let told = world.run(5_000, |world| world.events[1].contains(&Event::Closed(7)));
        prop_assert!(told || lost > 0, "without loss it is told");
        let mut out = Vec::new();
        let refused = world.sides[0].seal(world.now, Kind::Data, b"x", &mut out);
        prop_assert_eq!(refused, Err(SendError::NotReady));
    }

    #[test]
    fn whatever_arrives_is_survived(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..50),
        first in 9_u8..14,
    ) {
        let mut world = World::new(["k", "k"], Harm::default(), 1);
        let throw = |world: &mut World| {
            for datagram in &datagrams {
                let mut datagram = datagram.clone();
                if let Some(byte) = datagram.first_mut() {
                    *byte = first;
                }
                world.deliver(0, &datagram);
                world.deliver(1, &datagram);
            }
        };
        throw(&mut world);
        prop_assert!(world.run(1_000, World::both_ready));
        throw(&mut world);
        world.say(0, b"still here");
        world.run(100, |_| false);
        prop_assert_eq!(&world.got[1], &[b"still here".to_vec()]);
    }
}

#[test]
fn ready_after_one_and_a_half_round_trips() {
    let mut world = World::new(["k", "k"], Harm::default(), 1);
    assert!(world.run(1_000, World::both_ready));
    assert_eq!(world.now - world.start, Duration::from_millis(3));
    world.run(100, |_| false);
    for events in &world.events {
        assert_eq!(events[0], Event::Ready);
        assert_eq!(events[1], Event::RoundTrip(Duration::from_millis(2)));
    }
}

#[test]
fn another_key_or_session_or_role_never_becomes_ready() {
    let mut world = World::new(["k", "l"], Harm::default(), 1);
    assert!(!world.run(20_000, |world| world.sides.iter().any(Secure::is_ready)));
    assert!(world.sides[1].refused() > 3, "it was told why");
    assert!(world.sides[1].poll_transmit().is_none(), "and says nothing");

    for (session, role) in [([6; 16], Role::Receiver), ([5; 16], Role::Initiator)] {
        let mut world = World::new(["k", "k"], Harm::default(), 1);
        world.sides[1] = Secure::new(&psk("k"), SessionId(session), role, world.now);
        assert!(!world.run(20_000, |world| world.sides.iter().any(Secure::is_ready)));
        assert!(world.sides[1].refused() > 3);
    }
}

/// One who saw everything, has no key, and answers first.
#[test]
fn an_impostor_is_passed_over() {
    let mut world = World::new(["k", "k"], Harm::default(), 1);
    let mut impostor = Secure::new(
        &psk("guess"),
        SessionId([5; 16]),
        Role::Initiator,
        world.now,
    );
    let guess = impostor.poll_transmit().expect("the first message");
    for number in 0..100_000_u32 {
        let mut guess = guess.clone();
        guess[1..5].copy_from_slice(&number.to_be_bytes());
        world.deliver(1, &guess);
        guess[0] = SECOND;
        world.deliver(0, &guess);
    }
    assert_eq!(world.sides[0].refused(), 100_000);
    assert_eq!(world.sides[1].refused(), 100_000);
    assert!(world.run(1_000, World::both_ready));
    // What one side sends does not pass as what the other one said.
    world.say(0, b"mine");
    let (_, said) = world.seen.last().cloned().expect("just sent");
    let before = world.sides[0].refused();
    world.deliver(0, &said);
    assert_eq!(world.sides[0].refused(), before + 1);
    assert!(world.got[0].is_empty());
}

#[test]
fn silence_is_kept_alive_and_a_dead_peer_is_noticed() {
    let mut world = World::new(["k", "k"], Harm::default(), 1);
    assert!(world.run(1_000, World::both_ready));
    world.run(100, |_| false);
    let before = world.seen.len();
    world.run(600_000, |_| false);
    assert!(world.both_ready(), "ten minutes of silence");
    let pings = world.seen.len() - before;
    assert!(
        (60..=240).contains(&pings),
        "{pings} messages in ten minutes"
    );
    world.harm.lost = 100;
    world.run(34_000, |_| false);
    assert!(!world.events[0].contains(&Event::Dead));
    world.run(12_000, |_| false);
    for events in &world.events {
        assert_eq!(events.last(), Some(&Event::Dead));
    }
    assert!(world.sides.iter().all(|side| side.poll_timeout().is_none()));
}

#[test]
fn sizes_are_as_documented() {
    let mut world = World::new(["k", "k"], Harm::default(), 1);
    let mut out = Vec::new();
    let early = world.sides[0].seal(world.now, Kind::Data, b"", &mut out);
    assert_eq!(early, Err(SendError::NotReady));
    assert!(world.run(1_000, World::both_ready));
    // An IPv6 packet of 1280 bytes holds a UDP header, a channel header and the largest one.
    let sealed = world.sides[0].seal(world.now, Kind::Data, &[1; MAX_DATAGRAM], &mut out);
    assert_eq!(sealed, Ok(()));
    assert_eq!(out.len(), MAX_DATAGRAM + OVERHEAD);
    assert!(40 + 8 + 4 + out.len() <= 1280);
    world.say(0, &[7; LARGEST_DATAGRAM]);
    world.say(0, &[]);
    let long = world.sides[0].seal(world.now, Kind::Data, &[0; LARGEST_DATAGRAM + 1], &mut out);
    assert_eq!(long, Err(SendError::TooLong));
    world.run(100, |_| false);
    assert_eq!(world.got[1], [vec![7; LARGEST_DATAGRAM], vec![]]);
}

#[test]
fn closing_is_told_after_a_second_in_which_nothing_came_through() {
    let mut world = World::new(["k", "k"], Harm::default(), 1);
    assert!(world.run(60_000, World::both_ready));
    world.sides[0].close(world.now, 0);
    for _ in 0..1000 {
        world.now += Duration::from_millis(1);
        world.sides[0].handle_timeout(world.now);
        while world.sides[0].poll_transmit().is_some() {}
    }
    assert!(world.run(5_000, |world| world.events[1].contains(&Event::Closed(0))));
    assert!(world.run(5_000, |world| world.events[0].contains(&Event::Left)));
}

#[test]
fn both_may_close_at_once() {
    let mut world = World::new(["k", "k"], Harm::default(), 1);
    assert!(world.run(1_000, World::both_ready));
    for side in &mut world.sides {
        side.close(world.now, 0);
    }
    world.run(5_000, |_| false);
    for events in &world.events {
        assert_eq!(
            events.iter().filter(|&event| *event == Event::Left).count(),
            1
        );
    }
}

#[test]
fn shows_no_secrets() {
    let world = World::new(["k", "k"], Harm::default(), 1);
    assert_eq!(
        format!("{:?}", world.sides[0]),
        "Secure { ready: false, refused: 0, .. }"
    );
}
