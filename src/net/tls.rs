//! TLS certificates that can change while the server runs.
//!
//! One `rustls` configuration serves all shards; it asks a resolver for the certificate at each
//! handshake, so a reload swaps one pointer and open connections never notice.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig, ServerConnection};

/// ALPN labels of RFC 7443. A client that names none is served too: browsers name none.
const ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// A certificate chain and its key, loaded from PEM files.
pub struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    resolver: Arc<Resolver>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Resolver(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificates {
    /// Loads a PEM chain (the server's own certificate first) and its PEM key (PKCS #8, PKCS #1
    /// or SEC1). TLS 1.2 and 1.3 are spoken, nothing older.
    ///
    /// # Errors
    /// Which file, and what is wrong with it.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let loaded = read(certificate, key)?;
        let resolver = Arc::new(Resolver(ArcSwap::from_pointee(loaded)));
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TlsError::new(certificate, TlsProblem::Unusable(error)))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&resolver) as _);
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        // Resumption without state on this side, whichever shard the client comes back to.
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            resolver,
            config: Arc::new(config),
        }))
    }

    /// Reads the files again. New handshakes see what they hold now; open connections stay as
    /// they are. Returns whether anything changed.
    ///
    /// # Errors
    /// As [`Certificates::load`]; the certificate in use is kept.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let loaded = read(&self.certificate, &self.key)?;
        let changed = loaded.cert != self.resolver.0.load().cert;
        // Also when the chain is the same: the key may be another encoding of itself, and
        // nothing is lost.
        self.resolver.0.store(Arc::new(loaded));
        Ok(changed)
    }

    /// The server's side of TLS with this certificate for another protocol over it: what it is
    /// called in ALPN.
    pub fn config_for(&self, protocol: &[u8]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    /// The certificate file.
    pub fn certificate_file(&self) -> &Path {
        &self.certificate
    }

    /// The key file.
    pub fn key_file(&self) -> &Path {
        &self.key
    }

    /// The server's end of a new connection.
    pub(super) fn accept(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.config))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("certificate", &self.certificate)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::pem(certificate, error))?;
    if chain.is_empty() {
        return Err(TlsError::new(certificate, TlsProblem::NoCertificate));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::new(key, TlsProblem::NoKey),
        error => TlsError::pem(key, error),
    })?;
    CertifiedKey::from_der(chain, private, &ring::default_provider()).map_err(|error| {
        let mismatch = rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch);
        match error {
            error if error == mismatch => TlsError::new(
                key,
                TlsProblem::Mismatch {
                    certificate: certificate.to_owned(),
                },
            ),
            error @ rustls::Error::InvalidCertificate(_) => {
                TlsError::new(certificate, TlsProblem::Unusable(error))
            }
            error => TlsError::new(key, TlsProblem::Unusable(error)),
        }
    })
}

/// Why a certificate could not be loaded.
#[derive(Debug)]
pub struct TlsError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: TlsProblem,
}

/// What is wrong with a certificate or key file.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The file cannot be read.
    Read(std::io::Error),
    /// The file is not well-formed PEM.
    Pem(pem::Error),
    /// The file has no certificate in it.
    NoCertificate,
    /// The file has no private key in it.
    NoKey,
    /// The key is not the one of the certificate.
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate or key is of a kind that cannot be used.
    Unusable(rustls::Error),
}

impl TlsError {
    fn new(file: &Path, problem: TlsProblem) -> Self {
        Self {
            file: file.to_owned(),
            problem,
        }
    }

    fn pem(file: &Path, error: pem::Error) -> Self {
        Self::new(
            file,
            match error {
                pem::Error::Io(error) => TlsProblem::Read(error),
                error => TlsProblem::Pem(error),
            },
        )
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        match &self.problem {
            TlsProblem::Read(error) => write!(f, "cannot be read: {error}"),
            TlsProblem::Pem(error) => write!(f, "is not well-formed PEM: {error}"),
            TlsProblem::NoCertificate => write!(
                f,
                "holds no certificate (expected a PEM block \"BEGIN CERTIFICATE\")"
            ),
            TlsProblem::NoKey => write!(
                f,
                "holds no private key (expected a PEM block \"BEGIN PRIVATE KEY\")"
            ),
            TlsProblem::Mismatch { certificate } => write!(
                f,
                "is not the key of the certificate in {}",
                certificate.display()
            ),
            TlsProblem::Unusable(error) => write!(f, "cannot be used: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().expect("a directory"),
            }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, text).expect("written");
            path
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_reload_swaps_the_certificate_and_a_bad_one_changes_nothing() {
        let files = Files::new();
        let (cert, key) = pair();
        let cert_file = files.write("cert.pem", &cert);
        let key_file = files.write("key.pem", &key);
        let certificates = Certificates::load(&cert_file, &key_file).expect("loads");
        let first = certificates.resolver.0.load_full();
        assert!(!certificates.reload().expect("reloads"));

        files.write("cert.pem", "garbage");
        let error = certificates.reload().expect_err("no certificate");
        assert!(matches!(error.problem, TlsProblem::NoCertificate));
        assert_eq!(certificates.resolver.0.load().cert, first.cert);

        let (cert, key) = pair();
        files.write("cert.pem", &cert);
        files.write("key.pem", &key);
        assert!(certificates.reload().expect("reloads"));
        assert_ne!(certificates.resolver.0.load().cert, first.cert);
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let files = Files::new();
        let (cert, key) = pair();
        let (_, other_key) = pair();
        let cert = files.write("cert.pem", &cert);
        let good = files.write("key.pem", &key);
        let other = files.write("other.pem", &other_key);
        let missing = files.dir.path().join("missing.pem");
        let cut = files.write("cut.pem", &key[..key.len() / 2]);

        let load = |cert: &Path, key: &Path| Certificates::load(cert, key).expect_err("fails");
        let error = load(&cert, &other);
        assert!(
            matches!(error.problem, TlsProblem::Mismatch { .. }),
            "{error}"
        );
        assert_eq!(error.file, other);
        let error = load(&missing, &good);
        assert!(matches!(error.problem, TlsProblem::Read(_)), "{error}");
        assert_eq!(error.file, missing);
        let error = load(&cert, &missing);
        assert!(matches!(error.problem, TlsProblem::Read(_)), "{error}");
        let error = load(&good, &good);
        assert!(
            matches!(error.problem, TlsProblem::NoCertificate),
            "{error}"
        );
        let error = load(&cert, &cert);
        assert!(matches!(error.problem, TlsProblem::NoKey), "{error}");
        let error = load(&cert, &cut);
        assert!(
            matches!(error.problem, TlsProblem::Pem(_) | TlsProblem::NoKey),
            "{error}"
        );
        assert!(error.to_string().contains("cut.pem"));
    }
}
