//! The steps that a sequence is made of.

use rand_chacha::ChaCha12Rng;
use rand_core::Rng;

pub const CLIENTS: usize = 10;
const NUMBERS: u16 = 5;

/// One step. Small numbers are taken modulo what there is, so that any step makes sense anywhere
/// and a sequence stays meaningful when steps are left out.
#[derive(Clone, Debug)]
pub enum Op {
    Allocate {
        client: u8,
        wrong_user: bool,
        want: Want,
        lifetime: Option<u32>,
        fail: bool,
    },
    /// The first Allocate again, byte for byte.
    Again {
        client: u8,
    },
    /// An Allocate whose connection closes before its sockets are open.
    Abort {
        client: u8,
        want: Want,
    },
    Refresh {
        client: u8,
        wrong_user: bool,
        lifetime: Option<u32>,
        family: Option<u8>,
    },
    Permit {
        client: u8,
        wrong_user: bool,
        peers: Vec<Peer>,
    },
    Bind {
        client: u8,
        number: u16,
        peer: Peer,
    },
    Send {
        client: u8,
        peer: Peer,
    },
    Channel {
        client: u8,
        number: u16,
    },
    Arrive {
        client: u8,
        half: u8,
        peer: Peer,
        local: bool,
    },
    Close {
        client: u8,
    },
    Pass {
        micros: u64,
    },
    /// Goes to a moment at which something ends, or a microsecond beside it.
    PassTo {
        which: u16,
        beside: i8,
    },
}

/// What an Allocate asks for.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    Plain,
    Family(u8),
    Even(bool),
    EvenFamily(bool, u8),
    Dual,
    DualEven(bool),
    Token(u8),
    NobodysToken,
    TokenAndEven(u8),
    BothFamilies,
    AdditionalIpv4,
    NoTransport,
    Tcp,
    Unknown,
    BadLifetime,
}

#[derive(Clone, Copy, Debug)]
pub enum Peer {
    Fixed(u8),
    Own {
        client: u8,
        half: u8,
    },
    /// One that the client has a permission or a channel for.
    Known {
        which: u8,
        port: u16,
    },
}

impl Op {
    pub fn random(rng: &mut ChaCha12Rng) -> Self {
        let mut below = |n: u32| rng.next_u32() % n;
        let client = below(CLIENTS as u32) as u8;
        let wrong_user = below(25) == 0;
        let lifetime = match below(6) {
            0 => Some(below(600)),
            1 => Some(600 + below(3200)),
            2 => Some(u32::MAX),
            _ => None,
        };
        let (a, b) = (below(256) as u8, below(256) as u8);
        let want = match below(30) {
            0..=9 => Want::Plain,
            10..=12 => Want::Family(1 + a % 3),
            13..=14 => Want::Even(a % 2 == 0),
            15..=16 => Want::Even(true),
            17 => Want::EvenFamily(a % 2 == 0, 1 + b % 2),
            18..=19 => Want::Dual,
            20 => Want::DualEven(a % 2 == 0),
            21..=23 => Want::Token(a),
            24 => Want::NobodysToken,
            25 => Want::TokenAndEven(a),
            26 => Want::BothFamilies,
            27 => Want::AdditionalIpv4,
            28 => [Want::NoTransport, Want::Tcp][usize::from(a % 2)],
            _ => [Want::Unknown, Want::BadLifetime][usize::from(a % 2)],
        };
        let mut peer = || {
            let (a, b) = (rng.next_u32() as u8, rng.next_u32() as u8);
            match a % 16 {
                0..=3 => Peer::Own {
                    client: a / 16,
                    half: b,
                },
                4..=9 => Peer::Known {
                    which: b,
                    port: 9 + u16::from(a / 16 % 2),
                },
                _ => Peer::Fixed(b),
            }
        };
        let peers = [peer(), peer(), peer()];
        let (kind, more) = (rng.next_u32() % 100, rng.next_u32());
        let number = 0x4000 + more as u16 % NUMBERS;
        match kind {
            0..=8 => Self::Allocate {
                client,
                wrong_user,
                want,
                lifetime,
                fail: more % 40 == 0,
            },
            9..=10 => Self::Again { client },
            11 => Self::Abort { client, want },
            12..=16 => Self::Refresh {
                client,
                wrong_user,
                lifetime: if more.is_multiple_of(8) {
                    Some(0)
                } else {
                    lifetime
                },
                family: (more % 3 == 0).then_some(1 + a % 3),
            },
            17..=29 => Self::Permit {
                client,
                wrong_user,
                peers: peers[..more as usize % 4].to_vec(),
            },
            30..=41 => Self::Bind {
                client,
                number: if more % 30 == 0 { 0x5000 } else { number },
                peer: peers[0],
            },
            42..=55 => Self::Send {
                client,
                peer: peers[0],
            },
            56..=68 => Self::Channel { client, number },
            69..=92 => Self::Arrive {
                client,
                half: b,
                peer: peers[0],
                local: more % 2 == 0,
            },
            93 => Self::Close { client },
            94..=97 => Self::Pass {
                micros: u64::from(more % 4_000_000),
            },
            98 => Self::Pass {
                micros: u64::from(more % 60_000_000),
            },
            _ => Self::PassTo {
                which: more as u16,
                beside: (a % 3) as i8 - 1,
            },
        }
    }
}
