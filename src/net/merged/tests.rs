//! Datagrams that come as one, alone and through a plane.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::net::plane::DataPlane;
use crate::net::sys::{Outgoing, Segments, Sender};
use crate::proto::{Mono, RelayId};

/// What arrived at a relay socket.
fn arrived(index: u32, port: u16, len: usize, segment: Option<usize>, at: u64) -> Merged {
    let relay = RelayId {
        index,
        generation: 1,
    };
    let received = Received {
        len,
        source: ([192, 0, 2, 1], port).into(),
        local: None,
        arrived: Some(at),
        segment,
    };
    Merged::new(Origin::Relay(relay), Slot(0), &received)
}

fn parts(len: usize, segment: Option<usize>) -> Vec<(usize, usize, bool)> {
    let mut merged = arrived(0, 1, len, segment, 0);
    std::iter::from_fn(|| merged.next())
        .map(|event| match event {
            Event::Datagram {
                start, len, alone, ..
            } => (start, len, alone),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn what_came_as_one_is_taken_apart() {
    assert_eq!(parts(10, None), [(0, 10, true)]);
    assert_eq!(parts(0, None), [(0, 0, true)], "an empty one is one, too");
    assert_eq!(
        parts(10, Some(4)),
        [(0, 4, false), (4, 4, false), (8, 2, false)]
    );
    assert_eq!(parts(8, Some(4)), [(0, 4, false), (4, 4, false)]);
    assert_eq!(parts(10, Some(10)), [(0, 10, true)]);
    assert_eq!(parts(10, Some(11)), [(0, 10, true)]);
    assert_eq!(parts(10, Some(0)), [(0, 10, true)], "no size at all");
}

/// How many datagrams pass until a socket asks for merging, of 1,000: `of` says which socket,
/// source port, size and time each has.
fn asked(of: impl Fn(u64) -> (u32, u16, usize, u64)) -> Option<u64> {
    let mut before = None;
    let mut bursts = [Bursts::new(true); 2];
    (1..=1000).find(|&number| {
        let (index, port, len, at) = of(number);
        let now = arrived(index, port, len, None, at);
        let asks = bursts[index as usize].note(before.as_ref(), &now);
        before = Some(now);
        asks
    })
}

#[test]
fn only_bursts_ask_for_merging() {
    let round = u64::from(ROUND);
    assert_eq!(asked(|at| (0, 1, 100, at)), Some(round));
    // Frames of four datagrams each 33 ms, of which the last one is longer.
    let frames = |at| (0, 1, 100 + (at % 4 / 3) as usize, at / 4 * 33_000);
    assert!(asked(frames).is_some());
    for (what, asked) in [
        ("one each 20 ms", asked(|at| (0, 1, 100, at * 20_000))),
        ("other sizes", asked(|at| (0, 1, at as usize, at))),
        ("other peers", asked(|at| (0, at as u16, 100, at))),
        ("by turns", asked(|at| ((at % 2) as u32, 1, 100, at))),
    ] {
        assert_eq!(asked, None, "{what}");
    }
}

#[test]
fn a_socket_asks_once_if_it_may() {
    for may in [false, true] {
        let mut bursts = Bursts::new(may);
        let before = arrived(0, 1, 100, None, 0);
        let times = (0..1000)
            .filter(|_| bursts.note(Some(&before), &arrived(0, 1, 100, None, 1)))
            .count();
        assert_eq!(times, usize::from(may));
    }
}

/// Sends datagrams of one size, but for the last, in one.
pub(in crate::net) fn send_in_one(near: &UdpSocket, to: SocketAddr, datagrams: &[Vec<u8>]) {
    let mut sender = Sender::new(datagrams.len(), Segments::new(true));
    let outgoing = datagrams.iter().map(|bytes| Outgoing {
        bytes,
        to: &to,
        from: None,
    });
    let sent = sender.batch(outgoing).send(near.as_fd(), 0);
    assert_eq!(sent.expect("loopback cuts it"), datagrams.len());
}

/// Sends bursts of equal datagrams and a shorter one, each burst in one, to a socket that `plane`
/// receives from. Each datagram must be handed out for itself, in order; returns how many shared a
/// slot with others.
pub(in crate::net) fn shared_slots(plane: &mut impl DataPlane, to: SocketAddr) -> usize {
    const BURST: usize = 40;
    let near = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let mut shared = 0;
    for round in 0..6 {
        let datagrams: [_; BURST] = std::array::from_fn(|number| {
            let len = if number == BURST - 1 { 70 } else { 100 };
            vec![(round * BURST + number) as u8; len]
        });
        send_in_one(&near, to, &datagrams);
        let mut wanted = datagrams.iter();
        while wanted.len() > 0 {
            let patience = Some(Duration::from_secs(20));
            plane.wait(patience, Mono(0)).expect("waited");
            while let Some(event) = plane.next() {
                let Event::Datagram {
                    slot,
                    start,
                    len,
                    alone,
                    ..
                } = event
                else {
                    panic!("{event:?}");
                };
                let seen = &plane.slot_mut(slot)[start..start + len];
                assert_eq!(Some(seen), wanted.next().map(Vec::as_slice));
                shared += usize::from(!alone);
            }
        }
    }
    shared
}
