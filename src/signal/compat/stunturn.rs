//! The hello of stunturn: one JSON object each way on the TCP port of the pairing endpoint, told
//! from HTTP by the first byte.
//!
//! Keys of these clients are kept apart from others, as the two kinds could never connect: the
//! key `k` waits where the access key `stunturn:k` does.
//!
//! What its clients rely on, and what was learnt from them:
//! - The answer and the FIN come in one segment. Otherwise a client that binds the same port
//!   again at once finds it in use now and then.
//! - A client closes second, or it could not bind the port again for a minute.
//! - They do not look at `error`, and a `peer_address` that is missing makes them punch at nobody
//!   for 40 s or for ever. So a refusal carries the documented text, and a `peer_address` that is
//!   no string, at which their JSON decoder fails. What can not be understood is closed without
//!   an answer, as it always was.
//! - For UDP a client tells its own address. It is believed only with the IP address that the
//!   connection comes from, or anybody could aim the other side's datagrams at somebody else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::pairing::{ErrorCode, Join, Protocol, Role, ServerMessage};
use crate::signal::http;
use crate::signal::join::{Guest, Visit, Way};

/// How long a hello may take.
const HELLO: Duration = Duration::from_secs(10);

/// The longest hello in bytes.
const MAX_HELLO: usize = 4096;

/// How long an initiator waits, in seconds.
const WAIT_S: u64 = 30;

/// What sets these keys apart from others.
const NAMESPACE: &str = "stunturn:";

/// Whether a first byte begins a hello: JSON's white space counts.
pub(in crate::signal) const fn begins(first: u8) -> bool {
    matches!(first, b'{' | b' ' | b'\t' | b'\r' | b'\n')
}

/// What a client asks for. Only what its decoder would understand is a hello.
#[derive(Debug, PartialEq, Eq)]
struct Hello {
    key: Zeroizing<String>,
    /// An initiator names its receiver's address.
    target_ip: Option<IpAddr>,
    protocol: Protocol,
    /// Where the client's UDP socket is, as it says itself.
    address: Option<SocketAddr>,
}

/// It can not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bad;

impl Hello {
    /// Reads a hello; `None` while it is incomplete. What follows it is ignored.
    fn decode(bytes: &[u8]) -> Result<Option<Self>, Bad> {
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Map<_, _>>();
        let object: Map<String, Value> = match values.next() {
            Some(Ok(object)) => object,
            Some(Err(error)) if !error.is_eof() => return Err(Bad),
            _ => return Ok(None),
        };
        let [mut uuid, mut target_ip, mut protocol, mut address] = [const { String::new() }; 4];
        for (name, value) in object {
            // Names are matched in any case, others are passed over; null changes nothing.
            let field = match name.to_ascii_lowercase().as_str() {
                "uuid" => &mut uuid,
                "target_ip" => &mut target_ip,
                "protocol" => &mut protocol,
                "address" => &mut address,
                _ => continue,
            };
            match value {
                Value::String(text) => *field = text,
                Value::Null => {}
                _ => return Err(Bad),
            }
        }
        let key = Zeroizing::new(uuid);
        if key.is_empty() {
            return Err(Bad);
        }
        fn optional<T: std::str::FromStr>(text: &str) -> Result<Option<T>, Bad> {
            let text = (!text.is_empty()).then_some(text);
            text.map(|text| text.parse().map_err(|_| Bad)).transpose()
        }
        Ok(Some(Self {
            key,
            target_ip: optional(&target_ip)?,
            // Whatever is not exactly "udp" is TCP.
            protocol: match protocol.as_str() {
                "udp" => Protocol::Udp,
                _ => Protocol::Tcp,
            },
            address: optional(&address)?,
        }))
    }

    /// The join that it is, from a connection that comes from `observed`.
    fn into_join(self, observed: SocketAddr) -> Result<Join, Bad> {
        if self.address.is_some_and(|own| own.ip() != observed.ip()) {
            return Err(Bad);
        }
        let initiates = self.target_ip.is_some();
        if initiates && self.protocol == Protocol::Udp && self.address.is_none() {
            return Err(Bad);
        }
        Ok(Join {
            access_key: Some(format!("{NAMESPACE}{}", *self.key)),
            protocol: Some(self.protocol),
            target_ip: self.target_ip,
            wait_s: Some(WAIT_S),
            endpoints: self.address.into_iter().collect(),
            ..Join::new(match initiates {
                true => Role::Initiator,
                false => Role::Receiver,
            })
        })
    }
}

/// The answer to a hello; `None` where the connection is closed without one.
fn encode(message: &ServerMessage) -> Option<String> {
    Some(match message {
        ServerMessage::Paired {
            protocol,
            peer_observed,
            peer_endpoints,
            ..
        } => {
            // Of TCP the server sees the port itself.
            let (name, peer) = match protocol {
                Protocol::Tcp => ("tcp", peer_observed),
                Protocol::Udp => ("udp", peer_endpoints.first()?),
            };
            format!("{{\"protocol\":\"{name}\",\"peer_address\":\"{peer}\"}}\n")
        }
        ServerMessage::Error { code, .. } => {
            // The wording is theirs, and backwards.
            let text = match code {
                ErrorCode::NobodyWaits => "Receiver with that UUID not found",
                ErrorCode::TimedOut => "Timed out waiting for an initiator",
                ErrorCode::Busy => "UUID already in use",
                _ => return None,
            };
            format!("{{\"protocol\":\"\",\"peer_address\":0,\"error\":\"{text}\"}}\n")
        }
        _ => return None,
    })
}

/// Serves one connection.
pub(in crate::signal) async fn serve(mut stream: TcpStream, visit: Arc<Visit>) {
    let Ok(Some(hello)) = timeout(HELLO, read(&mut stream)).await else {
        return;
    };
    let Ok(join) = hello.into_join(visit.observed.socket()) else {
        return;
    };
    let mut guest = Guest::new(visit, Way::OneAnswer);
    let mut message = match guest.join(join) {
        Ok(message) => message,
        Err(refusal) => refusal.into_message(),
    };
    if matches!(message, ServerMessage::Waiting { .. }) {
        let mut ignored = [0; 64];
        let mut patience = 64_u32;
        message = loop {
            tokio::select! {
                told = guest.next() => match told {
                    Some(told) => break told,
                    None => return,
                },
                read = stream.read(&mut ignored) => {
                    // Gone; or it sends what means nothing here, which must not go on for ever.
                    patience = patience.saturating_sub(1);
                    if !matches!(read, Ok(1..)) || patience == 0 {
                        return;
                    }
                }
            }
        };
    }
    drop(guest);
    if let Some(answer) = encode(&message)
        && answer_and_end(&stream, answer.as_bytes()).await
    {
        // Nothing more is sent; the client closes now, and only then this end does.
        http::close(stream).await;
    }
}

async fn read(stream: &mut TcpStream) -> Option<Hello> {
    let mut bytes = Zeroizing::new(vec![0; MAX_HELLO]);
    let mut len = 0;
    loop {
        match stream.read(&mut bytes[len..]).await {
            Ok(read @ 1..) => len += read,
            _ => return None,
        }
        match Hello::decode(&bytes[..len]) {
            Ok(None) if len < MAX_HELLO => {}
            decoded => return decoded.ok().flatten(),
        }
    }
}

/// Sends an answer with the FIN in the same segment. False when it did not go out whole.
async fn answer_and_end(stream: &TcpStream, answer: &[u8]) -> bool {
    let socket = SockRef::from(stream);
    let send = || socket.send_with_flags(answer, libc::MSG_MORE | libc::MSG_NOSIGNAL);
    let sent = stream.async_io(Interest::WRITABLE, send).await;
    let whole = sent.is_ok_and(|sent| sent == answer.len());
    whole && socket.shutdown(std::net::Shutdown::Write).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Hello {
        Hello::decode(text.as_bytes())
            .expect("a hello")
            .expect("complete")
    }

    #[test]
    fn a_hello_as_its_clients_write_it() {
        let hello = decoded(
            "{\"uuid\":\"k\",\"target_ip\":\"192.0.2.2\",\"protocol\":\"udp\",\
             \"address\":\"192.0.2.1:5000\"}\n",
        );
        assert_eq!(*hello.key, "k");
        let join = hello.into_join("192.0.2.1:700".parse().unwrap()).unwrap();
        assert_eq!(join.role, Role::Initiator);
        assert_eq!(join.access_key.as_deref(), Some("stunturn:k"));
        assert_eq!(join.protocol, Some(Protocol::Udp));
        assert_eq!(join.target_ip, Some("192.0.2.2".parse().unwrap()));
        assert_eq!(join.endpoints, ["192.0.2.1:5000".parse().unwrap()]);
        // Any case, white space before, anything behind and unknown names; absent is empty.
        let hello = decoded(" \r\n{\"UUID\": \"k\", \"more\": [1], \"Address\": null} trailing");
        let join = hello.into_join("192.0.2.1:700".parse().unwrap()).unwrap();
        assert_eq!(join.role, Role::Receiver);
        assert!(join.endpoints.is_empty());
        for protocol in ["tcp", "", "UDP", "quic"] {
            let hello = decoded(&format!("{{\"uuid\":\"k\",\"protocol\":\"{protocol}\"}}"));
            assert_eq!(hello.protocol, Protocol::Tcp, "{protocol}");
        }
    }

    #[test]
    fn incomplete_is_waited_for_and_the_rest_is_refused() {
        let whole = "{\"uuid\":\"k\",\"protocol\":\"tcp\"}";
        for end in 0..whole.len() {
            assert_eq!(Hello::decode(&whole.as_bytes()[..end]), Ok(None), "{end}");
        }
        for bad in [
            "{}",
            "{\"uuid\":\"\"}",
            "{\"uuid\":1}",
            "{\"uuid\":\"k\",\"target_ip\":\"host\"}",
            "{\"uuid\":\"k\",\"address\":\"192.0.2.1\"}",
            "[]",
            "{x",
            "GET",
        ] {
            assert_eq!(Hello::decode(bad.as_bytes()), Err(Bad), "{bad}");
        }
    }

    #[test]
    fn nobody_aims_the_peers_datagrams_at_somebody_else() {
        let observed = "192.0.2.1:700".parse().unwrap();
        for text in [
            "{\"uuid\":\"k\",\"address\":\"192.0.2.9:53\"}",
            "{\"uuid\":\"k\",\"target_ip\":\"192.0.2.2\",\"protocol\":\"udp\"}",
        ] {
            assert!(decoded(text).into_join(observed).is_err(), "{text}");
        }
    }

    #[test]
    fn answers_to_the_byte() {
        let error = |code| {
            encode(&ServerMessage::Error {
                code,
                message: String::new(),
                session: None,
                reason: None,
                retry_after_s: None,
                nonce: None,
            })
        };
        let text = error(ErrorCode::NobodyWaits).expect("a text");
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["error"], "Receiver with that UUID not found");
        assert_eq!(value["protocol"], "");
        // Not a string: the clients' decoder fails, as it must.
        assert!(value["peer_address"].is_number());
        assert!(error(ErrorCode::TooMany).is_none());
        let paired = |protocol, endpoints: &[&str]| {
            encode(&ServerMessage::Paired {
                session: crate::pairing::SessionId([1; 16]),
                role: Role::Receiver,
                protocol,
                observed: "192.0.2.1:1".parse().unwrap(),
                peer_observed: "192.0.2.2:2".parse().unwrap(),
                peer_endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
                ice_servers: vec![],
                ttl_s: 0,
            })
        };
        assert_eq!(
            paired(Protocol::Tcp, &["192.0.2.2:9"]).as_deref(),
            Some("{\"protocol\":\"tcp\",\"peer_address\":\"192.0.2.2:2\"}\n")
        );
        assert_eq!(
            paired(Protocol::Udp, &["192.0.2.2:9"]).as_deref(),
            Some("{\"protocol\":\"udp\",\"peer_address\":\"192.0.2.2:9\"}\n")
        );
        assert!(paired(Protocol::Udp, &[]).is_none());
    }
}
