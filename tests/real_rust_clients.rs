//! Three independent Rust implementations against the built server: webrtc-rs' TURN client, the
//! sans-IO `turn-client-proto`, and `stun-rs` reading every kind of reply strictly.

#![allow(
    clippy::disallowed_methods,
    reason = "drives clients against a running process in real time"
)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::stun::{self, Client, Echo, Message, Wire};
use support::{OTHER_USER, REALM, Server, USER};

mod webrtc_rs {
    //! The `turn` crate: UDP only, binds a channel after its first datagram to a peer.

    use super::*;
    use turn::client::{Client, ClientConfig};
    use webrtc_util::Conn;

    const OPENING: &[u8] = b"open";

    async fn client(server: SocketAddr, (username, password): (&str, &str)) -> Client {
        let host = match server {
            SocketAddr::V4(_) => "127.0.0.1:0",
            SocketAddr::V6(_) => "[::1]:0",
        };
        let socket = tokio::net::UdpSocket::bind(host).await.expect("a socket");
        let client = Client::new(ClientConfig {
            stun_serv_addr: server.to_string(),
            turn_serv_addr: server.to_string(),
            username: username.to_owned(),
            password: password.to_owned(),
            realm: REALM.to_owned(),
            software: String::new(),
            rto_in_ms: 0,
            conn: Arc::new(socket),
            vnet: None,
        })
        .await
        .expect("a client");
        client.listen().await.expect("it listens");
        client
    }

    /// Sends datagrams of many sizes; each comes back unchanged from `peer`. The first ones go
    /// as Send indications, the rest over the channel that the client binds meanwhile.
    async fn echoes(relay: &impl Conn, peer: SocketAddr) {
        let mut buffer = vec![0; 4096];
        for round in 0..40_usize {
            let payload: Vec<u8> = (0..round * 31 + 1).map(|i| (i * round) as u8).collect();
            relay.send_to(&payload, peer).await.expect("sent");
            let received = loop {
                let received =
                    tokio::time::timeout(Duration::from_secs(5), relay.recv_from(&mut buffer));
                let (len, from) = received.await.expect("it comes back").expect("received");
                // The datagram that opened the far side may have passed, or not.
                if &buffer[..len] != OPENING {
                    break (&buffer[..len], from);
                }
            };
            assert_eq!(received, (&payload[..], peer));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn learns_its_address() {
        let server = Server::start();
        let client = client(server.udp(), USER).await;
        let mapped = client.send_binding_request().await.expect("an answer");
        assert_eq!(mapped.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        client.close().await.expect("closed");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn relays_to_a_peer() {
        let server = Server::start();
        let client = client(server.udp(), USER).await;
        let relay = client.allocate().await.expect("an allocation");
        let (first, last) = server.ports.relay();
        let relayed = relay.local_addr().expect("a relayed address");
        assert!((first..=last).contains(&relayed.port()));
        echoes(&relay, Echo::start(Ipv4Addr::LOCALHOST.into()).address).await;
        client.close().await.expect("closed");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn relays_to_another_relay() {
        let server = Server::start();
        let (left, right) = (
            client(server.udp(), USER).await,
            client(server.udp(), OTHER_USER).await,
        );
        let left_relay = left.allocate().await.expect("an allocation");
        let right_relay = right.allocate().await.expect("an allocation");
        let left_address = left_relay.local_addr().expect("a relayed address");
        let right_address = right_relay.local_addr().expect("a relayed address");
        // Permission on the far side first: it is given by sending.
        right_relay
            .send_to(OPENING, left_address)
            .await
            .expect("sent");

        let echo = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((len, from)) = right_relay.recv_from(&mut buffer).await {
                if right_relay.send_to(&buffer[..len], from).await.is_err() {
                    break;
                }
            }
        });
        echoes(&left_relay, right_address).await;
        echo.abort();
        left.close().await.expect("closed");
        right.close().await.expect("closed");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn is_refused_with_a_wrong_password() {
        let server = Server::start();
        let client = client(server.udp(), (USER.0, "wrong")).await;
        assert!(client.allocate().await.is_err());
        client.close().await.expect("closed");
    }
}

mod turn_proto {
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
        /// Messages that the client would not take.
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

        /// One turn of the loop: timers, what is to be sent, what came in, events.
        fn turn(&mut self) {
            self.client.poll(now());
            while let Some(transmit) = self.client.poll_transmit(now()) {
                let bytes = transmit.data.to_vec();
                self.write(&bytes);
            }
            let mut buffer = vec![0; 65_536];
            let read = match &mut self.socket {
                Socket::Udp(socket) => socket.recv(&mut buffer),
                Socket::Tcp(stream) => stream.read(&mut buffer),
            };
            if let Ok(len) = read {
                assert!(len > 0, "the server closed the connection");
                buffer.truncate(len);
                let transmit = Transmit::new(buffer, self.transport(), self.server, self.local);
                match self.client.recv(transmit, now()) {
                    TurnRecvRet::PeerData(data) => {
                        self.received.push((data.peer, data.data().to_vec()));
                    }
                    TurnRecvRet::Handled => {}
                    TurnRecvRet::Ignored(transmit) => self.ignored.push(transmit.data),
                    other => panic!("unexpected: {other:?}"),
                }
            }
            while let Some(data) = self.client.poll_recv(now()) {
                self.received.push((data.peer, data.data().to_vec()));
            }
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
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
                let failed =
                    |event: &TurnEvent| matches!(event, TurnEvent::AllocationCreateFailed(_));
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
}

mod stun_rs_reads {
    //! `stun-rs` decodes our replies with MESSAGE-INTEGRITY and FINGERPRINT validated.

    use super::*;
    use stun_rs::attributes::stun::{ErrorCode, Nonce, Realm, XorMappedAddress};
    use stun_rs::{
        Algorithm, AlgorithmId, DecoderContextBuilder, HMACKey, MessageClass,
        MessageDecoderBuilder, StunMessage,
    };

    /// Decodes one reply that must be protected by the user's key.
    fn read_protected(bytes: &[u8]) -> StunMessage {
        let key = HMACKey::new_long_term(USER.0, REALM, USER.1, Algorithm::from(AlgorithmId::MD5))
            .expect("a key");
        let context = DecoderContextBuilder::default()
            .with_key(key)
            .with_validation()
            .build();
        let types: Vec<u16> = attribute_types(bytes);
        assert!(types.contains(&stun::MESSAGE_INTEGRITY), "{types:04x?}");
        read(bytes, context)
    }

    /// Decodes one reply that must not be protected.
    fn read_open(bytes: &[u8]) -> StunMessage {
        let types = attribute_types(bytes);
        assert!(!types.contains(&stun::MESSAGE_INTEGRITY), "{types:04x?}");
        read(bytes, DecoderContextBuilder::default().build())
    }

    fn read(bytes: &[u8], context: stun_rs::DecoderContext) -> StunMessage {
        let decoder = MessageDecoderBuilder::default()
            .with_context(context)
            .build();
        let (message, size) = decoder
            .decode(bytes)
            .unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
        assert_eq!(size, bytes.len(), "nothing follows the message");
        assert_zero_padding(bytes);
        assert_order(bytes);
        message
    }

    fn attribute_types(bytes: &[u8]) -> Vec<u16> {
        let message = Message::parse(bytes).expect("well-formed");
        message.attributes().map(|(kind, _)| kind).collect()
    }

    /// Padding must not leak buffer contents.
    fn assert_zero_padding(bytes: &[u8]) {
        let mut at = 20;
        while at < bytes.len() {
            let len = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
            let (end, next) = (at + 4 + len, at + 4 + len.next_multiple_of(4));
            assert!(bytes[end..next].iter().all(|&byte| byte == 0));
            at = next;
        }
    }

    /// Nothing but FINGERPRINT follows an integrity attribute, and no type comes twice (only
    /// XOR-RELAYED-ADDRESS may, in a dual allocation).
    fn assert_order(bytes: &[u8]) {
        let types = attribute_types(bytes);
        if let Some(at) = types
            .iter()
            .position(|&kind| kind == stun::MESSAGE_INTEGRITY)
        {
            let rest = &types[at + 1..];
            assert!(
                rest.is_empty() || rest == [stun::FINGERPRINT],
                "{types:04x?}"
            );
        }
        if let Some(at) = types.iter().position(|&kind| kind == stun::FINGERPRINT) {
            assert_eq!(at + 1, types.len(), "FINGERPRINT is last: {types:04x?}");
        }
        let mut sorted = types.clone();
        sorted.retain(|&kind| kind != stun::XOR_RELAYED_ADDRESS);
        sorted.sort_unstable();
        sorted.dedup();
        let once = types
            .iter()
            .filter(|&&kind| kind != stun::XOR_RELAYED_ADDRESS);
        assert_eq!(sorted.len(), once.count(), "{types:04x?}");
    }

    fn code(message: &StunMessage) -> u16 {
        assert_eq!(message.class(), MessageClass::ErrorResponse);
        let attribute = message.get::<ErrorCode>().expect("an error has its code");
        let error = attribute.as_error_code().expect("it is an ERROR-CODE");
        error.error_code().error_code()
    }

    fn is_success(message: &StunMessage) -> bool {
        message.class() == MessageClass::SuccessResponse
    }

    fn transports(server: &Server) -> [Wire; 2] {
        [
            Wire::udp(server.udp()).expect("a socket"),
            Wire::tcp(server.tcp()).expect("a connection"),
        ]
    }

    #[test]
    fn binding() {
        let server = Server::start();
        for mut wire in transports(&server) {
            for request in [
                Message::new(stun::BINDING),
                Message::new(stun::BINDING).fingerprint(),
            ] {
                wire.send(request.bytes()).expect("sent");
                let reply = wire.receive().expect("an answer");
                let message = read_open(&reply);
                assert!(is_success(&message));
                let mapped = message
                    .get::<XorMappedAddress>()
                    .and_then(|attribute| attribute.as_xor_mapped_address().ok())
                    .expect("the mapped address");
                assert_eq!(*mapped.socket_address(), wire.local());
            }
        }
    }

    #[test]
    fn challenge() {
        let server = Server::start();
        for mut wire in transports(&server) {
            let request =
                Message::new(stun::ALLOCATE).attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            wire.send(request.bytes()).expect("sent");
            let message = read_open(&wire.receive().expect("an answer"));
            assert_eq!(code(&message), 401);
            let realm = message.get::<Realm>().expect("a realm");
            assert_eq!(realm.as_realm().expect("a realm"), REALM);
            let nonce = message.get::<Nonce>().expect("a nonce");
            let nonce = nonce.as_nonce().expect("a nonce").as_str().to_owned();
            assert!(nonce.starts_with("obMatJos2"), "{nonce}");
        }
    }

    #[test]
    fn unknown_comprehension_required_attribute() {
        let server = Server::start();
        for mut wire in transports(&server) {
            let request = Message::new(stun::BINDING)
                .attr(0x7ABC, b"what")
                .attr(0x7ABC, b"is")
                .attr(0x7ABD, b"this");
            wire.send(request.bytes()).expect("sent");
            let reply = wire.receive().expect("an answer");
            assert_eq!(code(&read_open(&reply)), 420);
            let listed = Message::parse(&reply).expect("well-formed");
            assert_eq!(
                listed.get(0x000A),
                Some(&[0x7A, 0xBC, 0x7A, 0xBD][..]),
                "each type once"
            );
        }
    }

    /// Sends an authenticated request as bytes and reads its reply strictly.
    fn ask(client: &mut Client, kind: u16, fill: impl Fn(Message) -> Message) -> StunMessage {
        let request = client.authenticate(fill(Message::new(kind)));
        let reply = client.exchange(&request).expect("an answer");
        read_protected(reply.bytes())
    }

    #[test]
    fn every_protected_reply() {
        let server = Server::start();
        let peer = Echo::start(Ipv4Addr::LOCALHOST.into()).address;
        for wire in transports(&server) {
            let mut client = Client::new(wire, USER);
            let missing = client.refresh(600);
            assert_eq!(missing.error(), Some(437));
            read_protected(missing.bytes());

            let plain = |request: Message| request;
            assert_eq!(code(&ask(&mut client, stun::ALLOCATE, plain)), 400);
            let tcp = |request: Message| request.attr(stun::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
            assert_eq!(code(&ask(&mut client, stun::ALLOCATE, tcp)), 442);
            let udp = |request: Message| request.attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            let family =
                |request: Message| udp(request).attr(stun::REQUESTED_ADDRESS_FAMILY, &[9, 0, 0, 0]);
            assert_eq!(code(&ask(&mut client, stun::ALLOCATE, family)), 440);
            let unknown = |request: Message| udp(request).attr(0x7ABC, b"what");
            assert_eq!(code(&ask(&mut client, stun::ALLOCATE, unknown)), 420);

            assert!(is_success(&ask(&mut client, stun::ALLOCATE, udp)));
            assert_eq!(code(&ask(&mut client, stun::ALLOCATE, udp)), 437);
            assert!(is_success(&ask(&mut client, stun::REFRESH, plain)));

            let permit = |request: Message| request.address(stun::XOR_PEER_ADDRESS, peer);
            assert!(is_success(&ask(
                &mut client,
                stun::CREATE_PERMISSION,
                permit
            )));
            assert_eq!(code(&ask(&mut client, stun::CREATE_PERMISSION, plain)), 400);
            let denied = |request: Message| {
                let peer = "169.254.169.254:80".parse().expect("an address");
                request.address(stun::XOR_PEER_ADDRESS, peer)
            };
            assert_eq!(
                code(&ask(&mut client, stun::CREATE_PERMISSION, denied)),
                403
            );
            let other_family = |request: Message| {
                let peer = "[::1]:80".parse().expect("an address");
                request.address(stun::XOR_PEER_ADDRESS, peer)
            };
            assert_eq!(
                code(&ask(&mut client, stun::CREATE_PERMISSION, other_family)),
                443
            );

            let bind = |number: u8| {
                move |request: Message| {
                    request
                        .attr(stun::CHANNEL_NUMBER, &[number, 0, 0, 0])
                        .address(stun::XOR_PEER_ADDRESS, peer)
                }
            };
            assert!(is_success(&ask(
                &mut client,
                stun::CHANNEL_BIND,
                bind(0x40)
            )));
            assert_eq!(code(&ask(&mut client, stun::CHANNEL_BIND, bind(0x41))), 400);
            assert_eq!(code(&ask(&mut client, stun::CHANNEL_BIND, bind(0x80))), 400);

            let delete = |request: Message| request.attr(stun::LIFETIME, &[0; 4]);
            assert!(is_success(&ask(&mut client, stun::REFRESH, delete)));
            assert_eq!(code(&ask(&mut client, stun::REFRESH, delete)), 437);
        }
    }

    #[test]
    fn wrong_password_gets_a_fresh_challenge() {
        let server = Server::start();
        for wire in transports(&server) {
            let mut client = Client::new(wire, (USER.0, "wrong"));
            let refused = client.allocate();
            assert_eq!(refused.error(), Some(401));
            assert_eq!(code(&read_open(refused.bytes())), 401);
            assert!(refused.get(stun::NONCE).is_some());
        }
    }

    #[test]
    fn another_user_on_the_same_five_tuple() {
        let server = Server::start();
        for wire in transports(&server) {
            let mut owner = Client::new(wire, OTHER_USER);
            owner.allocated();
            let mut intruder = Client::new(owner.wire, USER);
            let refused = intruder.refresh(600);
            assert_eq!(refused.error(), Some(441));
            read_protected(refused.bytes());
        }
    }
}
