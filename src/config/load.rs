//! Reads a configuration: all of it, before it complains.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::certificate::CertificateCheck;
use super::machine::Machine;
use super::overrides::Overrides;
use super::problem::{At, Errors, Problem, Problems, Span, position};
use super::reader::{Found, Section, choose};
use super::settings::{Level, Log, LogFormat, Settings};
use super::{addresses, credentials, mask, relay, sections, signaling};
use crate::opaque::opaque_string;

/// The most characters of a realm (RFC 8489 section 14.9: fewer than 128).
const REALM_MAX: usize = 127;

/// Reads and checks the file at `path`, with everything that the overrides and this machine add.
/// Certificate files must be readable, and `certificates` must find them usable.
///
/// # Errors
/// Everything that is wrong, all at once.
pub fn load_file(
    path: &Path,
    overrides: &Overrides,
    certificates: &CertificateCheck,
) -> Result<Settings, Errors> {
    let name = path.display().to_string();
    let fail = |problem: Problem| {
        let problems = Problems::default();
        problems.push(problem);
        problems.into_errors(&name, String::new())
    };
    let bytes = std::fs::read(path).map_err(|error| {
        fail(
            Problem::new(
                At::File,
                format!("cannot read {name}"),
                super::io_reason(&error),
            )
            .help(match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "make it readable for the user that turnserver runs as"
                }
                _ => "name the file by --config FILE; `turnserver init` writes one to start from",
            }),
        )
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let (line, column) = position(&String::from_utf8_lossy(error.as_bytes()), at);
        fail(
            Problem::new(
                At::File,
                format!("{name} is not UTF-8"),
                format!("line {line}, column {column} is not text"),
            )
            .help("save the file as UTF-8"),
        )
    })?;
    Loader {
        text: &text,
        path,
        overrides,
        machine: &Machine::detect(),
        certificates: Some(certificates),
    }
    .load()
}

/// Reads and checks a configuration that is already in memory. `path` names it in errors, and
/// relative paths in it are relative to the directory of `path`. Certificate files are not
/// looked at, a file of secrets is.
///
/// # Errors
/// Everything that is wrong, all at once.
pub fn load(
    text: &str,
    path: &Path,
    overrides: &Overrides,
    machine: &Machine,
) -> Result<Settings, Errors> {
    Loader {
        text,
        path,
        overrides,
        machine,
        certificates: None,
    }
    .load()
}

struct Loader<'a> {
    text: &'a str,
    path: &'a Path,
    overrides: &'a Overrides,
    machine: &'a Machine,
    certificates: Option<&'a CertificateCheck>,
}

impl Loader<'_> {
    fn load(&self) -> Result<Settings, Errors> {
        let name = self.path.display().to_string();
        let (table, syntax) = DeTable::parse_recoverable(self.text);
        let masked = mask::mask(self.text, table.get_ref(), !syntax.is_empty());
        let problems = Problems::default();
        if !syntax.is_empty() {
            // What a broken file means is guesswork, so nothing else is said about it.
            for (span, messages) in by_place(&syntax, self.text.len()) {
                problems.push(syntax_problem(span, &messages));
            }
            return Err(problems.into_errors(&name, masked));
        }
        let settings = self.read(&Section::root(table.get_ref(), &problems), &problems);
        match settings {
            Some(settings) if problems.len() == 0 => Ok(settings),
            _ => Err(problems.into_errors(&name, masked)),
        }
    }

    fn read(&self, root: &Section<'_>, problems: &Problems) -> Option<Settings> {
        let realm = self.realm(root, problems);
        let ops = sections::ops(&root.section("ops"), problems);
        let directory = self.path.parent().map_or_else(PathBuf::new, Into::into);
        let signaling = signaling::signaling(
            &root.section("signaling"),
            &directory,
            self.machine,
            self.certificates,
            problems,
        );
        let (signaling, signaling_addresses) = signaling.unzip();
        let listeners = addresses::listeners(
            root.sections("listener"),
            ops.iter().chain(signaling_addresses.iter().flatten()),
            &directory,
            self.machine,
            self.certificates,
            problems,
        );
        let relay = relay::relay(
            &root.section("relay"),
            &listeners,
            self.overrides.public_address(),
            self.machine,
            problems,
        );
        let auth = credentials::auth(
            &root.section("auth"),
            self.overrides,
            &directory,
            signaling.is_some(),
            problems,
        );
        let stun = sections::stun(&root.section("stun"));
        let limits = sections::limits(&root.section("limits"), problems);
        let peers = sections::peers(&root.section("peers"), problems);
        let log = self.log(&root.section("log"), problems);
        let runtime = sections::runtime(
            &root.section("runtime"),
            self.overrides.data_path(),
            problems,
        );
        let drain = sections::drain(&root.section("drain"), problems);
        Some(Settings {
            realm: realm?,
            listeners: listeners.into_iter().map(|found| found.value).collect(),
            relay: relay?,
            auth,
            stun,
            limits,
            peers,
            log,
            ops: super::settings::Ops {
                address: ops.map(|found| found.value),
            },
            signaling,
            runtime,
            drain,
            overridden: self.overrides.hide(self.text),
        })
    }

    fn realm(&self, root: &Section<'_>, problems: &Problems) -> Option<String> {
        let before = problems.len();
        let in_file = root.text("realm");
        let Some(realm) = self.overrides.realm().or(in_file) else {
            if problems.len() == before {
                problems.push(
                    Problem::new(At::Text(0..0), "`realm` is missing", "belongs here").help(
                        "add as the first line, with your own domain: realm = \"example.org\"",
                    ),
                );
            }
            return None;
        };
        let prepared = opaque_string(&realm.value);
        let length = prepared.as_deref().unwrap_or(&realm.value).chars().count();
        let (title, reason) = if length == 0 {
            ("`realm` is empty", "must be 1 to 127 characters".into())
        } else if length > REALM_MAX {
            (
                "`realm` is too long",
                format!("{length} characters, at most {REALM_MAX} (RFC 8489 section 14.9)"),
            )
        } else if let Err(error) = prepared {
            (
                "`realm` has a character that clients cannot use",
                format!("it {error}"),
            )
        } else if realm.value.contains(['"', '\\']) {
            (
                "`realm` has a character that clients cannot use",
                "no quotes or backslashes".into(),
            )
        } else {
            return Some(realm.value);
        };
        problems.push(
            Problem::new(realm.at, title, reason)
                .help("use the domain of your service: realm = \"example.org\""),
        );
        None
    }

    fn log(&self, section: &Section<'_>, problems: &Problems) -> Log {
        let levels = Level::ALL.map(|level| (level.name(), level));
        let in_file = section.choice("level", &levels);
        let level = match self.overrides.log_level() {
            Some(word) => choose(&word, "log.level", &levels, problems),
            None => in_file,
        };
        let format = section.choice(
            "format",
            &[LogFormat::Auto, LogFormat::Human, LogFormat::Json].map(|f| (f.name(), f)),
        );
        Log {
            level: level.map_or_else(Level::default, |found| found.value),
            format: format.map_or_else(LogFormat::default, |found| found.value),
        }
    }
}

/// The parser may say several things about one place; `end` is where the text ends.
fn by_place(errors: &[toml::de::Error], end: usize) -> Vec<(Span, String)> {
    let mut places: Vec<(Span, String)> = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(end..end);
        match places
            .iter_mut()
            .find(|(known, _)| known.start == span.start)
        {
            Some((_, messages)) => {
                messages.push_str("; ");
                messages.push_str(error.message());
            }
            None => places.push((span, error.message().into())),
        }
    }
    places
}

fn syntax_problem(span: Span, message: &str) -> Problem {
    let help = if message.contains("duplicate key") {
        "remove one of the two"
    } else if message.contains("string values must be quoted") {
        "put the value in quotes: key = \"value\""
    } else {
        "see https://toml.io for how values are written: \"text\", 123, true, [\"a\", \"b\"]"
    };
    Problem::new(At::Text(span), "this is not valid TOML", message).help(help)
}

/// Reports the second of two equal names.
pub(super) fn refuse_twice<'a>(
    names: impl IntoIterator<Item = &'a Found<String>>,
    what: &str,
    problems: &Problems,
) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(&name.value) {
            problems.push(
                Problem::new(
                    name.at.clone(),
                    format!("{what} `{}` is listed twice", name.value),
                    "listed before",
                )
                .help("remove one of the two"),
            );
        }
    }
}
