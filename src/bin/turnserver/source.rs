//! Where a command's settings come from: a file, or the built-in default.

use turnserver::config::{self, Overrides, Secret, Settings, User, Warning};
use turnserver::server::{self, ConfigSource};

use crate::{Common, Failure};

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
        let overrides = overrides.with_user(&user.name, user.password.expose());
        let settings = server::load(None, &overrides)?;
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
        let settings = server::load(common.config.as_deref(), &overrides)?;
        Ok(Self {
            settings,
            from: ConfigSource {
                path: common.config.clone(),
                overrides,
            },
            generated: None,
        })
    }

    /// What is odd about the settings, the files they are from, and the environment.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let mut found = config::warnings(&self.settings);
        let path = self.from.path.as_deref();
        found.extend(config::file_warnings(path, &self.settings));
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        found.extend(config::unknown_variables(names));
        found
    }
}

/// 128 random bits that are easy to paste.
pub(crate) fn random_word() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::Plain(format!("the system has no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
