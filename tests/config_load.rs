//! What a right configuration amounts to: defaults, precedence, addresses, reloads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use turnserver::config::{
    self, Applies, DefaultFamily, Flags, Level, Machine, Overrides, Protocol, Settings,
};

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
fn flags_stand_above_the_environment_and_that_above_the_file() {
    let text = "realm = \"file\"\n[auth]\nsecrets = [\"file-secret\"]\n[auth.users]\nfile = \"pass\"\n[log]\nlevel = \"error\"";
    assert_eq!(load(text).realm, "file");
    let variable = |name: &str| {
        let value = match name {
            config::ENV_REALM => "env",
            config::ENV_SECRETS => "new-secret, old-secret",
            config::ENV_USERS => "alice:a:b,bob:c",
            config::ENV_PUBLIC_ADDRESS => "203.0.113.7,2001:db8::7",
            config::ENV_LOG_LEVEL => "debug",
            config::ENV_DATA_PATH => "mmsg",
            config::ENV_NONCE_KEY => {
                "4141414141414141414141414141414141414141414141414141414141414141"
            }
            _ => return None,
        };
        Some(value.into())
    };
    let settings = load_over(text, &Overrides::new(variable, &Flags::default()));
    assert_eq!(settings.realm, "env");
    let secrets: Vec<&str> = settings.auth.secrets.iter().map(|s| s.expose()).collect();
    assert_eq!(secrets, ["new-secret", "old-secret"]);
    let users = &settings.auth.users;
    assert_eq!(
        (users[0].name.as_str(), users[0].password.expose()),
        ("alice", "a:b")
    );
    assert_eq!((users.len(), users[1].name.as_str()), (2, "bob"));
    assert_eq!(pairs(&settings)[0].1, "203.0.113.7");
    assert_eq!(pairs(&settings)[1].1, "2001:db8::7");
    assert_eq!(settings.log.level, Level::Debug);
    assert_eq!(settings.runtime.data_path, config::DataPath::Mmsg);
    assert_eq!(
        settings.auth.nonce_key.map(|key| *key.expose()),
        Some([0x41; 32])
    );

    let flags = Flags {
        realm: Some("flag".into()),
        public_address: vec!["203.0.113.9".into()],
        log_level: Some("trace".into()),
    };
    let settings = load_over(text, &Overrides::new(variable, &flags));
    assert_eq!(settings.realm, "flag");
    assert_eq!(pairs(&settings)[0].1, "203.0.113.9");
    assert_eq!(pairs(&settings)[1].1, "2001:db8::1");
    assert_eq!(settings.log.level, Level::Trace);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let settings = load_over(
        "realm = \"file\"\nauth.secrets = [\"s\"]",
        &env(config::ENV_REALM, ""),
    );
    assert_eq!(settings.realm, "file");
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
fn the_default_file_lets_nobody_in_but_pairs() {
    let settings = load(config::DEFAULT_FILE);
    assert!(settings.serves_pairs_only());
    let said = config::warnings(&settings);
    assert!(
        said[0].message.contains("no user and no secret"),
        "{said:?}"
    );
    // One user, and it is a relay as any.
    let user = load_over(
        config::DEFAULT_FILE,
        &env(config::ENV_USERS, "alice:a-long-password"),
    );
    assert!(!user.serves_pairs_only());
    assert_eq!(config::warnings(&user), []);
    // Without pairing nobody could get in.
    let without = config::DEFAULT_FILE.replace("[signaling]\naddress", "# address");
    let errors = config::load(&without, Path::new("t"), &Overrides::none(), &MACHINE);
    let briefs = errors.expect_err("no credentials").briefs();
    assert_eq!(briefs.len(), 1, "{briefs:?}");
    assert!(briefs[0].message.contains("no credentials"), "{briefs:?}");
}

/// What the default file switches on.
const SIGNALING: &str = "[signaling]\naddress = \"0.0.0.0:8080\"";

#[test]
fn the_default_file_is_the_defaults() {
    let secrets = env(config::ENV_SECRETS, "a-long-random-secret");
    assert_eq!(load_over(config::DEFAULT_FILE, &secrets), with(SIGNALING));
}

/// Every `# key = value` of the default file shows the default, so that uncommenting a line
/// changes nothing, and every key that there is has its line.
#[test]
fn the_commented_lines_of_the_default_file_are_the_defaults() {
    // Lines that show how a key is written, for lack of a default.
    const EXAMPLES: [&str; 10] = [
        "secrets",
        "users",
        "nonce_key",
        "address = [\"192.0.2.1\"",
        "public_address",
        "address = \"127.0.0.1:9641\"",
        "threads",
        "certificate = \"pairing-cert.pem\"",
        "key = \"pairing-key.pem\"",
        "fractal",
    ];
    let mut sections: Vec<(String, Vec<&str>)> = vec![(String::new(), Vec::new())];
    let mut keys = Vec::new();
    for line in config::DEFAULT_FILE.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if bare.starts_with('[') {
            let name = bare.split(']').next().unwrap_or(bare).replace('[', "");
            sections.push((name, vec![bare]));
            continue;
        }
        let Some((key, _)) = bare.split_once(" = ") else {
            continue;
        };
        if key
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            let (section, lines) = sections.last_mut().expect("the top level is one");
            keys.push(
                format!("{section}.{key}")
                    .trim_start_matches('.')
                    .to_owned(),
            );
            if !EXAMPLES.iter().any(|example| bare.starts_with(example)) {
                lines.push(bare);
            }
        }
    }
    for known in config::keys() {
        assert!(
            keys.iter().any(|key| key == known),
            "{known} is not in config/stunner.toml"
        );
    }
    // The TLS listener is an example too.
    sections.retain(|(_, lines)| !lines.iter().any(|line| line.contains("tls")));
    let lines = sections.iter().flat_map(|(_, lines)| lines);
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let secret = env(config::ENV_SECRETS, "a-long-random-secret");
    assert_eq!(load_over(&text, &secret), with(SIGNALING), "{text}");
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

#[test]
fn the_production_file_loads_with_secrets_from_their_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let secret = "0123456789abcdef0123456789abcdef";
    std::fs::write(dir.path().join("secrets"), format!("{secret}\n")).expect("writable");
    let text = include_str!("../config/production.toml");
    let path = dir.path().join("production.toml");
    let settings = config::load(text, &path, &Overrides::none(), &MACHINE)
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(settings.auth.secrets[0].expose(), secret);
    assert!(settings.auth.users.is_empty());
    assert_eq!(settings.certificates().len(), 1);
    assert!(
        settings
            .ops
            .address
            .is_some_and(|address| address.ip().is_loopback())
    );
    assert_eq!(settings.log.format, config::LogFormat::Json);
    // systemd would kill what still drains.
    let unit = include_str!("../deploy/turnserver.service");
    let patience = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="))
        .expect("it says how long to wait");
    assert!(patience.parse::<u64>().expect("seconds") > settings.drain.deadline.as_secs());
    assert_eq!(config::warnings(&settings), []);
}

#[test]
fn the_effective_configuration_loads_again_and_shows_no_secret() {
    let text = FIXED.replace("level = \"info\"", "level = \"warn\"");
    let mut settings = load(&text);
    let shown = config::effective(&settings);
    for secret in ["rest-secret", "pass-1", "pass-2"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let mut again = load(&shown);
    for auth in [&mut settings.auth, &mut again.auth] {
        auth.secrets.clear();
        auth.users.clear();
    }
    assert_eq!(settings, again);
    assert!(!format!("{:?}", load(FIXED)).contains("pass-1"));
}

#[test]
fn a_reload_tells_what_changed_and_what_needs_a_restart() {
    let old = load(FIXED);
    assert_eq!(config::diff(&old, &old), []);
    let text = FIXED
        .replace("user-2 = \"pass-2\"", "user-3 = \"pass-3\"")
        .replace("pass-1", "pass-one")
        .replace("rest-secret", "better-secret")
        .replace("example.org", "example.net")
        .replace("\"127.0.0.1:5349\"", "\"127.0.0.1:5350\"")
        .replace("deny = []", "deny = [\"198.51.100.0/24\"]");
    let new = load(&text);
    let told: Vec<String> = config::diff(&old, &new)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told,
        [
            "realm: \"example.org\" -> \"example.net\" (needs a restart)",
            "listener tls 127.0.0.1:5350: added (needs a restart)",
            "auth.secrets: changed",
            "auth.users.user-1: changed",
            "auth.users.user-3: added",
            "peers.deny: [] -> [\"198.51.100.0/24\"]",
            "auth.users.user-2: removed",
            "listener tls 127.0.0.1:5349: removed (needs a restart)",
        ]
    );
}

#[test]
fn a_reload_adopts_exactly_what_applies_live() {
    let old = load(FIXED);
    // Everything that can differ does.
    let new = load(
        r#"
        realm = "example.net"
        [[listener]]
        protocol = "udp"
        address = "127.0.0.2:3479"
        [relay]
        address = "127.0.0.2"
        public_address = "203.0.113.7"
        ports = "50000-50099"
        default_family = "client"
        rfc5766_channels = false
        [auth]
        secrets = ["other"]
        users = { user-1 = "other" }
        nonce_key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        nonce_lifetime = 60
        expiry_leeway = 5
        rest_hash = "sha256"
        password_algorithms = false
        match_user_id = true
        credential_ttl = 60
        [limits]
        allocations_per_user = 3
        allocations = 4
        permissions_per_allocation = 5
        channels_per_allocation = 6
        bandwidth_per_allocation = 7
        unauthenticated_replies = 8
        unauthenticated_connections = 9
        unauthenticated_connections_per_source = 9
        first_byte_timeout = 6
        authentication_timeout = 16
        default_lifetime = 601
        max_lifetime = 3601
        [peers]
        allow = []
        deny = "198.51.100.0/24"
        nat64 = "2001:db8::/96"
        [log]
        level = "debug"
        format = "json"
        [ops]
        address = "127.0.0.1:9641"
        [runtime]
        threads = 2
        data_path = "mmsg"
        [drain]
        deadline = 61
        alternate = "192.0.2.2:3478"
        "#,
    );
    let adopted = config::adopt(&old, &new);
    let live = config::diff(&old, &adopted);
    let waiting = config::diff(&adopted, &new);
    assert!(
        live.iter().all(|change| change.applies == Applies::Live),
        "{live:#?}"
    );
    assert!(
        waiting
            .iter()
            .all(|change| change.applies == Applies::Restart),
        "{waiting:#?}"
    );
    assert_eq!(live.len() + waiting.len(), config::diff(&old, &new).len());
    assert!(live.len() > 20 && waiting.len() > 12);
}

#[test]
fn odd_but_valid_settings_are_warned_about() {
    let warned = |lines: &str| -> Vec<String> {
        config::warnings(&with(lines))
            .into_iter()
            .map(|w| w.to_string())
            .collect()
    };
    assert_eq!(warned(""), [""; 0]);
    let one = |lines: &str, part: &str| {
        let warnings = warned(lines);
        assert_eq!(warnings.len(), 1, "{lines}: {warnings:#?}");
        assert!(warnings[0].contains(part), "{warnings:#?}");
    };
    one(
        "[relay]\naddress = \"10.0.0.1\"",
        "peers outside cannot reach the private address 10.0.0.1",
    );
    one("[relay]\naddress = \"127.0.0.1\"", "this machine only");
    one(
        "[relay]\nports = \"50000-50009\"",
        "holds 20 allocations only",
    );
    one(
        "[relay]\naddress = \"2001:db8::1\"",
        "no IPv4 address relays",
    );
    one(
        "[[listener]]\nprotocol = \"udp\"\naddress = \"192.0.2.1:50000\"",
        "inside `relay.ports`",
    );
    one(
        "[limits]\nallocations_per_user = 0",
        "one user may take all 32768",
    );
    one("[limits]\nallocations = 40000", "holds 32768");
    one("[limits]\nunauthenticated_replies = 0", "forged requests");
    one("[limits]\ndefault_lifetime = 60", "RFC 8656");
    one("[auth.users]\nalice = \"short\"", "password of `alice`");
    one("[peers]\nallow = \"127.0.0.1\"", "loopback");
    one("[peers]\nallow = \"169.254.0.0/16\"", "metadata");
    one("[peers]\nallow = \"10.0.0.0/8\"", "private networks");
    one(
        "[ops]\naddress = \"0.0.0.0:9641\"",
        "shows metrics to everybody",
    );
    assert_eq!(
        warned("[relay]\naddress = \"10.0.0.1\"\npublic_address = \"203.0.113.7\""),
        [""; 0]
    );
    assert_eq!(warned("[peers]\nallow = \"198.51.100.7\""), [""; 0]);
}

#[test]
fn a_file_with_credentials_that_everybody_may_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("stunner.toml");
    let write = |text: &str, mode: u32| {
        std::fs::write(&file, text).expect("writable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("ours");
        config::file_warnings(Some(&file), &load(FIXED)).pop()
    };
    assert!(write(FIXED, 0o640).is_none());
    assert!(write(FIXED, 0o644).is_some_and(|w| w.help.contains("chmod o-r")));
    assert!(write(config::DEFAULT_FILE, 0o644).is_none());
}

#[test]
fn secrets_come_from_a_file_too() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let secrets = dir.path().join("secrets");
    std::fs::write(&secrets, "# rotated\n\n  new-secret\nold-secret\r\n").expect("writable");
    let load = |lines: &str, overrides: &Overrides| {
        let text = format!("realm = \"r\"\n[auth]\n{lines}");
        config::load(&text, &dir.path().join("stunner.toml"), overrides, &MACHINE)
            .unwrap_or_else(|errors| panic!("{errors}"))
    };
    let held = |settings: &Settings| -> Vec<String> {
        let secrets = settings.auth.secrets.iter();
        secrets.map(|secret| secret.expose().to_owned()).collect()
    };
    // The path is relative to the file that names it; secrets in the file itself mint.
    let both = "secrets = [\"first\"]\nsecrets_file = \"secrets\"";
    let settings = load(both, &Overrides::none());
    assert_eq!(held(&settings), ["first", "new-secret", "old-secret"]);
    assert!(!config::effective(&settings).contains("old-secret"));
    assert!(config::effective(&settings).contains("secrets_file = "));

    // The environment replaces each of the two keys on its own.
    let path = secrets.to_str().expect("UTF-8");
    let by_environment = load("", &env(config::ENV_SECRETS_FILE, path));
    assert_eq!(held(&by_environment), ["new-secret", "old-secret"]);
    let first = load(both, &env(config::ENV_SECRETS, "other"));
    assert_eq!(held(&first), ["other", "new-secret", "old-secret"]);

    let mode = |mode: u32| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&secrets, mode).expect("ours");
        config::file_warnings(None, &settings)
    };
    assert_eq!(mode(0o640), []);
    assert!(mode(0o644)[0].message.contains("secrets holds credentials"));
}

#[test]
fn a_change_that_the_environment_hides_is_known() {
    let hidden = Overrides::new(
        |name| match name {
            config::ENV_SECRETS => Some("from-outside".into()),
            config::ENV_REALM => Some("outside.example".into()),
            config::ENV_USERS => Some("carol:from-outside".into()),
            _ => None,
        },
        &Flags {
            log_level: Some("warn".into()),
            ..Flags::default()
        },
    );
    let old = load_over(FIXED, &hidden);
    let told = |text: String| -> Vec<String> {
        let new = load_over(&text, &hidden);
        config::without_effect(&old, &config::adopt(&old, &new))
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    // Where a line stands does not matter.
    assert_eq!(told(format!("# moved\n{FIXED}")), [""; 0]);
    assert_eq!(
        told(FIXED.replace("rest-secret", "new-secret")),
        ["`auth.secrets` in the file is overridden by TURNSERVER_SECRETS"]
    );
    assert_eq!(
        told(
            FIXED
                .replace("pass-2", "new")
                .replace("\"info\"", "\"debug\"")
        ),
        [
            "`auth.users` in the file is overridden by TURNSERVER_USERS",
            "`log.level` in the file is overridden by --log-level",
        ]
    );
    assert_eq!(
        told(FIXED.replace("deny = []", "deny = \"192.0.2.0/24\"")),
        [""; 0]
    );
    assert!(!format!("{old:?}").contains("rest-secret"));
}

#[test]
fn misspelt_variables_are_warned_about() {
    let warned = |name: &str| -> Vec<String> {
        config::unknown_variables([name.to_owned()])
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    for (name, near) in [
        ("TURNSERVER_SECRET", "did you mean TURNSERVER_SECRETS?"),
        (
            "TURNSERVER_SECRETSFILE",
            "did you mean TURNSERVER_SECRETS_FILE?",
        ),
        (
            "TURNSERVER_PUBLIC_IP",
            "did you mean TURNSERVER_PUBLIC_ADDRESS?",
        ),
        ("TURNSERVER_LOGLEVEL", "did you mean TURNSERVER_LOG_LEVEL?"),
        ("TURNSERVER_XYZZY", "known are: TURNSERVER_SECRETS, "),
    ] {
        let found = warned(name);
        assert_eq!(found.len(), 1, "{name}");
        assert!(
            found[0].contains(near) && found[0].contains(name),
            "{found:?}"
        );
    }
    // What is known, what is not ours, and what Kubernetes sets for a Service.
    for name in [
        config::ENV_SECRETS,
        config::ENV_SECRETS_FILE,
        config::ENV_DATA_PATH,
        "PATH",
        "TURNSERVER_PORT_3478_UDP_ADDR",
        "TURNSERVER_SERVICE_HOST",
    ] {
        assert_eq!(warned(name), [""; 0], "{name}");
    }
}

#[test]
fn addresses_of_other_machines_are_warned_about() {
    let warned = |lines: &str| -> Vec<String> {
        config::machine_warnings(&with(lines))
            .into_iter()
            .map(|warning| warning.message)
            .collect()
    };
    let own = "[relay]\naddress = \"127.0.0.2\"\n[[listener]]\nprotocol = \"udp\"\naddress = ";
    assert_eq!(warned(&format!("{own}\"0.0.0.0:9\"")), [""; 0]);
    let foreign = warned(&format!("{own}[\"127.0.0.1:9\", \"203.0.113.7:9\"]"));
    assert_eq!(foreign.len(), 1, "{foreign:?}");
    assert!(foreign[0].contains("`listener.address` 203.0.113.7 is no address of this machine"));
    let relay = warned("[relay]\naddress = \"203.0.113.7\"");
    assert_eq!(relay.len(), 1, "{relay:?}");
    assert!(relay[0].contains("`relay.address` 203.0.113.7"));
}
