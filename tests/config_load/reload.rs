//! What a reload changes, and what is shown as in force.

use turnserver::config::{self, Applies};

use super::{FIXED, load};

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
