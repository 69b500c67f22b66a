//! Usage, help, `turnserver init`, and what refuses to start.

use std::path::Path;

use turnserver::config::{self, Machine, Overrides};

use super::{File, err, out, run};

#[test]
fn wrong_usage_exits_with_two() {
    for arguments in [
        &["chekc"][..],
        &["ping", "--timeout", "0"],
        &["--public-address", "x"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!err(&output).is_empty());
    }
}

#[test]
fn every_command_has_help() {
    let shown = out(&run(&["--help"]));
    for word in [
        "check",
        "credentials",
        "ping",
        "init",
        "TURNSERVER_SECRETS",
        "SIGHUP",
    ] {
        assert!(shown.contains(word), "{shown}");
    }
    for command in ["check", "credentials", "ping", "init"] {
        let output = run(&[command, "--help"]);
        assert!(
            output.status.success() && out(&output).contains("Usage:"),
            "{command}"
        );
    }
}

#[test]
fn a_configuration_without_credentials_refuses_to_start() {
    let file = File::new("realm = \"example.org\"\n");
    let output = run(&["--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = err(&output);
    assert!(shown.contains("no credentials are configured"), "{shown}");
    assert!(
        shown.contains("secrets = [") && shown.contains("alice ="),
        "{shown}"
    );
}

#[test]
fn init_writes_a_file_that_serves_and_never_overwrites() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("stunner.toml");
    let path = path.to_str().expect("UTF-8");
    assert!(run(&["init", path]).status.success());
    let mode = std::fs::metadata(path)
        .expect("written")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let written = std::fs::read_to_string(path).expect("written");
    let machine = Machine {
        ipv4: Some([192, 0, 2, 1].into()),
        ..Machine::default()
    };
    let settings = config::load(&written, Path::new(path), &Overrides::none(), &machine);
    let secrets = settings.expect("it is complete").auth.secrets;
    assert_eq!(secrets[0].expose().len(), 64);
    assert_eq!(run(&["init", path]).status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(path).expect("still there"), written);
}
