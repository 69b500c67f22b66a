//! What is valid and probably not meant.

use turnserver::config;

use super::{FIXED, load, with};

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
