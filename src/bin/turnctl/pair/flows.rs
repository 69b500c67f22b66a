//! Many UDP clients over one session: each has a number, which its datagrams carry in front.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use turnserver::client::quic::Streams;

/// UDP clients at a time; the one that was silent for longest makes room.
const MOST_FLOWS: usize = 256;
/// After so much silence a UDP client is forgotten.
pub(super) const FLOW_IDLE: Duration = Duration::from_secs(120);

/// A datagram of no flow, by which the side that serves a port says that it refuses. Too short for
/// the number of one.
const REFUSED: [u8; 1] = [0];

/// Who sends to the local port, each by its number.
#[derive(Default)]
pub(super) struct Flows {
    by_client: HashMap<SocketAddr, u16>,
    by_number: HashMap<u16, (SocketAddr, Instant)>,
    next: u16,
}

impl Flows {
    pub(super) fn number(&mut self, client: SocketAddr, now: Instant) -> u16 {
        if let Some(&number) = self.by_client.get(&client) {
            self.by_number.insert(number, (client, now));
            return number;
        }
        if self.by_number.len() == MOST_FLOWS
            && let Some((&oldest, _)) = self.by_number.iter().min_by_key(|(_, (_, used))| *used)
        {
            self.forget(oldest);
        }
        while self.by_number.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_client.insert(client, number);
        self.by_number.insert(number, (client, now));
        number
    }

    pub(super) fn client(&mut self, number: u16, now: Instant) -> Option<SocketAddr> {
        let (client, used) = self.by_number.get_mut(&number)?;
        *used = now;
        Some(*client)
    }

    fn forget(&mut self, number: u16) {
        if let Some((client, _)) = self.by_number.remove(&number) {
            self.by_client.remove(&client);
        }
    }

    pub(super) fn forget_idle(&mut self, now: Instant) {
        let idle = |(_, used): &(SocketAddr, Instant)| now - *used >= FLOW_IDLE;
        let flows = self.by_number.iter();
        let gone: Vec<u16> = flows
            .filter(|(_, flow)| idle(flow))
            .map(|(n, _)| *n)
            .collect();
        gone.into_iter().for_each(|number| self.forget(number));
    }
}

/// What the side of the served port has for each flow. It makes room as [`Flows`] does: a number
/// that is not known is a new client, for which the other side has forgotten another one.
pub(super) struct ByFlow<T>(HashMap<u16, (T, Instant)>);

impl<T> Default for ByFlow<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> ByFlow<T> {
    /// What is known of a flow, which is used now.
    pub(super) fn get(&mut self, number: u16, now: Instant) -> Option<&T> {
        let (known, used) = self.0.get_mut(&number)?;
        *used = now;
        Some(known)
    }

    /// Of a flow that is new, or instead of what was known of it.
    pub(super) fn insert(&mut self, number: u16, new: T, now: Instant) {
        if self.0.len() >= MOST_FLOWS
            && !self.0.contains_key(&number)
            && let Some((&oldest, _)) = self.0.iter().min_by_key(|(_, (_, used))| *used)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(number, (new, now));
    }

    pub(super) fn forget_idle(&mut self, now: Instant) {
        self.0.retain(|_, (_, used)| now - *used < FLOW_IDLE);
    }
}

/// What a datagram between the two says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// The flow, and the client's bytes.
    Data(u16, &'a [u8]),
    /// The served port refused what it was sent.
    Refused,
}

pub(super) fn read(datagram: &[u8]) -> Option<Said<'_>> {
    if datagram == REFUSED {
        return Some(Said::Refused);
    }
    let (number, bytes) = datagram.split_first_chunk()?;
    Some(Said::Data(u16::from_be_bytes(*number), bytes))
}

pub(super) async fn refuse(streams: &Streams) -> io::Result<()> {
    streams.send(&REFUSED).await
}

/// Datagrams may be lost; those that are too long for the session are.
pub(super) async fn send(streams: &Streams, number: u16, bytes: &[u8]) -> io::Result<()> {
    let datagram = [&number.to_be_bytes()[..], bytes].concat();
    match streams.send(&datagram).await {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        sent => sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[tokio::test(start_paused = true)]
    async fn clients_keep_their_numbers_and_the_silent_ones_make_room() {
        let mut flows = Flows::default();
        let start = Instant::now();
        for port in 1..=MOST_FLOWS as u16 {
            let now = start + Duration::from_millis(port.into());
            assert_eq!(flows.number(client(port), now), port - 1);
        }
        let later = start + Duration::from_secs(1);
        assert_eq!(
            flows.client(0, later),
            Some(client(1)),
            "an answer counts as use"
        );
        let new = flows.number(client(9999), later);
        assert_eq!(flows.client(new, later), Some(client(9999)));
        assert_eq!(flows.client(1, later), None, "it was silent for longest");
        assert_eq!(flows.number(client(1), later), 0);
        flows.forget_idle(start + FLOW_IDLE + Duration::from_millis(500));
        assert_eq!(flows.by_number.len(), 2);
        assert_eq!(flows.by_client.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_flow_takes_the_place_of_the_one_that_was_silent_for_longest() {
        let mut flows = ByFlow::default();
        let start = Instant::now();
        for number in 0..MOST_FLOWS as u16 {
            flows.insert(number, number, start + Duration::from_millis(number.into()));
        }
        let later = start + Duration::from_secs(1);
        assert_eq!(flows.get(0, later), Some(&0));
        flows.insert(2, 20, later);
        flows.insert(9999, 9999, later);
        assert_eq!(flows.0.len(), MOST_FLOWS);
        assert_eq!(flows.get(1, later), None, "it was silent for longest");
        for (number, known) in [(0, 0), (2, 20), (3, 3), (9999, 9999)] {
            assert_eq!(flows.get(number, later), Some(&known));
        }
        flows.forget_idle(start + FLOW_IDLE + Duration::from_millis(500));
        assert_eq!(flows.0.len(), 4, "those that were used since");
    }
}
