//! A small STUN and TURN client of the tests' own.
//!
//! It shares no code with the server, so that a mistake in the server's codec cannot hide, and it
//! can build what no honest client sends.

mod wire;

#[allow(unused_imports, reason = "every test crate uses its own part of it")]
pub use wire::{Echo, Wire, binding_tcp, binding_udp};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hmac::{KeyInit, Mac};
use md5::{Digest, Md5};

pub const BINDING: u16 = 0x0001;
pub const ALLOCATE: u16 = 0x0003;
pub const REFRESH: u16 = 0x0004;
pub const SEND: u16 = 0x0006;
pub const DATA_METHOD: u16 = 0x0007;
pub const CREATE_PERMISSION: u16 = 0x0008;
pub const CHANNEL_BIND: u16 = 0x0009;

pub const INDICATION: u16 = 0x0010;
pub const SUCCESS: u16 = 0x0100;
pub const ERROR: u16 = 0x0110;

pub const USERNAME: u16 = 0x0006;
pub const MESSAGE_INTEGRITY: u16 = 0x0008;
pub const ERROR_CODE: u16 = 0x0009;
pub const CHANNEL_NUMBER: u16 = 0x000C;
pub const LIFETIME: u16 = 0x000D;
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
pub const DATA: u16 = 0x0013;
pub const REALM: u16 = 0x0014;
pub const NONCE: u16 = 0x0015;
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
pub const REQUESTED_TRANSPORT: u16 = 0x0019;
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub const FINGERPRINT: u16 = 0x8028;
pub const ALTERNATE_SERVER: u16 = 0x8023;
pub const ICMP: u16 = 0x8004;
pub const DONT_FRAGMENT: u16 = 0x001A;
pub const EVEN_PORT: u16 = 0x0018;
pub const RESERVATION_TOKEN: u16 = 0x0022;
pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;

const COOKIE: u32 = 0x2112_A442;

/// A message under construction, or a parsed one.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

/// A transaction id that this process has not used before.
pub fn transaction_id() -> [u8; 12] {
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut id = [0; 12];
    id[..4].copy_from_slice(&std::process::id().to_be_bytes());
    id[4..].copy_from_slice(&count.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    id
}

impl Message {
    /// A message of this type (class bits and method together) with a fresh transaction id.
    pub fn new(kind: u16) -> Self {
        Self::with_id(kind, transaction_id())
    }

    /// A message with a transaction id of the caller's choice.
    pub fn with_id(kind: u16, id: [u8; 12]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&COOKIE.to_be_bytes());
        bytes.extend_from_slice(&id);
        Self { bytes }
    }

    /// Appends an attribute.
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len()).expect("attributes are small");
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_length(self.bytes.len() - 20);
    }

    fn set_length(&mut self, length: usize) {
        let length = u16::try_from(length).expect("messages are small");
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }

    /// Appends an XOR'd address.
    pub fn address(self, kind: u16, address: SocketAddr) -> Self {
        let value = self.xor(address);
        self.attr(kind, &value)
    }

    fn xor(&self, address: SocketAddr) -> Vec<u8> {
        let (family, ip) = match address.ip() {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (2, ip.octets().to_vec()),
        };
        let mut value = vec![0, family];
        value.extend_from_slice(&(address.port() ^ (COOKIE >> 16) as u16).to_be_bytes());
        value.extend(ip.iter().zip(&self.bytes[4..20]).map(|(a, b)| a ^ b));
        value
    }

    /// Appends MESSAGE-INTEGRITY (HMAC-SHA1).
    pub fn integrity(mut self, key: &[u8]) -> Self {
        self.set_length(self.bytes.len() + 24 - 20);
        let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(key).expect("any key length");
        mac.update(&self.bytes);
        let tag = mac.finalize().into_bytes();
        self.attr(MESSAGE_INTEGRITY, &tag)
    }

    /// Appends FINGERPRINT.
    pub fn fingerprint(mut self) -> Self {
        self.set_length(self.bytes.len() + 8 - 20);
        let crc = crc32fast::hash(&self.bytes) ^ 0x5354_554E;
        self.attr(FINGERPRINT, &crc.to_be_bytes())
    }

    /// The bytes as they go on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, to be spoiled.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Reads a message strictly: cookie, exact length, attributes that fit.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 20 || bytes[0] & 0xC0 != 0 || bytes[4..8] != COOKIE.to_be_bytes() {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if length + 20 != bytes.len() || !length.is_multiple_of(4) {
            return None;
        }
        let message = Self {
            bytes: bytes.to_vec(),
        };
        let used: usize = message
            .attributes()
            .map(|(_, value)| 4 + value.len().next_multiple_of(4))
            .sum();
        (used == length).then_some(message)
    }

    /// All attributes in order.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = &self.bytes[20..];
        std::iter::from_fn(move || {
            let head = rest.get(..4)?;
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let value = rest.get(4..4 + len)?;
            rest = rest.get(4 + len.next_multiple_of(4)..).unwrap_or(&[]);
            Some((kind, value))
        })
    }

    /// The first attribute of a type.
    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        self.attributes()
            .find(|&(found, _)| found == kind)
            .map(|(_, value)| value)
    }

    /// Class bits and method.
    pub fn kind(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// The transaction id.
    pub fn id(&self) -> &[u8] {
        &self.bytes[8..20]
    }

    /// Whether it is a success response.
    pub fn is_success(&self) -> bool {
        self.kind() & 0x0110 == SUCCESS
    }

    /// The code of an error response.
    pub fn error(&self) -> Option<u16> {
        let value = self.get(ERROR_CODE)?;
        Some(u16::from(value[2] & 7) * 100 + u16::from(value[3]))
    }

    /// A 32-bit attribute.
    pub fn u32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// An XOR'd address.
    pub fn get_address(&self, kind: u16) -> Option<SocketAddr> {
        let value = self.get(kind)?;
        let port = u16::from_be_bytes([value[2], value[3]]) ^ (COOKIE >> 16) as u16;
        let ip: Vec<u8> = value[4..]
            .iter()
            .zip(&self.bytes[4..20])
            .map(|(a, b)| a ^ b)
            .collect();
        let ip = match value[1] {
            1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
            2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }

    /// Whether MESSAGE-INTEGRITY is there and right.
    pub fn integrity_holds(&self, key: &[u8]) -> bool {
        let mut offset = 20;
        for (kind, value) in self.attributes() {
            if kind == MESSAGE_INTEGRITY {
                let mut covered = self.bytes[..offset].to_vec();
                let length = u16::try_from(offset + 24 - 20).expect("messages are small");
                covered[2..4].copy_from_slice(&length.to_be_bytes());
                let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(key).expect("any length");
                mac.update(&covered);
                return mac.verify_slice(value).is_ok();
            }
            offset += 4 + value.len().next_multiple_of(4);
        }
        false
    }
}

/// The long-term key of RFC 8489 section 9.2.2 with MD5.
pub fn long_term_key(username: &str, realm: &str, password: &str) -> Vec<u8> {
    Md5::digest(format!("{username}:{realm}:{password}")).to_vec()
}

/// A client with long-term credentials.
#[derive(Debug)]
pub struct Client {
    /// Its transport.
    pub wire: Wire,
    username: String,
    password: String,
    realm: String,
    nonce: Vec<u8>,
}

impl Client {
    /// A client that has not spoken yet.
    pub fn new(wire: Wire, (username, password): (&str, &str)) -> Self {
        Self {
            wire,
            username: username.to_owned(),
            password: password.to_owned(),
            realm: String::new(),
            nonce: Vec::new(),
        }
    }

    /// The key of its credentials.
    pub fn key(&self) -> Vec<u8> {
        long_term_key(&self.username, &self.realm, &self.password)
    }

    /// Adds credentials to a request.
    pub fn authenticate(&self, request: Message) -> Message {
        request
            .attr(USERNAME, self.username.as_bytes())
            .attr(REALM, self.realm.as_bytes())
            .attr(NONCE, &self.nonce)
            .integrity(&self.key())
    }

    /// Sends a request as it is and returns its response, skipping everything else.
    pub fn exchange(&mut self, request: &Message) -> Option<Message> {
        self.wire.send(request.bytes()).ok()?;
        loop {
            let received = self.wire.receive()?;
            if let Some(reply) = Message::parse(&received)
                && reply.id() == request.id()
            {
                return Some(reply);
            }
        }
    }

    /// Sends a request with credentials, answering a challenge once.
    ///
    /// # Panics
    /// When no response comes.
    pub fn request(&mut self, kind: u16, fill: impl Fn(Message) -> Message) -> Message {
        for _ in 0..2 {
            let request = fill(Message::new(kind));
            let request = match self.nonce.is_empty() {
                true => request,
                false => self.authenticate(request),
            };
            let reply = self.exchange(&request).expect("a response comes");
            let nonce = reply.get(NONCE).map(<[u8]>::to_vec);
            match (reply.error(), nonce) {
                (Some(401), Some(nonce)) if self.nonce.is_empty() => self.challenge(&reply, nonce),
                (Some(438), Some(nonce)) => self.challenge(&reply, nonce),
                _ => return reply,
            }
        }
        panic!("challenged twice");
    }

    fn challenge(&mut self, reply: &Message, nonce: Vec<u8>) {
        let realm = reply.get(REALM).expect("a challenge has a realm");
        self.realm = String::from_utf8(realm.to_vec()).expect("the realm is UTF-8");
        self.nonce = nonce;
    }

    /// Allocates a UDP relay.
    pub fn allocate(&mut self) -> Message {
        self.request(ALLOCATE, |request| {
            request.attr(REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        })
    }

    /// Allocates and returns the relayed transport address.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn allocated(&mut self) -> SocketAddr {
        let reply = self.allocate();
        assert!(reply.is_success(), "Allocate: {:?}", reply.error());
        reply
            .get_address(XOR_RELAYED_ADDRESS)
            .expect("a success has it")
    }

    /// Refreshes; 0 deletes.
    pub fn refresh(&mut self, lifetime: u32) -> Message {
        self.request(REFRESH, |request| {
            request.attr(LIFETIME, &lifetime.to_be_bytes())
        })
    }

    /// Installs a permission.
    pub fn permit(&mut self, peer: SocketAddr) -> Message {
        self.request(CREATE_PERMISSION, |request| {
            request.address(XOR_PEER_ADDRESS, peer)
        })
    }

    /// Binds a channel.
    pub fn bind(&mut self, number: u16, peer: SocketAddr) -> Message {
        let [high, low] = number.to_be_bytes();
        self.request(CHANNEL_BIND, |request| {
            request
                .attr(CHANNEL_NUMBER, &[high, low, 0, 0])
                .address(XOR_PEER_ADDRESS, peer)
        })
    }

    /// Sends a payload to a peer by a Send indication.
    pub fn send_to(&mut self, peer: SocketAddr, payload: &[u8]) {
        let indication = Message::new(SEND | INDICATION)
            .address(XOR_PEER_ADDRESS, peer)
            .attr(DATA, payload);
        self.wire.send(indication.bytes()).expect("sent");
    }

    /// Sends a payload over a channel.
    pub fn send_on(&mut self, channel: u16, payload: &[u8]) {
        let mut frame = channel.to_be_bytes().to_vec();
        let len = u16::try_from(payload.len()).expect("payloads are small");
        frame.extend_from_slice(&len.to_be_bytes());
        frame.extend_from_slice(payload);
        if let Wire::Tcp(_) = self.wire {
            frame.resize(frame.len().next_multiple_of(4), 0);
        }
        self.wire.send(&frame).expect("sent");
    }
}

impl Client {
    /// Sends a payload to an echo peer by a Send indication until it comes back.
    pub fn echoes(&mut self, peer: SocketAddr, payload: &[u8]) -> bool {
        self.wire.set_timeout(Duration::from_millis(300));
        let came_back = (0..10).any(|_| {
            self.send_to(peer, payload);
            self.wire
                .receive_message()
                .is_some_and(|message| message.get(DATA) == Some(payload))
        });
        self.wire.set_timeout(Duration::from_secs(5));
        came_back
    }
}
