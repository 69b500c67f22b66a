//! Transport addresses in attribute values, plain (RFC 8489 section 14.1) and xored
//! (section 14.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attr::{FAMILY_IPV4, FAMILY_IPV6};
use super::types::{MAGIC_COOKIE, TransactionId};

/// The longest value: family, port and an IPv6 address.
pub(super) const MAX_LEN: usize = 20;

/// What an address is xored with: the cookie, then the transaction id. All zero for a plain one.
pub(super) type Mask = [u8; 16];

/// The mask of plain addresses.
pub(super) const PLAIN: Mask = [0; 16];

/// The mask of xored addresses in a message with this transaction id. IPv4 uses only its first
/// 4 bytes and ports its first 2 (RFC 8489 section 14.2).
pub(super) fn mask(id: TransactionId) -> Mask {
    (u128::from(MAGIC_COOKIE) << 96 | id_bits(id)).to_be_bytes()
}

fn id_bits(id: TransactionId) -> u128 {
    let mut wide = [0; 16];
    wide[4..].copy_from_slice(&id.0);
    u128::from_be_bytes(wide)
}

/// Writes the value of an address attribute and returns its length, 8 or 20.
pub(super) fn encode(out: &mut [u8; MAX_LEN], address: SocketAddr, mask: &Mask) -> usize {
    let port = address.port() ^ u16::from_be_bytes([mask[0], mask[1]]);
    out[0] = 0;
    out[2..4].copy_from_slice(&port.to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            out[1] = FAMILY_IPV4;
            let key = u32::from_be_bytes([mask[0], mask[1], mask[2], mask[3]]);
            out[4..8].copy_from_slice(&(ip.to_bits() ^ key).to_be_bytes());
            8
        }
        IpAddr::V6(ip) => {
            out[1] = FAMILY_IPV6;
            let key = u128::from_be_bytes(*mask);
            out[4..20].copy_from_slice(&(ip.to_bits() ^ key).to_be_bytes());
            20
        }
    }
}

/// Reads the value of an address attribute; `None` when family and length do not agree. The
/// first byte is ignored (RFC 8489 section 14.1).
pub(super) fn decode(value: &[u8], mask: &Mask) -> Option<SocketAddr> {
    let (&[_, family, port_high, port_low], ip) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([port_high ^ mask[0], port_low ^ mask[1]]);
    let ip = match family {
        FAMILY_IPV4 => {
            let key = u32::from_be_bytes([mask[0], mask[1], mask[2], mask[3]]);
            let bits = u32::from_be_bytes(ip.try_into().ok()?);
            IpAddr::V4(Ipv4Addr::from_bits(bits ^ key))
        }
        FAMILY_IPV6 => {
            let bits = u128::from_be_bytes(ip.try_into().ok()?);
            IpAddr::V6(Ipv6Addr::from_bits(bits ^ u128::from_be_bytes(*mask)))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
