//! Sockets without a place in the ring's table: there are more than it holds.

use std::net::UdpSocket;
use std::sync::Arc;

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

use crate::net::Service;
use crate::net::descriptors::Descriptors;
use crate::net::plane::Origin;
use crate::net::relays::{RelayOpener, Reservations};
use crate::net::uring::*;
use crate::proto::ports::RelayAddresses;
use crate::proto::{Family, OpenSpec, Transport};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A plane with a listener and relay sockets, of which `places` have one in the ring's table.
struct Crowd {
    plane: Uring,
    listener: SocketAddr,
    relays: Vec<(RelayId, SocketAddr)>,
    opener: RelayOpener,
    ports: Arc<RelayAddresses>,
}

impl Crowd {
    fn new(places: u64) -> Self {
        let ring = new_ring(places).expect("the tests of this data path need io_uring (Linux 6.1)");
        let local = [127, 0, 0, 1].into();
        let ports = RelayAddresses::new(vec![(local, local)], 20_000..=29_999);
        let opener = RelayOpener::new(
            Arc::clone(&ports),
            Arc::new(Reservations::default()),
            ChaCha12Rng::from_seed([3; 32]),
            1 << 16,
            Descriptors::new(1 << 20),
        );
        // Bound to the wildcard address, so that what is sent names its source.
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
        socket.set_nonblocking(true).expect("set");
        sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1).expect("set");
        let address = socket.local_addr().expect("bound");
        let listener = UdpListener {
            socket: socket.into(),
            address,
            service: Service::Turn,
        };
        let mut crowd = Self {
            plane: Uring::new(ring, vec![listener], true).expect("made"),
            listener: ([127, 0, 0, 1], address.port()).into(),
            relays: Vec::new(),
            opener,
            ports,
        };
        for index in 0..4 {
            crowd.open(index, 1);
        }
        crowd
    }

    fn open(&mut self, index: u32, generation: u32) {
        let family = Family::V4;
        let socket = self.opener.open(OpenSpec::Any { family }).expect("opened");
        let id = RelayId { index, generation };
        self.relays.push((id, socket.opened().local));
        self.plane.open(id, socket).expect("watched");
    }

    /// How many sockets have a place.
    fn placed(&self) -> usize {
        let relays = self.plane.relays.iter().flatten();
        self.plane.placed + relays.filter(|relay| relay.place.is_some()).count()
    }

    /// The next datagram: where it arrived, and its bytes.
    fn arrival(&mut self) -> Option<(Origin, Vec<u8>)> {
        for _ in 0..20 {
            while let Some(event) = self.plane.next() {
                if let Event::Datagram {
                    origin,
                    slot,
                    start,
                    len,
                    ..
                } = event
                {
                    let bytes = self.plane.slot_mut(slot)[start..start + len].to_vec();
                    return Some((origin, bytes));
                }
            }
            self.plane.wait(Some(PATIENCE), Mono(0)).expect("waited");
        }
        None
    }

    /// Something passes each socket in both directions.
    fn relay_everything(&mut self, peer: &UdpSocket) {
        let peer_address = peer.local_addr().expect("bound");
        let mut buffer = [0; 100];
        let mut next = move || {
            let (len, from) = peer.recv_from(&mut buffer).expect("a datagram");
            (buffer[..len].to_vec(), from)
        };
        for (number, (relay, address)) in self.relays.clone().into_iter().enumerate() {
            let number = number as u8;
            peer.send_to(&[number; 7], address).expect("sent");
            let arrived = self.arrival().expect("it arrives");
            assert_eq!(arrived, (Origin::Relay(relay), vec![number; 7]));

            // One that leaves alone, and several that leave in one.
            for count in [1, 3] {
                let slot = self.plane.acquire().expect("free");
                self.plane.slot_mut(slot)[..9].fill(number);
                for _ in 0..count {
                    let payload = Payload::new(slot, 0, 0..9, false);
                    let sent = self.plane.send_to_peer(relay, peer_address, false, payload);
                    assert!(sent);
                }
                self.poll();
                for _ in 0..count {
                    assert_eq!(next(), (vec![number; 9], address));
                }
            }
        }
        peer.send_to(b"to the listener", self.listener)
            .expect("sent");
        let (origin, bytes) = self.arrival().expect("it arrives");
        let local = self.listener;
        assert_eq!(origin, Origin::Listener { listener: 0, local });
        assert_eq!(bytes, b"to the listener");
        let flow = Flow {
            transport: Transport::Udp,
            client: peer_address,
            local,
            link: 0,
        };
        self.plane.reply_buffer()[..5].copy_from_slice(b"reply");
        self.plane.send_reply(&flow, 5);
        self.poll();
        assert_eq!(next(), (b"reply".to_vec(), local));
        assert_eq!(self.plane.take_failures(), 0);
    }

    /// Submits what is queued.
    fn poll(&mut self) {
        let waited = self.plane.wait(Some(Duration::ZERO), Mono(0));
        waited.expect("no sleep");
    }
}

#[test]
fn sockets_without_a_place_work_and_close_as_those_with_one() {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
    peer.set_read_timeout(Some(PATIENCE)).expect("set");
    for places in [0, 1, 3] {
        let mut crowd = Crowd::new(places);
        assert_eq!(crowd.placed() as u64, places);
        crowd.relay_everything(&peer);

        // The first has the first place when there is one, the last has none.
        for index in [3, 0] {
            let (relay, address) = crowd.relays.remove(index);
            peer.send_to(b"too late", address).expect("sent");
            crowd.plane.close(relay);
            assert!(crowd.plane.settle(), "a receive was under way");
            assert_eq!(crowd.ports.in_use(), crowd.relays.len());
            UdpSocket::bind(address).expect("nothing holds the socket");
        }
        crowd.relay_everything(&peer);
        for index in [3, 0] {
            crowd.open(index, 2);
        }
        assert_eq!(crowd.placed() as u64, places);
        crowd.relay_everything(&peer);

        let Crowd {
            plane,
            relays,
            ports,
            ..
        } = crowd;
        drop(plane);
        assert_eq!(ports.in_use(), 0);
        for (_, address) in relays {
            UdpSocket::bind(address).expect("nothing holds the socket");
        }
    }
}
