//! The other end of the harness: clients that build real messages, and responses taken apart.

use super::*;

pub fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = ChannelData::header(number, data.len() as u16).to_vec();
    bytes.extend_from_slice(data);
    bytes
}

pub fn flow(client: &str) -> Flow {
    Flow {
        transport: Transport::Udp,
        client: addr(client),
        local: if addr(client).is_ipv4() {
            addr("198.51.100.1:3478")
        } else {
            addr("[2001:db8:5::1]:3478")
        },
        link: 0,
    }
}

pub fn stream_flow(client: &str, link: u64) -> Flow {
    Flow {
        transport: Transport::Tcp,
        link,
        ..flow(client)
    }
}

/// A message without credentials.
pub fn plain(class: Class, method: Method, build: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let id = TransactionId(*b"plain-messag");
    let mut builder = Builder::new(&mut buffer, class, method, id);
    build(&mut builder);
    let len = builder.finish().expect("fits");
    buffer.truncate(len);
    buffer
}

/// One client: a 5-tuple and a user, with what it learned from a challenge.
#[derive(Clone)]
pub struct Client {
    pub shard: usize,
    pub flow: Flow,
    pub name: Vec<u8>,
    /// Send USERHASH with this value rather than USERNAME.
    pub userhash: Option<Vec<u8>>,
    pub user: User,
    /// Send PASSWORD-ALGORITHMS and PASSWORD-ALGORITHM; `None` as an old client.
    pub algorithm: Option<PasswordAlgorithm>,
    pub integrity: Integrity,
    pub realm: String,
    pub nonce: Vec<u8>,
    pub fingerprint: bool,
    pub transactions: u64,
}

impl Client {
    pub fn key(&self) -> &Key {
        self.user
            .key(self.algorithm.unwrap_or(PasswordAlgorithm::Md5))
    }

    pub fn next_id(&mut self) -> TransactionId {
        self.transactions += 1;
        let mut id = *b"tid_........";
        id[4..].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }

    /// An authenticated request with the next transaction id.
    pub fn request(&mut self, method: Method, build: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
        let id = self.next_id();
        self.request_with(id, method, build)
    }

    pub fn request_with(
        &self,
        id: TransactionId,
        method: Method,
        build: impl FnOnce(&mut Builder<'_>),
    ) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let mut builder = Builder::new(&mut buffer, Class::Request, method, id);
        build(&mut builder);
        self.credentials(&mut builder);
        builder.integrity(self.integrity, self.key());
        if self.fingerprint {
            builder.fingerprint();
        }
        let len = builder.finish().expect("fits");
        buffer.truncate(len);
        buffer
    }

    /// Appends what goes in front of the integrity.
    pub fn credentials(&self, builder: &mut Builder<'_>) {
        match &self.userhash {
            Some(hash) => builder.attribute(attr::USERHASH, hash),
            None => builder.attribute(attr::USERNAME, &self.name),
        };
        builder.attribute(attr::REALM, self.realm.as_bytes());
        builder.attribute(attr::NONCE, &self.nonce);
        if let Some(algorithm) = self.algorithm {
            builder.attribute(attr::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0]);
            builder.password_algorithm(algorithm);
        }
    }

    pub fn send(&mut self, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; data.len() + 64];
        let id = self.next_id();
        let mut builder = Builder::new(&mut buffer, Class::Indication, Method::SEND, id);
        builder.xor_address(attr::XOR_PEER_ADDRESS, peer);
        builder.attribute(attr::DATA, data);
        let len = builder.finish().expect("fits");
        buffer.truncate(len);
        buffer
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let attributes: Vec<_> = self.attrs().raw().map(|(ty, _)| attr::name(ty)).collect();
        write!(f, "{} with {attributes:?}", self.code())
    }
}

impl Response {
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("a STUN message")
    }

    pub fn attrs(&self) -> turnserver::wire::Attrs<'_> {
        self.message().unprotected()
    }

    /// 0 for a success, else the error code.
    pub fn code(&self) -> u16 {
        match self.message().class() {
            Class::Success => 0,
            Class::Error => {
                let code = self.attrs().error_code().expect("well-formed");
                code.expect("ERROR-CODE").value()
            }
            other => panic!("not a response but {other:?}"),
        }
    }

    pub fn lifetime(&self) -> u32 {
        let lifetime = self.attrs().lifetime().expect("well-formed");
        lifetime.expect("LIFETIME")
    }

    pub fn relayed(&self) -> Vec<SocketAddr> {
        let relayed = self.attrs().xor_relayed_addresses();
        relayed
            .map(|relayed| relayed.expect("well-formed"))
            .collect()
    }

    pub fn token(&self) -> Option<ReservationToken> {
        self.attrs().reservation_token().expect("well-formed")
    }

    pub fn nonce(&self) -> Vec<u8> {
        self.attrs().nonce().expect("NONCE").to_vec()
    }

    pub fn unknown(&self) -> Vec<u16> {
        let unknown = self.attrs().unknown_attributes().expect("well-formed");
        unknown.expect("UNKNOWN-ATTRIBUTES").collect()
    }

    pub fn address_error(&self) -> Option<(u8, ErrorCode)> {
        let error = self.attrs().address_error_code().expect("well-formed");
        error.map(|error| (error.family, error.code))
    }

    /// The types of all attributes, in order.
    pub fn types(&self) -> Vec<u16> {
        let mut types = Vec::new();
        let mut rest = &self.bytes[20..];
        while let [t0, t1, l0, l1, ..] = rest {
            types.push(u16::from_be_bytes([*t0, *t1]));
            let len = usize::from(u16::from_be_bytes([*l0, *l1])).next_multiple_of(4);
            rest = &rest[4 + len..];
        }
        types
    }

    /// RFC 8489 section 9.2.4: answers carry integrity by the algorithm that the request used.
    pub fn assert_protected(&self, client: &Client) {
        let message = self.message();
        assert_eq!(message.integrity(), Some(client.integrity), "{self:?}");
        assert!(message.verify(client.key()).is_ok(), "{self:?}");
        assert_eq!(message.has_fingerprint(), client.fingerprint);
    }

    /// RFC 8489 section 6.3.3: the answer has the method and the id of its request.
    pub fn assert_answers(&self, request: &[u8]) {
        let request = Message::parse(request).expect("a request");
        assert_eq!(self.message().method(), request.method());
        assert_eq!(self.message().transaction_id(), request.transaction_id());
    }

    pub fn assert_unprotected(&self) {
        assert_eq!(self.message().integrity(), None, "{self:?}");
    }
}
