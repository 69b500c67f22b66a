//! `turn-client-proto`, driven over blocking sockets.

use super::*;
use turn_client_proto::api::{Transmit, TurnClientApi, TurnConfig, TurnEvent, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::stun::Instant as ClientInstant;
use turn_client_proto::stun::auth::Feature;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::stun::message::IntegrityAlgorithm;
use turn_client_proto::types::{AddressFamily, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

struct Driver {
    client: TurnClient,
    socket: Socket,
    local: SocketAddr,
    server: SocketAddr,
    received: Vec<(SocketAddr, Vec<u8>)>,
    events: Vec<TurnEvent>,
    /// Transactions of which the client has taken an answer.
    answered: Vec<Vec<u8>>,
    /// Messages that the client would not take, but for second answers to what it has sent again.
    ignored: Vec<Vec<u8>>,
}

fn config() -> TurnConfig {
    TurnConfig::new(TurnCredentials::new(USER.0, USER.1))
}

fn now() -> ClientInstant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(Instant::now);
    let nanos = i64::try_from(start.elapsed().as_nanos()).expect("292 years");
    ClientInstant::from_nanos(nanos)
}

impl Driver {
    fn udp(server: SocketAddr, config: TurnConfig) -> Self {
        let socket = UdpSocket::bind((server.ip(), 0)).expect("a socket");
        let timeout = Some(Duration::from_millis(5));
        socket.set_read_timeout(timeout).expect("a timeout");
        let local = socket.local_addr().expect("an address");
        let client = TurnClientUdp::allocate(local, server, config).into();
        Self::new(client, Socket::Udp(socket), local, server)
    }

    fn tcp(server: SocketAddr, config: TurnConfig) -> Self {
        let stream = TcpStream::connect(server).expect("a connection");
        let timeout = Some(Duration::from_millis(5));
        stream.set_read_timeout(timeout).expect("a timeout");
        let local = stream.local_addr().expect("an address");
        let client = TurnClientTcp::allocate(local, server, config).into();
        Self::new(client, Socket::Tcp(stream), local, server)
    }

    fn new(client: TurnClient, socket: Socket, local: SocketAddr, server: SocketAddr) -> Self {
        Self {
            client,
            socket,
            local,
            server,
            received: Vec::new(),
            events: Vec::new(),
            answered: Vec::new(),
            ignored: Vec::new(),
        }
    }

    fn transport(&self) -> TransportType {
        match self.socket {
            Socket::Udp(_) => TransportType::Udp,
            Socket::Tcp(_) => TransportType::Tcp,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match &mut self.socket {
            Socket::Udp(socket) => assert_eq!(
                socket.send_to(bytes, self.server).expect("sent"),
                bytes.len()
            ),
            Socket::Tcp(stream) => stream.write_all(bytes).expect("sent"),
        }
    }

    /// One turn of the loop: what came in, timers, what is to be sent, events. In this order: an
    /// answer that is there already when this program stood still is not asked for again.
    fn turn(&mut self) {
        let mut buffer = vec![0; 65_536];
        let read = match &mut self.socket {
            Socket::Udp(socket) => socket.recv(&mut buffer),
            Socket::Tcp(stream) => stream.read(&mut buffer),
        };
        if let Ok(len) = read {
            assert!(len > 0, "the server closed the connection");
            buffer.truncate(len);
            self.take(buffer);
        }
        self.client.poll(now());
        while let Some(transmit) = self.client.poll_transmit(now()) {
            let bytes = transmit.data.to_vec();
            self.write(&bytes);
        }
        while let Some(data) = self.client.poll_recv(now()) {
            self.received.push((data.peer, data.data().to_vec()));
        }
        while let Some(event) = self.client.poll_event() {
            self.events.push(event);
        }
    }

    fn take(&mut self, bytes: Vec<u8>) {
        let transaction = Message::parse(&bytes).map(|message| message.id().to_vec());
        let transmit = Transmit::new(bytes, self.transport(), self.server, self.local);
        match self.client.recv(transmit, now()) {
            TurnRecvRet::PeerData(data) => {
                self.received.push((data.peer, data.data().to_vec()));
            }
            TurnRecvRet::Handled => self.answered.extend(transaction),
            TurnRecvRet::Ignored(transmit) => {
                if !transaction.is_some_and(|id| self.answered.contains(&id)) {
                    self.ignored.push(transmit.data);
                }
            }
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{what}: got only {:?}",
                self.events
            );
            self.turn();
        }
    }

    fn relayed(&self) -> Vec<SocketAddr> {
        self.client.relayed_addresses().map(|(_, a)| a).collect()
    }

    /// Waits until every relay asked for is there.
    fn allocated(&mut self, relays: usize) -> Vec<SocketAddr> {
        self.until("allocation", |driver| {
            let failed = |event: &TurnEvent| matches!(event, TurnEvent::AllocationCreateFailed(_));
            assert!(!driver.events.iter().any(failed), "{:?}", driver.events);
            driver.relayed().len() >= relays
        });
        self.relayed()
    }

    fn permit(&mut self, peer: IpAddr) {
        self.client
            .create_permission(TransportType::Udp, peer, now())
            .expect("an allocation is there");
        self.until("permission", |driver| {
            driver.client.have_permission(TransportType::Udp, peer)
        });
    }

    fn bind_channel(&mut self, peer: SocketAddr) {
        self.client
            .bind_channel(TransportType::Udp, peer, now())
            .expect("an allocation is there");
        self.until("channel", |driver| {
            driver
                .events
                .iter()
                .any(|event| matches!(event, TurnEvent::ChannelCreated(_, to) if *to == peer))
        });
    }

    /// Sends payloads that are multiples of 4 (this client does not pad ChannelData on TCP).
    fn echoes(&mut self, peer: SocketAddr) {
        for round in 1..30_usize {
            let payload: Vec<u8> = (0..round * 4).map(|i| (i * round) as u8).collect();
            let transmit = self
                .client
                .send_to(TransportType::Udp, peer, payload.clone(), now())
                .expect("a permission is there")
                .expect("something to send");
            let bytes = transmit.build().data;
            self.write(&bytes);
            self.until("echo", |driver| !driver.received.is_empty());
            assert_eq!(self.received, [(peer, payload)]);
            self.received.clear();
        }
    }

    /// Deletes the allocation and sees that its relayed address is silent and free.
    fn delete(&mut self) {
        self.client.delete(now()).expect("an allocation is there");
        self.until("deletion", |driver| driver.relayed().is_empty());
        assert_eq!(
            self.ignored, [[0_u8; 0]; 0],
            "it took every message of ours"
        );
    }
}

fn whole_life(mut driver: Driver) {
    driver.allocated(1);
    let peer = Echo::start(Ipv4Addr::LOCALHOST.into()).address;
    driver.permit(peer.ip());
    driver.echoes(peer);
    driver.bind_channel(peer);
    driver.echoes(peer);
    driver.delete();
}

#[test]
fn udp() {
    let server = Server::start();
    whole_life(Driver::udp(server.udp(), config()));
}

#[test]
fn tcp() {
    let server = Server::start();
    whole_life(Driver::tcp(server.tcp(), config()));
}

#[test]
fn sha256_over_udp() {
    let server = Server::start();
    let mut config = config();
    config.set_supported_integrity(IntegrityAlgorithm::Sha256);
    whole_life(Driver::udp(server.udp(), config));
}

#[test]
fn sha256_over_tcp() {
    let server = Server::start();
    let mut config = config();
    config.set_supported_integrity(IntegrityAlgorithm::Sha256);
    whole_life(Driver::tcp(server.tcp(), config));
}

#[test]
fn anonymous_username() {
    // USERHASH needs every user to be known by name: no time-limited credentials.
    let server = Server::with(support::Config {
        secrets: Vec::new(),
        ..Default::default()
    });
    let mut config = config();
    config.set_supported_integrity(IntegrityAlgorithm::Sha256);
    config.set_anonymous_username(Feature::Required);
    whole_life(Driver::udp(server.udp(), config));
}

fn dual(mut driver: Driver) {
    let relayed = driver.allocated(2);
    assert!(relayed.iter().any(SocketAddr::is_ipv4), "{relayed:?}");
    assert!(relayed.iter().any(SocketAddr::is_ipv6), "{relayed:?}");
    let peers = [
        Echo::start(Ipv4Addr::LOCALHOST.into()).address,
        Echo::start(Ipv6Addr::LOCALHOST.into()).address,
    ];
    for peer in peers {
        driver.permit(peer.ip());
        driver.echoes(peer);
    }
    // One channel only: for the second family this client picks the number again that it has
    // bound for the first.
    driver.bind_channel(peers[1]);
    driver.echoes(peers[1]);
    driver.echoes(peers[0]);
    driver.delete();
}

fn dual_config() -> TurnConfig {
    let mut config = config();
    config.add_address_family(AddressFamily::IPV6);
    config
}

#[test]
fn dual_allocation_over_udp() {
    let server = Server::start();
    dual(Driver::udp(server.udp(), dual_config()));
}

#[test]
fn dual_allocation_over_tcp() {
    let server = Server::start();
    dual(Driver::tcp(server.tcp(), dual_config()));
}

#[test]
fn ipv6_relay_from_an_ipv6_client() {
    let server = Server::start();
    let mut config = config();
    config.set_address_family(AddressFamily::IPV6);
    let mut driver = Driver::udp(server.udp6(), config);
    assert!(driver.allocated(1)[0].is_ipv6());
    let peer = Echo::start(Ipv6Addr::LOCALHOST.into()).address;
    driver.permit(peer.ip());
    driver.echoes(peer);
}

#[test]
fn wrong_password_fails() {
    let server = Server::start();
    let config = TurnConfig::new(TurnCredentials::new(USER.0, "wrong"));
    let mut driver = Driver::udp(server.udp(), config);
    // This client takes a second 401 for a forgery, because it carries no integrity.
    driver.until("refusal", |driver| !driver.ignored.is_empty());
    let refusal = Message::parse(&driver.ignored[0]).expect("well-formed");
    assert_eq!(refusal.error(), Some(401));
    assert!(driver.relayed().is_empty());
}
