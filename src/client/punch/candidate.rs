//! Where a peer may be reached, how such addresses are ranked, and what the two tell each other
//! about them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::nat::NatHint;
use crate::pairing::object;

/// How an address was found. The order is that of preference, best last but one thing: the rank
/// of an address also depends on its family, see [`Candidate::priority`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateKind {
    /// An address of an own interface.
    Host,
    /// What a STUN server saw (RFC 8445 section 5.1.1.2).
    ServerReflexive,
    /// Where a check of the peer came from (RFC 8445 section 7.3.1.3).
    PeerReflexive,
    /// What a router promised by PCP, NAT-PMP or UPnP.
    Mapped,
    /// Where a NAT that counts its ports up is expected to be next.
    Predicted,
    /// A relayed transport address. The agent runs no checks on it: the driver sends through the
    /// relay from the start.
    Relayed,
}

/// An address that may reach a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// How it was found.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

impl Candidate {
    /// An address and how it was found.
    pub const fn new(kind: CandidateKind, address: SocketAddr) -> Self {
        Self { kind, address }
    }

    /// RFC 8445 section 5.1.2.1, with one component, and IPv6 before IPv4 within a type
    /// (RFC 8421 section 4).
    pub const fn priority(&self) -> u32 {
        let kind: u32 = match self.kind {
            CandidateKind::Host => 126,
            CandidateKind::PeerReflexive => 110,
            CandidateKind::Mapped => 105,
            CandidateKind::ServerReflexive => 100,
            CandidateKind::Predicted => 90,
            CandidateKind::Relayed => 0,
        };
        let local: u32 = if self.address.is_ipv6() {
            0xFFFF
        } else {
            0xBFFF
        };
        kind << 24 | local << 8 | 255
    }

    /// Whether somebody else than the device itself says that it has this address.
    pub(super) const fn was_seen(&self) -> bool {
        matches!(
            self.kind,
            CandidateKind::ServerReflexive | CandidateKind::Mapped
        )
    }

    /// Whether packets to it end at a NAT, where one that nobody expects can do harm: see the
    /// openers in [`super`].
    pub(super) const fn is_behind_nat(&self) -> bool {
        self.address.is_ipv4() && !matches!(self.kind, CandidateKind::Host | CandidateKind::Relayed)
    }
}

/// The priority of a pair (RFC 8445 section 6.1.2.3) from those of its two candidates.
pub(super) const fn pair_priority(initiator: u32, receiver: u32) -> u64 {
    let (low, high) = if initiator < receiver {
        (initiator, receiver)
    } else {
        (receiver, initiator)
    };
    (low as u64) << 32 | (high as u64) << 1 | (initiator > receiver) as u64
}

/// The most candidates, and the most opened addresses, that are read from one description.
pub(super) const MOST_IN_DESCRIPTION: usize = 32;

/// What one side tells the other, as the JSON inside a sealed blob. There may be any number of
/// them, each with what is new ("trickled"); every field may be missing.
///
/// ```
/// use turnserver::client::punch::{Candidate, CandidateKind, Description, Mapping, NatHint};
///
/// let description = Description {
///     candidates: vec![Candidate::new(
///         CandidateKind::ServerReflexive,
///         "203.0.113.5:40000".parse().unwrap(),
///     )],
///     nat: Some(NatHint { mapping: Mapping::Sequential { delta: 1, next: 40002 }, filtering: None }),
///     ..Description::default()
/// };
/// let json = serde_json::to_string(&description).unwrap();
/// assert_eq!(
///     json,
///     r#"{"candidates":[{"kind":"server_reflexive","address":"203.0.113.5:40000"}],"nat":{"mapping":{"sequential":{"delta":1,"next":40002}}}}"#
/// );
/// assert_eq!(serde_json::from_str::<Description>(&json).unwrap(), description);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Addresses of the sender.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "object::list"
    )]
    pub candidates: Vec<Candidate>,
    /// What the sender knows of its NAT.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "object::optional"
    )]
    pub nat: Option<NatHint>,
    /// No more candidates will come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
    /// The number of the attempt that the sender is at, from 1; 0: not told. A higher number
    /// than the own one asks to punch again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u32,
    /// Addresses of the peer to which the sender has sent in this attempt: its own NAT now
    /// expects the peer there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opened: Vec<SocketAddr>,
    /// From how many sockets it has sent to them, when from more than one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sockets: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(kind: CandidateKind, address: &str) -> Candidate {
        Candidate::new(kind, address.parse().expect("an address"))
    }

    #[test]
    fn ipv6_and_host_come_first() {
        let host6 = candidate(CandidateKind::Host, "[2001:db8::1]:1").priority();
        let host4 = candidate(CandidateKind::Host, "192.0.2.1:1").priority();
        let mapped = candidate(CandidateKind::Mapped, "192.0.2.1:1").priority();
        let reflexive = candidate(CandidateKind::ServerReflexive, "192.0.2.1:1").priority();
        let predicted = candidate(CandidateKind::Predicted, "192.0.2.1:1").priority();
        let relayed = candidate(CandidateKind::Relayed, "[2001:db8::1]:1").priority();
        let order = [host6, host4, mapped, reflexive, predicted, relayed];
        assert!(order.is_sorted_by(|a, b| a > b), "{order:?}");
        // RFC 8445 section 6.1.2.3: both ends compute the same number.
        assert_eq!(pair_priority(7, 3), (3 << 32) + 2 * 7 + 1);
        assert_eq!(pair_priority(3, 7), (3 << 32) + 2 * 7);
    }

    #[test]
    fn what_is_missing_is_empty_and_what_is_unknown_is_skipped() {
        let empty: Description = serde_json::from_str(r#"{"later": 1}"#).expect("readable");
        assert_eq!(empty, Description::default());
        assert_eq!(serde_json::to_string(&empty).expect("writable"), "{}");
        assert!(
            serde_json::from_str::<Description>(r#"{"candidates":[{"kind":"host"}]}"#).is_err()
        );
    }
}
