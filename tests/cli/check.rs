//! `turnserver check`.

use super::{File, SECRET, TLS, certificate, err, file, out, run, turnserver};

#[test]
fn check_shows_what_is_in_force_and_no_secret() {
    let file = file("[relay]\naddress = [\"127.0.0.1\", \"::1\"]\nports = \"40000-43999\"");
    let output = run(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let shown = out(&output);
    assert!(shown.contains("stunner.toml is valid"), "{shown}");
    assert!(
        shown.contains("Capacity: 8000 allocations (4000 IPv4, 4000 IPv6"),
        "{shown}"
    );
    assert!(shown.contains("max_lifetime = 3600"), "{shown}");
    assert!(shown.contains("users.alice = \"(redacted)\""), "{shown}");
    assert!(
        !shown.contains(SECRET) && !shown.contains("her-password"),
        "{shown}"
    );
    let warnings = err(&output);
    assert!(
        warnings.contains("warning: relaying on the loopback address 127.0.0.1"),
        "{warnings}"
    );
    assert!(
        warnings.contains("everybody on this machine may read it"),
        "{warnings}"
    );
}

#[test]
fn check_takes_the_file_as_an_argument_and_names_the_environment() {
    let file = file("[relay]\naddress = \"127.0.0.1\"");
    let output = turnserver(&["check", file.path(), "--realm", "flag.example"])
        .env("TURNSERVER_REALM", "env.example")
        .env("TURNSERVER_SECRETS", "another-long-secret")
        .output()
        .expect("the binary was built");
    assert!(output.status.success(), "{}", err(&output));
    let shown = out(&output);
    assert!(
        shown.contains("# From environment and flags: --realm, TURNSERVER_SECRETS"),
        "{shown}"
    );
    assert!(shown.contains("realm = \"flag.example\""), "{shown}");
}

#[test]
fn check_says_every_error_and_exits_with_one() {
    let file = File::new("realm = 5\n[auth]\nsecrets = [\"hunter2-hunter2\", 3]\n");
    let output = run(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = err(&output);
    assert!(
        shown.contains("stunner.toml:1:9") && shown.contains("stunner.toml:3:31"),
        "{shown}"
    );
    assert!(shown.contains("2 errors"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(
        !shown.contains('\u{1b}'),
        "no colours where it is not a terminal"
    );
}

#[test]
fn check_looks_into_certificates() {
    let file = file(TLS);
    certificate(file.directory.path(), "turn.example.org", 2199);
    let output = run(&["check", file.path()]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        out(&output).contains("cert.pem: turn.example.org, "),
        "{}",
        out(&output)
    );
    assert!(!err(&output).contains("expire"), "{}", err(&output));

    certificate(file.directory.path(), "turn.example.org", 2001);
    let output = run(&["check", file.path()]);
    assert!(output.status.success());
    assert!(
        err(&output).contains("cert.pem has expired"),
        "{}",
        err(&output)
    );

    std::fs::write(file.directory.path().join("cert.pem"), "nonsense").expect("writable");
    let output = run(&["check", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = err(&output);
    assert!(
        shown.contains("holds no certificate") && shown.contains("stunner.toml:5:15"),
        "{shown}"
    );
}

#[test]
fn check_warns_of_what_would_fail_here() {
    let file = file("[relay]\naddress = \"203.0.113.7\"");
    let output = turnserver(&["check", file.path()])
        .env("TURNSERVER_SECRET", "oops")
        .output()
        .expect("the binary was built");
    assert!(output.status.success(), "{}", err(&output));
    let shown = err(&output);
    assert!(
        shown.contains("203.0.113.7 is no address of this machine"),
        "{shown}"
    );
    assert!(
        shown.contains("did you mean TURNSERVER_SECRETS?"),
        "{shown}"
    );
    assert!(!shown.contains("oops"), "{shown}");
}
