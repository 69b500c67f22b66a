//! A real browser call: headless Chromium, relay candidates only, video and data both ways.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::tools::{Output, need, run};
use support::{Config, OTHER_USER, Server, USER};

/// Runs `tests/browser/call.mjs`.
fn browser(mode: &str, ice_servers: Value) -> Output {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");
    assert!(
        std::path::Path::new(directory)
            .join("node_modules/playwright-core")
            .is_dir(),
        "playwright-core is missing: run `npm ci` in tests/browser"
    );
    let profile = tempfile::tempdir().expect("a temporary directory");
    let options = json!({
        "chromium": need("chromium", "chromium"),
        "profile": profile.path(),
        "iceServers": ice_servers,
        "ignoreCertificateErrors": true,
        "mode": mode,
    });
    let script = format!("{directory}/call.mjs");
    run(
        &[&need("node", "nodejs"), &script, &options.to_string()],
        Duration::from_secs(90),
    )
}

/// Runs it and reads its report.
fn report(server: &Server, mode: &str, ice_servers: Value) -> Value {
    let output = browser(mode, ice_servers);
    serde_json::from_str(output.stdout.trim()).unwrap_or_else(|_| {
        panic!(
            "the browser run failed (exit {}):\n{}\nserver's log:\n{}",
            output.code,
            output.text,
            server.log()
        )
    })
}

fn ice_server(url: &str, (username, credential): (&str, &str)) -> Value {
    json!([{ "urls": [url], "username": username, "credential": credential }])
}

/// Asserts a whole call: both sides on a relay, over `protocol`, with video and data both ways.
fn assert_call(call: &Value, protocol: &str) {
    for side in ["left", "right"] {
        let state = &call[side];
        assert_eq!(state["local"], "relay", "{side}: {call:#}");
        assert_eq!(state["remote"], "relay", "{side}: {call:#}");
        assert_eq!(state["relayProtocol"], protocol, "{side}: {call:#}");
        let frames = state["framesDecoded"].as_u64().unwrap_or(0);
        assert!(frames > 0, "{side} decoded no frame: {call:#}");
    }
    assert_eq!(call["received"]["left"], "from right", "{call:#}");
    assert_eq!(call["received"]["right"], "from left", "{call:#}");
}

#[test]
fn call_over_udp() {
    let server = Server::start();
    let url = format!("turn:127.0.0.1:{}?transport=udp", server.ports.plain());
    assert_call(&report(&server, "call", ice_server(&url, USER)), "udp");
}

#[test]
fn call_over_tcp() {
    let server = Server::start();
    let url = format!("turn:127.0.0.1:{}?transport=tcp", server.ports.plain());
    assert_call(
        &report(&server, "call", ice_server(&url, OTHER_USER)),
        "tcp",
    );
}

#[test]
fn call_over_tls() {
    let server = Server::start();
    let url = format!("turns:127.0.0.1:{}?transport=tcp", server.ports.tls());
    assert_call(&report(&server, "call", ice_server(&url, USER)), "tls");
}

#[test]
fn call_over_ipv6() {
    let server = Server::start();
    let url = format!("turn:[::1]:{}?transport=udp", server.ports.plain());
    assert_call(&report(&server, "call", ice_server(&url, USER)), "udp");
}

#[test]
fn call_with_the_credentials_that_the_server_prints() {
    let server = Server::start();
    let file = server.config_file();
    let printed = run(
        &[
            support::binary(),
            "credentials",
            "--config",
            &file.to_string_lossy(),
            "--user",
            "alice",
            "--ttl",
            "300",
        ],
        Duration::from_secs(10),
    );
    assert_eq!(printed.code, 0, "{}", printed.text);
    let printed: Value = serde_json::from_str(&printed.stdout).expect("it prints JSON");
    let servers = printed.get("iceServers").unwrap_or(&printed).clone();
    let username = servers[0]["username"].as_str().unwrap_or_default();
    assert!(username.contains("alice"), "{printed:#}");

    let call = report(&server, "call", servers);
    for side in ["left", "right"] {
        assert_eq!(call[side]["local"], "relay", "{call:#}");
        assert!(call[side]["framesDecoded"].as_u64() > Some(0), "{call:#}");
    }
}

#[test]
fn wrong_password_is_reported_as_401() {
    let server = Server::with(Config::default());
    let url = format!("turn:127.0.0.1:{}?transport=udp", server.ports.plain());
    let gathered = report(&server, "gather", ice_server(&url, (USER.0, "wrong")));
    assert_eq!(gathered["candidates"], json!([]), "{gathered:#}");
    assert_eq!(gathered["errors"][0]["code"], 401, "{gathered:#}");
}
