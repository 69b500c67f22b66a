//! What the peer is to be told through the pairing server. It is sealed only when there is room
//! for it on the way and the server will take it: the peer opens blobs by their numbers, so one
//! that was made and then dropped would make all later ones look like a stranger's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::driver::Driver;
use super::note::Note;
use crate::client::budget::Budget;
use crate::pairing::{Blobs, ClientMessage, Opened, SealError};

/// Blobs that go out in one go, and how often one more may follow: a little less than what the
/// server takes of one side.
const BURST: u32 = 100;
const EACH: Duration = Duration::from_millis(600);

/// What waits to be told, and the keys for it.
pub(super) struct Outbox {
    blobs: Blobs,
    /// Whether the own first blob is out.
    begun: bool,
    /// Everything that is new, in one.
    waiting: Note,
    /// Datagrams that have no path, one for each blob.
    datagrams: VecDeque<String>,
    /// What is being told: cut to the length of blobs.
    parts: VecDeque<Vec<u8>>,
    budget: Budget,
    /// Nothing goes out before this.
    held: Option<Instant>,
}

impl Outbox {
    pub(super) fn new(blobs: Blobs, now: Instant) -> Self {
        Self {
            blobs,
            begun: false,
            waiting: Note::default(),
            datagrams: VecDeque::new(),
            parts: VecDeque::new(),
            budget: Budget::new(BURST, EACH, now),
            held: None,
        }
    }

    /// Tells this as soon as it may. What waits is told together.
    pub(super) fn push(&mut self, mut note: Note) {
        self.datagrams.extend(note.datagram.take());
        self.waiting.add(note);
    }

    /// Takes a blob of the peer.
    pub(super) fn open(&mut self, blob: &str) -> Result<Opened, SealError> {
        self.blobs.open(blob)
    }

    fn has_some(&self) -> bool {
        let some = !self.parts.is_empty() || !self.datagrams.is_empty() || !self.waiting.is_empty();
        !self.begun || self.blobs.is_open() && some
    }

    /// Whether there is a blob that may go out now.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.held.is_some_and(|held| now < held) || !self.has_some() {
            return false;
        }
        self.held = self.budget.later(now);
        self.held.is_none()
    }

    /// Makes the next blob, which must go out now.
    fn next(&mut self) -> Option<String> {
        self.budget.spend();
        if !self.begun {
            self.begun = true;
            return Some(self.first());
        }
        if self.parts.is_empty() {
            let mut note = std::mem::take(&mut self.waiting);
            note.datagram = self.datagrams.pop_front();
            self.parts.extend(note.write());
        }
        let part = self.parts.pop_front()?;
        self.blobs.seal(&part)
    }

    /// The first blob, with the handshake's first message where this side begins it.
    fn first(&mut self) -> String {
        let handshake = match self.blobs.begins() {
            true => self.datagrams.pop_front(),
            false => None,
        };
        let handshake = handshake.and_then(|datagram| Note::bytes_of(&datagram));
        self.blobs.first(handshake.as_deref())
    }

    /// When to look again, where something has to wait.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.held.filter(|_| self.has_some())
    }
}

impl Driver {
    /// Whether the pairing server still passes something on.
    pub(super) fn is_passed_on(&self) -> bool {
        self.post.is_some() && !self.state.borrow().peer_left
    }

    /// Hands the pairing server what it can take.
    pub(super) fn post_blobs(&mut self, now: Instant) {
        let passed_on = self.is_passed_on();
        let Some(post) = self.post.as_ref().filter(|_| passed_on) else {
            return self.turn.pass();
        };
        while self.outbox.is_due(now) {
            let Some(room) = self.turn.room(&post.outgoing) else {
                return;
            };
            if let Some(blob) = self.outbox.next() {
                let session = self.session;
                room.send(ClientMessage::Signal { session, blob });
                self.state.send_if_modified(|state| {
                    let first = state.begun.is_none();
                    state.begun.get_or_insert(now);
                    first
                });
            }
        }
        self.turn.pass();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::origin;
    use crate::client::punch::{Candidate, CandidateKind};
    use crate::pairing::{AccessKey, Role, Salt, SessionId};

    fn outbox(role: Role, now: Instant) -> Outbox {
        let key = AccessKey::new("k").expect("a key");
        let salt = Salt([role as u8; 16]);
        Outbox::new(Blobs::new(key, SessionId([1; 16]), role, salt), now)
    }

    fn told(port: u16) -> Note {
        let address = ([192, 0, 2, 1], port).into();
        let mut note = Note::default();
        note.description.candidates = vec![Candidate::new(CandidateKind::Host, address)];
        note
    }

    fn ports(note: &Note) -> Vec<u16> {
        let candidates = &note.description.candidates;
        candidates.iter().map(|c| c.address.port()).collect()
    }

    /// Takes what goes out at once to the other side.
    fn carry(from: &mut Outbox, to: &mut Outbox, now: Instant) -> Vec<Note> {
        let mut notes = Vec::new();
        while from.is_due(now) {
            let blob = from.next().expect("it is due");
            if let Opened::Said(json) = to.open(&blob).expect("the next one") {
                notes.push(Note::read(&json).expect("readable"));
            }
        }
        notes
    }

    #[test]
    fn nothing_is_sealed_before_there_is_room_and_then_all_in_one() {
        let now = origin();
        let mut one = outbox(Role::Initiator, now);
        let mut two = outbox(Role::Receiver, now);
        one.push(told(1));
        assert!(carry(&mut one, &mut two, now).is_empty(), "only the salt");
        assert!(!one.is_due(now), "the peer's salt has not come");
        assert!(carry(&mut two, &mut one, now).is_empty());
        assert!(one.is_due(now));
        // There is no room.
        for port in 2..=5 {
            one.push(told(port));
            assert!(one.is_due(now));
        }
        let notes = carry(&mut one, &mut two, now);
        assert_eq!(notes.len(), 1);
        assert_eq!(ports(&notes[0]), [1, 2, 3, 4, 5]);
        assert_eq!(one.poll_timeout(), None);
        one.push(told(6));
        assert_eq!(ports(&carry(&mut one, &mut two, now)[0]), [6]);
    }

    #[test]
    fn a_side_stays_below_what_the_server_takes_of_it() {
        let start = origin();
        let mut one = outbox(Role::Initiator, start);
        let mut two = outbox(Role::Receiver, start);
        carry(&mut one, &mut two, start);
        carry(&mut two, &mut one, start);
        let mut sent = 1;
        let mut last = Vec::new();
        for second in 0..200_u16 {
            for step in 0..10_u16 {
                let now =
                    start + Duration::from_millis(u64::from(second) * 1000 + u64::from(step) * 100);
                one.push(told(second * 10 + step + 1));
                let notes = carry(&mut one, &mut two, now);
                sent += notes.len();
                last.extend(notes.iter().flat_map(ports));
            }
            assert!(
                sent <= 128 + 2 * usize::from(second),
                "{sent} by {second} s"
            );
        }
        assert!(sent > 300, "{sent}: as many as it may");
        let end = start + Duration::from_secs(201);
        last.extend(carry(&mut one, &mut two, end).iter().flat_map(ports));
        assert_eq!(last.last(), Some(&2000), "the latest is told in the end");
        assert!(last.is_sorted());
    }

    #[test]
    fn the_handshake_goes_with_the_first_one() {
        let now = origin();
        let mut one = outbox(Role::Initiator, now);
        let mut two = outbox(Role::Receiver, now);
        let first = [10; 49];
        one.push(Note::of_datagram(&first));
        assert!(one.is_due(now));
        let blob = one.next().expect("the first one");
        match two.open(&blob) {
            Ok(Opened::Secrets(_, Some(handshake))) => assert_eq!(handshake, first),
            other => panic!("{other:?}"),
        }
        // Each further one has a blob of its own.
        carry(&mut two, &mut one, now);
        two.push(Note::of_datagram(&[11; 49]));
        two.push(told(7));
        two.push(Note::of_datagram(&[12; 38]));
        let notes = carry(&mut two, &mut one, now);
        let datagrams: Vec<_> = notes.iter().map(|note| note.datagram()).collect();
        assert_eq!(datagrams, [Some(vec![11; 49]), Some(vec![12; 38])]);
        assert_eq!(ports(&notes[0]), [7]);
    }
}
