//! How errors are shown: all in one run, with a place, a reason and a fix, and no secret.

use turnserver::config::{Flags, Overrides};
use turnserver::server;

use super::{errors, errors_over};

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
