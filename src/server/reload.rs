//! SIGHUP: the configuration is read again and what can change in a running server does, as one
//! snapshot. A file with an error changes nothing.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::config::{self, Applies};

use super::{Server, assemble};

impl Server {
    /// Reads the configuration again and applies it.
    pub(super) fn reload(&mut self) {
        self.certificates.reload_changed();
        let Some(path) = self.source.path.clone() else {
            info!("nothing to reload: the server runs on its built-in default");
            return;
        };
        let fresh = match config::load_file(&path, &self.source.overrides) {
            Ok(settings) => settings,
            Err(errors) => {
                error!(
                    "the configuration has errors and was not applied; nothing changed\n{errors}"
                );
                return;
            }
        };
        let policy = match assemble::policy(&fresh, &self.started) {
            Ok(policy) => policy,
            Err(error) => {
                error!(%error, "the configuration can not be applied; nothing changed");
                return;
            }
        };
        // What needs a restart is said at every reload until the restart comes.
        let mut changes = config::diff(&self.settings, &fresh);
        changes.retain(|change| change.applies == Applies::Live);
        let mut waiting = config::diff(&self.started, &fresh);
        waiting.retain(|change| change.applies == Applies::Restart);

        self.shards.set_policy(&Arc::new(policy));
        self.shared
            .budget
            .set_rate(fresh.limits.unauthenticated_replies);
        if let Some(log) = &self.log {
            log.set_level(fresh.log.level);
        }
        info!(file = %path.display(), changes = changes.len(), "configuration reloaded");
        for change in changes {
            info!(%change, "reloaded");
        }
        for change in waiting {
            warn!(%change, "differs from what is running");
        }
        self.settings = fresh;
    }
}
