//! The commands.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{directory, udp_client};
use crate::support::namespace::Namespace;
use crate::support::tools::{Output, run};
use crate::support::{Config, OTHER_USER, Ports, Server, USER, binary, wait_until};

#[test]
fn ping_tells_by_its_exit_code() {
    let server = Server::start();
    let address = server.udp().to_string();
    let output = run(&[binary(), "ping", &address], Duration::from_secs(10));
    assert_eq!(output.code, 0, "{}", output.text);
    let ports = Ports::claim();
    let address = format!("127.0.0.1:{}", ports.plain());
    let output = run(&[binary(), "ping", &address], Duration::from_secs(20));
    assert_eq!(output.code, 1, "{}", output.text);
}

#[test]
fn check_shows_what_is_in_force_without_secrets() {
    let directory = directory();
    let ports = Ports::claim();
    let file = directory.path().join("stunner.toml");
    let config = Config {
        relay_ports: Some((50_000, 50_099)),
        ..Config::default()
    };
    fs::write(&file, config.render(&ports)).expect("config written");
    let output = check(&file);
    assert_eq!(output.code, 0, "{}", output.text);
    // 100 ports on two addresses.
    assert!(output.text.contains("200"), "{}", output.text);
    assert!(output.text.contains("max_lifetime"), "{}", output.text);
    for secret in [crate::support::SECRET, USER.1, OTHER_USER.1] {
        assert!(!output.text.contains(secret), "{}", output.text);
    }
}

#[test]
fn the_configuration_of_the_readme_is_valid() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("readable");
    let example = readme.split("```toml\n").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    let directory = directory();
    let file = directory.path().join("stunner.toml");
    fs::write(&file, example).expect("config written");
    let output = check(&file);
    assert_eq!(output.code, 0, "{}", output.text);
}

fn check(file: &Path) -> Output {
    run(
        &[binary(), "check", "--config", &file.to_string_lossy()],
        Duration::from_secs(10),
    )
}

#[test]
fn the_container_configuration_is_valid_and_says_who_may_allocate() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/container.toml");
    let without = check(&file);
    assert_eq!(without.code, 0, "{}", without.text);
    let said = "only devices that `[signaling]` pairs may allocate";
    assert!(without.text.contains(said), "{}", without.text);
    let with_users = format!(
        "TURNSERVER_USERS=user-1:pass-1 {} check --config {}",
        binary(),
        file.display()
    );
    let output = run(&["sh", "-c", &with_users], Duration::from_secs(10));
    assert_eq!(output.code, 0, "{}", output.text);
    assert!(!output.text.contains(said), "{}", output.text);
}

/// The health check asks what the configuration says, not what the image came with.
#[test]
fn the_container_is_healthy_whatever_its_configuration() {
    let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
    let dockerfile = fs::read_to_string(dockerfile).expect("readable");
    let words = |keyword: &str| -> Vec<String> {
        let line = dockerfile.lines().find(|line| line.starts_with(keyword));
        let line = line.unwrap_or_else(|| panic!("no {keyword}"));
        serde_json::from_str(&line[line.find('[').expect("a list")..]).expect("JSON")
    };
    let mut serve = words("ENTRYPOINT");
    serve.extend(words("CMD"));
    let healthy = words("HEALTHCHECK");

    let namespace = Namespace::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    crate::support::write_certificate(directory.path());
    let file = directory.path().join("stunner.toml");
    let inside = |words: &[String]| -> Vec<String> {
        let path = |word: &String| match word.as_str() {
            "/turnserver" => binary().to_owned(),
            "/etc/turnserver/stunner.toml" => file.display().to_string(),
            other => other.to_owned(),
        };
        let mut line = vec![
            "env".to_owned(),
            "TURNSERVER_USERS=user-1:pass-1".to_owned(),
        ];
        line.extend(words.iter().map(path));
        line
    };
    let (serve, healthy) = (inside(&serve), inside(&healthy));
    let check = || {
        let line: Vec<&str> = healthy.iter().map(String::as_str).collect();
        namespace.run(&line, Duration::from_secs(10))
    };
    let own = "realm = \"example.org\"\n[[listener]]\nprotocol = \"tls\"\n\
                   address = \"127.0.0.1:443\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    for text in [include_str!("../../config/container.toml"), own] {
        fs::write(&file, text).expect("written");
        assert_eq!(check().code, 1, "nothing runs yet");
        let line: Vec<&str> = serve.iter().map(String::as_str).collect();
        let log = directory.path().join("log");
        let mut server = namespace.start(&line, &log);
        let up = wait_until(Duration::from_secs(15), || check().code == 0);
        // Killing a process that has ended is an error of no interest.
        let _ = server.kill();
        let _ = server.wait();
        assert!(
            up,
            "{}\n{}",
            check().text,
            fs::read_to_string(&log).unwrap_or_default()
        );
    }
}

#[test]
fn secrets_come_from_the_environment() {
    let directory = directory();
    let ports = Ports::claim();
    let file = directory.path().join("stunner.toml");
    fs::write(&file, Config::default().render(&ports)).expect("config written");
    let mint = format!(
        "TURNSERVER_SECRETS=other-secret {} credentials --config {} --user alice",
        binary(),
        file.display()
    );
    let output = run(&["sh", "-c", &mint], Duration::from_secs(10));
    assert_eq!(output.code, 0, "{}", output.text);
    let printed: serde_json::Value = serde_json::from_str(&output.stdout).expect("it prints JSON");
    let servers = printed.get("iceServers").unwrap_or(&printed);
    let username = servers[0]["username"].as_str().expect("a username");
    let credential = servers[0]["credential"].as_str().expect("a credential");

    let server = Server::with(Config {
        secrets: vec!["other-secret".to_owned()],
        ..Config::default()
    });
    udp_client(&server, (username, credential)).allocated();
    let server = Server::start();
    let refused = udp_client(&server, (username, credential)).allocate();
    assert_eq!(refused.error(), Some(401));
}
