//! The certificates that listeners use, and watching their files.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use crate::config::{Certificate, Settings};
use crate::net::tls::{Certificates, TlsError};

/// Every certificate of the configuration, loaded once however many listeners name it.
#[derive(Default)]
pub(super) struct Store {
    entries: HashMap<Certificate, Entry>,
}

struct Entry {
    loaded: Arc<Certificates>,
    /// What the two files looked like when they were read last.
    seen: Stamp,
}

/// Modification time and length of chain and key: what changes when a file is replaced.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Store {
    /// Loads all certificates.
    ///
    /// # Errors
    /// When one can not be read or used.
    pub(super) fn load(settings: &Settings) -> Result<Self, TlsError> {
        let mut entries = HashMap::new();
        for certificate in settings.certificates() {
            let seen = stamp(certificate);
            let loaded = Certificates::load(&certificate.chain, &certificate.key)?;
            entries.insert(certificate.clone(), Entry { loaded, seen });
        }
        Ok(Self { entries })
    }

    /// The certificate of a listener.
    ///
    /// # Panics
    /// When it was not part of the settings that were loaded.
    pub(super) fn get(&self, certificate: &Certificate) -> Arc<Certificates> {
        let entry = self
            .entries
            .get(certificate)
            .expect("load() saw the same settings");
        Arc::clone(&entry.loaded)
    }

    /// Reads files again that changed since they were read last. A file that can not be used
    /// leaves the former certificate in place.
    pub(super) fn reload_changed(&mut self) {
        for (certificate, entry) in &mut self.entries {
            let now = stamp(certificate);
            if now == entry.seen {
                continue;
            }
            entry.seen = now;
            match entry.loaded.reload() {
                Ok(true) => {
                    info!(certificate = %certificate.chain.display(), "certificate reloaded")
                }
                Ok(false) => {}
                // Chain and key are two files: between the two writes they do not match. The
                // next change of either is another try.
                Err(error) => {
                    warn!(%error, "the certificate changed but can not be used yet; the former one stays")
                }
            }
        }
    }
}

fn stamp(certificate: &Certificate) -> Stamp {
    [&certificate.chain, &certificate.key].map(|path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}
