//! The file, files of secrets, the environment and flags: which one holds.

use turnserver::config::{self, Flags, Level, Overrides, Settings};

use super::{FIXED, MACHINE, env, load, load_over, pairs};

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
