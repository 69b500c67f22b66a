//! SIGHUP: the configuration is read again and what can change in a running server does, as one
//! snapshot. A file with an error changes nothing.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::config;

use super::{Server, assemble, load};

impl Server {
    /// Reads the configuration again and applies it.
    pub(super) fn reload(&mut self) {
        self.certificates.reload_all();
        let path = self.source.path.as_deref();
        let fresh = match load(path, &self.source.overrides) {
            Ok(settings) => settings,
            Err(errors) => {
                error!(
                    "the configuration has errors and was not applied; nothing changed\n{errors}"
                );
                return;
            }
        };
        // Sockets and their addresses stay as they are until a restart.
        let adopted = config::adopt(&self.settings, &fresh);
        let policy = match assemble::policy(&adopted, &self.pair_secret) {
            Ok(policy) => policy,
            Err(error) => {
                error!(%error, "the configuration can not be applied; nothing changed");
                return;
            }
        };
        let changes = config::diff(&self.settings, &adopted);
        let waiting = config::diff(&adopted, &fresh);

        self.shards.set_policy(&Arc::new(policy));
        let secrets = assemble::pair_secrets(&adopted, &self.pair_secret);
        self.mint.replace(&secrets);
        self.shared
            .budget
            .set_rate(adopted.limits.unauthenticated_replies);
        if let Some(log) = &self.log {
            log.set_level(adopted.log.level);
        }
        let file = path.map_or_else(|| "(built-in)".into(), |path| path.display().to_string());
        info!(file, changes = changes.len(), "configuration reloaded");
        for change in changes {
            info!(%change, "reloaded");
        }
        for change in waiting {
            warn!(%change, "not in force until a restart");
        }
        for overridden in config::without_effect(&self.settings, &adopted) {
            warn!("changed without effect: {overridden}");
        }
        self.settings = adopted;
    }
}
