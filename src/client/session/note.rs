//! What the two tell each other: JSON in sealed blobs through the pairing server, and in sealed
//! datagrams once there is a path.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::client::punch::Description;
use crate::client::tcp::Offer;
use crate::pairing::{from_json, object};

/// The most candidates in one blob.
const MOST: usize = 8;
/// The most addresses of a kind that are told together.
const MOST_TOLD: usize = 32;

/// What one side tells the other; there may be any number of them, each with what is new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// For datagrams.
    #[serde(flatten)]
    pub(crate) description: Description,
    /// For the byte stream of a tcp session.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "object::optional"
    )]
    pub(crate) tcp: Option<Offer>,
    /// A datagram of the handshake, in base64url, while there is no path for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) datagram: Option<String>,
}

impl From<Description> for Note {
    fn from(description: Description) -> Self {
        Self {
            description,
            ..Self::default()
        }
    }
}

impl Note {
    /// A datagram that has no path of its own yet.
    pub(crate) fn of_datagram(bytes: &[u8]) -> Self {
        Self {
            datagram: Some(URL_SAFE_NO_PAD.encode(bytes)),
            ..Self::default()
        }
    }

    /// The datagram in it.
    pub(crate) fn datagram(&self) -> Option<Vec<u8>> {
        Self::bytes_of(self.datagram.as_ref()?)
    }

    /// The bytes of [`Note::datagram`] as it is written.
    pub(crate) fn bytes_of(datagram: &str) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(datagram).ok()
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Says what `later` says as well. Of what is more than the peer reads, the latest stays.
    pub(crate) fn add(&mut self, later: Self) {
        let (now, then) = (&mut self.description, later.description);
        add(&mut now.candidates, then.candidates);
        now.nat = then.nat.or(now.nat);
        now.end |= then.end;
        if then.round > now.round {
            // What was opened in an earlier attempt is of no use.
            now.round = then.round;
            now.opened.clear();
            now.sockets = 0;
        }
        add(&mut now.opened, then.opened);
        now.sockets = now.sockets.max(then.sockets);
        if let Some(offer) = later.tcp {
            let known = &mut self.tcp.get_or_insert_default().addresses;
            add(known, offer.addresses);
        }
        self.datagram = later.datagram.or(self.datagram.take());
    }

    /// The JSON of this note, cut into several where it tells of more than one blob can hold. The
    /// end of the candidates comes behind them.
    pub(crate) fn write(&self) -> Vec<Vec<u8>> {
        let mut first = self.clone();
        let mut rest = Vec::new();
        let candidates = &mut first.description.candidates;
        if candidates.len() > MOST {
            for more in candidates.split_off(MOST).chunks(MOST) {
                let description = Description {
                    candidates: more.to_vec(),
                    ..Description::default()
                };
                rest.push(Self::from(description));
            }
        }
        let crowded = candidates.len() + first.description.opened.len() > 0;
        if let Some(offer) = first.tcp.take_if(|_| crowded) {
            rest.push(Self {
                tcp: Some(offer),
                ..Self::default()
            });
        }
        if let Some(last) = rest.last_mut() {
            last.description.end = std::mem::take(&mut first.description.end);
        }
        let notes = std::iter::once(first).chain(rest);
        notes.map(|note| note.json()).collect()
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("nothing in it has no JSON")
    }

    /// Reads what the peer wrote. What a later version says is passed over.
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        from_json(json).ok()
    }
}

/// Appends what is new, and drops the oldest of too many.
fn add<T: PartialEq>(known: &mut Vec<T>, later: Vec<T>) {
    for one in later {
        if !known.contains(&one) {
            known.push(one);
        }
    }
    known.drain(..known.len().saturating_sub(MOST_TOLD));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::punch::{Candidate, CandidateKind, Mapping, NatHint};
    use crate::pairing::MAX_BLOB;

    fn address(port: u16) -> std::net::SocketAddr {
        let address = format!("[2001:db8:1111:2222:3333:4444:5555:6666]:{port}");
        address.parse().expect("an address")
    }

    /// Everything at once, each as long as it may be.
    fn full() -> Note {
        let candidate = |port| Candidate::new(CandidateKind::ServerReflexive, address(port));
        let description = Description {
            candidates: (10_000..10_032).map(candidate).collect(),
            nat: Some(NatHint {
                mapping: Mapping::Sequential {
                    delta: -64,
                    next: 65_535,
                },
                filtering: None,
            }),
            end: true,
            round: u32::MAX,
            opened: (20_000..20_032).map(address).collect(),
            sockets: u32::MAX,
        };
        Note {
            description,
            tcp: Some(Offer {
                addresses: (30_000..30_032).map(address).collect(),
            }),
            datagram: Some("A".repeat(66)),
        }
    }

    #[test]
    fn nothing_is_lost_where_it_takes_several_blobs() {
        let note = full();
        let parts = note.write();
        assert_eq!(parts.len(), 5);
        let mut told = Note::default();
        for (at, part) in parts.iter().enumerate() {
            // With the tag, in base64url.
            assert!(
                (part.len() + 16).div_ceil(3) * 4 <= MAX_BLOB,
                "{}",
                part.len()
            );
            let part = Note::read(part).expect("readable");
            assert_eq!(part.description.end, at == 4, "the end comes last");
            told.add(part);
        }
        assert_eq!(told, note);
        assert_eq!(Note::default().write().len(), 1);
    }

    #[test]
    fn notes_become_one() {
        let mut note = full();
        note.add(full());
        assert_eq!(note, full(), "nothing twice");
        let mut later = Note::default();
        later.description.candidates = vec![Candidate::new(CandidateKind::Host, address(1))];
        note.add(later);
        let told = &note.description.candidates;
        assert_eq!(told.len(), MOST_TOLD);
        assert_eq!(told.last().map(|last| last.address), Some(address(1)));
        let mut first = Note::default();
        first.description.round = 1;
        first.description.opened = vec![address(1)];
        let mut second = Note::default();
        second.description.round = 2;
        first.add(second);
        assert!(first.description.opened.is_empty(), "of the round before");
    }

    #[test]
    fn what_is_unknown_is_passed_over() {
        assert_eq!(Note::read(b"{\"later\":[1]}"), Some(Note::default()));
        for odd in [
            "[]",
            r#"{"candidates":[["host","192.0.2.1:1"]]}"#,
            r#"{"nat":["random",null]}"#,
            r#"{"tcp":[[]]}"#,
        ] {
            assert_eq!(Note::read(odd.as_bytes()), None, "{odd}");
        }
    }
}
