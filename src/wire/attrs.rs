//! Reading attributes: a typed getter for each, the first occurrence wins, a wrong length is an
//! error rather than an absence.

use std::net::SocketAddr;
use std::ops::{Deref, Range};

use super::address::{self, PLAIN};
use super::error_code::ErrorCode;
use super::message::{TLV_HEADER, attribute_at, transaction_id};
use super::types::HEADER_LEN;
use super::{attr, padded};

/// An attribute is there, but its value cannot be one of its type: 400 for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Which types occur: a bit for each of the two ranges that all but a few types are in, so that
/// asking for an absent attribute costs no walk.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    required: u64,
    optional: u64,
}

impl Seen {
    pub(super) fn insert(&mut self, ty: u16) {
        match ty {
            0x0000..=0x003F => self.required |= 1 << ty,
            0x8000..=0x803F => self.optional |= 1 << (ty & 0x3F),
            _ => {}
        }
    }

    /// False only when the type does not occur.
    fn may_contain(self, ty: u16) -> bool {
        match ty {
            0x0000..=0x003F => self.required >> ty & 1 != 0,
            0x8000..=0x803F => self.optional >> (ty & 0x3F) & 1 != 0,
            _ => true,
        }
    }
}

/// The attributes of a message that may be looked at: those before any integrity attribute.
#[derive(Clone, Copy)]
pub struct Attrs<'a> {
    /// The whole message.
    bytes: &'a [u8],
    /// Where these attributes end in it.
    end: usize,
    seen: Seen,
}

/// Attributes that a message integrity covers and that was found right. Handlers of
/// authenticated requests take this type, so that they cannot be called with anything else.
#[derive(Clone, Copy)]
pub struct Verified<'a>(Attrs<'a>);

impl<'a> Verified<'a> {
    /// Only [`super::Message::verify`] calls it.
    pub(super) fn new(attrs: Attrs<'a>) -> Self {
        Self(attrs)
    }
}

impl<'a> Deref for Verified<'a> {
    type Target = Attrs<'a>;

    fn deref(&self) -> &Attrs<'a> {
        &self.0
    }
}

/// CHANGE-REQUEST (RFC 5780 section 7.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeRequest {
    /// Answer from the other IP address.
    pub ip: bool,
    /// Answer from the other port.
    pub port: bool,
}

/// ICMP (RFC 8656 section 18.13): why a datagram to a peer was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// ICMP or ICMPv6 type, 0 to 127.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code, 0 to 511.
    pub code: u16,
    /// The MTU of the next hop for "too big" messages, else 0.
    pub data: u32,
}

/// ADDRESS-ERROR-CODE (RFC 8656 section 18.12): why one family of a dual allocation is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressErrorCode {
    /// [`attr::FAMILY_IPV4`] or [`attr::FAMILY_IPV6`].
    pub family: u8,
    /// 440 or 508.
    pub code: ErrorCode,
}

impl<'a> Attrs<'a> {
    /// `end` is where an attribute starts or the message ends, in a message whose attributes
    /// were found to fit.
    pub(super) fn new(bytes: &'a [u8], end: usize, seen: Seen) -> Self {
        Self { bytes, end, seen }
    }

    /// All attributes, type and value, in order.
    pub fn raw(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        self.walk().map(|(ty, _, value)| (ty, value))
    }

    /// All attributes with the offset of their value in the message.
    fn walk(&self) -> impl Iterator<Item = (u16, usize, &'a [u8])> + use<'a> {
        let body = &self.bytes[..self.end];
        let mut at = HEADER_LEN;
        std::iter::from_fn(move || {
            let (ty, value) = attribute_at(body, at)?;
            let value_at = at + TLV_HEADER;
            at = value_at + padded(value.len());
            Some((ty, value_at, value))
        })
    }

    /// The value of the first attribute of a type (RFC 8489 section 14: later ones are ignored).
    pub fn get(&self, ty: u16) -> Option<&'a [u8]> {
        if !self.seen.may_contain(ty) {
            return None;
        }
        self.raw()
            .find(|&(found, _)| found == ty)
            .map(|(_, value)| value)
    }

    /// Whether an attribute of the type occurs.
    pub fn contains(&self, ty: u16) -> bool {
        self.get(ty).is_some()
    }

    /// The comprehension-required types that are not in `known`, each once (RFC 8489
    /// section 6.3.1), but no more than the first 32 of them: who sends that many is not a
    /// client, and the answer stays small.
    pub fn unknown_required<'k>(
        &self,
        known: &'k [u16],
    ) -> impl Iterator<Item = u16> + use<'a, 'k> {
        const MOST: usize = 32;
        let mut told = [0; MOST];
        let mut count = 0;
        let mut raw = self.raw();
        std::iter::from_fn(move || {
            if count == MOST {
                return None;
            }
            let (ty, _) = raw.find(|(ty, _)| {
                attr::is_comprehension_required(*ty)
                    && !known.contains(ty)
                    && !told[..count].contains(ty)
            })?;
            told[count] = ty;
            count += 1;
            Some(ty)
        })
    }

    /// A value that has exactly `N` bytes.
    fn fixed<const N: usize>(&self, ty: u16) -> Result<Option<[u8; N]>, Malformed> {
        match self.get(ty) {
            Some(value) => value.try_into().map(Some).map_err(|_| Malformed),
            None => Ok(None),
        }
    }

    fn u32(&self, ty: u16) -> Result<Option<u32>, Malformed> {
        Ok(self.fixed(ty)?.map(u32::from_be_bytes))
    }

    /// One meaningful byte and three that are reserved and ignored.
    fn u8_rffu(&self, ty: u16) -> Result<Option<u8>, Malformed> {
        Ok(self.fixed(ty)?.map(|[byte, _, _, _]| byte))
    }

    fn address(&self, ty: u16) -> Result<Option<SocketAddr>, Malformed> {
        self.get(ty)
            .map(|value| address::decode(value, &PLAIN).ok_or(Malformed))
            .transpose()
    }

    fn xor_address(&self, ty: u16) -> Result<Option<SocketAddr>, Malformed> {
        if !self.seen.may_contain(ty) {
            return Ok(None);
        }
        self.xor_addresses(ty).next().transpose()
    }

    fn xor_addresses(
        &self,
        ty: u16,
    ) -> impl Iterator<Item = Result<SocketAddr, Malformed>> + use<'a> {
        let mask = address::mask(transaction_id(self.bytes));
        self.raw()
            .filter(move |&(found, _)| found == ty)
            .map(move |(_, value)| address::decode(value, &mask).ok_or(Malformed))
    }
}

/// RFC 8656 section 18.
impl<'a> Attrs<'a> {
    /// LIFETIME in seconds.
    pub fn lifetime(&self) -> Result<Option<u32>, Malformed> {
        self.u32(attr::LIFETIME)
    }

    /// REQUESTED-TRANSPORT: an IP protocol number.
    pub fn requested_transport(&self) -> Result<Option<u8>, Malformed> {
        self.u8_rffu(attr::REQUESTED_TRANSPORT)
    }

    /// REQUESTED-ADDRESS-FAMILY: any number may come.
    pub fn requested_address_family(&self) -> Result<Option<u8>, Malformed> {
        self.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY)
    }

    /// ADDITIONAL-ADDRESS-FAMILY: any number may come; only IPv6 is right.
    pub fn additional_address_family(&self) -> Result<Option<u8>, Malformed> {
        self.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY)
    }

    /// EVEN-PORT: its R bit, "reserve the next port too". The other 7 bits are ignored.
    pub fn even_port(&self) -> Result<Option<bool>, Malformed> {
        Ok(self.fixed(attr::EVEN_PORT)?.map(|[byte]| byte & 0x80 != 0))
    }

    /// RESERVATION-TOKEN.
    pub fn reservation_token(&self) -> Result<Option<[u8; 8]>, Malformed> {
        self.fixed(attr::RESERVATION_TOKEN)
    }

    /// Whether DONT-FRAGMENT occurs.
    pub fn dont_fragment(&self) -> Result<bool, Malformed> {
        Ok(self.fixed::<0>(attr::DONT_FRAGMENT)?.is_some())
    }

    /// CHANNEL-NUMBER: any number may come; see [`super::CHANNELS`].
    pub fn channel_number(&self) -> Result<Option<u16>, Malformed> {
        Ok(self
            .fixed(attr::CHANNEL_NUMBER)?
            .map(|[high, low, _, _]| u16::from_be_bytes([high, low])))
    }

    /// The first XOR-PEER-ADDRESS.
    pub fn peer(&self) -> Result<Option<SocketAddr>, Malformed> {
        self.xor_address(attr::XOR_PEER_ADDRESS)
    }

    /// Every XOR-PEER-ADDRESS: CreatePermission may carry several (RFC 8656 section 10.1).
    pub fn peers(&self) -> impl Iterator<Item = Result<SocketAddr, Malformed>> + use<'a> {
        self.xor_addresses(attr::XOR_PEER_ADDRESS)
    }

    /// The value of DATA; may be empty.
    pub fn data(&self) -> Option<&'a [u8]> {
        self.get(attr::DATA)
    }

    /// Where the value of DATA is in [`super::Message::as_bytes`].
    pub fn data_range(&self) -> Option<Range<usize>> {
        if !self.seen.may_contain(attr::DATA) {
            return None;
        }
        self.walk()
            .find(|&(ty, _, _)| ty == attr::DATA)
            .map(|(_, at, value)| at..at + value.len())
    }

    /// The first XOR-RELAYED-ADDRESS.
    pub fn xor_relayed_address(&self) -> Result<Option<SocketAddr>, Malformed> {
        self.xor_address(attr::XOR_RELAYED_ADDRESS)
    }

    /// Every XOR-RELAYED-ADDRESS: two of them for a dual allocation (RFC 8656 section 7.3).
    pub fn xor_relayed_addresses(
        &self,
    ) -> impl Iterator<Item = Result<SocketAddr, Malformed>> + use<'a> {
        self.xor_addresses(attr::XOR_RELAYED_ADDRESS)
    }

    /// ADDRESS-ERROR-CODE.
    pub fn address_error_code(&self) -> Result<Option<AddressErrorCode>, Malformed> {
        let Some(value) = self.get(attr::ADDRESS_ERROR_CODE) else {
            return Ok(None);
        };
        let &[family, _, class, number] = value.first_chunk().ok_or(Malformed)?;
        let code = ErrorCode::from_wire(class, number).ok_or(Malformed)?;
        Ok(Some(AddressErrorCode { family, code }))
    }

    /// ICMP. Figure 11 of RFC 8656 draws 7 bits of type and 9 of code, and so it is read.
    pub fn icmp(&self) -> Result<Option<Icmp>, Malformed> {
        Ok(self
            .fixed(attr::ICMP)?
            .map(|[_, _, t, c, d0, d1, d2, d3]| Icmp {
                icmp_type: t >> 1,
                code: u16::from(t & 1) << 8 | u16::from(c),
                data: u32::from_be_bytes([d0, d1, d2, d3]),
            }))
    }
}

/// RFC 8489 section 14.
impl<'a> Attrs<'a> {
    /// MAPPED-ADDRESS.
    pub fn mapped_address(&self) -> Result<Option<SocketAddr>, Malformed> {
        self.address(attr::MAPPED_ADDRESS)
    }

    /// XOR-MAPPED-ADDRESS.
    pub fn xor_mapped_address(&self) -> Result<Option<SocketAddr>, Malformed> {
        self.xor_address(attr::XOR_MAPPED_ADDRESS)
    }

    /// ERROR-CODE.
    pub fn error_code(&self) -> Result<Option<ErrorCode>, Malformed> {
        let Some(value) = self.get(attr::ERROR_CODE) else {
            return Ok(None);
        };
        let &[_, _, class, number] = value.first_chunk().ok_or(Malformed)?;
        ErrorCode::from_wire(class, number)
            .map(Some)
            .ok_or(Malformed)
    }

    /// The reason phrase of ERROR-CODE, which should be UTF-8 but is for people only.
    pub fn error_reason(&self) -> Option<&'a [u8]> {
        self.get(attr::ERROR_CODE)?.get(4..)
    }

    /// UNKNOWN-ATTRIBUTES: the types that the server did not know.
    pub fn unknown_attributes(
        &self,
    ) -> Result<Option<impl Iterator<Item = u16> + use<'a>>, Malformed> {
        let Some(value) = self.get(attr::UNKNOWN_ATTRIBUTES) else {
            return Ok(None);
        };
        let (types, []) = value.as_chunks() else {
            return Err(Malformed);
        };
        Ok(Some(types.iter().map(|&ty| u16::from_be_bytes(ty))))
    }

    /// USERNAME.
    pub fn username(&self) -> Option<&'a [u8]> {
        self.get(attr::USERNAME)
    }

    /// REALM.
    pub fn realm(&self) -> Option<&'a [u8]> {
        self.get(attr::REALM)
    }

    /// NONCE.
    pub fn nonce(&self) -> Option<&'a [u8]> {
        self.get(attr::NONCE)
    }

    /// SOFTWARE, which should be UTF-8 but is for people only.
    pub fn software(&self) -> Option<&'a [u8]> {
        self.get(attr::SOFTWARE)
    }

    /// PASSWORD-ALGORITHMS, as sent: a client echoes it byte for byte.
    pub fn password_algorithms(&self) -> Option<&'a [u8]> {
        self.get(attr::PASSWORD_ALGORITHMS)
    }

    /// ALTERNATE-SERVER.
    pub fn alternate_server(&self) -> Result<Option<SocketAddr>, Malformed> {
        self.address(attr::ALTERNATE_SERVER)
    }

    /// ALTERNATE-DOMAIN.
    pub fn alternate_domain(&self) -> Option<&'a [u8]> {
        self.get(attr::ALTERNATE_DOMAIN)
    }
}

/// RFC 5780 section 7, RFC 6062 section 6.2, RFC 7635 section 6, RFC 8016 section 3.4.
impl<'a> Attrs<'a> {
    /// CHANGE-REQUEST.
    pub fn change_request(&self) -> Result<Option<ChangeRequest>, Malformed> {
        Ok(self
            .fixed(attr::CHANGE_REQUEST)?
            .map(|[_, _, _, flags]| ChangeRequest {
                ip: flags & 0x04 != 0,
                port: flags & 0x02 != 0,
            }))
    }

    /// RESPONSE-PORT. RFC 5780 section 7.5 can be read as 2 bytes or as 4 of which the last 2
    /// are padding, and both are sent.
    pub fn response_port(&self) -> Result<Option<u16>, Malformed> {
        match self.get(attr::RESPONSE_PORT) {
            Some(&[high, low] | &[high, low, _, _]) => Ok(Some(u16::from_be_bytes([high, low]))),
            Some(_) => Err(Malformed),
            None => Ok(None),
        }
    }

    /// PADDING: only its length matters.
    pub fn padding(&self) -> Option<&'a [u8]> {
        self.get(attr::PADDING)
    }

    /// RESPONSE-ORIGIN.
    pub fn response_origin(&self) -> Result<Option<SocketAddr>, Malformed> {
        self.address(attr::RESPONSE_ORIGIN)
    }

    /// OTHER-ADDRESS.
    pub fn other_address(&self) -> Result<Option<SocketAddr>, Malformed> {
        self.address(attr::OTHER_ADDRESS)
    }

    /// CONNECTION-ID.
    pub fn connection_id(&self) -> Result<Option<u32>, Malformed> {
        self.u32(attr::CONNECTION_ID)
    }

    /// MOBILITY-TICKET; empty when it asks for one.
    pub fn mobility_ticket(&self) -> Option<&'a [u8]> {
        self.get(attr::MOBILITY_TICKET)
    }

    /// ACCESS-TOKEN.
    pub fn access_token(&self) -> Option<&'a [u8]> {
        self.get(attr::ACCESS_TOKEN)
    }

    /// THIRD-PARTY-AUTHORIZATION: the name of the authorization server.
    pub fn third_party_authorization(&self) -> Option<&'a [u8]> {
        self.get(attr::THIRD_PARTY_AUTHORIZATION)
    }
}
