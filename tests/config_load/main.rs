//! What a right configuration amounts to: defaults, precedence, addresses, reloads.

mod meaning;
mod precedence;
mod reload;
mod shipped_files;
mod warnings;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use turnserver::config::{self, Flags, Machine, Overrides, Settings};

const MACHINE: Machine = Machine {
    ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
    ipv6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ipv6_sockets: true,
};

#[track_caller]
fn load_over(text: &str, overrides: &Overrides) -> Settings {
    match config::load(
        text,
        Path::new("/etc/turn/stunner.toml"),
        overrides,
        &MACHINE,
    ) {
        Ok(settings) => settings,
        Err(errors) => panic!("{errors}"),
    }
}

#[track_caller]
fn load(text: &str) -> Settings {
    load_over(text, &Overrides::none())
}

#[track_caller]
fn with(lines: &str) -> Settings {
    load(&format!(
        "realm = \"example.org\"\nauth.secrets = [\"a-long-random-secret\"]\n{lines}\n"
    ))
}

fn env(name: &str, value: &str) -> Overrides {
    Overrides::new(
        |asked| (asked == name).then(|| value.to_owned()),
        &Flags::default(),
    )
}

fn pairs(settings: &Settings) -> Vec<(String, String)> {
    let addresses = settings.relay.addresses.iter();
    addresses
        .map(|a| (a.local.to_string(), a.public.to_string()))
        .collect()
}

/// The names in this file are fixed: it must go on working as it stands.
const FIXED: &str = r#"
realm = "example.org"

[[listener]]
protocol = "udp"
address = ["127.0.0.1:3478", "[::1]:3478"]

[[listener]]
protocol = "tcp"
address = ["127.0.0.1:3478", "[::1]:3478"]

[[listener]]
protocol = "tls"
address = "127.0.0.1:5349"
certificate = "cert.pem"          # relative to this file
key = "key.pem"

[relay]
address = ["127.0.0.1", "::1"]    # where relayed transport addresses are opened
# public_address = "203.0.113.7"  # what the world sees, behind a 1:1 NAT
ports = "40000-43999"

[auth]
secrets = ["rest-secret"]         # time-limited credentials
[auth.users]                      # static (plaintext) credentials
user-1 = "pass-1"
user-2 = "pass-2"

[peers]                           # on top of the built-in deny list
allow = ["127.0.0.0/8", "::1/128"]
deny = []

[limits]
allocations_per_user = 0          # 0: no limit; the default is a sensible one
unauthenticated_replies = 0       # per source and second, limited by default; 0 lifts it, the
                                  # per-prefix budget and the wrong-password budget

[log]
level = "info"
"#;
