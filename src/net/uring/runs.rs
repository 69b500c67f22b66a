//! Which of the datagrams that wait leave together: those of one flow, wherever in the line they
//! stand. So the more wait, the less each costs. Within a flow the order stays.

use std::net::IpAddr;

use super::{Sent, Socket};
use crate::net::sys::uring::{DATAGRAMS, SUBMISSIONS};
use crate::net::sys::{Joined, Segments};

/// No datagram, and no run.
const NONE: u16 = u16::MAX;

/// Flows that are remembered. Of two with the same place each displaces the other, and more
/// leaves apart.
const PLACES: usize = DATAGRAMS;

/// Datagrams that leave in one.
#[derive(Clone, Copy)]
pub(super) struct Run {
    first: u16,
    last: u16,
    count: u16,
}

impl Run {
    pub(super) const fn count(self) -> usize {
        self.count as usize
    }
}

/// The sends of one submission.
pub(super) struct Runs {
    sent: Vec<Sent>,
    /// For each of them the next one of its run.
    next: Vec<u16>,
    runs: Vec<Run>,
    /// The latest run of a flow, by its place. It may be one of an earlier submission, whose number
    /// is another flow's now, or nobody's.
    latest: Box<[u16]>,
}

impl Runs {
    pub(super) fn new() -> Self {
        Self {
            sent: Vec::with_capacity(DATAGRAMS),
            next: Vec::with_capacity(DATAGRAMS),
            runs: Vec::with_capacity(SUBMISSIONS),
            latest: vec![NONE; PLACES].into(),
        }
    }

    /// How many datagrams wait.
    pub(super) const fn datagrams(&self) -> usize {
        self.sent.len()
    }

    /// Whether there is room for one more datagram, given that for requests.
    pub(super) const fn has_room(&self) -> bool {
        self.sent.len() < DATAGRAMS
    }

    /// See [`pays`].
    pub(super) const fn pays(&self) -> bool {
        pays(self.sent.len(), self.runs.len())
    }

    /// How many runs they make, each of which is one request.
    pub(super) const fn len(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn get(&self, number: usize) -> Option<Run> {
        self.runs.get(number).copied()
    }

    /// Every run, in the order of their first datagrams.
    pub(super) fn all(&self) -> impl Iterator<Item = Run> {
        self.runs.iter().copied()
    }

    /// The first datagram of a run.
    pub(super) fn first(&self, run: Run) -> &Sent {
        &self.sent[usize::from(run.first)]
    }

    /// All datagrams of a run, in order.
    pub(super) fn of(&self, run: Run) -> impl ExactSizeIterator<Item = &Sent> {
        let mut next = run.first;
        (0..run.count).map(move |_| {
            let number = usize::from(next);
            next = self.next[number];
            &self.sent[number]
        })
    }

    /// One more datagram; there is room.
    pub(super) fn add(&mut self, send: Sent, segments: &mut Segments) {
        let number = self.sent.len() as u16;
        let latest = &mut self.latest[place(&send)];
        match self.runs.get_mut(usize::from(*latest)) {
            Some(run) if continues(&self.sent, *run, &send, segments) => {
                self.next[usize::from(run.last)] = number;
                run.last = number;
                run.count += 1;
            }
            _ => {
                *latest = self.runs.len() as u16;
                self.runs.push(Run {
                    first: number,
                    last: number,
                    count: 1,
                });
            }
        }
        self.sent.push(send);
        self.next.push(NONE);
    }

    pub(super) fn clear(&mut self) {
        self.sent.clear();
        self.next.clear();
        self.runs.clear();
    }
}

/// Whether so many datagrams leave in so few requests that it is worth while to wait for more of
/// the same.
pub(super) const fn pays(datagrams: usize, requests: usize) -> bool {
    requests > 0 && requests * 5 <= datagrams * 4
}

/// Where the latest run of a flow is remembered.
fn place(send: &Sent) -> usize {
    let socket = match send.socket {
        Socket::Listener(index) => index,
        Socket::Relay(id) => id.index,
    };
    let ip = match send.to.ip() {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(ip) => ip.to_bits() as u32,
    };
    let flow = ip ^ socket.rotate_left(16) ^ u32::from(send.to.port()).rotate_left(8);
    // The upper bits of a product depend on all of the lower ones (Fibonacci hashing).
    (flow.wrapping_mul(0x9E37_79B1) >> 16) as usize % PLACES
}

/// Whether a datagram may leave in one with those.
fn continues(sent: &[Sent], run: Run, send: &Sent, segments: &mut Segments) -> bool {
    let [first, last] = [run.first, run.last].map(|at| &sent[usize::from(at)]);
    let joined = Joined {
        count: run.count(),
        first: first.bytes.len(),
        last: last.bytes.len(),
    };
    (first.socket, first.to, first.from) == (send.socket, send.to, send.from)
        && segments.take(joined, send.bytes.len())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::proto::RelayId;

    fn send(socket: Socket, port: u16, len: usize) -> Sent {
        Sent {
            socket,
            bytes: 0..len,
            to: (Ipv4Addr::LOCALHOST, port).into(),
            from: None,
        }
    }

    /// The lengths of what leaves in one, with the port of its destination.
    fn left(runs: &Runs) -> Vec<(u16, Vec<usize>)> {
        let lengths = |run| runs.of(run).map(|send| send.bytes.len()).collect();
        let port = |run| runs.first(run).to.port();
        runs.all().map(|run| (port(run), lengths(run))).collect()
    }

    #[test]
    fn flows_that_take_turns_leave_in_one_each() {
        let (mut runs, mut segments) = (Runs::new(), Segments::new(true));
        assert!(!runs.pays(), "nothing waits");
        let listener = Socket::Listener(0);
        // Twice: what is remembered of the first time harms nothing.
        for _ in 0..2 {
            for len in [100, 100, 60, 100] {
                for port in [1, 2, 3] {
                    runs.add(send(listener, port, len), &mut segments);
                }
            }
            // A shorter one is the last of its run.
            let expected = [
                [1, 2, 3].map(|port| (port, vec![100, 100, 60])),
                [1, 2, 3].map(|port| (port, vec![100])),
            ];
            assert_eq!(left(&runs), expected.concat());
            assert_eq!((runs.len(), runs.pays()), (6, true));
            runs.clear();
        }
    }

    #[test]
    fn what_only_looks_like_one_flow_leaves_apart() {
        let (mut runs, mut segments) = (Runs::new(), Segments::new(true));
        let relay = |generation| {
            let index = 0;
            Socket::Relay(RelayId { index, generation })
        };
        runs.add(send(relay(1), 1, 9), &mut segments);
        runs.add(send(relay(2), 1, 9), &mut segments);
        runs.add(send(Socket::Listener(0), 1, 9), &mut segments);
        let mut elsewhere = send(Socket::Listener(0), 1, 9);
        elsewhere.from = Some(Ipv4Addr::LOCALHOST.into());
        runs.add(elsewhere, &mut segments);
        assert_eq!(left(&runs), vec![(1, vec![9]); 4]);
        assert!(!runs.pays());
    }

    #[test]
    fn many_flows_lose_nothing_and_stay_in_order() {
        let (mut runs, mut segments) = (Runs::new(), Segments::new(true));
        // Among so many some have the same place.
        let ports: Vec<u16> = (0..100).map(|number| 1000 + 7 * number).collect();
        let mut number = 0;
        for _ in 0..2 {
            for &port in &ports {
                let mut send = send(Socket::Listener(0), port, 10);
                send.bytes = number..number + 10;
                number += 1;
                runs.add(send, &mut segments);
            }
        }
        assert!(runs.len() < 150, "most leave in one: {}", runs.len());
        for &port in &ports {
            let of_it = runs.all().filter(|run| runs.first(*run).to.port() == port);
            let starts: Vec<_> = of_it
                .flat_map(|run| runs.of(run).map(|send| send.bytes.start))
                .collect();
            let place = usize::from((port - 1000) / 7);
            assert_eq!(starts, [place, place + 100], "port {port}");
        }
    }
}
