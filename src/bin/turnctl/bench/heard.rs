//! What a client received: data, an answer, or neither of them.

use turnserver::client::turn::Incoming;
use turnserver::wire::{ChannelData, Class, Message, Method, attr};

/// What a client received from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    /// Application data; whether channel or peer are right is not said yet.
    Data(Incoming<'a>),
    /// An answer to a request, or word of an ICMP error (RFC 8656 section 11.5).
    Answer,
    /// Nothing that a server sends: its framing is not as it was, and its payload is lost with
    /// it.
    Damaged,
}

/// Tells what a datagram, or a message of a stream, is.
pub(super) fn heard(bytes: &[u8], stream: bool) -> Heard<'_> {
    let understood = match bytes.first() {
        Some(64..=127) => channel_data(bytes, stream),
        _ => stun(bytes),
    };
    understood.unwrap_or(Heard::Damaged)
}

fn channel_data(bytes: &[u8], stream: bool) -> Option<Heard<'_>> {
    let message = ChannelData::parse(bytes, stream).ok()?;
    Some(Heard::Data(Incoming::Channel(message.number, message.data)))
}

fn stun(bytes: &[u8]) -> Option<Heard<'_>> {
    let message = Message::parse(bytes).ok()?;
    match (message.class(), message.method()) {
        (Class::Indication, Method::DATA) => {
            let attributes = message.unprotected();
            let peer = attributes.peer().ok()??;
            match attributes.data() {
                Some(data) => Some(Heard::Data(Incoming::Indication(peer, data))),
                None => attributes.contains(attr::ICMP).then_some(Heard::Answer),
            }
        }
        // What a client asks. A damaged Data indication may look like an answer of its own
        // method, which nobody gives.
        (
            Class::Success | Class::Error,
            Method::ALLOCATE | Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND,
        ) => Some(Heard::Answer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use turnserver::wire::{Builder, TransactionId};

    use super::*;

    const PEER: &str = "192.0.2.7:4000";

    fn message(class: Class, method: Method, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = [0; 256];
        let mut builder = Builder::new(&mut out, class, method, TransactionId([7; 12]));
        if method == Method::DATA {
            let peer: SocketAddr = PEER.parse().expect("an address");
            builder.xor_address(attr::XOR_PEER_ADDRESS, peer);
        }
        for (ty, value) in attributes {
            builder.attribute(*ty, value);
        }
        let len = builder.finish().expect("room");
        out[..len].to_vec()
    }

    #[test]
    fn what_a_server_sends_is_told_apart() {
        let channel = [0x40, 0, 0, 3, 1, 2, 3];
        let data = Heard::Data(Incoming::Channel(0x4000, &[1, 2, 3]));
        assert_eq!(heard(&channel, false), data);

        let indication = message(Class::Indication, Method::DATA, &[(attr::DATA, b"data")]);
        let peer = PEER.parse().expect("an address");
        let data = Heard::Data(Incoming::Indication(peer, b"data"));
        assert_eq!(heard(&indication, false), data);

        let icmp = message(Class::Indication, Method::DATA, &[(attr::ICMP, &[0; 8])]);
        assert_eq!(heard(&icmp, false), Heard::Answer);
        for method in [Method::REFRESH, Method::CHANNEL_BIND] {
            for class in [Class::Success, Class::Error] {
                assert_eq!(heard(&message(class, method, &[]), false), Heard::Answer);
            }
        }
    }

    #[test]
    fn everything_else_is_damage() {
        let alone = message(Class::Indication, Method::DATA, &[]);
        let request = message(Class::Request, Method::DATA, &[(attr::DATA, b"data")]);
        let answer = message(Class::Success, Method::DATA, &[(attr::DATA, b"data")]);
        let send = message(Class::Indication, Method::SEND, &[(attr::DATA, b"data")]);
        let damaged: [&[u8]; 9] = [
            &[],
            &[0x40, 0, 0],
            &[0x40, 0, 0, 3, 1, 2],
            &[0xC0, 0, 0, 3, 1, 2, 3],
            &[0x00, 0, 0, 3, 1, 2, 3],
            &alone,
            &request,
            &answer,
            &send,
        ];
        for bytes in damaged {
            assert_eq!(heard(bytes, false), Heard::Damaged, "{bytes:?}");
        }
    }
}
