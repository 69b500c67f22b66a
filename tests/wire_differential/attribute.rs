//! Every kind of attribute that both codecs know: how each writes it and reads it back.

use std::net::SocketAddr;

use stun_rs::attributes::discovery as d;
use stun_rs::attributes::ice;
use stun_rs::attributes::mobility as m;
use stun_rs::attributes::stun as s;
use stun_rs::attributes::turn as t;
use stun_rs::{Algorithm, AlgorithmId, StunMessage, StunMessageBuilder};
use turnserver::wire::{
    AddressErrorCode, Attrs, Builder, ChangeRequest, ErrorCode, Icmp, Malformed, PasswordAlgorithm,
    attr, userhash,
};

use super::REALM;

/// One attribute with its value; every kind that both codecs know.
#[derive(Clone, Debug)]
pub(crate) enum Attribute {
    Username(String),
    Realm,
    Nonce(String),
    Software(String),
    UserHash(String),
    PasswordAlgorithm(PasswordAlgorithm),
    PasswordAlgorithms(Vec<PasswordAlgorithm>),
    ErrorCode(ErrorCode),
    UnknownAttributes(Vec<u16>),
    MappedAddress(SocketAddr),
    XorMappedAddress(SocketAddr),
    AlternateServer(SocketAddr),
    Priority(u32),
    UseCandidate,
    IceControlled(u64),
    IceControlling(u64),
    ChannelNumber(u16),
    Lifetime(u32),
    XorPeerAddress(SocketAddr),
    XorRelayedAddress(SocketAddr),
    Data(Vec<u8>),
    RequestedAddressFamily(bool),
    AdditionalAddressFamily(bool),
    EvenPort(bool),
    DontFragment,
    RequestedTransport,
    ReservationToken([u8; 8]),
    AddressErrorCode(bool, ErrorCode),
    Icmp(Icmp),
    MobilityTicket(Vec<u8>),
    ChangeRequest(ChangeRequest),
    OtherAddress(SocketAddr),
    ResponseOrigin(SocketAddr),
    ResponsePort(u16),
}

use Attribute as A;

fn family(v6: bool) -> u8 {
    if v6 {
        attr::FAMILY_IPV6
    } else {
        attr::FAMILY_IPV4
    }
}

fn their_family(v6: bool) -> stun_rs::AddressFamily {
    if v6 {
        stun_rs::AddressFamily::IPv6
    } else {
        stun_rs::AddressFamily::IPv4
    }
}

pub(crate) fn their_algorithm(algorithm: PasswordAlgorithm) -> Algorithm {
    Algorithm::from(match algorithm {
        PasswordAlgorithm::Md5 => AlgorithmId::MD5,
        PasswordAlgorithm::Sha256 => AlgorithmId::SHA256,
    })
}

fn their_code(code: ErrorCode) -> stun_rs::ErrorCode {
    stun_rs::ErrorCode::new(code.value(), code.reason()).expect("300 to 699")
}

pub(crate) fn build_ours(builder: &mut Builder<'_>, attribute: &Attribute) {
    match attribute {
        A::Username(name) => builder.attribute(attr::USERNAME, name.as_bytes()),
        A::Realm => builder.attribute(attr::REALM, REALM.as_bytes()),
        A::Nonce(nonce) => builder.attribute(attr::NONCE, nonce.as_bytes()),
        A::Software(text) => builder.attribute(attr::SOFTWARE, text.as_bytes()),
        A::UserHash(name) => {
            builder.attribute(attr::USERHASH, &userhash(name.as_bytes(), REALM.as_bytes()))
        }
        A::PasswordAlgorithm(algorithm) => builder.password_algorithm(*algorithm),
        A::PasswordAlgorithms(offered) => builder.password_algorithms(offered),
        A::ErrorCode(code) => builder.error_code(*code, true),
        A::UnknownAttributes(types) => builder.unknown_attributes(types.iter().copied()),
        A::MappedAddress(address) => builder.address(attr::MAPPED_ADDRESS, *address),
        A::XorMappedAddress(address) => builder.xor_address(attr::XOR_MAPPED_ADDRESS, *address),
        A::AlternateServer(address) => builder.address(attr::ALTERNATE_SERVER, *address),
        A::Priority(value) => builder.u32(attr::PRIORITY, *value),
        A::UseCandidate => builder.empty(attr::USE_CANDIDATE),
        A::IceControlled(value) => builder.attribute(attr::ICE_CONTROLLED, &value.to_be_bytes()),
        A::IceControlling(value) => builder.attribute(attr::ICE_CONTROLLING, &value.to_be_bytes()),
        A::ChannelNumber(number) => builder.channel_number(*number),
        A::Lifetime(seconds) => builder.u32(attr::LIFETIME, *seconds),
        A::XorPeerAddress(address) => builder.xor_address(attr::XOR_PEER_ADDRESS, *address),
        A::XorRelayedAddress(address) => builder.xor_address(attr::XOR_RELAYED_ADDRESS, *address),
        A::Data(data) => builder.attribute(attr::DATA, data),
        A::RequestedAddressFamily(v6) => {
            builder.u8_rffu(attr::REQUESTED_ADDRESS_FAMILY, family(*v6))
        }
        A::AdditionalAddressFamily(v6) => {
            builder.u8_rffu(attr::ADDITIONAL_ADDRESS_FAMILY, family(*v6))
        }
        A::EvenPort(reserve) => builder.even_port(*reserve),
        A::DontFragment => builder.empty(attr::DONT_FRAGMENT),
        A::RequestedTransport => builder.u8_rffu(attr::REQUESTED_TRANSPORT, attr::TRANSPORT_UDP),
        A::ReservationToken(token) => builder.attribute(attr::RESERVATION_TOKEN, token),
        A::AddressErrorCode(v6, code) => builder.address_error_code(family(*v6), *code),
        A::Icmp(icmp) => builder.icmp(*icmp),
        A::MobilityTicket(ticket) => builder.attribute(attr::MOBILITY_TICKET, ticket),
        A::ChangeRequest(change) => builder.change_request(*change),
        A::OtherAddress(address) => builder.address(attr::OTHER_ADDRESS, *address),
        A::ResponseOrigin(address) => builder.address(attr::RESPONSE_ORIGIN, *address),
        A::ResponsePort(port) => builder.response_port(*port),
    };
}

pub(crate) fn build_theirs(
    builder: StunMessageBuilder,
    attribute: &Attribute,
) -> StunMessageBuilder {
    const VALID: &str = "a value that stun-rs takes";
    match attribute {
        A::Username(name) => builder.with_attribute(s::UserName::new(name).expect(VALID)),
        A::Realm => builder.with_attribute(s::Realm::new(REALM).expect(VALID)),
        A::Nonce(nonce) => builder.with_attribute(s::Nonce::new(nonce).expect(VALID)),
        A::Software(text) => builder.with_attribute(s::Software::new(text).expect(VALID)),
        A::UserHash(name) => builder.with_attribute(s::UserHash::new(name, REALM).expect(VALID)),
        A::PasswordAlgorithm(algorithm) => {
            builder.with_attribute(s::PasswordAlgorithm::new(their_algorithm(*algorithm)))
        }
        A::PasswordAlgorithms(offered) => builder.with_attribute(s::PasswordAlgorithms::from(
            offered
                .iter()
                .map(|algorithm| s::PasswordAlgorithm::new(their_algorithm(*algorithm)))
                .collect::<Vec<_>>(),
        )),
        A::ErrorCode(code) => builder.with_attribute(s::ErrorCode::new(their_code(*code))),
        A::UnknownAttributes(types) => {
            builder.with_attribute(s::UnknownAttributes::from(&types[..]))
        }
        A::MappedAddress(address) => builder.with_attribute(s::MappedAddress::from(*address)),
        A::XorMappedAddress(address) => builder.with_attribute(s::XorMappedAddress::from(*address)),
        A::AlternateServer(address) => builder.with_attribute(s::AlternateServer::from(*address)),
        A::Priority(value) => builder.with_attribute(ice::Priority::from(*value)),
        A::UseCandidate => builder.with_attribute(ice::UseCandidate::default()),
        A::IceControlled(value) => builder.with_attribute(ice::IceControlled::from(*value)),
        A::IceControlling(value) => builder.with_attribute(ice::IceControlling::from(*value)),
        A::ChannelNumber(number) => builder.with_attribute(t::ChannelNumber::new(*number)),
        A::Lifetime(seconds) => builder.with_attribute(t::LifeTime::from(*seconds)),
        A::XorPeerAddress(address) => builder.with_attribute(t::XorPeerAddress::from(*address)),
        A::XorRelayedAddress(address) => {
            builder.with_attribute(t::XorRelayedAddress::from(*address))
        }
        A::Data(data) => builder.with_attribute(t::Data::new(data)),
        A::RequestedAddressFamily(v6) => {
            builder.with_attribute(t::RequestedAddressFamily::new(their_family(*v6)))
        }
        A::AdditionalAddressFamily(v6) => {
            builder.with_attribute(t::AdditionalAddressFamily::new(their_family(*v6)))
        }
        A::EvenPort(reserve) => builder.with_attribute(t::EvenPort::new(*reserve)),
        A::DontFragment => builder.with_attribute(t::DontFragment::default()),
        A::RequestedTransport => builder.with_attribute(t::RequestedTrasport::default()),
        A::ReservationToken(token) => builder.with_attribute(t::ReservationToken::from(*token)),
        A::AddressErrorCode(v6, code) => builder.with_attribute(t::AddressErrorCode::new(
            their_family(*v6),
            their_code(*code),
        )),
        A::Icmp(icmp) => builder.with_attribute(t::Icmp::new(
            t::IcmpType::new(icmp.icmp_type).expect(VALID),
            t::IcmpCode::new(icmp.code).expect(VALID),
            icmp.data.to_be_bytes(),
        )),
        A::MobilityTicket(ticket) => builder.with_attribute(m::MobilityTicket::new(ticket)),
        A::ChangeRequest(change) => {
            use d::ChangeRequestFlags::{ChangeIp, ChangePort};
            builder.with_attribute(d::ChangeRequest::new(match (change.ip, change.port) {
                (true, true) => Some(ChangeIp | ChangePort),
                (true, false) => Some(ChangeIp.into()),
                (false, true) => Some(ChangePort.into()),
                (false, false) => None,
            }))
        }
        A::OtherAddress(address) => builder.with_attribute(d::OtherAddress::from(*address)),
        A::ResponseOrigin(address) => builder.with_attribute(d::ResponseOrigin::from(*address)),
        A::ResponsePort(port) => builder.with_attribute(d::ResponsePort::from(*port)),
    }
}

/// Reads the attribute back by our getter.
pub(crate) fn check_ours(attrs: &Attrs<'_>, attribute: &Attribute) {
    fn is<T: PartialEq + std::fmt::Debug>(got: Result<Option<T>, Malformed>, want: T) {
        assert_eq!(got, Ok(Some(want)));
    }
    match attribute {
        A::Username(name) => assert_eq!(attrs.username(), Some(name.as_bytes())),
        A::Realm => assert_eq!(attrs.realm(), Some(REALM.as_bytes())),
        A::Nonce(nonce) => assert_eq!(attrs.nonce(), Some(nonce.as_bytes())),
        A::Software(text) => assert_eq!(attrs.software(), Some(text.as_bytes())),
        A::UserHash(name) => assert_eq!(
            attrs.get(attr::USERHASH),
            Some(&userhash(name.as_bytes(), REALM.as_bytes())[..])
        ),
        A::PasswordAlgorithm(algorithm) => {
            assert_eq!(
                attrs.get(attr::PASSWORD_ALGORITHM),
                Some(&[0, *algorithm as u8, 0, 0][..])
            );
        }
        A::PasswordAlgorithms(offered) => {
            let want: Vec<u8> = offered.iter().flat_map(|a| [0, *a as u8, 0, 0]).collect();
            assert_eq!(attrs.password_algorithms(), Some(&want[..]));
        }
        A::ErrorCode(code) => {
            is(attrs.error_code(), *code);
            assert_eq!(attrs.error_reason(), Some(code.reason().as_bytes()));
        }
        A::UnknownAttributes(types) => {
            let got = attrs
                .unknown_attributes()
                .expect("well-formed")
                .expect("there");
            assert!(got.eq(types.iter().copied()));
        }
        A::MappedAddress(address) => is(attrs.mapped_address(), *address),
        A::XorMappedAddress(address) => is(attrs.xor_mapped_address(), *address),
        A::AlternateServer(address) => is(attrs.alternate_server(), *address),
        A::Priority(value) => {
            assert_eq!(attrs.get(attr::PRIORITY), Some(&value.to_be_bytes()[..]));
        }
        A::UseCandidate => assert!(attrs.contains(attr::USE_CANDIDATE)),
        A::IceControlled(value) => {
            assert_eq!(
                attrs.get(attr::ICE_CONTROLLED),
                Some(&value.to_be_bytes()[..])
            );
        }
        A::IceControlling(value) => {
            assert_eq!(
                attrs.get(attr::ICE_CONTROLLING),
                Some(&value.to_be_bytes()[..])
            );
        }
        A::ChannelNumber(number) => is(attrs.channel_number(), *number),
        A::Lifetime(seconds) => is(attrs.lifetime(), *seconds),
        A::XorPeerAddress(address) => {
            is(attrs.peer(), *address);
            assert!(attrs.peers().eq([Ok(*address)]));
        }
        A::XorRelayedAddress(address) => {
            is(attrs.xor_relayed_address(), *address);
            assert!(attrs.xor_relayed_addresses().eq([Ok(*address)]));
        }
        A::Data(data) => assert_eq!(attrs.data(), Some(&data[..])),
        A::RequestedAddressFamily(v6) => is(attrs.requested_address_family(), family(*v6)),
        A::AdditionalAddressFamily(v6) => is(attrs.additional_address_family(), family(*v6)),
        A::EvenPort(reserve) => is(attrs.even_port(), *reserve),
        A::DontFragment => assert_eq!(attrs.dont_fragment(), Ok(true)),
        A::RequestedTransport => is(attrs.requested_transport(), 17),
        A::ReservationToken(token) => is(attrs.reservation_token(), *token),
        A::AddressErrorCode(v6, code) => {
            is(
                attrs.address_error_code(),
                AddressErrorCode {
                    family: family(*v6),
                    code: *code,
                },
            );
        }
        A::Icmp(icmp) => is(attrs.icmp(), *icmp),
        A::MobilityTicket(ticket) => assert_eq!(attrs.mobility_ticket(), Some(&ticket[..])),
        A::ChangeRequest(change) => is(attrs.change_request(), *change),
        A::OtherAddress(address) => is(attrs.other_address(), *address),
        A::ResponseOrigin(address) => is(attrs.response_origin(), *address),
        A::ResponsePort(port) => is(attrs.response_port(), *port),
    }
}

/// Reads the attribute back by theirs.
pub(crate) fn check_theirs(message: &StunMessage, attribute: &Attribute) {
    macro_rules! get {
        ($class:ty, $expect:ident) => {
            message
                .get::<$class>()
                .expect("attribute is there")
                .$expect()
        };
    }
    match attribute {
        A::Username(name) => assert_eq!(get!(s::UserName, expect_user_name), name.as_str()),
        A::Realm => assert_eq!(get!(s::Realm, expect_realm), REALM),
        A::Nonce(nonce) => assert_eq!(get!(s::Nonce, expect_nonce), nonce.as_str()),
        A::Software(text) => assert_eq!(get!(s::Software, expect_software), text.as_str()),
        A::UserHash(name) => assert_eq!(
            get!(s::UserHash, expect_user_hash).hash(),
            userhash(name.as_bytes(), REALM.as_bytes())
        ),
        A::PasswordAlgorithm(algorithm) => assert_eq!(
            get!(s::PasswordAlgorithm, expect_password_algorithm).algorithm(),
            their_algorithm(*algorithm).algorithm()
        ),
        A::PasswordAlgorithms(offered) => {
            let got = get!(s::PasswordAlgorithms, expect_password_algorithms);
            assert!(
                got.iter()
                    .map(s::PasswordAlgorithm::algorithm)
                    .eq(offered.iter().map(|a| their_algorithm(*a).algorithm()))
            );
        }
        A::ErrorCode(code) => {
            assert_eq!(
                get!(s::ErrorCode, expect_error_code).error_code(),
                &their_code(*code)
            );
        }
        A::UnknownAttributes(types) => {
            let got = get!(s::UnknownAttributes, expect_unknown_attributes);
            assert_eq!(got.attributes(), &types[..]);
        }
        A::MappedAddress(address) => {
            assert_eq!(
                get!(s::MappedAddress, expect_mapped_address).socket_address(),
                address
            );
        }
        A::XorMappedAddress(address) => assert_eq!(
            get!(s::XorMappedAddress, expect_xor_mapped_address).socket_address(),
            address
        ),
        A::AlternateServer(address) => {
            assert_eq!(
                get!(s::AlternateServer, expect_alternate_server).socket_address(),
                address
            );
        }
        A::Priority(value) => assert_eq!(get!(ice::Priority, expect_priority), value),
        A::UseCandidate => assert!(message.get::<ice::UseCandidate>().is_some()),
        A::IceControlled(value) => {
            assert_eq!(get!(ice::IceControlled, expect_ice_controlled), value);
        }
        A::IceControlling(value) => {
            assert_eq!(get!(ice::IceControlling, expect_ice_controlling), value);
        }
        A::ChannelNumber(number) => {
            assert_eq!(
                get!(t::ChannelNumber, expect_channel_number).number(),
                *number
            );
        }
        A::Lifetime(seconds) => assert_eq!(get!(t::LifeTime, expect_life_time), seconds),
        A::XorPeerAddress(address) => {
            assert_eq!(
                get!(t::XorPeerAddress, expect_xor_peer_address).socket_address(),
                address
            );
        }
        A::XorRelayedAddress(address) => assert_eq!(
            get!(t::XorRelayedAddress, expect_xor_relayed_address).socket_address(),
            address
        ),
        A::Data(data) => assert_eq!(get!(t::Data, expect_data).as_bytes(), &data[..]),
        A::RequestedAddressFamily(v6) => assert_eq!(
            get!(t::RequestedAddressFamily, expect_requested_address_family).family(),
            their_family(*v6)
        ),
        A::AdditionalAddressFamily(v6) => assert_eq!(
            get!(t::AdditionalAddressFamily, expect_additional_address_family).family(),
            their_family(*v6)
        ),
        A::EvenPort(reserve) => {
            assert_eq!(get!(t::EvenPort, expect_even_port).reserve(), *reserve);
        }
        A::DontFragment => assert!(message.get::<t::DontFragment>().is_some()),
        A::RequestedTransport => assert_eq!(
            get!(t::RequestedTrasport, expect_requested_trasport).protocol(),
            stun_rs::protocols::UDP
        ),
        A::ReservationToken(token) => {
            assert_eq!(
                get!(t::ReservationToken, expect_reservation_token).token(),
                token
            );
        }
        A::AddressErrorCode(v6, code) => {
            let got = get!(t::AddressErrorCode, expect_address_error_code);
            assert_eq!(got.family(), their_family(*v6));
            assert_eq!(got.error_code(), &their_code(*code));
        }
        A::Icmp(icmp) => {
            let got = get!(t::Icmp, expect_icmp);
            assert_eq!(got.icmp_type(), icmp.icmp_type);
            assert_eq!(got.icmp_code(), icmp.code);
            assert_eq!(got.error_data(), icmp.data.to_be_bytes());
        }
        A::MobilityTicket(ticket) => {
            assert_eq!(
                get!(m::MobilityTicket, expect_mobility_ticket).value(),
                &ticket[..]
            );
        }
        A::ChangeRequest(change) => {
            use d::ChangeRequestFlags::{ChangeIp, ChangePort};
            let flags = get!(d::ChangeRequest, expect_change_request).flags();
            assert_eq!(flags.contains(ChangeIp), change.ip);
            assert_eq!(flags.contains(ChangePort), change.port);
        }
        A::OtherAddress(address) => {
            assert_eq!(
                get!(d::OtherAddress, expect_other_address).socket_address(),
                address
            );
        }
        A::ResponseOrigin(address) => {
            assert_eq!(
                get!(d::ResponseOrigin, expect_response_origin).socket_address(),
                address
            );
        }
        A::ResponsePort(port) => assert_eq!(get!(d::ResponsePort, expect_response_port), port),
    }
}
