//! The certificates that listeners use, and watching their files.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

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
    /// What was wrong with them then. They are read again until they can be used: the reason may
    /// be one that no stamp shows.
    trouble: Option<String>,
}

/// What changes when a file is replaced, rewritten, or given to somebody else: inode, length,
/// and the times of the last modification and of the last change of owner or mode.
type Stamp = [Option<(u64, u64, (i64, i64), (i64, i64))>; 2];

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
            let entry = Entry {
                loaded,
                seen,
                trouble: None,
            };
            entries.insert(certificate.clone(), entry);
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

    /// Reads files again that changed since they were read last, or that could not be used then.
    /// A file that can not be used leaves the former certificate in place.
    pub(super) fn reload_changed(&mut self) {
        for (certificate, entry) in &mut self.entries {
            if entry.trouble.is_some() || stamp(certificate) != entry.seen {
                entry.reload(certificate);
            }
        }
    }

    /// Reads all files again, and says once more what is wrong with those that can not be used.
    pub(super) fn reload_all(&mut self) {
        for (certificate, entry) in &mut self.entries {
            entry.trouble = None;
            entry.reload(certificate);
        }
    }
}

impl Entry {
    fn reload(&mut self, certificate: &Certificate) {
        // The stamp comes first: a change while the files are being read is seen next time.
        self.seen = stamp(certificate);
        match self.loaded.reload() {
            Ok(changed) => {
                if changed || self.trouble.is_some() {
                    info!(certificate = %certificate.chain.display(), "certificate reloaded");
                }
                self.trouble = None;
            }
            // Chain and key are two files: between the two writes they do not match, and the
            // next look finds them whole. What lasts is said once.
            Err(error) => {
                let error = error.to_string();
                if self.trouble.as_ref() != Some(&error) {
                    warn!(
                        "the certificate changed but can not be used; the former one stays: {error}"
                    );
                }
                self.trouble = Some(error);
            }
        }
    }
}

fn stamp(certificate: &Certificate) -> Stamp {
    [&certificate.chain, &certificate.key].map(|path| {
        let meta = fs::metadata(path).ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        let changed = (meta.ctime(), meta.ctime_nsec());
        Some((meta.ino(), meta.len(), modified, changed))
    })
}
