//! `turnserver credentials`.

use std::process::Output;

use turnserver::wire::rest_password;

use super::{File, SECRET, TLS, certificate, err, file, run};

#[test]
fn a_relay_for_pairs_alone_says_so_and_has_no_credentials_to_print() {
    let file = File::new("realm = \"example.org\"\n[signaling]\n");
    let output = run(&["check", file.path()]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        err(&output).contains("only devices that `[signaling]` pairs may allocate"),
        "{}",
        err(&output)
    );
    let output = run(&["credentials", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("only devices that are paired"),
        "{}",
        err(&output)
    );
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", err(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

pub(super) fn urls(json: &serde_json::Value) -> Vec<&str> {
    let urls = json["iceServers"][0]["urls"].as_array().expect("a list");
    urls.iter().filter_map(|url| url.as_str()).collect()
}

#[test]
fn credentials_are_minted_from_the_first_secret() {
    let file = file(
        "[relay]\naddress = \"127.0.0.1\"\n[[listener]]\nprotocol = \"udp\"\naddress = \"127.0.0.1:3478\"",
    );
    let output = run(&[
        "credentials",
        "--config",
        file.path(),
        "--user",
        "bob",
        "--ttl",
        "60",
    ]);
    let json = json(&output);
    let server = &json["iceServers"][0];
    let username = server["username"].as_str().expect("a string");
    let (expiry, user) = username.split_once(':').expect("EXPIRY:user");
    assert_eq!(user, "bob");
    assert!(expiry.parse::<u64>().expect("a time") > 1_700_000_000);
    assert_eq!(
        server["credential"].as_str(),
        Some(rest_password(SECRET.as_bytes(), username.as_bytes(), false).as_str())
    );
    assert_eq!(json["ttl"], 60);
    assert_eq!(urls(&json), ["turn:127.0.0.1:3478?transport=udp"]);
}

/// RFC 8489 section 14.3: fewer than 509 bytes, the expiry and its colon included.
#[test]
fn credentials_that_no_client_could_send_are_not_made() {
    let file = file("[relay]\naddress = \"127.0.0.1\"");
    let of = |user: &str| run(&["credentials", "--config", file.path(), "--user", user]);
    assert!(of(&"x".repeat(497)).status.success());
    for (user, why) in [
        (&*"x".repeat(498), "509 bytes"),
        ("al\tice", "control character"),
    ] {
        let output = of(user);
        assert_eq!(output.status.code(), Some(1), "{user}");
        assert!(err(&output).contains(why), "{}", err(&output));
    }
}

#[test]
fn urls_are_what_the_world_sees() {
    let lines = format!(
        "[[listener]]\nprotocol = \"tcp\"\naddress = [\"10.0.0.1:3478\", \"127.0.0.1:3478\"]\n{TLS}\n\
         [[listener]]\nprotocol = \"udp\"\naddress = [\"0.0.0.0:3478\", \"[::]:3478\"]\n\
         [relay]\naddress = [\"10.0.0.1\", \"2001:db8::1\"]\npublic_address = \"203.0.113.7\""
    );
    let file = file(&lines);
    certificate(file.directory.path(), "turn.example.org", 2199);
    let json_of = |more: &[&str]| {
        let mut arguments = vec!["credentials", "--config", file.path()];
        arguments.extend(more);
        json(&run(&arguments))
    };
    assert_eq!(
        urls(&json_of(&[])),
        [
            "turn:203.0.113.7:3478?transport=udp",
            "turn:[2001:db8::1]:3478?transport=udp",
            "turn:203.0.113.7:3478?transport=tcp",
            "turns:turn.example.org:443?transport=tcp",
        ]
    );
    assert_eq!(
        urls(&json_of(&["--host", "relay.example.net"])),
        [
            "turn:relay.example.net:3478?transport=udp",
            "turn:relay.example.net:3478?transport=tcp",
            "turns:relay.example.net:443?transport=tcp",
        ]
    );
}

#[test]
fn without_a_secret_the_static_user_is_given() {
    let text = "realm = \"r\"\n[relay]\naddress = \"127.0.0.1\"\n[auth.users]\nalice = \"pass-a\"\nbob = \"pass-b\"\n";
    let file = File::new(text);
    let json_of = |more: &[&str]| {
        let mut arguments = vec!["credentials", "--config", file.path()];
        arguments.extend(more);
        run(&arguments)
    };
    let first = json(&json_of(&[]));
    assert_eq!(first["iceServers"][0]["username"], "alice");
    assert!(first.get("ttl").is_none());
    let bob = json(&json_of(&["--user", "bob"]));
    assert_eq!(bob["iceServers"][0]["credential"], "pass-b");
    let unknown = json_of(&["--user", "carol"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        err(&unknown).contains("the users are: alice, bob"),
        "{}",
        err(&unknown)
    );
    assert_eq!(json_of(&["--ttl", "60"]).status.code(), Some(1));
}
