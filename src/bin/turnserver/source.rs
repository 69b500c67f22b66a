//! Where a command's settings come from: a file, or the built-in default.

use std::net::Ipv4Addr;
use std::path::Path;

use turnserver::config::{self, Machine, Overrides, Secret, Settings, User};
use turnserver::server::ConfigSource;

use crate::{Common, Failure};

/// How errors name the built-in default.
const BUILT_IN: &str = "the built-in configuration";

/// Settings with their origin.
pub(crate) struct Source {
    pub(crate) settings: Settings,
    pub(crate) from: ConfigSource,
    /// The user that was made up because nobody had configured one.
    pub(crate) generated: Option<User>,
}

impl Source {
    /// The settings to serve with. Without a file and without credentials in the environment,
    /// a user with a random password is made up.
    pub(crate) fn for_serving(common: &Common) -> Result<Self, Failure> {
        let overrides = Overrides::from_process(&common.flags());
        if common.config.is_some() || overrides.has_credentials() {
            return Self::configured(common);
        }
        let user = User {
            name: "user".into(),
            password: Secret::new(random_word()?),
        };
        let settings = built_in(&overrides.with_user(&user.name, user.password.expose()))?;
        Ok(Self {
            settings,
            from: ConfigSource {
                path: None,
                overrides,
            },
            generated: Some(user),
        })
    }

    /// The settings of the file, or of the built-in default with the environment over it.
    pub(crate) fn configured(common: &Common) -> Result<Self, Failure> {
        let overrides = Overrides::from_process(&common.flags());
        let settings = match &common.config {
            Some(path) => config::load_file(path, &overrides)?,
            None => built_in(&overrides)?,
        };
        Ok(Self {
            settings,
            from: ConfigSource {
                path: common.config.clone(),
                overrides,
            },
            generated: None,
        })
    }
}

fn built_in(overrides: &Overrides) -> Result<Settings, config::Errors> {
    let mut machine = Machine::detect();
    if machine.ipv4.is_none() && machine.ipv6.is_none() {
        // A machine without a network can still try the server out.
        machine.ipv4 = Some(Ipv4Addr::LOCALHOST);
    }
    config::load(
        config::DEFAULT_FILE,
        Path::new(BUILT_IN),
        overrides,
        &machine,
    )
}

/// 128 random bits that are easy to paste.
pub(crate) fn random_word() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::Plain(format!("the system has no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
