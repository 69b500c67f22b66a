//! What happens between two who found each other.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::pairing::MAX_BLOB;

fn pair(house: &House) -> (Person, Person, SessionId) {
    let a = house.person("192.0.2.1:1");
    let b = house.person("192.0.2.2:1");
    a.seat.wait(T0, wish("k")).expect("it waits");
    let session = b.receive(T0, "k").expect("paired").session;
    a.letters.take();
    (a, b, session)
}

#[test]
fn signals_go_to_the_peer_and_to_nobody_else() {
    let house = house(RoomLimits::default());
    let (a, b, session) = pair(&house);
    let blob = |text: &str| text.to_owned();
    a.seat.signal(T0, session, blob("one")).expect("sent");
    b.seat.signal(T0, session, blob("two")).expect("sent");
    let got = |session, text| Event::Signal {
        session,
        blob: blob(text),
    };
    assert_eq!(b.letters.take(), [got(session, "one")]);
    assert_eq!(a.letters.take(), [got(session, "two")]);

    let (c, _d, other) = pair(&house);
    let foreign = c.seat.signal(T0, session, blob("x"));
    assert_eq!(foreign, Err(ErrorCode::NoSession.into()));
    let foreign = a.seat.signal(T0, other, blob("x"));
    assert_eq!(foreign, Err(ErrorCode::NoSession.into()));
    assert_eq!(
        c.seat.leave(session, false),
        Err(ErrorCode::NoSession.into())
    );
    let long = a.seat.signal(T0, session, "x".repeat(MAX_BLOB + 1));
    assert_eq!(long, Err(ErrorCode::TooLarge.into()));

    drop(b);
    assert_eq!(
        a.letters.take(),
        [Event::PeerLeft {
            session,
            busy: false
        }]
    );
    let late = a.seat.signal(T0, session, blob("x"));
    assert_eq!(late, Err(ErrorCode::NoSession.into()));
}

#[test]
fn a_side_that_signals_too_much_is_told_so() {
    let house = house(RoomLimits {
        signals: 10,
        ..RoomLimits::default()
    });
    let (a, b, session) = pair(&house);
    let send = |now| a.seat.signal(now, session, "x".into());
    let sent = (0..50).filter(|_| send(T0).is_ok()).count();
    assert_eq!(sent, 10);
    assert_eq!(send(T0), Err(Reason::Signals.into()));
    let sent = (0..50).filter(|_| send(T0.plus_secs(2)).is_ok()).count();
    assert_eq!(sent, 4);
    assert_eq!(b.letters.take().len(), 14);
    b.seat.signal(T0, session, "y".into()).expect("its own");
}

#[test]
fn results_count_a_few_times() {
    let house = house(RoomLimits::default());
    let (a, b, session) = pair(&house);
    let counted = (0..20).filter(|_| a.seat.report(&session) == Ok(true));
    assert_eq!(counted.count(), 4);
    let stranger = house.person("192.0.2.9:1");
    assert_eq!(
        stranger.seat.report(&session),
        Err(ErrorCode::NoSession.into())
    );
    b.seat.report(&session).expect("its own");
    a.seat.leave(session, false).expect("its own");
    let counted = (0..20).filter(|_| b.seat.report(&session) == Ok(true));
    assert_eq!(
        counted.count(),
        3,
        "also of one that is over, but no more of them"
    );
}

#[test]
fn one_that_only_asked_can_not_be_signalled_to() {
    let house = house(RoomLimits::default());
    let poll = house.visitor("192.0.2.1:1", false);
    let socket = house.person("192.0.2.2:1");
    poll.seat.wait(T0, wish("k")).expect("it waits");
    let session = socket.receive(T0, "k").expect("paired").session;
    let sent = socket.seat.signal(T0, session, "x".into());
    assert_eq!(sent, Err(ErrorCode::NoSession.into()));
    assert_eq!(
        house.room.sessions(),
        0,
        "there is nothing to be said in it"
    );
    assert_eq!(socket.seat.report(&session), Ok(true));
    assert_eq!(socket.seat.leave(session, false), Ok(()));
    assert_eq!(
        socket.seat.leave(session, false),
        Err(ErrorCode::NoSession.into())
    );
    drop(poll);
    assert!(socket.letters.take().is_empty());

    let [a, b] = ["192.0.2.3:1", "192.0.2.4:1"].map(|from| house.visitor(from, false));
    a.seat.wait(T0, wish("k")).expect("it waits");
    b.receive(T0, "k").expect("paired");
    assert_eq!(house.room.sessions(), 0, "two that only asked need none");
    assert_eq!(house.open.load(Relaxed), 0, "nothing is held for those");
}

/// As the specification has it: the host says nothing when a receiver is gone.
#[test]
fn a_host_outlives_any_number_of_receivers() {
    let limits = RoomLimits::default();
    let house = house(limits);
    let desk = house.person("192.0.2.1:1");
    desk.seat.wait(T0, host("k")).expect("it waits");
    let mut last = None;
    for n in 0..limits.sessions_per_seat + 100 {
        let [one, polls] = [true, false].map(|signals| house.visitor("192.0.2.2:1", signals));
        let session = one.receive(T0, "k").expect("paired").session;
        polls.receive(T0, "k").expect("paired");
        assert_eq!(house.room.sessions(), 1, "{n}");
        drop((one, polls));
        assert_eq!(house.room.sessions(), 0, "{n}");
        assert!(desk.letters.take().contains(&Event::PeerLeft {
            session,
            busy: false
        }));
        last = Some(session);
    }
    assert!(!desk.seat.has_sessions());
    let last = last.expect("some came");
    let counted = (0..20).filter(|_| desk.seat.report(&last) == Ok(true));
    assert_eq!(counted.count(), 4, "what became of it can still be told");
    assert_eq!(desk.seat.leave(last, false), Ok(()));
}

#[test]
fn what_is_held_for_a_wait_ends_with_it_or_with_the_session_that_came_of_it() {
    let house = house(RoomLimits::default());
    let held = || (house.open.load(Relaxed), house.unpaired.load(Relaxed));
    let (a, b, session) = pair(&house);
    house.room.handle_timeout(T0.plus_secs(100_000));
    assert_eq!(held(), (1, 0), "it lives as the session does");
    a.seat.leave(session, false).expect("its own");
    assert_eq!(
        b.letters.take(),
        [Event::PeerLeft {
            session,
            busy: false
        }]
    );
    assert_eq!(held(), (0, 0), "it was paired");
    // A wait that times out, is broken off, is sent away; a host, for which nothing is held.
    a.seat.wait(T0, wish("k")).expect("it waits");
    assert_eq!(held(), (1, 0));
    house.room.handle_timeout(T0.plus_secs(30));
    assert_eq!(held(), (0, 1));
    a.seat.wait(T0, wish("k")).expect("it waits");
    drop(a);
    assert_eq!(held(), (0, 2));
    let [c, d] = ["192.0.2.3:1", "192.0.2.4:1"].map(|from| house.person(from));
    c.seat.wait(T0, wish("k")).expect("it waits");
    d.seat.wait(T0, host("k")).expect("it waits");
    assert_eq!(held(), (1, 2));
    house.room.close();
    assert_eq!(held(), (0, 3));
}

#[test]
fn a_closed_room_tells_those_who_wait_and_lets_sessions_go_on() {
    let house = house(RoomLimits::default());
    let (a, b, session) = pair(&house);
    let desk = house.person("192.0.2.5:1");
    desk.seat.wait(T0, host("h")).expect("it waits");
    house.room.close();
    assert_eq!(desk.letters.take(), [Event::GoingAway]);
    assert_eq!(house.room.leaving(), 1, "who does not wait is not counted");
    assert_eq!(
        desk.seat.wait(T0, host("h")),
        Err(ErrorCode::GoingAway.into())
    );
    assert_eq!(b.receive(T0, "h"), Err(ErrorCode::GoingAway.into()));
    a.seat.signal(T0, session, "x".into()).expect("sent");
    assert_eq!(b.letters.take().len(), 1);
}
