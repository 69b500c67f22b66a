//! What came of what was handed to the core, taken apart.

use super::*;

/// What came of something that was handed to the core, with the bytes put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    ToPeer {
        relay: RelayId,
        peer: SocketAddr,
        data: Vec<u8>,
        dont_fragment: bool,
    },
    ToClient {
        flow: Flow,
        bytes: Vec<u8>,
    },
    Reply {
        flow: Flow,
        bytes: Vec<u8>,
        authenticated: bool,
    },
    Waiting,
    Drop(DropReason),
}

pub(super) fn outcome(disposition: Disposition, bytes: &[u8], reply: &[u8]) -> Outcome {
    match disposition {
        Disposition::ToPeer {
            relay,
            peer,
            payload,
            dont_fragment,
        } => Outcome::ToPeer {
            relay,
            peer,
            data: bytes[payload].to_vec(),
            dont_fragment,
        },
        Disposition::ToClient {
            flow,
            prefix,
            payload,
            padding,
        } => {
            let mut out = prefix.as_slice().to_vec();
            out.extend_from_slice(&bytes[payload]);
            out.resize(out.len() + usize::from(padding), 0);
            Outcome::ToClient { flow, bytes: out }
        }
        Disposition::Reply {
            flow,
            len,
            authenticated,
        } => Outcome::Reply {
            flow,
            bytes: reply[..len].to_vec(),
            authenticated,
        },
        Disposition::Waiting => Outcome::Waiting,
        Disposition::Drop(reason) => Outcome::Drop(reason),
    }
}

impl Outcome {
    /// What it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ToPeer { .. } => "to peer",
            Self::ToClient { bytes, .. } if bytes[0] >= 0x40 => "channel",
            Self::ToClient { .. } => "indication",
            Self::Reply { .. } => "reply",
            Self::Waiting => "waiting",
            Self::Drop(reason) => reason.name(),
        }
    }

    /// The data that goes to a peer.
    pub fn to_peer(&self) -> (SocketAddr, &[u8]) {
        match self {
            Self::ToPeer { peer, data, .. } => (*peer, data),
            other => panic!("not to a peer but {other:?}"),
        }
    }

    pub fn drop_reason(&self) -> DropReason {
        match self {
            Self::Drop(reason) => *reason,
            other => panic!("not dropped but {other:?}"),
        }
    }

    /// Channel number and data that go to a client.
    pub fn channel(&self) -> (u16, &[u8]) {
        match self {
            Self::ToClient { flow, bytes } => {
                let data = ChannelData::parse(bytes, flow.transport.is_stream());
                let data = data.expect("ChannelData");
                (data.number, data.data)
            }
            other => panic!("not to a client but {other:?}"),
        }
    }

    /// Peer and data of a Data indication that goes to a client.
    pub fn indication(&self) -> (SocketAddr, &[u8]) {
        let bytes = match self {
            Self::ToClient { bytes, .. } => bytes,
            other => panic!("not to a client but {other:?}"),
        };
        let message = Message::parse(bytes).expect("a STUN message");
        assert_eq!(
            (message.class(), message.method()),
            (Class::Indication, Method::DATA)
        );
        // RFC 8656 section 11: Data indications carry no integrity.
        assert_eq!(message.integrity(), None);
        let attrs = message.unprotected();
        let peer = attrs.peer().expect("well-formed").expect("a peer");
        (peer, attrs.data().expect("DATA"))
    }

    pub fn to_flow(&self) -> Flow {
        match self {
            Self::ToClient { flow, .. } | Self::Reply { flow, .. } => *flow,
            other => panic!("not to a client but {other:?}"),
        }
    }
}
