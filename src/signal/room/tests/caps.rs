//! How much the room takes, and who has to go when it is full.

use super::*;

#[test]
fn everything_is_capped() {
    let limits = RoomLimits {
        waiting: 6,
        waiting_per_source: 3,
        waiting_per_id: 2,
        sessions: 2,
        ..RoomLimits::default()
    };
    let house = house(limits);
    let people: Vec<_> = (1..=9)
        .map(|n| house.person(&format!("192.0.2.{}:1", n / 3)))
        .collect();
    let wait = |at: usize, key: &str| people[at].seat.wait(T0, wish(key)).err();
    assert_eq!(wait(0, "a"), None);
    assert_eq!(wait(2, "a"), None);
    assert_eq!(wait(3, "a"), Some(ErrorCode::Busy.into()), "two of one id");
    assert_eq!(wait(3, "b"), None);
    assert_eq!(wait(4, "b"), None);
    let more = house.person("192.0.2.1:9");
    let third = more.seat.wait(T0, wish("c")).err();
    assert_eq!(third, Some(Reason::Waits.into()), "three of one source");
    assert_eq!(wait(5, "c"), None);
    assert_eq!(wait(8, "d"), None);
    let seventh = people[5].seat.wait(T0, wish("d")).err();
    assert_eq!(
        seventh,
        Some(ErrorCode::BadRequest.into()),
        "it waits already"
    );
    let [seventh, eighth] = ["192.0.2.2:99", "192.0.2.2:98"].map(|from| house.person(from));
    let wait = seventh.seat.wait(T0, wish("d")).err();
    assert_eq!(wait, None, "six in all, and three of them elsewhere");
    assert_eq!(people[4].letters.take(), [Event::Displaced]);
    let wait = eighth.seat.wait(T0, wish("d")).err();
    assert_eq!(wait, Some(Reason::AllWaits.into()), "nobody else has more");
    let first = more.receive(T0, "a").expect("paired");
    let second = more.receive(T0, "a").expect("paired");
    assert_eq!(
        more.receive(T0, "b"),
        Err(Reason::AllSessions.into()),
        "two sessions"
    );
    let elsewhere = house.person("198.51.100.1:1");
    elsewhere.receive(T0, "b").expect("paired");
    assert_eq!(house.room.sessions(), 2);
    let left = Event::PeerLeft {
        session: second.session,
        busy: false,
    };
    assert!(more.letters.take().contains(&left), "the newest had to go");
    assert!(people[2].letters.take().contains(&left));
    let signal = |session| more.seat.signal(T0, session, "x".into());
    assert_eq!(signal(first.session), Ok(()));
    assert_eq!(signal(second.session), Err(ErrorCode::NoSession.into()));
}

#[test]
fn a_source_has_so_many_sessions() {
    let house = house(RoomLimits {
        sessions_per_source: 2,
        ..RoomLimits::default()
    });
    let desk = house.person("192.0.2.1:1");
    desk.seat.wait(T0, host("k")).expect("it waits");
    let come = |from: &str| {
        let guest = house.person(from);
        guest.receive(T0, "k").map(|_| guest)
    };
    let mut guests = Vec::new();
    for n in 0..20 {
        guests.extend(come(&format!("[2001:db8::{n:x}]:1")));
    }
    assert_eq!(guests.len(), 2, "of a /64");
    let one_more = come("[2001:db8::ff]:1").err();
    assert_eq!(one_more, Some(Reason::Sessions.into()));
    for n in 0..20 {
        guests.extend(come(&format!("[2001:db8:0:{n:x}::1]:1")));
    }
    assert_eq!(guests.len(), 8, "of a /48");
    assert!(come("192.0.2.2:1").is_ok());
    guests.pop();
    assert!(come("[2001:db8:0:ff::1]:1").is_ok());
}

#[test]
fn an_ipv6_subscriber_is_one_source() {
    let limits = RoomLimits {
        waiting_per_source: 1,
        ..RoomLimits::default()
    };
    let house = house(limits);
    let one = house.person("[2001:db8:0:1::1]:1");
    let same = house.person("[2001:db8:0:1:ffff::2]:1");
    let other = house.person("[2001:db8:0:2::1]:1");
    one.seat.wait(T0, wish("a")).expect("it waits");
    let refused = same.seat.wait(T0, wish("b")).err();
    assert_eq!(refused, Some(Reason::Waits.into()));
    other.seat.wait(T0, wish("b")).expect("it waits");
}
