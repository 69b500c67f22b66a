//! What follows from the answers, without sockets.

use std::net::{IpAddr, SocketAddr};

use super::ask::Answer;
use super::report::{Filtering, Mapping, Ports, Seen};

/// Steps between new ports that still count as a sequence: other machines behind the same NAT
/// take some in between.
const MOST_STEP: i32 = 16;

/// RFC 5780 section 4.3, with however many server addresses and ports answered.
pub(super) fn mapping(own: &[IpAddr], local: SocketAddr, seen: &[Seen]) -> Mapping {
    let Some(first) = seen.first() else {
        return Mapping::Unknown;
    };
    let same = |seen: &Seen| seen.mapped == first.mapped;
    if first.mapped.port() == local.port() && own.contains(&first.mapped.ip()) {
        return Mapping::None;
    }
    let (near, far): (Vec<&Seen>, Vec<&Seen>) = seen[1..]
        .iter()
        .partition(|other| other.server.ip() == first.server.ip());
    let by_port = near.iter().any(|seen| !same(seen));
    let by_address = far.iter().any(|seen| !same(seen));
    match (by_port, by_address) {
        (true, _) => Mapping::AddressAndPortDependent,
        (false, true) if !near.is_empty() => Mapping::AddressDependent,
        // Two ports of the other address tell as much.
        (false, true) if far.iter().any(|seen| seen.mapped != far[0].mapped) => {
            Mapping::AddressAndPortDependent
        }
        (false, true) => Mapping::AddressDependent,
        (false, false) if !far.is_empty() => Mapping::EndpointIndependent,
        (false, false) if !near.is_empty() => Mapping::SameForOneAddress,
        (false, false) => Mapping::Unknown,
    }
}

/// RFC 5780 section 4.4: what came of asking for an answer from the other address and port, and
/// for one from the other port. `able` says whether the server has another address.
pub(super) fn filtering(able: bool, elsewhere: Answer, other_port: Answer) -> Filtering {
    match (elsewhere, other_port) {
        (Answer::Mapped { .. }, _) if able => Filtering::EndpointIndependent,
        (Answer::Silence, Answer::Mapped { .. }) if able => Filtering::AddressDependent,
        (Answer::Silence, Answer::Silence) if able => Filtering::AddressAndPortDependent,
        // A server that says nothing to what it cannot do must not be taken for a firewall.
        (_, Answer::Mapped { .. }) => Filtering::OtherPorts,
        _ => Filtering::Unknown,
    }
}

/// From pairs of own and outer ports of sockets, in the order in which they were first used.
pub(super) fn ports(pairs: &[(u16, u16)]) -> Ports {
    if pairs.len() < 3 {
        return Ports::Unknown;
    }
    if pairs.iter().all(|(own, outer)| own == outer) {
        return Ports::Preserved;
    }
    let outer = pairs.iter().map(|(_, outer)| i32::from(*outer));
    let steps: Vec<i32> = outer
        .clone()
        .zip(outer.skip(1))
        .map(|(a, b)| b - a)
        .collect();
    let smallest = steps.iter().copied().min_by_key(|step| step.abs());
    let delta = smallest.filter(|step| *step != 0).unwrap_or(i32::MAX);
    let near = |step: &&i32| step.signum() == delta.signum() && step.abs() <= MOST_STEP;
    // One step out of line: somebody else was served in between, or the range began anew.
    match steps.iter().filter(near).count() + 1 >= steps.len() && delta.abs() <= MOST_STEP {
        true => Ports::Sequential { delta },
        false => Ports::Random,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "10.0.0.2:5000";

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn seen(pairs: &[(&str, &str)]) -> Vec<Seen> {
        let seen = |(server, mapped): &(&str, &str)| Seen {
            server: address(server),
            mapped: address(mapped),
        };
        pairs.iter().map(seen).collect()
    }

    #[test]
    fn mappings_are_told_apart() {
        let (a1, a2) = ("192.0.2.1:1", "192.0.2.1:2");
        let (b1, b2) = ("192.0.2.9:1", "192.0.2.9:2");
        let (m, n, o) = ("203.0.113.1:1", "203.0.113.1:2", "203.0.113.1:3");
        for (pairs, expected) in [
            (vec![], Mapping::Unknown),
            (vec![(a1, LOCAL)], Mapping::None),
            (vec![(a1, m)], Mapping::Unknown),
            (vec![(a1, m), (a2, m)], Mapping::SameForOneAddress),
            (vec![(a1, m), (a2, n)], Mapping::AddressAndPortDependent),
            (
                vec![(a1, m), (b1, m), (b2, m)],
                Mapping::EndpointIndependent,
            ),
            (vec![(a1, m), (b1, n), (b2, n)], Mapping::AddressDependent),
            (
                vec![(a1, m), (b1, n), (b2, o)],
                Mapping::AddressAndPortDependent,
            ),
            (vec![(a1, m), (a2, m), (b2, o)], Mapping::AddressDependent),
            (
                vec![(a1, m), (a2, n), (b2, o)],
                Mapping::AddressAndPortDependent,
            ),
        ] {
            let own = [address(LOCAL).ip()];
            assert_eq!(
                mapping(&own, address(LOCAL), &seen(&pairs)),
                expected,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn filters_are_told_apart_and_silence_is_not_misread() {
        let came = Answer::Mapped {
            mapped: address("203.0.113.1:1"),
            other: None,
            from: address("192.0.2.1:1"),
        };
        let no = Answer::Refused(crate::wire::ErrorCode::UNKNOWN_ATTRIBUTE);
        for (able, elsewhere, other_port, expected) in [
            (true, came, came, Filtering::EndpointIndependent),
            (true, came, Answer::Silence, Filtering::EndpointIndependent),
            (true, Answer::Silence, came, Filtering::AddressDependent),
            (
                true,
                Answer::Silence,
                Answer::Silence,
                Filtering::AddressAndPortDependent,
            ),
            (false, Answer::Silence, Answer::Silence, Filtering::Unknown),
            (false, no, came, Filtering::OtherPorts),
            (true, no, no, Filtering::Unknown),
        ] {
            assert_eq!(filtering(able, elsewhere, other_port), expected);
        }
    }

    #[test]
    fn ways_to_choose_ports_are_told_apart() {
        for (outer, expected) in [
            (vec![], Ports::Unknown),
            (vec![1, 2], Ports::Unknown),
            (vec![1000, 1001, 1002, 1003], Ports::Preserved),
            (vec![5000, 5001, 5002, 5003], Ports::Sequential { delta: 1 }),
            (
                vec![5006, 5004, 5002, 5000],
                Ports::Sequential { delta: -2 },
            ),
            (vec![5000, 5001, 5003, 5004], Ports::Sequential { delta: 1 }),
            (
                vec![65534, 65535, 1024, 1025],
                Ports::Sequential { delta: 1 },
            ),
            (vec![5000, 61000, 1200, 33333], Ports::Random),
            (vec![5000, 5000, 5000, 5000], Ports::Random),
        ] {
            let pairs: Vec<_> = (1000..).zip(outer.iter().copied()).collect();
            assert_eq!(ports(&pairs), expected, "{outer:?}");
        }
    }
}
