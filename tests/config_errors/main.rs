//! Every way to get the configuration wrong: what is said about it, and where.

mod addresses;
mod credentials;
mod keys;
mod shown;

use std::path::Path;

use turnserver::config::{self, Machine, Overrides};

const MACHINE: Machine = Machine {
    ipv4: Some(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    ipv6: None,
    ipv6_sockets: true,
};

fn errors_over(text: &str, overrides: &Overrides) -> config::Errors {
    config::load(text, Path::new("stunner.toml"), overrides, &MACHINE)
        .expect_err("this configuration is wrong")
}

fn errors(text: &str) -> config::Errors {
    errors_over(text, &Overrides::none())
}

/// Valid lines that the cases below add to.
fn with(lines: &str) -> String {
    format!("realm = \"example.org\"\nauth.secrets = [\"a-long-random-secret\"]\n{lines}\n")
}

/// The lines, added to a valid file, give exactly one error: at `place`, with `message` in what
/// is wrong and why, and `help` in what to write instead.
#[track_caller]
fn one(lines: &str, place: &str, message: &str, help: &str) {
    let errors = errors(&with(lines));
    let briefs = errors.briefs();
    assert_eq!(briefs.len(), 1, "{errors}");
    assert_eq!(briefs[0].place, format!("stunner.toml{place}"), "{errors}");
    assert!(briefs[0].message.contains(message), "{errors}");
    let found = briefs[0]
        .help
        .as_deref()
        .expect("every error says what to write");
    assert!(found.contains(help), "{errors}");
}
