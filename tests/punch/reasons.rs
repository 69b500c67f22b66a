//! What is said of an attempt that failed.

use std::time::{Duration, Instant};

use turnserver::client::punch::{
    Agent, Candidate, CandidateKind, Config, Description, Event, Reason, Via,
};
use turnserver::pairing::Role;

use crate::world::SECRET;

/// Why there is no path to a peer that told these kinds of one address.
fn reason(told: &[CandidateKind]) -> Reason {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    let mut now = Instant::now();
    let mut agent = Agent::new(Config::new(Role::Initiator, SECRET), [1; 32]);
    let own = "192.0.2.1:1000".parse().expect("an address");
    for kind in [CandidateKind::Host, CandidateKind::ServerReflexive] {
        agent.add_local(Candidate::new(kind, own), Via::Socket(0), now);
    }
    let theirs = "198.51.100.1:2000".parse().expect("an address");
    for kind in told {
        let description = Description {
            candidates: vec![Candidate::new(*kind, theirs)],
            ..Description::default()
        };
        agent.add_remote(&description, now);
    }
    let end = now + Duration::from_secs(20);
    while now < end {
        while agent.poll_transmit().is_some() {}
        while let Some(event) = agent.poll_event() {
            if let Event::GaveUp(reason) = event {
                return reason;
            }
        }
        now = agent.poll_timeout().expect("an attempt goes on");
        agent.handle_timeout(now);
    }
    panic!("it never gives up");
}

#[test]
fn a_peer_without_a_nat_is_seen_too() {
    let (host, seen) = (CandidateKind::Host, CandidateKind::ServerReflexive);
    assert_eq!(reason(&[host]), Reason::NothingSeenThere);
    for told in [
        &[host, seen][..],
        &[seen, host],
        &[seen],
        &[host, seen, host],
    ] {
        assert_eq!(reason(told), Reason::Unanswered, "{told:?}");
    }
}

/// What an agent with an IPv4 address tells within some time, when the peer tells this at first.
fn told_idle(peer: &Description, within: Duration) -> (Agent, Vec<Event>) {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    let start = Instant::now();
    let mut agent = Agent::new(Config::new(Role::Initiator, SECRET), [1; 32]);
    let own = "192.0.2.1:1000".parse().expect("an address");
    agent.add_local(
        Candidate::new(CandidateKind::Host, own),
        Via::Socket(0),
        start,
    );
    agent.add_remote(peer, start);
    while let Some(at) = agent.poll_timeout().filter(|at| *at <= start + within) {
        agent.handle_timeout(at);
    }
    assert!(agent.poll_transmit().is_none(), "there is nowhere to");
    let told = std::iter::from_fn(|| agent.poll_event()).collect();
    (agent, told)
}

#[test]
fn without_anything_to_check_it_is_given_up_once() {
    let theirs = "[2001:db8::1]:2000".parse().expect("an address");
    let mut peer = Description {
        candidates: vec![Candidate::new(CandidateKind::Host, theirs)],
        ..Description::default()
    };
    let millisecond = Duration::from_millis(1);
    let attempt = Duration::from_secs(10);
    let (_, told) = told_idle(&peer, attempt - millisecond);
    assert_eq!(told, [], "another address may come");
    let (mut agent, told) = told_idle(&peer, 10 * attempt);
    assert_eq!(told, [Event::GaveUp(Reason::NothingInCommon)]);
    assert_eq!(agent.poll_timeout(), None);

    // It is never too late.
    let theirs = "198.51.100.1:2000".parse().expect("an address");
    peer.candidates = vec![Candidate::new(CandidateKind::Host, theirs)];
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    let later = Instant::now() + 20 * attempt;
    agent.add_remote(&peer, later);
    agent.handle_timeout(later);
    assert_eq!(agent.poll_transmit().expect("a check").to, theirs);

    // Nor waited for when the peer says that none will come.
    let end = Description {
        end: true,
        ..Description::default()
    };
    let (_, told) = told_idle(&end, Duration::ZERO);
    assert_eq!(told, [Event::GaveUp(Reason::NothingTold)]);
}
