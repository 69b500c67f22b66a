//! Every way to get the configuration wrong: what is said about it, and where.

use std::path::Path;

use turnserver::config::{self, Flags, Machine, Overrides};
use turnserver::server;

const MACHINE: Machine = Machine {
    ipv4: Some(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    ipv6: None,
    ipv6_sockets: true,
};

fn errors_over(text: &str, overrides: &Overrides) -> config::Errors {
    config::load(text, Path::new("stunner.toml"), overrides, &MACHINE)
        .expect_err("this configuration is wrong")
}

fn errors(text: &str) -> config::Errors {
    errors_over(text, &Overrides::none())
}

/// Valid lines that the cases below add to.
fn with(lines: &str) -> String {
    format!("realm = \"example.org\"\nauth.secrets = [\"a-long-random-secret\"]\n{lines}\n")
}

/// The lines, added to a valid file, give exactly one error: at `place`, with `message` in what
/// is wrong and why, and `help` in what to write instead.
#[track_caller]
fn one(lines: &str, place: &str, message: &str, help: &str) {
    let errors = errors(&with(lines));
    let briefs = errors.briefs();
    assert_eq!(briefs.len(), 1, "{errors}");
    assert_eq!(briefs[0].place, format!("stunner.toml{place}"), "{errors}");
    assert!(briefs[0].message.contains(message), "{errors}");
    let found = briefs[0]
        .help
        .as_deref()
        .expect("every error says what to write");
    assert!(found.contains(help), "{errors}");
}

#[test]
fn all_errors_come_in_one_run_with_line_column_caret_reason_and_fix() {
    let text = "\
relm = \"example.org\"

[[listener]]
protocol = \"upd\"

[relay]
ports = \"500-400\"

[auth]
secrets = [\"rest-secret\"]

[limits]
max_lifetime = \"1 h\"
";
    assert_eq!(
        errors(text).to_string(),
        "\
error: unknown key `relm`
 --> stunner.toml:1:1
  |
1 | relm = \"example.org\"
  | ^^^^ not known at the top level
  |
  = help: did you mean `realm`?

error: `realm` is missing
 --> stunner.toml:1:1
  |
1 | relm = \"example.org\"
  | ^ belongs here
  |
  = help: add as the first line, with your own domain: realm = \"example.org\"

error: `listener.protocol` cannot be \"upd\"
 --> stunner.toml:4:12
  |
4 | protocol = \"upd\"
  |            ^^^^^ must be one of \"udp\", \"tcp\", \"tls\"
  |
  = help: did you mean \"udp\"?

error: \"500-400\" in `relay.ports` is not a port range
 --> stunner.toml:7:9
  |
7 | ports = \"500-400\"
  |         ^^^^^^^^^ the first port is above the second
  |
  = help: write for example: ports = \"49152-65535\"

error: `limits.max_lifetime` must be a whole number
  --> stunner.toml:13:16
   |
13 | max_lifetime = \"1 h\"
   |                ^^^^^ this is a string
   |
   = help: write for example: max_lifetime = 3600

5 errors in stunner.toml"
    );
}

#[test]
fn without_credentials_it_says_which_lines_to_add() {
    let errors = errors("realm = \"example.org\"\n");
    assert_eq!(
        errors.to_string(),
        "\
error: no credentials are configured
 --> stunner.toml:1:22
  |
1 | realm = \"example.org\"
  |                      ^ without a user or a secret nobody could allocate
  |
  = help: add time-limited credentials, made by your application from a secret:
            [auth]
            secrets = [\"…\"]        # fill in the output of: openssl rand -hex 32
          or a static user:
            [auth.users]
            alice = \"…\"            # a password of her own
          or set TURNSERVER_SECRETS or TURNSERVER_USERS in the environment;
          or serve devices that are paired here, and nobody else:
            [signaling]

1 error in stunner.toml"
    );
}

#[test]
fn what_is_missing_has_a_place_too() {
    for text in ["", "\n", "# a comment\n"] {
        let errors = errors(text);
        let found = errors.briefs();
        assert_eq!(found.len(), 2, "{errors}");
        assert_eq!(found[0].place, "stunner.toml:1:1", "{errors}");
        assert!(found[1].place.starts_with("stunner.toml:1:"), "{errors}");
        assert!(
            errors.to_string().contains("--> stunner.toml:1:1\n"),
            "{errors}"
        );
    }
}

#[test]
fn unknown_keys_and_sections() {
    one(
        "[limits]\nalocations = 3",
        ":4:1",
        "unknown key `alocations`",
        "`allocations`",
    );
    one(
        "[[listener]]\nprotocol = \"udp\"\nadress = \"127.0.0.1:1\"",
        ":5:1",
        "adress",
        "`address`",
    );
    one(
        "[relais]\nports = \"1\"",
        ":3:2",
        "unknown key `relais`",
        "`relay`",
    );
    one(
        "max_lifetime = 60",
        ":3:1",
        "top level",
        "belongs in [limits]",
    );
    one(
        "[log]\nxyzzy = 1",
        ":4:1",
        "not known in [log]",
        "known here: level, format",
    );
    one("Realm = \"x\"", ":3:1", "unknown key `Realm`", "`realm`");
}

#[test]
fn wrong_types() {
    one(
        "relay = 3",
        ":3:9",
        "`relay` must be a section: this is an integer",
        "[relay]",
    );
    one(
        "listener = \"udp\"",
        ":3:12",
        "must be a list of sections",
        "[[listener]]",
    );
    one(
        "[listener]\nprotocol = \"udp\"",
        ":3:1",
        "this is a single section",
        "[[listener]]",
    );
    one(
        "[peers]\nallow = 5",
        ":4:9",
        "a string or a list of strings",
        "allow = [",
    );
    one(
        "[peers]\nallow = [\"10.0.0.0/8\", 5]",
        ":4:24",
        "this is an integer",
        "allow = [",
    );
    one(
        "[auth.users]\nbob = 5",
        ":4:7",
        "`auth.users.bob` must be a string",
        "quotes",
    );
    one(
        "[limits]\nallocations = 1.5",
        ":4:15",
        "this is a float",
        "allocations = 0",
    );
    one(
        "auth.match_user_id = 1",
        ":3:22",
        "true or false",
        "match_user_id = false",
    );
}

#[test]
fn out_of_range() {
    one(
        "[limits]\nallocations = -1",
        ":4:15",
        "must be 0 or more",
        "",
    );
    one(
        "[limits]\nallocations = 5_000_000_000",
        ":4:15",
        "out of range",
        "",
    );
    one(
        "[limits]\nallocations = 99999999999999999999999999",
        ":4:15",
        "out of range",
        "",
    );
    one(
        "[limits]\nchannels_per_allocation = 4097",
        ":4:27",
        "must be 1 to 4096",
        "",
    );
    one(
        "[limits]\nmax_lifetime = 0",
        ":4:16",
        "must be 1 to 86400",
        "3600",
    );
    one(
        "[limits]\ndefault_lifetime = 3601",
        ":4:20",
        "above `limits.max_lifetime`: at most 3600",
        "raise",
    );
    one("[runtime]\nthreads = 0", ":4:11", "must be 1 to 1024", "");
    one(
        "[runtime]\ndata_path = \"uring\"",
        ":4:13",
        "uring",
        "io_uring",
    );
    one(
        "auth.nonce_lifetime = 9",
        ":3:23",
        "must be 10 to 86400",
        "600",
    );
}

#[test]
fn realm() {
    let long = format!("realm = \"{}\"\nauth.secrets = [\"s\"]", "é".repeat(128));
    let found = errors(&long).briefs();
    assert_eq!(found.len(), 1);
    assert!(found[0].message.contains("128 characters, at most 127"));
    let fits = long.replace("éé", "é");
    assert!(config::load(&fits, Path::new("c"), &Overrides::none(), &MACHINE).is_ok());
    for bad in ["", "a\\\"b", "a\\nb"] {
        let found = errors(&format!("realm = \"{bad}\"\nauth.secrets = [\"s\"]")).briefs();
        assert_eq!(
            (found.len(), found[0].place.as_str()),
            (1, "stunner.toml:1:9"),
            "{bad}"
        );
    }
}

#[test]
fn listeners() {
    let udp = "[[listener]]\nprotocol = \"udp\"\naddress = ";
    let case = |address: &str, message, help| {
        one(&format!("{udp}\"{address}\""), ":5:11", message, help);
    };
    case("127.0.0.1", "the port is missing", "\"127.0.0.1:3478\"");
    case("::1", "the port is missing", "\"[::1]:3478\"");
    for (address, fixed) in [
        ("::1:3478", "\"[::1]:3478\""),
        ("2001:db8::7:5000", "\"[2001:db8::7]:5000\""),
        ("2001:db8:0:0:0:0:0:7:5000", "\"[2001:db8::7]:5000\""),
    ] {
        case(address, "needs brackets", fixed);
    }
    case(
        "2001:db8::7",
        "the port is missing",
        "\"[2001:db8::7]:3478\"",
    );
    case(":3478", "the address is missing", "\"0.0.0.0:3478\"");
    case(
        "localhost:3478",
        "must be an IP address and a port",
        "192.0.2.1:3478",
    );
    case("127.0.0.1:70000", "must be an IP address and a port", "");
    case(
        "[::ffff:127.0.0.1]:3478",
        "IPv4 address in IPv6 form",
        "127.0.0.1",
    );
    case("224.0.0.1:3478", "group address", "");
    one(
        &format!("{udp}[]"),
        ":3:1",
        "`listener.address` is empty",
        "all addresses",
    );
    one(
        "[[listener]]\naddress = \"127.0.0.1:1\"",
        ":3:1",
        "no `protocol`",
        "protocol = \"udp\"",
    );
    let twice = format!("{udp}\"127.0.0.1:9\"\n{udp}[\"127.0.0.1:10\", \"127.0.0.1:9\"]");
    one(
        &twice,
        ":8:28",
        "127.0.0.1:9 is listened on twice",
        "remove one",
    );
    let overlap = format!("{udp}[\"0.0.0.0:9\", \"127.0.0.1:9\"]");
    one(
        &overlap,
        ":5:25",
        "127.0.0.1:9 overlaps with 0.0.0.0:9",
        "another port",
    );
    let ops = "[ops]\naddress = \"127.0.0.1:9\"\n[[listener]]\nprotocol = \"tcp\"\naddress = \"0.0.0.0:9\"";
    one(ops, ":7:11", "overlaps", "another port");
}

#[test]
fn the_pairing_endpoint() {
    let section = |lines: &str| format!("[signaling]\n{lines}");
    let at = |lines: &str, place, words: &str, help| one(&section(lines), place, words, help);
    at("adress = \"0.0.0.0:1\"", ":4:1", "unknown key", "address");
    at("address = \"8080\"", ":4:11", "cannot be used", "8080");
    at(
        "address = []",
        ":3:1",
        "`signaling.address` is empty",
        "remove",
    );
    at(
        "certificate = \"c.pem\"",
        ":4:15",
        "[signaling] has a `certificate` but no `key`",
        "key.pem",
    );
    at("stunturn = 1", ":4:12", "true or false", "stunturn = false");
    at(
        "fractal = \"[::]:48800\"",
        ":4:11",
        "clients of Fractal cannot reach",
        "0.0.0.0:48800",
    );
    at(
        "fractal_first = \"0.0.0.0\"",
        ":4:17",
        "port is missing",
        "48801",
    );
    let twice =
        "fractal = \"0.0.0.0:9\"\n[[listener]]\nprotocol = \"tcp\"\naddress = \"127.0.0.1:9\"";
    at(twice, ":7:11", "overlaps", "another port");
    at("max_wait = 0", ":4:12", "out of range", "30");
    at("credential_ttl = 0", ":4:18", "out of range", "3600");
    at("pair_lifetime = 0", ":4:17", "out of range", "2592000");
    at("relay_share = 0", ":4:15", "must be 1 to 100", "75");
    at("relay_share = 101", ":4:15", "must be 1 to 100", "75");
    at(
        "allocations_per_source = -1",
        ":4:26",
        "must be 0 or more",
        "128",
    );
    at(
        "bandwidth_per_allocation = \"1M\"",
        ":4:28",
        "a whole number",
        "12500000",
    );
    let twice =
        "address = \"0.0.0.0:9\"\n[[listener]]\nprotocol = \"tcp\"\naddress = \"127.0.0.1:9\"";
    at(twice, ":7:11", "overlaps", "another port");
    let twice = "address = [\"0.0.0.0:9\", \"0.0.0.0:9\"]";
    at(twice, ":4:25", "listened on twice", "remove");
}

#[test]
fn addresses_that_do_not_overlap_pass() {
    let text = with(
        "[[listener]]\nprotocol = \"udp\"\naddress = [\"0.0.0.0:9\", \"[::]:9\", \"127.0.0.1:0\"]\n\
         [[listener]]\nprotocol = \"tcp\"\naddress = [\"127.0.0.1:9\", \"127.0.0.1:0\", \"127.0.0.1:0\"]",
    );
    assert!(config::load(&text, Path::new("c"), &Overrides::none(), &MACHINE).is_ok());
}

#[test]
fn certificates() {
    let listener = |protocol: &str, lines: &str| {
        format!("[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:9\"\n{lines}")
    };
    let both = "certificate = \"c.pem\"\nkey = \"k.pem\"";
    one(
        &listener("tls", ""),
        ":3:1",
        "no certificate",
        "certificate = \"cert.pem\"",
    );
    one(
        &listener("tls", "certificate = \"c.pem\""),
        ":6:15",
        "but no `key`",
        "key = \"key.pem\"",
    );
    one(
        &listener("tcp", "key = \"k.pem\""),
        ":6:7",
        "but no `certificate`",
        "certificate = \"cert.pem\"",
    );
    one(
        &listener("udp", both),
        ":6:15",
        "no use for a certificate",
        "tls",
    );
}

#[test]
fn certificate_files_must_be_there_and_go_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("stunner.toml");
    let listener = |protocol: &str| {
        with(&format!(
            "[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:9\"\n\
             certificate = \"c.pem\"\nkey = \"k.pem\""
        ))
    };
    let one = |protocol: &str, place: &str, message: &str| {
        std::fs::write(&file, listener(protocol)).expect("writable");
        let errors = server::load(Some(&file), &Overrides::none()).expect_err("it is unusable");
        let found = errors.briefs();
        assert_eq!(found.len(), 1, "{errors}");
        assert!(found[0].message.contains(message), "{errors}");
        assert!(found[0].place.ends_with(place), "{errors}");
        assert!(found[0].help.is_some(), "{errors}");
    };
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).expect("writable");
    };
    // On udp the files do not matter.
    one("udp", "stunner.toml:6:15", "no use for a certificate");
    write("k.pem", "");
    one("tls", "stunner.toml:6:15", "c.pem: there is no such file");
    let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let (first, second) = (made(), made());
    write("c.pem", "nonsense");
    write("k.pem", &first.signing_key.serialize_pem());
    one("tls", "stunner.toml:6:15", "holds no certificate");
    write("c.pem", &second.cert.pem());
    one(
        "tls",
        "stunner.toml:7:7",
        "is not the key of the certificate",
    );
    write("k.pem", &second.cert.pem());
    one("tcp", "stunner.toml:7:7", "holds no private key");
    write("k.pem", &second.signing_key.serialize_pem());
    assert!(server::load(Some(&file), &Overrides::none()).is_ok());
}

/// RFC 8265 section 4.2: what has no OpaqueString form could never be sent by a client.
#[test]
fn names_passwords_and_realms_must_have_an_opaque_form() {
    let user = |lines: &str, place: &str, message: &str| {
        let text = format!("realm = \"r\"\n[auth.users]\n{lines}");
        let errors = errors(&text);
        let found = errors.briefs();
        assert_eq!(found.len(), 1, "{errors}");
        assert!(found[0].message.contains(message), "{errors}");
        assert_eq!(found[0].place, format!("stunner.toml:{place}"), "{errors}");
    };
    user("\"al\\tice\" = \"pass\"", "3:1", "control character");
    user("alice = \"pass\\n\"", "3:9", "control character");
    user("\"a\\u200bb\" = \"pass\"", "3:1", "RFC 8265");
    user("alice = \"pass\\ufdd0\"", "3:9", "RFC 8265");
    // One name in two spellings.
    user(
        "\"Zo\\u00eb\" = \"a\"\n\"Zoe\\u0308\" = \"b\"",
        "3:1",
        "is listed twice",
    );
    let realm = errors("realm = \"a\\u200bb\"\nauth.secrets = [\"s\"]").briefs();
    assert_eq!(realm.len(), 1);
    assert_eq!(realm[0].place, "stunner.toml:1:9");
    assert!(realm[0].message.contains("RFC 8265"), "{realm:?}");
}

#[test]
fn what_everybody_knows_is_no_secret() {
    let commented = [
        (
            "# secrets = [\"fill in a long random secret\"]",
            "secrets = [\"fill in a long random secret\"]",
        ),
        (
            "# users = { alice = \"her password\", bob = \"his password\" }",
            "users = { alice = \"her password\", bob = \"his password\" }",
        ),
    ];
    for (before, after) in commented {
        assert!(config::DEFAULT_FILE.contains(before));
        let errors = errors(&config::DEFAULT_FILE.replace(before, after));
        for found in errors.briefs() {
            assert!(found.message.contains("placeholder"), "{errors}");
        }
    }
    one(
        "auth.secrets_file = \"x\"",
        ":3:21",
        "there is no such file",
        "relative to",
    );
}

#[test]
fn files_of_secrets() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secrets");
    let load = |held: &[u8]| {
        std::fs::write(&file, held).expect("writable");
        let text = "realm = \"r\"\nauth.secrets_file = \"secrets\"\n";
        let path = dir.path().join("stunner.toml");
        config::load(text, &path, &Overrides::none(), &MACHINE)
    };
    let fails = |held: &[u8], message: &str| {
        let found = load(held).expect_err("it is unusable").briefs();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].place.ends_with("stunner.toml:2:21"), "{found:?}");
        assert!(found[0].message.contains(message), "{found:?}");
    };
    assert!(load(b"# a comment\n\n one-secret \r\n").is_ok());
    fails(b"# a comment\n\n", "there is none in it");
    fails(b"good\nfill in a long random secret\n", "line 2 of ");
    fails(b"\xff\n", "it is not text");
}

#[test]
fn relay_addresses() {
    one(
        "[relay]\naddress = \"0.0.0.0\"",
        ":4:11",
        "a wildcard",
        "leave it out",
    );
    one(
        "[relay]\naddress = \"192.0.2.1:99\"",
        ":4:11",
        "a port does not belong here",
        "\"192.0.2.1\"",
    );
    one(
        "[relay]\naddress = \"example.org\"",
        ":4:11",
        "must be an IP address",
        "192.0.2.1",
    );
    one(
        "[relay]\naddress = []",
        ":3:1",
        "`relay.address` is empty",
        "leave the key out",
    );
    one(
        "[relay]\naddress = [\"192.0.2.1\", \"192.0.2.1\"]",
        ":4:25",
        "listed twice",
        "remove",
    );
    one(
        "[relay]\naddress = \"::1\"\nfamilies = \"ipv4\"",
        ":4:11",
        "leaves out",
        "remove",
    );
    one(
        "[relay]\nfamilies = \"inet\"",
        ":4:12",
        "cannot hold \"inet\"",
        "ipv4",
    );
    one("[relay]\nfamilies = []", ":3:1", "is empty", "leave it out");
    one(
        "[relay]\nfamilies = \"ipv6\"",
        ":3:1",
        "no address to relay on was found",
        "address = ",
    );
    one(
        "[relay]\ndefault_family = \"ipv6\"",
        ":4:18",
        "no address of it relays",
        "client",
    );
}

#[test]
fn public_addresses() {
    let case = |address: &str, public: &str, message, help| {
        let lines = format!("[relay]\npublic_address = {public}\naddress = {address}");
        let errors = errors(&with(&lines));
        let briefs = errors.briefs();
        assert_eq!(briefs.len(), 1, "{errors}");
        assert!(briefs[0].message.contains(message), "{errors}");
        assert!(
            briefs[0].help.as_deref().is_some_and(|h| h.contains(help)),
            "{errors}"
        );
    };
    case(
        "\"10.0.0.1\"",
        "\"2001:db8::1\"",
        "no address of this family relays",
        "stands for",
    );
    case(
        "[\"10.0.0.1\", \"10.0.0.2\"]",
        "\"203.0.113.7\"",
        "each needs its own",
        "same length",
    );
    case(
        "[\"10.0.0.1\", \"10.0.0.2\"]",
        "[\"203.0.113.7\", \"203.0.113.7\"]",
        "listed twice",
        "stands for",
    );
    case(
        "\"10.0.0.1\"",
        "[\"203.0.113.7\", \"203.0.113.8\"]",
        "2 public ones",
        "same length",
    );
    case("\"10.0.0.1\"", "\"0.0.0.0\"", "a wildcard", "");
}

#[test]
fn ports() {
    let case = |ports: &str, message| {
        one(
            &format!("[relay]\nports = \"{ports}\""),
            ":4:9",
            message,
            "49152-65535",
        );
    };
    case("1023-2000", "below 1024");
    case("2000", "a hyphen between them");
    case("2000-70000", "ports end at 65535");
    case("3000-2000", "above the second");
    case("a-b", "a hyphen between them");
}

#[test]
fn networks() {
    one(
        "[peers]\ndeny = \"10.0.0.1/8\"",
        ":4:8",
        "bits behind the prefix",
        "\"10.0.0.0/8\" or \"10.0.0.1\"",
    );
    one(
        "[peers]\ndeny = \"10.0.0.0/33\"",
        ":4:8",
        "the prefix length is too long",
        "10.0.0.0/8",
    );
    one(
        "[peers]\nallow = \"example.org\"",
        ":4:9",
        "must be an address",
        "10.0.0.0/8",
    );
    one(
        "[peers]\nnat64 = \"10.0.0.0/8\"",
        ":4:9",
        "must be an IPv6 prefix",
        "/96",
    );
    one(
        "[peers]\nnat64 = \"2001:db8::/95\"",
        ":4:9",
        "(RFC 6052)",
        "/96",
    );
}

#[test]
fn drain() {
    one(
        "[drain]\nalternate = \"192.0.2.2\"",
        ":4:13",
        "the port is missing",
        "192.0.2.2:3478",
    );
    one(
        "[drain]\nalternate = [\"192.0.2.2:1\", \"192.0.2.3:1\"]",
        ":4:29",
        "two addresses of one family",
        "alternate = ",
    );
    one(
        "[drain]\nalternate = \"0.0.0.0:1\"",
        ":4:13",
        "no address to send clients to",
        "",
    );
}

#[test]
fn credentials() {
    let case = |lines: &str, message, help| {
        let found = errors(&format!("realm = \"r\"\n[auth]\n{lines}")).briefs();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains(message), "{found:?}");
        assert!(
            found[0].help.as_deref().is_some_and(|h| h.contains(help)),
            "{found:?}"
        );
    };
    case("secrets = [\"\"]", "is empty", "openssl");
    case("secrets = []", "no credentials", "[auth.users]");
    case(
        "users = { alice = \"\" }",
        "password of user `alice` is empty",
        "",
    );
    case("users = { \"\" = \"pass\" }", "a username is empty", "");
    case(
        &format!("users = {{ {} = \"pass\" }}", "x".repeat(509)),
        "at most 508 bytes",
        "",
    );
    case(
        "users = { a = \"b\" }\nnonce_key = \"abc\"",
        "not a key of 32 bytes",
        "openssl",
    );
    case(
        "users = { a = \"b\" }\nrest_hash = \"md5\"",
        "\"sha1\", \"sha256\"",
        "rest_hash",
    );
}

#[test]
fn the_same_user_twice() {
    let errors = errors("realm = \"r\"\n[auth.users]\nalice = \"one\"\nalice = \"two\"\n");
    let found = errors.briefs();
    assert_eq!(
        (found.len(), found[0].place.as_str()),
        (1, "stunner.toml:4:1")
    );
    assert!(found[0].message.contains("duplicate key"));
    assert_eq!(found[0].help.as_deref(), Some("remove one of the two"));
}

#[test]
fn the_environment_and_flags_are_named() {
    let variable = |name: &str| {
        let value = match name {
            "TURNSERVER_USERS" => "alice:a,bob,alice:b",
            "TURNSERVER_NONCE_KEY" => "short",
            "TURNSERVER_PUBLIC_ADDRESS" => "::ffff:1.2.3.4",
            "TURNSERVER_DATA_PATH" => "fast",
            _ => return None,
        };
        Some(value.into())
    };
    let flags = Flags {
        log_level: Some("loud".into()),
        realm: Some(String::new()),
        ..Flags::default()
    };
    let errors = errors_over("", &Overrides::new(variable, &flags));
    let mut places: Vec<String> = errors.briefs().into_iter().map(|b| b.place).collect();
    places.sort();
    let shown = errors.to_string();
    assert!(
        shown.ends_with(
            "1 error in --realm, 1 error in TURNSERVER_PUBLIC_ADDRESS, \
             2 errors in TURNSERVER_USERS, 1 error in TURNSERVER_NONCE_KEY, \
             1 error in --log-level, 1 error in TURNSERVER_DATA_PATH"
        ),
        "{shown}"
    );
    assert_eq!(
        places,
        [
            "--log-level",
            "--realm",
            "TURNSERVER_DATA_PATH",
            "TURNSERVER_NONCE_KEY",
            "TURNSERVER_PUBLIC_ADDRESS",
            "TURNSERVER_USERS",
            "TURNSERVER_USERS",
        ]
    );
}

#[test]
fn no_error_quotes_a_secret() {
    let key = "0123456789abcdef".repeat(3);
    let text = format!(
        "[auth]\nsecrets = [\"hunter2\", 31337]\nnonce_key = \"{key}\"\n[auth.users]\nalice = \"pass-1\"\nbob = 99887766\n"
    );
    let shown = errors(&text).to_string();
    assert!(shown.contains("bob = ********"), "{shown}");
    for secret in ["hunter2", "31337", key.as_str(), "pass-1", "99887766"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    // What cannot be parsed is not quoted either.
    for broken in [
        "[auth]\nsecrets = [\"hunter2",
        "auth.secrets = hunter2",
        "[auth.users]\nalice = hunter2\nbob = \"x",
        "[auth]\nusers = { alice = \"hunter2\", alice = \"hunter2\" }",
        "[ auth . users ]\nalice = hunter2",
    ] {
        let shown = errors(broken).to_string();
        assert!(shown.contains("not valid TOML"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn syntax_errors_stand_alone_and_come_all() {
    let found = errors("realm = example\nunknown = 1\n[auth\n").briefs();
    let places: Vec<&str> = found.iter().map(|brief| brief.place.as_str()).collect();
    assert_eq!(places, ["stunner.toml:1:9", "stunner.toml:3:6"]);
    assert!(
        found[0]
            .help
            .as_deref()
            .is_some_and(|h| h.contains("quotes")),
        "{found:?}"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let load = |name: &str| {
        server::load(Some(&dir.path().join(name)), &Overrides::none())
            .expect_err("not a configuration")
            .to_string()
    };
    assert!(load("none.toml").contains("there is no such file"));
    assert!(load(".").contains("it is a directory"));
    std::fs::write(dir.path().join("latin.toml"), b"realm = \"\xe9\"").expect("writable");
    assert!(load("latin.toml").contains("line 1, column 10 is not text"));
}
