//! What the two tell each other, and what the relay tells.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::driver::{Driver, progress};
use super::note::Note;
use super::{Ended, PathInfo, Post, Progress, State};
use crate::client::noise::Kind;
use crate::client::punch::{Candidate, CandidateKind, Description};
use crate::client::relay::{RelayEvent, now};
use crate::pairing::{ClientMessage, Opened, PathKind, SessionSecrets};

/// How often a note goes out that travels as datagrams, and how long after each other.
const NOTE_AGAIN: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(800),
];

/// How long the last words to the pairing server may take.
const FAREWELL: Duration = Duration::from_secs(1);

impl Driver {
    /// Hands a datagram of the peer on; what nobody takes is dropped.
    pub(super) fn deliver(&mut self, kind: Kind, data: Vec<u8>) {
        match kind {
            Kind::Data => drop(self.to_user.try_send(data)),
            Kind::Stream => drop(self.to_streams.try_send(data)),
            Kind::Control => {
                if let Some(note) = Note::read(&data) {
                    self.note(&note);
                }
            }
        }
    }

    pub(super) fn blob(&mut self, blob: &str) {
        match self.outbox.open(blob) {
            Ok(Opened::Said(json)) => {
                let heard = |state: &mut State| !std::mem::replace(&mut state.heard, true);
                self.state.send_if_modified(heard);
                if let Some(note) = Note::read(&json) {
                    self.note(&note);
                }
            }
            Ok(Opened::Secrets(secrets, handshake)) => self.begin(secrets, handshake),
            // A path that was proven is not given up because of what a server forwards.
            Err(_) if self.secure.is_ready() => {}
            Err(_) => self.end(Ended::NotThePeer),
        }
    }

    /// The peer's salt came: what follows from both can be used.
    fn begin(&mut self, secrets: SessionSecrets, handshake: Option<Vec<u8>>) {
        if let Some(agent) = &mut self.agent {
            agent.begin(&secrets.check);
        }
        if let Some(bytes) = handshake {
            self.handle_posted(&bytes);
        }
        if let Some(keyed) = self.keyed.take() {
            // Who waited for it may have given up.
            let _ = keyed.send(secrets);
        }
    }

    fn note(&mut self, note: &Note) {
        let now = now();
        for candidate in &note.description.candidates {
            if candidate.kind == CandidateKind::Relayed {
                self.reach(candidate.address);
            }
        }
        if let Some(agent) = &mut self.agent {
            agent.add_remote(&note.description, now);
        }
        if let Some(bytes) = note.datagram() {
            self.handle_posted(&bytes);
        }
        if let (Some(peers), Some(offer)) = (&self.peers, &note.tcp) {
            for address in &offer.addresses {
                let _ = peers.try_send(*address);
            }
        }
    }

    /// Tells the pairing server what became of the session, when it can take that soon.
    pub(super) async fn farewell(self) {
        let (session, outcome) = (self.session, self.outcome);
        let Some(Post { outgoing, .. }) = self.post else {
            return;
        };
        drop(self.turn);
        let tell = async {
            let result = ClientMessage::Result { session, outcome };
            let leave = ClientMessage::Leave {
                session,
                busy: false,
            };
            for message in [result, leave] {
                let _ = outgoing.send(message).await;
            }
        };
        let _ = timeout(FAREWELL, tell).await;
    }

    /// Sends through the relay to this address from now on.
    pub(super) fn reach(&mut self, peer: SocketAddr) {
        if self.paths.peer_relayed(peer) {
            self.relay.reach(peer);
        }
    }

    /// Tells the peer, by every way there is.
    pub(super) fn tell(&mut self, note: Note) {
        let now = now();
        if self.secure.is_ready() {
            for json in note.write() {
                let again = NOTE_AGAIN.iter().map(|wait| (now + *wait, json.clone()));
                self.notes.extend(again);
            }
        }
        self.outbox.push(note);
    }

    /// Sends what the handshake and the session itself have to say, by every way that there is,
    /// and through the pairing server as long as none is proven.
    pub(super) fn send_own(&mut self, now: Instant) {
        while let Some(bytes) = self.secure.poll_transmit() {
            let ways: Vec<_> = self.paths.all_ways().collect();
            if self.proof.posts(&bytes, ways.is_empty()) {
                self.outbox.push(Note::of_datagram(&bytes));
            }
            for way in ways {
                self.send_by(way, &bytes);
            }
        }
        if self.secure.is_ready() && self.paths.is_any() && self.proof.asks(now) {
            self.secure.probe(now);
            self.send_own(now);
        }
    }

    pub(super) fn send_notes(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.notes)
            .into_iter()
            .partition(|note: &(Instant, _)| note.0 <= now);
        self.notes = later;
        let due: Vec<_> = due;
        for (_, json) in due {
            self.send(now, Kind::Control, &json);
        }
    }

    pub(super) fn relay_event(&mut self, event: RelayEvent) {
        let now = now();
        match event {
            RelayEvent::Allocated { relayed, local, .. } => {
                self.relay_local = Some(local.ip());
                self.paths.own_relayed(Some(relayed));
                self.state.send_modify(|state| state.no_relay = None);
                progress(&self.progress, Progress::Allocated(relayed));
                let description = Description {
                    candidates: vec![Candidate::new(CandidateKind::Relayed, relayed)],
                    ..Description::default()
                };
                self.tell(description.into());
            }
            RelayEvent::Reachable(peer) => {
                if self.paths.reachable(peer) {
                    self.state.send_modify(|state| state.no_relay = None);
                    self.secure.path_changed(now);
                }
            }
            RelayEvent::Refused(peer, failure) => {
                let why = format!("the relay does not let {peer} be reached: {failure}");
                self.no_relay(why);
            }
            RelayEvent::Data(from, bytes) => self.handle_relayed(from, &bytes),
            RelayEvent::Lost(error) => {
                self.paths.own_relayed(None);
                self.no_relay(error.to_string());
            }
        }
    }

    /// Tells why there is no relay, unless that was told since there was one.
    fn no_relay(&mut self, why: String) {
        if self.state.borrow().no_relay.as_ref() == Some(&why) {
            return;
        }
        progress(&self.progress, Progress::NoRelay(why.clone()));
        self.state.send_modify(|state| state.no_relay = Some(why));
    }

    /// Tells who watches when something has changed.
    pub(super) fn publish(&mut self) {
        let info = self.paths.info();
        let refused = self.proof.is_refuted();
        let any = self.paths.is_any();
        let ready = self.state.borrow().ready;
        let is_news = |shown: &PathInfo| info.is_news_after(shown);
        if any && ready && self.shown.as_ref().is_none_or(is_news) {
            self.shown = Some(info.clone());
            progress(&self.progress, Progress::Path(info.clone()));
        }
        self.state.send_if_modified(|state| {
            state.gave_up &= info.path == PathKind::Relayed;
            // Two that were connected and have no way now stay as they were until there is one.
            let path_changed = (any || !ready) && state.path != info;
            if path_changed {
                state.path = info;
            }
            let changed = path_changed || state.refused != refused;
            state.refused = refused;
            changed
        });
    }
}
