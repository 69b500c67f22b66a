//! How often and how long is tried is the user's choice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use turnserver::client::punch::{Agent, Candidate, CandidateKind, Config, Description, Event, Via};
use turnserver::pairing::Role;

use crate::world::SECRET;

#[allow(clippy::disallowed_methods, reason = "any instant will do")]
fn any_instant() -> Instant {
    Instant::now()
}

/// Punches at addresses that never answer: how many checks each got, and when it was given up.
fn in_vain(tries: u32, timeout: Duration) -> (BTreeMap<SocketAddr, u32>, Duration) {
    let start = any_instant();
    let config = Config {
        tries,
        timeout,
        birthday: false,
        ..Config::new(Role::Initiator, SECRET)
    };
    let mut agent = Agent::new(config, [7; 32]);
    let host = |text: &str| {
        let address = text.parse().expect("an address");
        Candidate::new(CandidateKind::Host, address)
    };
    agent.add_local(host("192.0.2.1:5000"), Via::Socket(0), start);
    let peer = Description {
        candidates: vec![host("198.51.100.1:6000"), host("198.51.100.2:6000")],
        end: true,
        ..Description::default()
    };
    agent.add_remote(&peer, start);
    let mut sent = BTreeMap::new();
    let mut now = start;
    // Bounded, in case it is never given up.
    for _ in 0..100_000 {
        while let Some(transmit) = agent.poll_transmit() {
            *sent.entry(transmit.to).or_default() += 1;
        }
        while let Some(event) = agent.poll_event() {
            if let Event::GaveUp(_) = event {
                return (sent, now - start);
            }
        }
        now = agent.poll_timeout().expect("it is not over").max(now);
        agent.handle_timeout(now);
    }
    panic!("it never gives up");
}

#[test]
fn tries_and_time_are_honoured() {
    let second = Duration::from_secs(1);
    for (tries, seconds) in [(500, 30), (500, 5), (20, 30), (1, 3)] {
        let timeout = Duration::from_secs(seconds);
        let (sent, after) = in_vain(tries, timeout);
        assert!(
            after <= timeout + second,
            "{tries} in {timeout:?}: {after:?}"
        );
        assert_eq!(sent.len(), 2, "{sent:?}");
        for count in sent.values() {
            assert!(*count <= tries, "{tries} in {timeout:?}: {sent:?}");
        }
        if after + second < timeout {
            // Before its time it ends only when nothing is left to try.
            assert!(
                sent.values().all(|count| *count == tries),
                "{after:?}: {sent:?}"
            );
        }
    }
    // More time brings more tries.
    let count = |seconds| {
        let (sent, _) = in_vain(500, Duration::from_secs(seconds));
        sent.values().sum::<u32>()
    };
    assert!(count(30) > 2 * count(5));
}
