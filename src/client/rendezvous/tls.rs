//! TLS to a pairing server whose name its certificate must prove.

use std::io;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
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
    let connected = connecting.await;
    connected.map_err(|error| from_handshake(error, options.roots.is_some()))
}

/// Only what the server's certificate is not is said of the server for good. Everything else may
/// be another one's in between, or of a moment in which it starts.
/// `given`: whom to trust was given, and is not the system's choice.
fn from_handshake(error: io::Error, given: bool) -> RendezvousError {
    let reason = error.get_ref().and_then(|error| error.downcast_ref());
    match reason {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            RendezvousError::Tls(io::Error::other(words(reason, given)))
        }
        Some(rustls::Error::InvalidMessage(_)) => RendezvousError::NoTls,
        Some(reason) => RendezvousError::Protocol(reason.to_string()),
        None => RendezvousError::NoTls,
    }
}

/// What is wrong with the server's certificate, and what helps.
fn words(error: &CertificateError, given: bool) -> String {
    use CertificateError as E;
    match error {
        // One of those that are trusted has the same name and another kind of key.
        E::UnknownIssuer
        | E::BadSignature
        | E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => match given {
            true => "none of the given certificates (--ca) has signed its certificate".into(),
            false => "nobody whom this system trusts has signed its certificate; --ca names a \
                      file with others to trust"
                .into(),
        },
        E::Expired | E::ExpiredContext { .. } => "its certificate has expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock of this machine is wrong".into()
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "its certificate is for another name or address than that in the URL".into()
        }
        // That has a type only in the library below.
        E::Other(reason) if reason.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is one of an authority, which cannot be a server's own; make it with \
             CA:FALSE, as `openssl req -x509 … -addext basicConstraints=critical,CA:FALSE` does"
                .into()
        }
        other => format!("its certificate is refused: {other}"),
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
