//! TLS to a pairing server whose name its certificate must prove.

use std::io;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{RendezvousError, ServerUrl, SocketOptions};

/// Shakes hands over `stream`.
pub(super) async fn over(
    stream: TcpStream,
    server: &ServerUrl,
    options: &SocketOptions,
) -> Result<TlsStream<TcpStream>, RendezvousError> {
    let roots = match &options.roots {
        Some(pem) => given(pem),
        None => system(),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .with_root_certificates(roots?)
        .with_no_client_auth();
    let name = ServerName::try_from(server.host().to_owned()).map_err(tls_error)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connecting.await.map_err(from_handshake)
}

/// Only what the server's certificate is not is said of the server for good. Everything else may
/// be another one's in between, or of a moment in which it starts.
fn from_handshake(error: io::Error) -> RendezvousError {
    let reason = error.get_ref().and_then(|error| error.downcast_ref());
    match reason {
        Some(rustls::Error::InvalidCertificate(_)) => RendezvousError::Tls(error),
        Some(reason) => RendezvousError::Protocol(reason.to_string()),
        None => RendezvousError::Closed,
    }
}

fn given(pem: &[u8]) -> Result<RootCertStore, RendezvousError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots
            .add(certificate.map_err(tls_error)?)
            .map_err(tls_error)?;
    }
    nonempty(roots, "the given file has no certificate in it")
}

fn system() -> Result<RootCertStore, RendezvousError> {
    let mut roots = RootCertStore::empty();
    // Single files that cannot be read or parsed are passed over, as every other client does.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    nonempty(roots, "this system trusts no certificates")
}

fn nonempty(roots: RootCertStore, otherwise: &str) -> Result<RootCertStore, RendezvousError> {
    match roots.is_empty() {
        false => Ok(roots),
        true => Err(RendezvousError::Tls(io::Error::other(otherwise.to_owned()))),
    }
}

fn tls_error(error: impl std::error::Error + Send + Sync + 'static) -> RendezvousError {
    RendezvousError::Tls(io::Error::other(error))
}
