//! `turnserver credentials`: what a browser needs to use this server.

use clap::Args;
use turnserver::auth;
use turnserver::config::{RestHash, Settings};
use turnserver::opaque::opaque_string;

use crate::check::unix_now;
use crate::ice::{IceConfiguration, urls};
use crate::source::Source;
use crate::{Common, Failure};

/// The most bytes of a username (RFC 8489 section 14.3: fewer than 509).
const MOST_BYTES: usize = 508;

#[derive(Args)]
pub(crate) struct Options {
    /// Whose credential: any name with a secret, else one of the static users
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// How long a time-limited credential is valid [default: auth.credential_ttl]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    ttl: Option<u64>,
    /// The name or address of this server in the URLs, in place of its addresses
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

pub(crate) fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let settings = Source::configured(common)?.settings;
    let (username, credential, ttl) = credential(&settings, options)?;
    let urls = urls(&settings, options.host.as_deref());
    let configuration = IceConfiguration::new(urls, username, credential, ttl);
    crate::result(&configuration.json())
}

/// Username, password, and how long they are valid.
fn credential(
    settings: &Settings,
    options: &Options,
) -> Result<(String, String, Option<u64>), Failure> {
    let user = options.user.as_deref();
    if let Some(secret) = settings.auth.secrets.first() {
        let ttl = options.ttl.unwrap_or(settings.auth.credential_ttl);
        let now = u64::try_from(unix_now()).unwrap_or_default();
        let sha256 = settings.auth.rest_hash == RestHash::Sha256;
        if let Some(Err(error)) = user.filter(|user| !user.is_empty()).map(opaque_string) {
            return Err(Failure::Plain(format!("--user {error}")));
        }
        let (username, password) = auth::mint(user, ttl, secret.expose().as_bytes(), now, sha256);
        if username.len() > MOST_BYTES {
            return Err(Failure::Plain(format!(
                "the username would be {} bytes long with its expiry; at most {MOST_BYTES} are \
                 possible (RFC 8489 section 14.3)",
                username.len()
            )));
        }
        return Ok((username, password, Some(ttl)));
    }
    if options.ttl.is_some() {
        return Err(Failure::Plain(
            "static users do not expire; set `auth.secrets` for time-limited credentials".into(),
        ));
    }
    let users = &settings.auth.users;
    if users.is_empty() {
        return Err(Failure::Plain(
            "there is no user and no secret: only devices that are paired use this relay; set \
             `auth.secrets` or `auth.users`"
                .into(),
        ));
    }
    let found = match user {
        Some(name) => users.iter().find(|user| user.name == name),
        None => users.first(),
    };
    match found {
        Some(user) => Ok((user.name.clone(), user.password.expose().into(), None)),
        None => {
            let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
            Err(Failure::Plain(format!(
                "there is no user `{}`; the users are: {}",
                user.unwrap_or_default(),
                names.join(", ")
            )))
        }
    }
}
