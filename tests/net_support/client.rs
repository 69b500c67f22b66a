//! A blocking TURN client on one 5-tuple, over UDP, TCP or TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use turnserver::wire::{
    Builder, ChannelData, Class, Integrity, Key, Message, Method, PasswordAlgorithm, StreamFramer,
    TransactionId, attr,
};

use super::{PASSWORD, PATIENCE, REALM, USER};

fn tls_client(
    cert: &Path,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(cert).expect("a file") {
        roots.add(cert.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("known versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

pub enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    pub fn udp(server: SocketAddr) -> Self {
        let any = if server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).expect("bound");
        socket.connect(server).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Self::Udp(socket)
    }

    pub fn tcp(server: SocketAddr) -> Self {
        Self::Tcp(connect(server))
    }

    pub fn tls(
        server: SocketAddr,
        cert: &Path,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(tls_client(cert, version), name).expect("a client");
        Self::Tls(Box::new(StreamOwned::new(tls, connect(server))))
    }

    pub fn local(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp(socket) => socket.local_addr(),
            Self::Tls(tls) => tls.sock.local_addr(),
        }
        .expect("bound")
    }
}

pub fn connect(server: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&server, PATIENCE).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.set_write_timeout(Some(PATIENCE)).expect("set");
    socket.set_nodelay(true).expect("set");
    socket
}

/// A client on one 5-tuple.
pub struct Client {
    pub link: Link,
    buffer: Vec<u8>,
    key: Key,
    nonce: Vec<u8>,
    transactions: u32,
}

/// A received STUN message.
pub struct Reply(pub Vec<u8>);

impl Reply {
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.0).expect("a STUN message")
    }

    pub fn code(&self) -> Option<u16> {
        let message = self.message();
        (message.class() == Class::Error).then(|| {
            let code = message.unprotected().error_code().expect("well-formed");
            code.expect("an error has a code").value()
        })
    }

    pub fn relayed(&self) -> SocketAddr {
        assert_eq!(self.code(), None, "the Allocate failed");
        let message = self.message();
        let address = message.unprotected().xor_relayed_address();
        address.expect("well-formed").expect("a relayed address")
    }

    pub fn mapped(&self) -> SocketAddr {
        let message = self.message();
        let address = message.unprotected().xor_mapped_address();
        address.expect("well-formed").expect("a mapped address")
    }
}

impl Client {
    pub fn new(link: Link) -> Self {
        Self {
            link,
            buffer: Vec::new(),
            key: Key::long_term(
                PasswordAlgorithm::Md5,
                USER.as_bytes(),
                REALM.as_bytes(),
                PASSWORD.as_bytes(),
            ),
            nonce: Vec::new(),
            transactions: 0,
        }
    }

    pub fn udp(server: SocketAddr) -> Self {
        Self::new(Link::udp(server))
    }

    pub fn tcp(server: SocketAddr) -> Self {
        Self::new(Link::tcp(server))
    }

    pub fn local(&self) -> SocketAddr {
        self.link.local()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        match &mut self.link {
            Link::Udp(socket) => drop(socket.send(bytes).expect("sent")),
            Link::Tcp(socket) => socket.write_all(bytes).expect("sent"),
            Link::Tls(tls) => {
                tls.write_all(bytes).expect("sent");
                tls.flush().expect("sent");
            }
        }
    }

    /// The next message, ChannelData without its padding. `None`: the server closed.
    pub fn try_receive(&mut self) -> Option<Vec<u8>> {
        let mut chunk = [0; 65_536];
        loop {
            if !matches!(self.link, Link::Udp(_))
                && let Some(frame) = StreamFramer::default()
                    .next(&self.buffer)
                    .expect("the server sends frames")
            {
                let bytes = self.buffer[..frame.len].to_vec();
                self.buffer.drain(..frame.padded_len);
                return Some(bytes);
            }
            let read = match &mut self.link {
                Link::Udp(socket) => {
                    let len = socket.recv(&mut chunk).expect("a datagram");
                    return Some(chunk[..len].to_vec());
                }
                Link::Tcp(socket) => socket.read(&mut chunk),
                Link::Tls(tls) => tls.read(&mut chunk),
            };
            match read {
                Ok(0) => return None,
                Ok(len) => self.buffer.extend_from_slice(&chunk[..len]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
                    ) =>
                {
                    return None;
                }
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    pub fn receive(&mut self) -> Vec<u8> {
        self.try_receive().expect("the connection is open")
    }

    pub fn next_id(&mut self) -> TransactionId {
        self.transactions += 1;
        let mut id = *b"net-test....";
        id[8..].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }

    pub fn binding_request(&mut self) -> Vec<u8> {
        let mut buf = vec![0; 64];
        let id = self.next_id();
        let len = Builder::new(&mut buf, Class::Request, Method::BINDING, id)
            .finish()
            .expect("fits");
        buf.truncate(len);
        buf
    }

    /// Sends a Binding request and returns the mapped address.
    pub fn binding(&mut self) -> SocketAddr {
        let request = self.binding_request();
        self.send(&request);
        let reply = Reply(self.receive());
        assert_eq!(&reply.0[4..20], &request[4..20], "it answers this request");
        reply.mapped()
    }

    /// A request with credentials, as bytes.
    pub fn signed(&mut self, method: Method, fill: impl Fn(&mut Builder<'_>)) -> Vec<u8> {
        let mut buf = vec![0; 1500];
        let id = self.next_id();
        let mut builder = Builder::new(&mut buf, Class::Request, method, id);
        fill(&mut builder);
        builder
            .attribute(attr::USERNAME, USER.as_bytes())
            .attribute(attr::REALM, REALM.as_bytes())
            .attribute(attr::NONCE, &self.nonce)
            .integrity(Integrity::Sha1, &self.key);
        let len = builder.finish().expect("fits");
        buf.truncate(len);
        buf
    }

    /// Sends a request and waits for its answer; learns the nonce first when there is none.
    pub fn request(&mut self, method: Method, fill: impl Fn(&mut Builder<'_>)) -> Reply {
        if self.nonce.is_empty() {
            let mut buf = vec![0; 256];
            let id = self.next_id();
            let mut builder = Builder::new(&mut buf, Class::Request, method, id);
            fill(&mut builder);
            let len = builder.finish().expect("fits");
            self.send(&buf[..len]);
            let challenge = Reply(self.receive());
            assert_eq!(challenge.code(), Some(401));
            let message = challenge.message();
            let nonce = message.unprotected().nonce().expect("a nonce");
            self.nonce = nonce.to_vec();
        }
        let request = self.signed(method, fill);
        self.send(&request);
        loop {
            let reply = self.receive();
            // Relayed data may be on its way already.
            if reply[0] < 0x40 && reply[8..20] == request[8..20] {
                return Reply(reply);
            }
        }
    }

    pub fn try_allocate(&mut self, fill: impl Fn(&mut Builder<'_>)) -> Reply {
        self.request(Method::ALLOCATE, |builder| {
            builder.u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP);
            fill(builder);
        })
    }

    /// Allocates an IPv4 relayed transport address.
    pub fn allocate(&mut self) -> SocketAddr {
        self.try_allocate(|_| {}).relayed()
    }

    /// Allocates in the family of a peer.
    pub fn allocate_for(&mut self, peer: SocketAddr) -> SocketAddr {
        match peer {
            SocketAddr::V4(_) => self.allocate(),
            SocketAddr::V6(_) => self.allocate_v6(),
        }
    }

    pub fn allocate_v6(&mut self) -> SocketAddr {
        self.try_allocate(|builder| {
            builder.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, attr::FAMILY_IPV6);
        })
        .relayed()
    }

    pub fn permit(&mut self, peer: SocketAddr) {
        let reply = self.request(Method::CREATE_PERMISSION, |builder| {
            builder.xor_address(attr::XOR_PEER_ADDRESS, peer);
        });
        assert_eq!(reply.code(), None);
    }

    pub fn bind_channel(&mut self, number: u16, peer: SocketAddr) {
        let reply = self.request(Method::CHANNEL_BIND, |builder| {
            builder
                .channel_number(number)
                .xor_address(attr::XOR_PEER_ADDRESS, peer);
        });
        assert_eq!(reply.code(), None);
    }

    pub fn refresh(&mut self, lifetime: u32) -> Reply {
        self.request(Method::REFRESH, |builder| {
            builder.u32(attr::LIFETIME, lifetime);
        })
    }

    pub fn send_indication(&mut self, peer: SocketAddr, data: &[u8], dont_fragment: bool) {
        let mut buf = vec![0; data.len() + 100];
        let id = self.next_id();
        let mut builder = Builder::new(&mut buf, Class::Indication, Method::SEND, id);
        builder.xor_address(attr::XOR_PEER_ADDRESS, peer);
        if dont_fragment {
            builder.empty(attr::DONT_FRAGMENT);
        }
        builder.attribute(attr::DATA, data);
        let len = builder.finish().expect("fits");
        self.send(&buf[..len]);
    }

    pub fn send_channel(&mut self, number: u16, data: &[u8]) {
        let frame = channel_frame(number, data);
        self.send(&frame);
    }

    /// Waits for ChannelData.
    pub fn receive_channel(&mut self) -> (u16, Vec<u8>) {
        let bytes = self.receive();
        let data = ChannelData::parse(&bytes, false).expect("ChannelData");
        (
            u16::from_be_bytes([bytes[0], bytes[1]]),
            data_of(&bytes, &data),
        )
    }

    /// Waits for a Data indication with DATA in it.
    pub fn receive_data(&mut self) -> (SocketAddr, Vec<u8>) {
        let reply = Reply(self.receive());
        let message = reply.message();
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Method::DATA)
        );
        let attrs = message.unprotected();
        let peer = attrs.peer().expect("well-formed").expect("a peer");
        (peer, attrs.data().expect("data").to_vec())
    }
}

fn data_of(bytes: &[u8], data: &ChannelData<'_>) -> Vec<u8> {
    bytes[data.data_range()].to_vec()
}

/// ChannelData, padded as a stream wants it (a datagram may have it too).
pub fn channel_frame(number: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = number.to_be_bytes().to_vec();
    frame.extend((data.len() as u16).to_be_bytes());
    frame.extend(data);
    frame.resize(frame.len().next_multiple_of(4), 0);
    frame
}

/// Every client binds the channel 0x4000 and n to the relayed address of client n.
pub fn bind_to_each_other(clients: &mut [(Client, SocketAddr)]) {
    let relayed: Vec<_> = clients.iter().map(|(_, relayed)| *relayed).collect();
    for (client, _) in clients {
        for (number, other) in (0x4000..).zip(&relayed) {
            client.bind_channel(number, *other);
        }
    }
}
