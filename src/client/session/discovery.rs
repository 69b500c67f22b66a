//! What STUN servers see of a socket (RFC 8489 section 2), without sockets or clocks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use crate::client::punch::Via;
use crate::wire::{Builder, Class, Message, Method, TransactionId};

/// First repetition of a question, doubled each time.
const RTO: Duration = Duration::from_millis(150);
/// Sends of one question.
const SENDS: u32 = 5;

/// A question under way, or answered.
struct Question {
    via: Via,
    server: SocketAddr,
    id: TransactionId,
    sends: u32,
    due: Instant,
    seen: Option<SocketAddr>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) via: Via,
    /// The socket's address as the server sees it.
    pub(super) mapped: SocketAddr,
}

/// Asks every server for the address of every socket of its family.
pub(super) struct Discovery {
    rng: ChaCha12Rng,
    questions: Vec<Question>,
}

impl Discovery {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: ChaCha12Rng::from_seed(seed),
            questions: Vec::new(),
        }
    }

    /// Asks (again) from these sockets, which are of this family. The order of the servers is
    /// that of the questions, on which the guess at the next port depends.
    pub(super) fn ask(&mut self, via: Via, ipv4: bool, servers: &[SocketAddr], now: Instant) {
        self.questions.retain(|question| question.via != via);
        for &server in servers.iter().filter(|server| server.is_ipv4() == ipv4) {
            let mut id = [0; 12];
            self.rng.fill_bytes(&mut id);
            self.questions.push(Question {
                via,
                server,
                id: TransactionId(id),
                sends: 0,
                due: now,
                seen: None,
            });
        }
    }

    /// The next question to send: from where, to where, and its bytes.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<(Via, SocketAddr, Vec<u8>)> {
        let open = |q: &&mut Question| q.seen.is_none() && q.sends < SENDS && q.due <= now;
        let question = self.questions.iter_mut().find(open)?;
        question.due = now + RTO * (1 << question.sends);
        question.sends += 1;
        let mut bytes = vec![0; 64];
        let mut builder = Builder::new(&mut bytes, Class::Request, Method::BINDING, question.id);
        builder.fingerprint();
        let len = builder.finish().expect("a header and FINGERPRINT fit");
        bytes.truncate(len);
        Some((question.via, question.server, bytes))
    }

    /// Takes what may be an answer; `None` when it is none, or one that was taken before.
    pub(super) fn handle(&mut self, via: Via, from: SocketAddr, bytes: &[u8]) -> Option<Seen> {
        let message = Message::parse(bytes).ok()?;
        let id = message.transaction_id();
        if (message.class(), message.method()) != (Class::Success, Method::BINDING) {
            return None;
        }
        let asked = |q: &&mut Question| q.id == id && q.via == via && q.server == from;
        let question = self.questions.iter_mut().find(asked)?;
        let mapped = message.unprotected().xor_mapped_address().ok()??;
        question
            .seen
            .replace(mapped)
            .is_none()
            .then_some(Seen { via, mapped })
    }

    /// What the servers saw of a socket, in the order of the questions.
    pub(super) fn seen(&self, via: Via) -> Vec<SocketAddr> {
        let of_it = self.questions.iter().filter(|question| question.via == via);
        of_it.filter_map(|question| question.seen).collect()
    }

    /// Whether some server has not answered a socket yet.
    pub(super) fn is_waiting(&self, via: Via) -> bool {
        self.questions
            .iter()
            .any(|question| question.via == via && question.seen.is_none())
    }

    /// Asks no more from a socket.
    pub(super) fn forget(&mut self, via: Via) {
        self.questions.retain(|question| question.via != via);
    }

    /// When to call [`Discovery::poll_transmit`] again.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let open = |q: &&Question| q.seen.is_none() && (q.sends < SENDS || q.due > now);
        self.questions.iter().filter(open).map(|q| q.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::origin;
    use crate::wire::attr;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn answer(question: &[u8], mapped: &str) -> Vec<u8> {
        let id = Message::parse(question)
            .expect("a question")
            .transaction_id();
        let mut bytes = vec![0; 64];
        let mut builder = Builder::new(&mut bytes, Class::Success, Method::BINDING, id);
        builder.xor_address(attr::XOR_MAPPED_ADDRESS, address(mapped));
        let len = builder.finish().expect("fits");
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn asks_each_server_of_the_family_and_tells_what_it_saw() {
        let now = origin();
        let servers = ["192.0.2.1:3478", "[2001:db8::1]:3478", "192.0.2.1:8080"].map(address);
        let mut discovery = Discovery::new([1; 32]);
        discovery.ask(Via::Socket(0), true, &servers, now);
        let (_, first, question) = discovery.poll_transmit(now).expect("the first");
        let (_, second, other) = discovery.poll_transmit(now).expect("the second");
        assert_eq!((first, second), (servers[0], servers[2]));
        assert_eq!(discovery.poll_transmit(now), None);
        let told = answer(&question, "203.0.113.1:4000");
        // From another server, on another socket, or to another question it counts for nothing.
        assert_eq!(discovery.handle(Via::Socket(0), second, &told), None);
        assert_eq!(discovery.handle(Via::Socket(1), first, &told), None);
        assert_eq!(discovery.handle(Via::Socket(0), first, &question), None);
        let late = answer(&other, "203.0.113.1:4001");
        assert!(discovery.handle(Via::Socket(0), second, &late).is_some());
        let seen = Seen {
            via: Via::Socket(0),
            mapped: address("203.0.113.1:4000"),
        };
        assert_eq!(discovery.handle(Via::Socket(0), first, &told), Some(seen));
        assert_eq!(
            discovery.handle(Via::Socket(0), first, &told),
            None,
            "again"
        );
        let seen = discovery.seen(Via::Socket(0));
        assert_eq!(seen, ["203.0.113.1:4000", "203.0.113.1:4001"].map(address));
        assert_eq!(discovery.poll_timeout(now), None);
    }

    #[test]
    fn repeats_and_gives_up() {
        let mut now = origin();
        let start = now;
        let mut discovery = Discovery::new([1; 32]);
        discovery.ask(Via::Socket(0), true, &[address("192.0.2.1:3478")], now);
        let mut sent = 0;
        while let Some(due) = discovery.poll_timeout(now) {
            now = due;
            while discovery.poll_transmit(now).is_some() {
                sent += 1;
            }
        }
        assert_eq!(sent, SENDS);
        assert!(now - start < Duration::from_secs(5));
    }
}
