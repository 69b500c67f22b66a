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
