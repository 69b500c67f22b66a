//! The files that come with the server.

use std::path::Path;

use turnserver::config::{self, Overrides};

use super::{MACHINE, env, load, load_over, with};

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
fn the_production_file_loads_with_secrets_from_their_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let secret = "0123456789abcdef0123456789abcdef";
    std::fs::write(dir.path().join("secrets"), format!("{secret}\n")).expect("writable");
    let text = include_str!("../../config/production.toml");
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
    let unit = include_str!("../../deploy/turnserver.service");
    let patience = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="))
        .expect("it says how long to wait");
    assert!(patience.parse::<u64>().expect("seconds") > settings.drain.deadline.as_secs());
    assert_eq!(config::warnings(&settings), []);
}
