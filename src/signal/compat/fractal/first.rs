//! First generation: a text over UDP, the wanted address and a role. Machines and clients are
//! matched by the machine's IP address, whoever comes first. Sans-IO.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::proto::Mono;

use super::{Entry, entry};

/// How long a request waits, in seconds. There was no end to it once, and no word of refusal.
pub const LIFETIME: u64 = 60;
/// Requests of either side that wait. Beyond it they are dropped, as they always were.
pub const MOST_WAITING: usize = 100;
/// Of those from one address.
const PER_SOURCE: usize = 6;
/// The longest request: an address and the role.
const LONGEST: usize = 16;

/// What somebody sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A client wants the machine with this address.
    Client(Ipv4Addr),
    /// A machine is there; what stands before its last byte never mattered.
    Machine,
}

impl Request {
    /// Reads a request: the last byte is the role, `C` for clients.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (role, text) = bytes.split_last()?;
        if bytes.len() > LONGEST {
            return None;
        }
        match role {
            b'C' => {
                let text = std::str::from_utf8(text).ok()?;
                text.parse().ok().map(Self::Client)
            }
            _ => Some(Self::Machine),
        }
    }
}

struct Waiting {
    from: SocketAddrV4,
    /// The machine's address: the one that is wanted, or its own.
    machine: Ipv4Addr,
    expires: Mono,
}

/// Who waits.
#[derive(Default)]
pub struct Queue {
    machines: VecDeque<Waiting>,
    clients: VecDeque<Waiting>,
}

impl Queue {
    /// Takes a request; when it meets another one, both sides are told of each other.
    pub fn handle(
        &mut self,
        now: Mono,
        from: SocketAddrV4,
        request: Request,
    ) -> Option<[(SocketAddrV4, Entry); 2]> {
        for queue in [&mut self.machines, &mut self.clients] {
            queue.retain(|waiting| waiting.expires > now);
        }
        let (own, others, machine) = match request {
            Request::Client(wanted) => (&mut self.clients, &mut self.machines, wanted),
            Request::Machine => (&mut self.machines, &mut self.clients, *from.ip()),
        };
        // Who asks again takes its own place.
        own.retain(|waiting| waiting.from != from);
        // In turn: who waits longest is served first.
        if let Some(at) = others.iter().position(|other| other.machine == machine)
            && let Some(other) = others.remove(at)
        {
            return Some([(other.from, entry(from, 0)), (from, entry(other.from, 0))]);
        }
        let from_source = own.iter().filter(|other| other.from.ip() == from.ip());
        if own.len() < MOST_WAITING && from_source.count() < PER_SOURCE {
            own.push_back(Waiting {
                from,
                machine,
                expires: now.plus_secs(LIFETIME),
            });
        }
        None
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.machines.len() + self.clients.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    const MACHINE: &str = "127.0.0.1:40218";
    const CLIENT: &str = "127.0.0.1:43644";

    #[test]
    fn requests_to_the_byte() {
        let client = Request::Client(Ipv4Addr::new(203, 0, 113, 250));
        assert_eq!(Request::decode(b"203.0.113.250C"), Some(client));
        for machine in [&b"S"[..], b"127.0.0.1S", b"anythingM", b"x"] {
            assert_eq!(Request::decode(machine), Some(Request::Machine));
        }
        for bad in [&b""[..], b"C", b"hostC", b"1.2.3C", &[b'x'; 17]] {
            assert_eq!(Request::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn both_sides_get_their_8_bytes_in_either_order() {
        let client = (at(CLIENT), Request::Client(Ipv4Addr::LOCALHOST));
        let machine = (at(MACHINE), Request::Machine);
        for (one, two) in [(client, machine), (machine, client)] {
            let mut queue = Queue::default();
            assert_eq!(queue.handle(Mono(1), one.0, one.1), None);
            let told = queue.handle(Mono(1), two.0, two.1).expect("they meet");
            let of = |to: &str| {
                told.iter()
                    .find(|(told, _)| *told == at(to))
                    .expect("told")
                    .1
            };
            assert_eq!(of(CLIENT), [0x7f, 0, 0, 1, 0x9d, 0x1a, 0, 0]);
            assert_eq!(of(MACHINE), [0x7f, 0, 0, 1, 0xaa, 0x7c, 0, 0]);
            assert!(queue.is_empty());
        }
    }

    #[test]
    fn served_in_turn_and_asking_again_takes_ones_own_place() {
        let mut queue = Queue::default();
        let wanted = Request::Client(Ipv4Addr::new(192, 0, 2, 1));
        for port in [1, 2, 1] {
            let from = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), port);
            assert_eq!(queue.handle(Mono(1), from, wanted), None);
        }
        assert_eq!(queue.len(), 2);
        let met = |queue: &mut Queue| {
            let told = queue.handle(Mono(1), at("192.0.2.1:7"), Request::Machine);
            told.map(|told| told[0].0.port())
        };
        assert_eq!([met(&mut queue), met(&mut queue)], [Some(2), Some(1)]);
        assert_eq!(met(&mut queue), None);
    }

    #[test]
    fn the_queue_is_bounded_and_forgets() {
        let mut queue = Queue::default();
        for host in 0..1000_u32 {
            let from = SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000 + host / 10), host as u16);
            queue.handle(Mono(1), from, Request::Machine);
        }
        assert_eq!(queue.len(), MOST_WAITING);
        let later = Mono(1).plus_secs(LIFETIME);
        queue.handle(later, at(CLIENT), Request::Machine);
        assert_eq!(queue.len(), 1);
    }
}
