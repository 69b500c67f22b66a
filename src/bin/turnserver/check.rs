//! `turnserver check`: is the configuration valid, and what does it amount to?

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use turnserver::config::{Settings, Warning, effective, machine_warnings};

use crate::source::Source;
use crate::{Common, Failure, certificate};

/// Certificates that expire sooner are warned about.
const SOON: i64 = 14 * DAY;
const DAY: i64 = 86_400;

#[derive(Args)]
pub(crate) struct Options {
    /// The file, as by --config; without either the built-in default is checked
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

pub(crate) fn run(common: &Common, options: Options) -> Result<(), Failure> {
    let common = &Common {
        config: common.config.clone().or(options.file),
        realm: common.realm.clone(),
        public_address: common.public_address.clone(),
        log_level: common.log_level.clone(),
    };
    let source = Source::configured(common)?;
    let mut warnings = source.warnings();
    warnings.extend(machine_warnings(&source.settings));
    let certificates = certificates(&source.settings, &mut warnings)?;

    crate::result(&match &source.from.path {
        Some(path) => format!("# {} is valid. In force, secrets redacted:", path.display()),
        None => "# The built-in configuration. In force, secrets redacted:".into(),
    })?;
    let sources = source.from.overrides.sources();
    if !sources.is_empty() {
        crate::result(&format!(
            "# From environment and flags: {}",
            sources.join(", ")
        ))?;
    }
    crate::result(&effective(&source.settings))?;
    crate::result(&capacity(&source.settings))?;
    crate::result(&data_path(&source.settings)?)?;
    for line in certificates {
        crate::result(&line)?;
    }
    for Warning { message, help } in warnings {
        crate::warn(&format!("warning: {message}\n = help: {help}"));
    }
    Ok(())
}

/// Which data path would serve here and now.
fn data_path(settings: &Settings) -> Result<String, Failure> {
    match turnserver::server::serving(settings) {
        Ok(serving) => Ok(format!("# Data path: {serving}")),
        Err(error) => Err(Failure::Plain(error.to_string())),
    }
}

fn capacity(settings: &Settings) -> String {
    let relay = &settings.relay;
    let ports = relay.ports.len();
    let of_family = |v4: bool| {
        let addresses = relay.addresses.iter();
        addresses.filter(|a| a.local.is_ipv4() == v4).count() * ports
    };
    format!(
        "# Capacity: {} allocations ({} IPv4, {} IPv6: {} ports on each of {} addresses)",
        settings.capacity(),
        of_family(true),
        of_family(false),
        ports,
        relay.addresses.len(),
    )
}

/// A line for each certificate.
fn certificates(settings: &Settings, warnings: &mut Vec<Warning>) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for used in settings.certificates() {
        let found = certificate::read(&used.chain).map_err(Failure::Plain)?;
        let left = found.not_after - unix_now();
        let path = used.chain.display();
        if left < SOON {
            warnings.push(Warning {
                message: match left {
                    ..=0 => format!("the certificate {path} has expired"),
                    _ => format!("the certificate {path} expires in {} days", left / DAY),
                },
                help: "renew it; a running server reads it again when it changes".into(),
            });
        }
        lines.push(format!(
            "# Certificate {path}: {}, {} days left",
            found.names.join(", "),
            left.max(0) / DAY
        ));
    }
    Ok(lines)
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a command line is a driver")]
pub(crate) fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}
