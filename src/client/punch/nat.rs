//! What a NAT does with ports, as far as it can be seen from outside.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The furthest that two ports in a row may be apart, for a NAT that counts up or down. Other
/// users of the NAT take ports in between.
const FURTHEST: u16 = 64;

/// Which port a NAT gives a socket (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// The same for every destination, or there is no NAT.
    Independent,
    /// Another one for every destination, a fixed step from the one before.
    Sequential {
        /// The step, -64 to 64, never 0.
        delta: i16,
        /// The port that the next destination is expected to see.
        next: u16,
    },
    /// Another one for every destination, without order.
    Random,
}

/// Whose packets a NAT lets in (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// Everybody's.
    Independent,
    /// Those from an IP address that was sent to.
    Address,
    /// Those from an IP address and port that was sent to.
    AddressAndPort,
}

/// What one side knows of its NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NatHint {
    /// Which ports it gives.
    pub mapping: Mapping,
    /// Whose packets it lets in, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtering: Option<Filtering>,
}

impl NatHint {
    /// What the mapping means, for people.
    pub const fn in_words(&self) -> &'static str {
        match self.mapping {
            Mapping::Independent => "one port for every destination",
            Mapping::Sequential { .. } => "another port for every destination, in order",
            Mapping::Random => "another, random port for every destination",
        }
    }
}

/// Tells from what servers saw of **one** socket, in the order in which it asked them, what its
/// NAT does. The servers' addresses must differ in IP address or port. `None` for fewer than two
/// observations.
///
/// Two of them are enough to tell the three kinds apart; that another user of the NAT took a
/// port in between shows only with more, see [`refine`].
pub fn classify(observations: &[SocketAddr]) -> Option<NatHint> {
    let (&first, rest) = observations.split_first()?;
    let &last = rest.last()?;
    let mapping = if rest.iter().all(|&address| address == first) {
        Mapping::Independent
    } else {
        match step(observations) {
            Some(delta) => sequential(delta, last.port()),
            None => Mapping::Random,
        }
    };
    Some(NatHint {
        mapping,
        filtering: None,
    })
}

/// Looks closer at a NAT that is not independent: `observations` are what servers saw in the
/// order in which **any** sockets asked them, no two for the same socket and server, the latest
/// last. More of them make the step surer, and the later the last one is, the surer the next
/// port. An independent one stays as it is.
pub fn refine(hint: NatHint, observations: &[SocketAddr]) -> NatHint {
    if hint.mapping == Mapping::Independent || observations.len() < 2 {
        return hint;
    }
    let mut in_turn = observations.to_vec();
    if let (None, Mapping::Sequential { delta, .. }) = (step(&in_turn), hint.mapping) {
        // A question that was lost and asked again came to the NAT after others.
        in_turn.sort_unstable_by_key(SocketAddr::port);
        if delta < 0 {
            in_turn.reverse();
        }
    }
    let mapping = match (step(&in_turn), in_turn.last()) {
        (Some(delta), Some(last)) => sequential(delta, last.port()),
        _ => Mapping::Random,
    };
    NatHint { mapping, ..hint }
}

const fn sequential(delta: i16, last: u16) -> Mapping {
    Mapping::Sequential {
        delta,
        next: last.wrapping_add_signed(delta),
    }
}

/// The smallest of the steps between ports in a row, when all go the same way and none is far.
fn step(observations: &[SocketAddr]) -> Option<i16> {
    let steps = observations.windows(2).map(|pair| {
        let ahead = pair[1].port().wrapping_sub(pair[0].port()) as i16;
        let near = (1..=FURTHEST).contains(&ahead.unsigned_abs());
        (near && pair[0].ip() == pair[1].ip()).then_some(ahead)
    });
    let mut smallest: Option<i16> = None;
    for step in steps {
        let step = step?;
        match smallest {
            Some(known) if known.signum() != step.signum() => return None,
            Some(known) if known.unsigned_abs() <= step.unsigned_abs() => {}
            _ => smallest = Some(step),
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ports: &[u16]) -> Vec<SocketAddr> {
        ports
            .iter()
            .map(|port| SocketAddr::from(([203, 0, 113, 5], *port)))
            .collect()
    }

    fn mapping(ports: &[u16]) -> Option<Mapping> {
        classify(&seen(ports)).map(|hint| hint.mapping)
    }

    #[test]
    fn the_three_kinds() {
        assert_eq!(mapping(&[]), None);
        assert_eq!(mapping(&[4000]), None);
        assert_eq!(mapping(&[4000, 4000]), Some(Mapping::Independent));
        let counts = |delta, next| Some(Mapping::Sequential { delta, next });
        assert_eq!(mapping(&[4000, 4001]), counts(1, 4002));
        assert_eq!(mapping(&[4000, 4002, 4004]), counts(2, 4006));
        // Somebody else took a port in between.
        assert_eq!(mapping(&[4000, 4002, 4003]), counts(1, 4004));
        assert_eq!(mapping(&[65535, 1]), counts(2, 3));
        assert_eq!(mapping(&[4001, 4000]), counts(-1, 3999));
        assert_eq!(mapping(&[4000, 51234]), Some(Mapping::Random));
        assert_eq!(mapping(&[4000, 4001, 4000]), Some(Mapping::Random));
        assert_eq!(mapping(&[4000, 4001, 4001]), Some(Mapping::Random));
        // Another address of a pool is no step.
        let pool = ["203.0.113.5:4000", "203.0.113.6:4001"];
        let pool: Vec<SocketAddr> = pool.iter().map(|a| a.parse().expect("one")).collect();
        assert_eq!(
            classify(&pool).map(|hint| hint.mapping),
            Some(Mapping::Random)
        );
    }

    #[test]
    fn more_observations_mend_the_step() {
        let hint = classify(&seen(&[4000, 4002])).expect("two");
        let better = refine(hint, &seen(&[4000, 4002, 4003, 4004]));
        let expected = Mapping::Sequential {
            delta: 1,
            next: 4005,
        };
        assert_eq!(better.mapping, expected);
        let independent = classify(&seen(&[4000, 4000])).expect("two");
        assert_eq!(refine(independent, &seen(&[4000, 5000])), independent);
        // The second one was lost at first.
        let late = refine(hint, &seen(&[4002, 4005, 4003, 4004]));
        let expected = Mapping::Sequential {
            delta: 1,
            next: 4006,
        };
        assert_eq!(late.mapping, expected);
        let not_at_all = refine(hint, &seen(&[4000, 4002, 60000, 1024]));
        assert_eq!(not_at_all.mapping, Mapping::Random);
    }
}
