//! What the two tell each other: JSON in sealed blobs through the pairing server, and in sealed
//! datagrams once there is a path.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::client::punch::Description;
use crate::client::tcp::Offer;
use crate::pairing::{MAX_BLOB, Role, Sealed, SessionSecrets, Unsealed};

/// The most candidates in one note.
const MOST: usize = 8;
/// The longest note in bytes: sealed and in base64 it must be a blob.
const LONGEST: usize = MAX_BLOB / 4 * 3 - 16;

/// What one side tells the other; there may be any number of them, each with what is new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// For datagrams.
    #[serde(flatten)]
    pub(crate) description: Description,
    /// For the byte stream of a tcp session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
        URL_SAFE_NO_PAD.decode(self.datagram.as_ref()?).ok()
    }

    /// The JSON of this note, cut into several where it tells of many candidates.
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
        let notes = std::iter::once(first).chain(rest);
        let json = notes.filter_map(|note| serde_json::to_vec(&note).ok());
        json.filter(|json| json.len() <= LONGEST).collect()
    }

    /// Reads what the peer wrote. What a later version says is passed over.
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

/// Seals and opens the blobs of one session.
pub(crate) struct Envelope {
    sealed: Sealed,
    unsealed: Unsealed,
}

impl Envelope {
    pub(crate) fn new(secrets: &SessionSecrets, role: Role) -> Self {
        let peer = match role {
            Role::Initiator => Role::Receiver,
            Role::Receiver => Role::Initiator,
        };
        Self {
            sealed: Sealed::new(secrets, role),
            unsealed: Unsealed::new(secrets, peer),
        }
    }

    /// A note as blobs.
    pub(crate) fn seal(&mut self, note: &Note) -> Vec<String> {
        let notes = note.write();
        notes.iter().map(|json| self.sealed.seal(json)).collect()
    }

    /// What a blob says; `Err` when somebody without the access key made it.
    pub(crate) fn open(&mut self, blob: &str) -> Result<Option<Note>, NotThePeer> {
        let json = self.unsealed.open(blob).map_err(|_| NotThePeer)?;
        Ok(Note::read(&json))
    }
}

/// The other side does not have the access key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotThePeer;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::punch::{Candidate, CandidateKind};
    use crate::pairing::{AccessKey, SessionId};

    #[test]
    fn many_candidates_take_several_blobs() {
        let secrets = AccessKey::new("k")
            .expect("a key")
            .session(&SessionId([1; 16]));
        let candidate = |port| {
            let address = format!("[2001:db8:1111:2222:3333:4444:5555:6666]:{port}");
            Candidate::new(
                CandidateKind::ServerReflexive,
                address.parse().expect("one"),
            )
        };
        let mut note = Note::default();
        note.description.candidates = (10_000..10_020).map(candidate).collect();
        note.description.end = true;
        note.tcp = Some(Offer {
            addresses: note
                .description
                .candidates
                .iter()
                .map(|c| c.address)
                .collect(),
        });
        let mut one = Envelope::new(&secrets, Role::Initiator);
        let mut two = Envelope::new(&secrets, Role::Receiver);
        let blobs = one.seal(&note);
        assert_eq!(blobs.len(), 3);
        let mut told = Vec::new();
        for blob in &blobs {
            assert!(blob.len() <= MAX_BLOB);
            let note = two.open(blob).expect("from the peer").expect("readable");
            told.extend(note.description.candidates);
        }
        assert_eq!(told, note.description.candidates);
        assert_eq!(two.open(&blobs[0]), Err(NotThePeer), "again");
    }

    #[test]
    fn what_is_unknown_is_passed_over() {
        assert_eq!(Note::read(b"{\"later\":[1]}"), Some(Note::default()));
        assert_eq!(Note::read(b"[]"), None);
    }
}
