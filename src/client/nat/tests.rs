use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::wire::{Builder, Class, ErrorCode, Message, Method, attr};

/// A server with one or two addresses of two ports each, and the NAT in front of it: what the
/// server says it saw, and which of its answers get through.
struct World {
    mapping: Mapping,
    filtering: Filtering,
    ports: Ports,
    addresses: usize,
    /// Whether CHANGE-REQUEST and RESPONSE-PORT are understood.
    discovery: bool,
    forgets_after: Option<Duration>,
}

const EASY: World = World {
    mapping: Mapping::EndpointIndependent,
    filtering: Filtering::EndpointIndependent,
    ports: Ports::Random,
    addresses: 2,
    discovery: true,
    forgets_after: None,
};

#[derive(Default)]
struct State {
    /// Outer ports, and when each was last used from inside.
    ports: HashMap<(SocketAddr, Option<SocketAddr>), u16>,
    used: HashMap<u16, Instant>,
    next: u16,
}

struct Server {
    world: World,
    /// Two ports of the first address, then of the second.
    sockets: Vec<UdpSocket>,
    state: Mutex<State>,
}

impl Server {
    async fn start(world: World) -> (Arc<Self>, Vec<SocketAddr>) {
        let mut sockets: Vec<UdpSocket> = Vec::new();
        for address in 0..world.addresses as u8 {
            for index in 0..2 {
                let port = match address {
                    0 => 0,
                    _ => sockets[index].local_addr().expect("bound").port(),
                };
                let at = SocketAddr::from(([127, 0, 7, 1 + address], port));
                sockets.push(UdpSocket::bind(at).await.expect("loopback"));
            }
        }
        let at = |socket: &UdpSocket| socket.local_addr().expect("bound");
        let addresses = sockets.iter().map(at).collect();
        let server = Arc::new(Self {
            world,
            sockets,
            state: Mutex::default(),
        });
        for index in 0..server.sockets.len() {
            tokio::spawn(Arc::clone(&server).serve(index));
        }
        (server, addresses)
    }

    async fn serve(self: Arc<Self>, index: usize) {
        let mut buffer = [0; 1500];
        loop {
            let (len, from) = self.sockets[index]
                .recv_from(&mut buffer)
                .await
                .expect("open");
            if let Some((by, to, bytes)) = self.answer(index, from, &buffer[..len]) {
                self.sockets[by].send_to(&bytes, to).await.expect("sent");
            }
        }
    }

    /// From which socket to whom what goes back.
    fn answer(
        &self,
        index: usize,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Option<(usize, SocketAddr, Vec<u8>)> {
        let message = Message::parse(bytes).expect("STUN");
        let attributes = message.unprotected();
        let change = attributes.change_request().expect("well-formed");
        let response_port = attributes.response_port().expect("well-formed");
        let mapped = self.map(from, self.sockets[index].local_addr().expect("bound"));
        let id = message.transaction_id();
        let mut buffer = [0; 200];
        if !self.world.discovery && (change.is_some() || response_port.is_some()) {
            let mut builder = Builder::new(&mut buffer, Class::Error, Method::BINDING, id);
            builder.error_code(ErrorCode::UNKNOWN_ATTRIBUTE, false);
            let len = builder.finish().expect("room");
            return Some((index, from, buffer[..len].to_vec()));
        }
        let change = change.unwrap_or(ChangeRequest {
            ip: false,
            port: false,
        });
        let two = self.world.addresses == 2;
        let by = index ^ usize::from(change.port) ^ (usize::from(change.ip && two) * 2);
        let passes = match self.world.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => by / 2 == index / 2,
            _ => by == index,
        };
        let mut builder = Builder::new(&mut buffer, Class::Success, Method::BINDING, id);
        builder.xor_address(attr::XOR_MAPPED_ADDRESS, mapped);
        if two {
            let other = self.sockets[index ^ 3].local_addr().expect("bound");
            builder.address(attr::OTHER_ADDRESS, other);
        }
        let len = builder.finish().expect("room");
        let to = SocketAddr::new(from.ip(), response_port.unwrap_or(from.port()));
        let state = self.state.lock().expect("no panic");
        let forgotten = self.world.forgets_after.is_some_and(|after| {
            state
                .used
                .get(&to.port())
                .is_none_or(|used| used.elapsed() >= after)
        });
        (passes && !forgotten).then(|| (by, to, buffer[..len].to_vec()))
    }

    fn map(&self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let mut state = self.state.lock().expect("no panic");
        state.used.insert(from.port(), Instant::now());
        let towards = match self.world.mapping {
            Mapping::None => return from,
            Mapping::AddressDependent => Some(SocketAddr::new(to.ip(), 0)),
            Mapping::AddressAndPortDependent => Some(to),
            _ => None,
        };
        state.next += 1;
        let new = match self.world.ports {
            Ports::Sequential { delta } => 40_000 + delta as u16 * state.next,
            Ports::Preserved => from.port(),
            _ => 1024 + state.next.wrapping_mul(40_503) % 60_000,
        };
        let port = *state.ports.entry((from, towards)).or_insert(new);
        ([198, 51, 100, 7], port).into()
    }
}

async fn look(world: World, lifetime: Option<Duration>) -> Report {
    let (_server, addresses) = Server::start(world).await;
    let options = Options {
        lifetime,
        ..Options::default()
    };
    discover(&addresses[..2], &options).await.expect("sockets")
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_nat_is_named() {
    for mapping in [
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
    ] {
        for filtering in [
            Filtering::EndpointIndependent,
            Filtering::AddressDependent,
            Filtering::AddressAndPortDependent,
        ] {
            for ports in [
                Ports::Random,
                Ports::Preserved,
                Ports::Sequential { delta: 2 },
            ] {
                let world = World {
                    mapping,
                    filtering,
                    ports,
                    ..EASY
                };
                let report = look(world, None).await;
                assert_eq!(report.filtering, filtering, "{report}");
                assert_eq!(report.ports, ports, "{report}");
                // A NAT that keeps ports and has one of them for all is what the first is.
                if ports != Ports::Preserved {
                    assert_eq!(report.mapping, mapping, "{report}");
                }
                assert_eq!(report.hairpin, Some(false), "198.51.100.7 is nobody here");
                assert_eq!(report.seen.len(), 4, "{report}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_nat_it_says_so() {
    let report = look(
        World {
            mapping: Mapping::None,
            ..EASY
        },
        None,
    )
    .await;
    assert_eq!(
        (report.mapping, report.hairpin),
        (Mapping::None, None),
        "{report}"
    );
    assert_eq!(report.ports, Ports::Preserved);
    assert!(report.outlook().contains("nearly everybody"));
}

#[tokio::test(start_paused = true)]
async fn a_server_with_one_address_is_enough_for_some_and_the_rest_is_not_guessed() {
    for (mapping, expected) in [
        (Mapping::EndpointIndependent, Mapping::SameForOneAddress),
        (Mapping::AddressDependent, Mapping::SameForOneAddress),
        (
            Mapping::AddressAndPortDependent,
            Mapping::AddressAndPortDependent,
        ),
    ] {
        for discovery in [false, true] {
            let world = World {
                mapping,
                discovery,
                addresses: 1,
                ..EASY
            };
            let report = look(world, None).await;
            assert_eq!(report.mapping, expected, "{report}");
            let filtering = match discovery {
                true => Filtering::OtherPorts,
                false => Filtering::Unknown,
            };
            assert_eq!(report.filtering, filtering, "{report}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_lies_between_two_tests() {
    let mapping = Mapping::None;
    let longest = Some(Duration::from_secs(120));
    let forgets_after = Some(Duration::from_secs(50));
    let report = look(
        World {
            mapping,
            forgets_after,
            ..EASY
        },
        longest,
    )
    .await;
    let found = |at_least_s, less_than_s| {
        Some(Lifetime {
            at_least_s,
            less_than_s,
        })
    };
    assert_eq!(report.lifetime, found(45, Some(60)), "{report}");
    let report = look(World { mapping, ..EASY }, longest).await;
    assert_eq!(report.lifetime, found(120, None), "{report}");
    let report = look(
        World {
            mapping,
            discovery: false,
            ..EASY
        },
        longest,
    )
    .await;
    assert_eq!(report.lifetime, None, "the server cannot help");
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_in_words_and_as_json() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let server = silent.local_addr().expect("bound");
    let started = Instant::now();
    let report = discover(&[server], &Options::default())
        .await
        .expect("sockets");
    assert!(started.elapsed() < Duration::from_secs(3), "it is bounded");
    assert!(report.to_string().contains("blocked"), "{report}");
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["mapping"], "unknown");
    assert_eq!(json["seen"], serde_json::json!([]));
    assert_eq!(json["ip_version"], 4);
}
