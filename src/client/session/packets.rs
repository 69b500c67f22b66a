//! What happens to every datagram, out and in.

use std::net::SocketAddr;
use std::time::Instant;

use super::driver::Driver;
use super::gather::canonical;
use super::paths::Way;
use super::proof::is_handshake;
use super::sockets::Packet;
use crate::client::noise::{Kind, Received};
use crate::client::punch::{Handled, Via};
use crate::client::relay::now;
use crate::wire::{self, classify};

/// Where a datagram came in.
#[derive(Clone, Copy)]
enum Arrival {
    Direct(Via, SocketAddr),
    Relay(SocketAddr),
    /// Through the pairing server.
    Post,
}

impl Driver {
    /// Seals and sends by the best way, or by two while the best is in doubt. Without any way it
    /// is dropped, as every datagram may be.
    pub(super) fn send(&mut self, now: Instant, kind: Kind, data: &[u8]) {
        let mut sealed = std::mem::take(&mut self.sealed);
        if self.secure.seal(now, kind, data, &mut sealed).is_ok() {
            for way in self.paths.ways(now) {
                self.send_by(way, &sealed);
            }
            if self.paths.is_relay_in_doubt(now) {
                self.relay.check();
            }
            if self.paths.is_direct()
                && let Some(agent) = &mut self.agent
            {
                agent.note_sent(now);
            }
        }
        self.sealed = sealed;
    }

    pub(super) fn send_by(&mut self, way: Way, bytes: &[u8]) {
        match way {
            Way::Direct(..) if self.loss.takes() => {}
            Way::Direct(via, remote) => self.sockets.send(via, remote, None, bytes),
            Way::Relay(peer) => self.relay.send(peer, bytes.to_vec()),
        }
    }

    /// A datagram arrived on a socket.
    pub(super) fn handle_packet(&mut self, (number, from, bytes): Packet) {
        let Some(&first) = bytes.first() else {
            return;
        };
        let (via, from) = (Via::Socket(number), canonical(from));
        if classify(first) != wire::Kind::Stun {
            if !self.loss.takes() {
                self.open(Arrival::Direct(via, from), &bytes);
            }
            return;
        }
        let now = now();
        if let Some(seen) = self.discovery.handle(via, from, &bytes) {
            return match self.seen_closer(via) {
                true => {}
                false => self.seen(seen),
            };
        }
        if let Some(agent) = &mut self.agent
            && !self.loss.takes()
            && agent.handle(now, via, from, &bytes) == Handled::Consumed
        {
            self.paths.heard(now, via, from);
        }
    }

    /// A datagram arrived through the relay.
    pub(super) fn handle_relayed(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.open(Arrival::Relay(canonical(from)), bytes);
    }

    /// A datagram of the handshake arrived in a blob.
    pub(super) fn handle_posted(&mut self, bytes: &[u8]) {
        self.open(Arrival::Post, bytes);
    }

    fn open(&mut self, arrival: Arrival, bytes: &[u8]) {
        let now = now();
        let mut plain = std::mem::take(&mut self.plain);
        let refused = self.secure.refused();
        let received = self.secure.handle(now, bytes, &mut plain);
        let message = match received {
            Received::Message(kind, data) => Some((kind, data.to_vec())),
            Received::Alive => None,
            Received::Repeated => {
                self.plain = plain;
                // Who the peer is the session knows. This says that the relay leads here.
                if matches!(arrival, Arrival::Relay(_)) {
                    self.proof.proven();
                }
                return;
            }
            Received::Foreign | Received::Refused => {
                self.plain = plain;
                // Anybody may send anything to a socket; that says nothing of the peer.
                if self.secure.refused() > refused && is_handshake(bytes) && self.is_peers(arrival)
                {
                    self.proof.refuted();
                }
                return;
            }
        };
        self.plain = plain;
        self.paths.not_quiet();
        match arrival {
            Arrival::Post => {}
            Arrival::Direct(via, from) => {
                self.proof.proven();
                self.paths.heard(now, via, from);
                self.note_received(now, via, from);
            }
            Arrival::Relay(from) => {
                self.proof.proven();
                // The peer has another relayed address than it told, or has not told any.
                self.reach(from);
                self.note_received(now, Via::Relay, from);
            }
        }
        if let Some((kind, data)) = message {
            self.deliver(kind, data);
        }
    }

    /// Whether nobody but the peer should send that way.
    fn is_peers(&self, arrival: Arrival) -> bool {
        match arrival {
            Arrival::Post => true,
            Arrival::Relay(from) => self.paths.info_of_peer() == Some(from),
            Arrival::Direct(via, from) => {
                let path = self.paths.direct();
                path.is_some_and(|path| (path.via, path.remote) == (via, from))
            }
        }
    }

    fn note_received(&mut self, now: Instant, via: Via, from: SocketAddr) {
        if let Some(agent) = &mut self.agent {
            agent.note_received(now, via, from);
        }
    }
}
