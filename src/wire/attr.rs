//! Attribute types: every number a STUN or TURN server can meet, from the IANA registry.
//!
//! Types below 0x8000 are comprehension-required, the others may be skipped (RFC 8489
//! section 14).

/// Whether a receiver that does not know the type must refuse the message
/// (RFC 8489 section 14).
pub const fn is_comprehension_required(ty: u16) -> bool {
    ty < 0x8000
}

/// Value of address family fields for IPv4 (RFC 8489 section 14.1).
pub const FAMILY_IPV4: u8 = 0x01;
/// Value of address family fields for IPv6 (RFC 8489 section 14.1).
pub const FAMILY_IPV6: u8 = 0x02;
/// Value of REQUESTED-TRANSPORT for UDP: the IP protocol number (RFC 8656 section 18.8).
pub const TRANSPORT_UDP: u8 = 17;
/// Value of REQUESTED-TRANSPORT for TCP (RFC 6062 section 4.1).
pub const TRANSPORT_TCP: u8 = 6;

macro_rules! attributes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal;)*) => {
        $($(#[$doc])* pub const $name: u16 = $number;)*

        /// The name of a type as the RFCs write it; `None` for one this crate does not know.
        pub const fn name(ty: u16) -> Option<&'static str> {
            match ty {
                $($number => Some($text),)*
                _ => None,
            }
        }
    };
}

attributes! {
    /// RFC 8489 section 14.1.
    MAPPED_ADDRESS = 0x0001 "MAPPED-ADDRESS";
    /// Reserved: RFC 3489; meant "send the response there", an open reflector.
    RESPONSE_ADDRESS = 0x0002 "RESPONSE-ADDRESS";
    /// RFC 5780 section 7.2.
    CHANGE_REQUEST = 0x0003 "CHANGE-REQUEST";
    /// Reserved: RFC 3489.
    SOURCE_ADDRESS = 0x0004 "SOURCE-ADDRESS";
    /// Reserved: RFC 3489.
    CHANGED_ADDRESS = 0x0005 "CHANGED-ADDRESS";
    /// RFC 8489 section 14.3.
    USERNAME = 0x0006 "USERNAME";
    /// Reserved: RFC 3489.
    PASSWORD = 0x0007 "PASSWORD";
    /// RFC 8489 section 14.5.
    MESSAGE_INTEGRITY = 0x0008 "MESSAGE-INTEGRITY";
    /// RFC 8489 section 14.8.
    ERROR_CODE = 0x0009 "ERROR-CODE";
    /// RFC 8489 section 14.13.
    UNKNOWN_ATTRIBUTES = 0x000A "UNKNOWN-ATTRIBUTES";
    /// Reserved: RFC 3489.
    REFLECTED_FROM = 0x000B "REFLECTED-FROM";
    /// RFC 8656 section 18.1.
    CHANNEL_NUMBER = 0x000C "CHANNEL-NUMBER";
    /// RFC 8656 section 18.2.
    LIFETIME = 0x000D "LIFETIME";
    /// Reserved: an early TURN draft.
    BANDWIDTH = 0x0010 "BANDWIDTH";
    /// RFC 8656 section 18.3.
    XOR_PEER_ADDRESS = 0x0012 "XOR-PEER-ADDRESS";
    /// RFC 8656 section 18.4.
    DATA = 0x0013 "DATA";
    /// RFC 8489 section 14.9.
    REALM = 0x0014 "REALM";
    /// RFC 8489 section 14.10.
    NONCE = 0x0015 "NONCE";
    /// RFC 8656 section 18.5.
    XOR_RELAYED_ADDRESS = 0x0016 "XOR-RELAYED-ADDRESS";
    /// RFC 8656 section 18.6.
    REQUESTED_ADDRESS_FAMILY = 0x0017 "REQUESTED-ADDRESS-FAMILY";
    /// RFC 8656 section 18.7.
    EVEN_PORT = 0x0018 "EVEN-PORT";
    /// RFC 8656 section 18.8.
    REQUESTED_TRANSPORT = 0x0019 "REQUESTED-TRANSPORT";
    /// RFC 8656 section 18.9.
    DONT_FRAGMENT = 0x001A "DONT-FRAGMENT";
    /// RFC 7635 section 6.2.
    ACCESS_TOKEN = 0x001B "ACCESS-TOKEN";
    /// RFC 8489 section 14.6.
    MESSAGE_INTEGRITY_SHA256 = 0x001C "MESSAGE-INTEGRITY-SHA256";
    /// RFC 8489 section 14.12.
    PASSWORD_ALGORITHM = 0x001D "PASSWORD-ALGORITHM";
    /// RFC 8489 section 14.4.
    USERHASH = 0x001E "USERHASH";
    /// RFC 8489 section 14.2.
    XOR_MAPPED_ADDRESS = 0x0020 "XOR-MAPPED-ADDRESS";
    /// Reserved: an early TURN draft.
    TIMER_VAL = 0x0021 "TIMER-VAL";
    /// RFC 8656 section 18.10.
    RESERVATION_TOKEN = 0x0022 "RESERVATION-TOKEN";
    /// RFC 8445 section 16.1.
    PRIORITY = 0x0024 "PRIORITY";
    /// RFC 8445 section 16.1.
    USE_CANDIDATE = 0x0025 "USE-CANDIDATE";
    /// RFC 5780 section 7.6.
    PADDING = 0x0026 "PADDING";
    /// RFC 5780 section 7.5.
    RESPONSE_PORT = 0x0027 "RESPONSE-PORT";
    /// RFC 6062 section 6.2.1.
    CONNECTION_ID = 0x002A "CONNECTION-ID";
    /// RFC 8656 section 18.11.
    ADDITIONAL_ADDRESS_FAMILY = 0x8000 "ADDITIONAL-ADDRESS-FAMILY";
    /// RFC 8656 section 18.12.
    ADDRESS_ERROR_CODE = 0x8001 "ADDRESS-ERROR-CODE";
    /// RFC 8489 section 14.11.
    PASSWORD_ALGORITHMS = 0x8002 "PASSWORD-ALGORITHMS";
    /// RFC 8489 section 14.16.
    ALTERNATE_DOMAIN = 0x8003 "ALTERNATE-DOMAIN";
    /// RFC 8656 section 18.13.
    ICMP = 0x8004 "ICMP";
    /// RFC 8489 section 14.14.
    SOFTWARE = 0x8022 "SOFTWARE";
    /// RFC 8489 section 14.15.
    ALTERNATE_SERVER = 0x8023 "ALTERNATE-SERVER";
    /// RFC 7982 section 3.1.
    TRANSACTION_TRANSMIT_COUNTER = 0x8025 "TRANSACTION-TRANSMIT-COUNTER";
    /// RFC 5780 section 7.1 (reserved there for a cache timeout).
    CACHE_TIMEOUT = 0x8027 "CACHE-TIMEOUT";
    /// RFC 8489 section 14.7.
    FINGERPRINT = 0x8028 "FINGERPRINT";
    /// RFC 8445 section 16.1.
    ICE_CONTROLLED = 0x8029 "ICE-CONTROLLED";
    /// RFC 8445 section 16.1.
    ICE_CONTROLLING = 0x802A "ICE-CONTROLLING";
    /// RFC 5780 section 7.3.
    RESPONSE_ORIGIN = 0x802B "RESPONSE-ORIGIN";
    /// RFC 5780 section 7.4.
    OTHER_ADDRESS = 0x802C "OTHER-ADDRESS";
    /// RFC 6679 section 7.2.2.
    ECN_CHECK = 0x802D "ECN-CHECK";
    /// RFC 7635 section 6.1.
    THIRD_PARTY_AUTHORIZATION = 0x802E "THIRD-PARTY-AUTHORIZATION";
    /// RFC 8016 section 3.4.
    MOBILITY_TICKET = 0x8030 "MOBILITY-TICKET";
    /// Sent by browsers in ICE checks; registered for Google.
    NETWORK_COST = 0xC057 "NETWORK-COST";
}
