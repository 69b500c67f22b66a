//! Makes what no honest client sends: noise, mutations, and nonsense that is signed correctly.

use std::net::SocketAddr;

use super::random::Random;
use super::stun::{self, Client, Message};

const METHODS: &[u16] = &[
    stun::BINDING,
    stun::ALLOCATE,
    stun::REFRESH,
    stun::SEND,
    stun::DATA_METHOD,
    stun::CREATE_PERMISSION,
    stun::CHANNEL_BIND,
    0x000A,
    0x000B,
    0x000C,
    0x0FFF,
];

const CLASSES: &[u16] = &[0, 0, 0, 0, stun::INDICATION, stun::SUCCESS, stun::ERROR];

/// Every attribute that some handler reads, some that none does, and some from old drafts.
const ATTRIBUTES: &[u16] = &[
    0x0001, 0x0003, 0x0006, 0x0008, 0x0009, 0x000A, 0x000C, 0x000D, 0x0012, 0x0013, 0x0014, 0x0015,
    0x0016, 0x0017, 0x0018, 0x0019, 0x001A, 0x001B, 0x001C, 0x001D, 0x001E, 0x0020, 0x0022, 0x0026,
    0x0027, 0x002A, 0x7FFF, 0x8000, 0x8001, 0x8002, 0x8003, 0x8004, 0x8022, 0x8023, 0x8028, 0x802B,
    0x802C, 0x8030, 0x8032, 0xFFFF,
];

/// Any number of attributes with any content: well-formed, and rarely with any meaning.
pub fn nonsense(random: &mut Random) -> Message {
    let mut message = Message::new(random.pick(METHODS) | random.pick(CLASSES));
    for _ in 0..random.below(6) {
        let len = *random.pick(&[0, 1, 2, 3, 4, 4, 4, 5, 7, 8, 8, 12, 16, 20, 20, 32, 64, 300]);
        let mut value = random.bytes(len);
        // Half the values look sensible: small numbers, known families.
        if random.below(2) == 0 && len >= 2 {
            value[..2].copy_from_slice(&[0, 1 + random.below(2) as u8]);
        }
        message = message.attr(*random.pick(ATTRIBUTES), &value);
    }
    message
}

/// Nonsense that carries valid credentials, so that it reaches the handlers.
pub fn signed_nonsense(random: &mut Random, client: &Client) -> Vec<u8> {
    let message = nonsense(random);
    let signed = client.authenticate(message);
    match random.below(3) {
        0 => signed.fingerprint().into_bytes(),
        _ => signed.into_bytes(),
    }
}

/// Honest requests with one field of the credentials wrong.
pub fn mis_authenticated(random: &mut Random, client: &Client) -> Vec<u8> {
    let request =
        Message::new(*random.pick(METHODS)).attr(stun::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let mut name = b"user-1".to_vec();
    let mut realm = super::REALM.as_bytes().to_vec();
    let mut nonce = b"obMatJos2gAAA".to_vec();
    let mut key = client.key();
    match random.below(7) {
        0 => {
            let len = random.below(1200);
            name = random.bytes(len);
        }
        1 => {
            let len = random.below(1200);
            realm = random.bytes(len);
        }
        2 => {
            let len = random.below(1200);
            nonce = random.bytes(len);
        }
        3 => key = random.bytes(16),
        4 => name = format!("{}:user-1", random.next()).into_bytes(),
        5 => nonce.clear(),
        _ => {
            let tail = random.bytes(20);
            nonce.extend(tail);
        }
    }
    let skip = random.below(6);
    let mut message = request;
    for (index, (kind, value)) in [
        (stun::USERNAME, &name),
        (stun::REALM, &realm),
        (stun::NONCE, &nonce),
    ]
    .into_iter()
    .enumerate()
    {
        if index != skip {
            message = message.attr(kind, value);
        }
    }
    message.integrity(&key).into_bytes()
}

/// Spoils bytes: flips, cuts, appends, and lies about lengths.
pub fn mutate(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let len = random.below(64);
                bytes.extend(random.bytes(len));
            }
            4 if bytes.len() >= 4 => {
                let length = (random.next() as u16).to_be_bytes();
                bytes[2..4].copy_from_slice(&length);
            }
            _ if bytes.len() >= 24 => {
                let at = 22 + 4 * random.below((bytes.len() - 22) / 4);
                bytes[at..at + 2].copy_from_slice(&[random.next() as u8, random.next() as u8]);
            }
            _ => {}
        }
    }
    bytes
}

/// One hostile datagram or stream fragment of any kind.
pub fn any(random: &mut Random, client: &Client, peer: SocketAddr) -> Vec<u8> {
    match random.below(10) {
        0 => {
            let len = random.below(1500);
            random.bytes(len)
        }
        1 => {
            let mut bytes = random.bytes(20);
            bytes[0] &= 0x3F;
            bytes[4..8].copy_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
            bytes
        }
        2 => nonsense(random).into_bytes(),
        3 | 4 => signed_nonsense(random, client),
        5 => mis_authenticated(random, client),
        6 => {
            // ChannelData: bound, unbound and reserved numbers, true and false lengths.
            let number = *random.pick(&[0x4000, 0x4001, 0x4FFF, 0x5000, 0x7FFF, 0xFFFF_u16]);
            let len = random.below(1300);
            let mut bytes = number.to_be_bytes().to_vec();
            let claimed = [len as u16, random.next() as u16][random.below(2)];
            bytes.extend_from_slice(&claimed.to_be_bytes());
            bytes.extend(random.bytes(len));
            bytes
        }
        7 => {
            let len = random.below(1200);
            let payload = random.bytes(len);
            let indication = Message::new(stun::SEND | stun::INDICATION)
                .address(stun::XOR_PEER_ADDRESS, peer)
                .attr(stun::DATA, &payload);
            mutate(random, indication.into_bytes())
        }
        8 => {
            let honest = signed_nonsense(random, client);
            mutate(random, honest)
        }
        _ => {
            let honest = mis_authenticated(random, client);
            mutate(random, honest)
        }
    }
}
