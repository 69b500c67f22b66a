//! What keys mean, and what holds where they are left out.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use turnserver::config::{self, DefaultFamily, Level, Machine, Overrides, Protocol, Settings};

use super::{FIXED, MACHINE, load, pairs, with};

#[test]
fn the_fixed_names() {
    let settings = load(FIXED);
    assert_eq!(settings.realm, "example.org");
    let listeners: Vec<(Protocol, Vec<String>)> = settings
        .listeners
        .iter()
        .map(|l| {
            (
                l.protocol,
                l.addresses.iter().map(ToString::to_string).collect(),
            )
        })
        .collect();
    let both = || vec!["127.0.0.1:3478".to_owned(), "[::1]:3478".to_owned()];
    assert_eq!(
        listeners,
        [
            (Protocol::Udp, both()),
            (Protocol::Tcp, both()),
            (Protocol::Tls, vec!["127.0.0.1:5349".to_owned()]),
        ]
    );
    let certificates = settings.certificates();
    assert_eq!(certificates.len(), 1);
    assert_eq!(certificates[0].chain, PathBuf::from("/etc/turn/cert.pem"));
    assert_eq!(certificates[0].key, PathBuf::from("/etc/turn/key.pem"));
    assert_eq!(settings.relay.ports, 40_000..=43_999);
    assert_eq!(settings.capacity(), 8000);
    assert_eq!(settings.auth.secrets[0].expose(), "rest-secret");
    let users: Vec<(&str, &str)> = settings
        .auth
        .users
        .iter()
        .map(|user| (user.name.as_str(), user.password.expose()))
        .collect();
    assert_eq!(users, [("user-1", "pass-1"), ("user-2", "pass-2")]);
    assert_eq!(settings.peers.allow.len(), 2);
    assert!(settings.peers.deny.is_empty());
    assert_eq!(settings.limits.allocations_per_user, 0);
    assert_eq!(settings.limits.unauthenticated_replies, 0);
    assert_eq!(settings.log.level, Level::Info);
}

#[test]
fn realm_and_credentials_are_enough() {
    let settings = with("");
    let wildcards = [
        "0.0.0.0:3478".parse().unwrap(),
        "[::]:3478".parse().unwrap(),
    ];
    let listeners: Vec<_> = settings
        .listeners
        .iter()
        .map(|l| (l.protocol, l.addresses.as_slice()))
        .collect();
    assert_eq!(
        listeners,
        [
            (Protocol::Udp, wildcards.as_slice()),
            (Protocol::Tcp, wildcards.as_slice())
        ]
    );
    let same = |ip: &str| (ip.to_owned(), ip.to_owned());
    assert_eq!(pairs(&settings), [same("192.0.2.1"), same("2001:db8::1")]);
    assert_eq!(settings.relay.ports, 49_152..=65_535);
    assert_eq!(settings.relay.default_family, DefaultFamily::Ipv4);
    assert_eq!(settings.limits, config::Limits::default());
    assert_eq!(settings.peers, config::Peers::default());
    assert_eq!(settings.drain, config::Drain::default());
    assert_eq!(settings.ops.address, None);
}

#[test]
fn without_ipv6_sockets_only_ipv4_is_listened_on() {
    let machine = Machine {
        ipv6: None,
        ipv6_sockets: false,
        ..MACHINE
    };
    let text = "realm = \"r\"\nauth.secrets = [\"s\"]\n[[listener]]\nprotocol = \"udp\"";
    let settings =
        config::load(text, Path::new("c"), &Overrides::none(), &machine).expect("IPv4 suffices");
    assert_eq!(
        settings.listeners[0].addresses,
        ["0.0.0.0:3478".parse().unwrap()]
    );
    assert_eq!(pairs(&settings), [("192.0.2.1".into(), "192.0.2.1".into())]);
}

#[test]
fn relay_addresses_come_from_the_listeners() {
    let udp = |addresses: &str| {
        with(&format!(
            "[[listener]]\nprotocol = \"udp\"\naddress = {addresses}"
        ))
    };
    let locals = |settings: &Settings| -> Vec<IpAddr> {
        settings.relay.addresses.iter().map(|a| a.local).collect()
    };
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    assert_eq!(
        locals(&udp("[\"10.0.0.1:1\", \"10.0.0.1:2\"]")),
        [ip("10.0.0.1")]
    );
    assert_eq!(
        locals(&udp("[\"127.0.0.1:1\", \"10.0.0.1:1\"]")),
        [ip("10.0.0.1")]
    );
    assert_eq!(
        locals(&udp("[\"127.0.0.1:1\", \"[::1]:1\"]")),
        [ip("127.0.0.1"), ip("::1")]
    );
    assert_eq!(
        locals(&udp("[\"0.0.0.0:1\", \"10.0.0.1:2\"]")),
        [ip("192.0.2.1"), ip("10.0.0.1")]
    );
    assert_eq!(locals(&udp("\"[::]:1\"")), [ip("2001:db8::1")]);
}

#[test]
fn public_addresses_pair_in_order_or_by_family() {
    let relay = |address: &str, public: &str| {
        let settings = with(&format!(
            "[relay]\naddress = {address}\npublic_address = {public}"
        ));
        pairs(&settings)
            .into_iter()
            .map(|(local, public)| format!("{local}>{public}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        relay("\"10.0.0.1\"", "\"203.0.113.7\""),
        "10.0.0.1>203.0.113.7"
    );
    assert_eq!(
        relay(
            "[\"10.0.0.1\", \"10.0.0.2\"]",
            "[\"203.0.113.8\", \"203.0.113.7\"]"
        ),
        "10.0.0.1>203.0.113.8 10.0.0.2>203.0.113.7"
    );
    assert_eq!(
        relay(
            "[\"fd00::1\", \"10.0.0.1\"]",
            "[\"203.0.113.7\", \"2001:db8::7\"]"
        ),
        "fd00::1>2001:db8::7 10.0.0.1>203.0.113.7"
    );
    assert_eq!(
        relay(
            "[\"10.0.0.1\", \"2001:db8::1\", \"2001:db8::2\"]",
            "\"203.0.113.7\""
        ),
        "10.0.0.1>203.0.113.7 2001:db8::1>2001:db8::1 2001:db8::2>2001:db8::2"
    );
}

#[test]
fn nonce_keys_in_hex_and_base64_mean_the_same() {
    let key = |text: &str| with(&format!("auth.nonce_key = \"{text}\"")).auth.nonce_key;
    let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    assert!(key(hex).is_some());
    assert_eq!(
        key(hex),
        key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    );
    assert_eq!(key(hex), key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"));
}

#[test]
fn a_low_max_lifetime_lowers_the_default_one() {
    let limits = with("[limits]\nmax_lifetime = 120").limits;
    assert_eq!((limits.default_lifetime, limits.max_lifetime), (120, 120));
}

#[test]
fn clients_of_other_systems_are_a_line_each() {
    let text = with(
        "[signaling]\nstunturn = true\nfractal = \"0.0.0.0:48800\"\n\
         fractal_first = [\"127.0.0.1:48801\"]",
    );
    let signaling = text.signaling.expect("it is there");
    assert!(signaling.stunturn);
    assert_eq!(signaling.fractal, ["0.0.0.0:48800".parse().unwrap()]);
    assert_eq!(
        signaling.fractal_first,
        ["127.0.0.1:48801".parse().unwrap()]
    );
    let plain = with("[signaling]").signaling.expect("it is there");
    assert!(!plain.stunturn && plain.fractal.is_empty() && plain.fractal_first.is_empty());
}
