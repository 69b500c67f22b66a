//! The rules of the room in virtual time.

mod caps;
mod sessions;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use super::*;
use crate::pairing::AccessKey;
use crate::proto::Mono;

/// A mailbox that can be read, and closed as when its connection has ended.
#[derive(Clone, Default)]
struct Letters(Arc<Mutex<(Vec<Event>, bool)>>);

impl Mailbox for Letters {
    fn deliver(&self, event: Event) -> Result<(), Gone> {
        let mut letters = self.0.lock().unwrap();
        if letters.1 {
            return Err(Gone);
        }
        letters.0.push(event);
        Ok(())
    }
}

impl Letters {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap().0)
    }

    fn close(&self) {
        self.0.lock().unwrap().1 = true;
    }
}

/// Counts what is held, and what was dropped without a pair.
struct Token {
    open: Arc<AtomicUsize>,
    unpaired: Arc<AtomicUsize>,
    paired: bool,
}

impl Hold for Token {
    fn paired(&mut self) {
        assert!(!self.paired, "told once");
        self.paired = true;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        self.unpaired.fetch_add(usize::from(!self.paired), Relaxed);
    }
}

struct House {
    room: Room<Letters, Token>,
    open: Arc<AtomicUsize>,
    unpaired: Arc<AtomicUsize>,
}

struct Person {
    seat: Seat<Letters, Token>,
    letters: Letters,
}

fn house(limits: RoomLimits) -> House {
    let (open, unpaired) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let counts = (Arc::clone(&open), Arc::clone(&unpaired));
    let holding = Box::new(move |_: &SessionId| {
        counts.0.fetch_add(1, Relaxed);
        Token {
            open: Arc::clone(&counts.0),
            unpaired: Arc::clone(&counts.1),
            paired: false,
        }
    });
    House {
        room: Room::new(limits, [7; 32], holding),
        open,
        unpaired,
    }
}

impl House {
    fn person(&self, from: &str) -> Person {
        self.visitor(from, true)
    }

    fn visitor(&self, from: &str, signals: bool) -> Person {
        let letters = Letters::default();
        let observed = from.parse().expect("an address");
        Person {
            seat: self.room.seat(letters.clone(), observed, signals),
            letters,
        }
    }
}

fn id(key: &str) -> RendezvousId {
    AccessKey::new(key).expect("a key").rendezvous_id()
}

fn wish(key: &str) -> Wait {
    Wait {
        id: id(key),
        protocol: Protocol::Udp,
        target_ip: None,
        wait_s: 30,
        host: false,
        endpoints: Vec::new(),
    }
}

fn host(key: &str) -> Wait {
    Wait {
        host: true,
        ..wish(key)
    }
}

impl Person {
    fn receive(&self, now: Mono, key: &str) -> Result<Pairing, Denied> {
        self.seat.receive(now, id(key), Vec::new())
    }

    fn paired(&self) -> Vec<Pairing> {
        let events = self.letters.take().into_iter();
        events
            .filter_map(|event| match event {
                Event::Paired(pairing) => Some(pairing),
                _ => None,
            })
            .collect()
    }
}

const T0: Mono = Mono(1_000_000);

#[test]
fn the_same_key_pairs_and_another_does_not() {
    let house = house(RoomLimits::default());
    let a = house.person("192.0.2.1:1000");
    let b = house.person("[2001:db8::2]:2000");
    let told = [SocketAddr::from(([10, 0, 0, 1], 9))];
    let wait = Wait {
        protocol: Protocol::Tcp,
        endpoints: told.to_vec(),
        ..wish("k")
    };
    let waiting = a.seat.wait(T0, wait).expect("it waits");
    assert_eq!(waiting.wait_s, 30);
    assert_eq!(b.receive(T0, "other"), Err(ErrorCode::NobodyWaits.into()));
    assert_eq!(house.room.waiting(), 1);

    let pairing = b.receive(T0, "k").expect("paired");
    assert_eq!(Some(pairing.session), waiting.session);
    assert_eq!(pairing.role, Role::Receiver);
    assert_eq!(pairing.protocol, Protocol::Tcp);
    assert_eq!(pairing.observed, "[2001:db8::2]:2000".parse().unwrap());
    assert_eq!(pairing.peer_observed, "192.0.2.1:1000".parse().unwrap());
    assert_eq!(pairing.peer_endpoints, told);
    let told = a.paired();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].session, pairing.session);
    assert_eq!(told[0].role, Role::Initiator);
    assert_eq!(told[0].peer_observed, pairing.observed);
    assert_eq!(
        b.receive(T0, "k"),
        Err(ErrorCode::NobodyWaits.into()),
        "used up"
    );
    assert_eq!((house.room.waiting(), house.room.sessions()), (0, 1));
}

#[test]
fn who_waits_first_is_paired_first() {
    let house = house(RoomLimits::default());
    let waiters = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(|from| house.person(from));
    for waiter in &waiters {
        waiter.seat.wait(T0, wish("k")).expect("it waits");
    }
    for waiter in &waiters {
        let receiver = house.person("192.0.2.9:1");
        let pairing = receiver.receive(T0, "k").expect("paired");
        assert_eq!(waiter.paired()[0].session, pairing.session);
    }
}

#[test]
fn only_the_named_address_pairs() {
    let house = house(RoomLimits::default());
    let strict = house.person("192.0.2.1:1");
    let named = Wait {
        target_ip: Some("::ffff:198.51.100.7".parse().unwrap()),
        ..wish("k")
    };
    strict.seat.wait(T0, named).expect("it waits");
    let stranger = house.person("198.51.100.8:1");
    assert_eq!(
        stranger.receive(T0, "k"),
        Err(ErrorCode::NobodyWaits.into())
    );
    // One behind it that takes anybody.
    let open = house.person("192.0.2.2:1");
    open.seat.wait(T0, wish("k")).expect("it waits");
    stranger.receive(T0, "k").expect("paired");
    assert_eq!(open.paired().len(), 1);
    let right = house.person("198.51.100.7:1");
    right.receive(T0, "k").expect("paired");
    assert_eq!(strict.paired().len(), 1);
}

#[test]
fn a_wait_ends_to_the_microsecond() {
    let house = house(RoomLimits::default());
    let a = house.person("192.0.2.1:1");
    let b = house.person("192.0.2.2:1");
    let long = Wait {
        wait_s: 1_000_000,
        ..wish("k")
    };
    assert_eq!(a.seat.wait(T0, long).expect("waits").wait_s, 30, "capped");
    let due = T0.plus_secs(30);
    assert_eq!(house.room.poll_timeout(), Some(due));
    house.room.handle_timeout(Mono(due.0 - 1));
    assert!(a.letters.take().is_empty());
    // The receiver comes in the very moment, before the timer was looked at.
    assert_eq!(b.receive(due, "k"), Err(ErrorCode::NobodyWaits.into()));
    assert_eq!(a.letters.take(), [Event::TimedOut]);
    house.room.handle_timeout(due);
    assert!(a.letters.take().is_empty(), "told once");
    // The key can be used again at once.
    a.seat.wait(due, wish("k")).expect("it waits");
    b.receive(Mono(due.0 + 29_999_999), "k").expect("paired");
    drop((a, b));
    house.room.handle_timeout(due.plus_secs(4000));
    assert!(house.room.is_empty());
}

#[test]
fn nobody_is_paired_with_the_dead() {
    let house = house(RoomLimits::default());
    let dead = house.person("192.0.2.1:1");
    let alive = house.person("192.0.2.2:1");
    dead.seat.wait(T0, wish("k")).expect("it waits");
    alive.seat.wait(T0, wish("k")).expect("it waits");
    dead.letters.close();
    let receiver = house.person("192.0.2.3:1");
    receiver.receive(T0, "k").expect("paired");
    assert_eq!(alive.paired().len(), 1);
    alive.seat.wait(T0, wish("k")).expect("it waits again");
    alive.letters.close();
    assert_eq!(
        receiver.receive(T0, "k"),
        Err(ErrorCode::NobodyWaits.into())
    );
    assert_eq!(house.room.waiting(), 0);
    assert_eq!(house.open.load(Relaxed), 1, "only of the pair that is");
}

#[test]
fn a_seat_takes_away_what_it_put_there_and_nothing_else() {
    let house = house(RoomLimits::default());
    let first = house.person("192.0.2.1:1");
    let second = house.person("192.0.2.1:2");
    first.seat.wait(T0, wish("k")).expect("it waits");
    second.seat.wait(T0, wish("k")).expect("it waits");
    let twice = second.seat.wait(T0, wish("k"));
    assert_eq!(
        twice,
        Err(ErrorCode::BadRequest.into()),
        "one wait at a time"
    );
    assert_eq!(second.receive(T0, "k"), Err(ErrorCode::BadRequest.into()));
    drop(first);
    assert_eq!(house.room.waiting(), 1);
    let receiver = house.person("192.0.2.3:1");
    receiver.receive(T0, "k").expect("paired");
    assert_eq!(second.paired().len(), 1);
    drop((second, receiver));
    house.room.handle_timeout(T0.plus_secs(3600));
    assert!(house.room.is_empty());
    assert_eq!(house.open.load(Relaxed), 0);
}

#[test]
fn a_host_is_paired_with_one_after_the_other() {
    let house = house(RoomLimits::default());
    let desk = house.person("192.0.2.1:1");
    let waiting = desk.seat.wait(T0, host("k")).expect("it waits");
    assert_eq!(waiting.session, None);
    let mut sessions = Vec::new();
    for n in 0..3 {
        let guest = house.person(&format!("198.51.100.{n}:1"));
        let pairing = guest.receive(T0, "k").expect("paired");
        assert!(pairing.host);
        assert_eq!(desk.paired()[0].session, pairing.session);
        sessions.push(pairing.session);
        drop(guest);
        let left = Event::PeerLeft {
            session: pairing.session,
            busy: false,
        };
        assert_eq!(desk.letters.take(), [left]);
        desk.seat.leave(pairing.session, false).expect("its own");
    }
    sessions.dedup();
    assert_eq!(sessions.len(), 3);
    assert_eq!((house.room.waiting(), house.room.sessions()), (1, 0));
}

#[test]
fn a_host_stays_while_it_is_heard_of() {
    let house = house(RoomLimits::default());
    let desk = house.person("192.0.2.1:1");
    desk.seat.wait(T0, host("k")).expect("it waits");
    for minute in 1..=60 {
        let now = Mono(T0.plus_secs(60 * minute).0 - minute);
        house.room.handle_timeout(now);
        desk.seat.renew(now);
    }
    let last = Mono(T0.plus_secs(3600).0 - 60);
    house
        .person("192.0.2.2:1")
        .receive(last, "k")
        .expect("paired");
    desk.letters.take();
    house.room.handle_timeout(last.plus_secs(60));
    assert_eq!(desk.letters.take().last(), Some(&Event::TimedOut));
    desk.seat.renew(last.plus_secs(60));
    assert_eq!(house.room.waiting(), 0, "what is over is not renewed");
}

#[test]
fn receivers_find_the_latest_of_a_hosts_connections() {
    let house = house(RoomLimits::default());
    let before = house.person("192.0.2.1:1");
    before.seat.wait(T0, host("k")).expect("it waits");
    // Its network has changed, and the server has not noticed yet.
    let after = house.person("203.0.113.1:1");
    after.seat.wait(T0, host("k")).expect("it waits");
    let once = house.person("192.0.2.3:1");
    once.seat.wait(T0, wish("k")).expect("it waits");
    let receivers = [1, 2, 3].map(|n| house.person(&format!("198.51.100.{n}:1")));
    for receiver in &receivers {
        receiver.receive(T0, "k").expect("paired");
    }
    assert_eq!(once.paired().len(), 1, "who wants one receiver comes first");
    assert_eq!(after.paired().len(), 2);
    assert_eq!(before.paired().len(), 0);
}

#[test]
fn a_million_joins_and_timeouts_leave_nothing() {
    let house = house(RoomLimits {
        waiting_per_source: 1000,
        ..RoomLimits::default()
    });
    let keys: Vec<_> = (0..1000).map(|n| id(&format!("key {n}"))).collect();
    let wait = wish("k");
    let mut now = T0;
    for _ in 0..1000 {
        let people: Vec<_> = keys
            .iter()
            .map(|&id| {
                let person = house.person("192.0.2.1:1");
                let wait = Wait { id, ..wait.clone() };
                person.seat.wait(now, wait).expect("it waits");
                person
            })
            .collect();
        assert_eq!(house.room.waiting(), 1000);
        now = now.plus_secs(30);
        house.room.handle_timeout(now);
        assert_eq!(house.room.waiting(), 0);
        for person in people {
            assert_eq!(person.letters.take(), [Event::TimedOut]);
        }
        assert!(house.room.is_empty());
    }
}

/// Whatever people do in whatever order, the tables agree, and nothing is left when they go.
#[test]
fn nothing_is_left_of_any_course_of_events() {
    for seed in 0..40 {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut pick = |below: usize| rng.next_u32() as usize % below;
        let house = house(RoomLimits {
            waiting: 20,
            waiting_per_source: 12,
            waiting_per_id: 6,
            sessions: 15,
            sessions_per_source: 10,
            sessions_per_seat: 5,
            ..RoomLimits::default()
        });
        let mut people: Vec<Person> = Vec::new();
        let mut sessions: Vec<SessionId> = Vec::new();
        let mut now = T0;
        for _ in 0..2000 {
            now = Mono(now.0 + pick(4_000_000) as u64);
            if people.is_empty() || pick(6) == 0 {
                let from = format!("192.0.2.{}:{}", pick(4), 1 + pick(9));
                people.push(house.visitor(&from, pick(3) > 0));
                continue;
            }
            let at = pick(people.len());
            let person = &people[at];
            let key = ["a", "b", "c"][pick(3)];
            let session = (!sessions.is_empty()).then(|| sessions[pick(sessions.len())]);
            match (pick(9), session) {
                (0 | 1, _) => {
                    let wait = if pick(3) == 0 { host(key) } else { wish(key) };
                    let _ = person.seat.wait(now, wait);
                }
                (2 | 3, _) => {
                    let found = person.receive(now, key);
                    sessions.extend(found.map(|pairing| pairing.session));
                }
                (4, Some(session)) => drop(person.seat.signal(now, session, "x".into())),
                (5, Some(session)) => drop(person.seat.leave(session, false)),
                (6, _) => house.room.handle_timeout(now),
                (7, _) => person.letters.close(),
                _ => drop(people.swap_remove(at)),
            }
            assert!(house.room.waiting() <= 20 && house.room.sessions() <= 15);
            assert!(house.open.load(Relaxed) <= 35, "one for each of them");
        }
        people.clear();
        assert_eq!((house.room.waiting(), house.room.sessions()), (0, 0));
        house.room.handle_timeout(now.plus_secs(50));
        assert!(house.room.is_empty(), "seed {seed}");
        assert_eq!(house.open.load(Relaxed), 0, "seed {seed}");
    }
}
