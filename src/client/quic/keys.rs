//! What QUIC authenticates itself with. The datagrams below are sealed already; TLS is there
//! because QUIC has it. So the server's key is one that both sides compute from a secret of the
//! very handshake that sealed them, and nothing else is taken. It comes in a certificate that it
//! signs itself, of which only the key counts: few TLS libraries take keys without one.
//!
//! ALPN (RFC 7301) says what the streams are for: the initiator offers one word, and the receiver
//! knows all of them.

use std::io;
use std::sync::Arc;

use hkdf::Hkdf;
use quinn::Connection;
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::pairing::Protocol;

/// The initiator opens streams.
const STREAMS: &[u8] = b"turnserver-streams-1";
/// The initiator serves a TCP port: each stream that the receiver opens is a connection to it.
const SERVES_TCP: &[u8] = b"turnserver-serves-tcp-1";
/// The initiator serves a UDP port, to the datagrams and streams of the receiver.
const SERVES_UDP: &[u8] = b"turnserver-serves-udp-1";
/// An Ed25519 private key as PKCS #8 begins so (RFC 8410 section 7); 32 bytes of seed follow.
const PKCS8: [u8; 16] = [
    0x30, 0x2E, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The private key as PKCS #8.
fn private(binding: &[u8; 32]) -> Zeroizing<[u8; 48]> {
    let mut der = Zeroizing::new([0; 48]);
    der[..16].copy_from_slice(&PKCS8);
    Hkdf::<Sha256>::new(None, binding)
        .expand(b"turnserver streams v1", &mut der[16..])
        .expect("one block");
    der
}

fn pair(binding: &[u8; 32]) -> Result<KeyPair, Error> {
    let der = private(binding);
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(&der[..]), &PKCS_ED25519)
        .map_err(other)
}

fn other(error: rcgen::Error) -> Error {
    Error::General(error.to_string())
}

const fn word(serves: Option<Protocol>) -> &'static [u8] {
    match serves {
        None => STREAMS,
        Some(Protocol::Tcp) => SERVES_TCP,
        Some(Protocol::Udp) => SERVES_UDP,
    }
}

/// What the initiator of this connection serves.
pub(super) fn served(connection: &Connection) -> Option<Protocol> {
    let data = connection.handshake_data()?;
    let word = data.downcast::<HandshakeData>().ok()?.protocol?;
    [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|&protocol| word == self::word(Some(protocol)))
}

/// For the side that waits for the connection.
pub(super) fn server(binding: &[u8; 32]) -> io::Result<QuicServerConfig> {
    let build = || {
        let certificate = CertificateParams::default()
            .self_signed(&pair(binding)?)
            .map_err(other)?;
        let key = PrivateKeyDer::Pkcs8(private(binding).to_vec().into());
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], key)?;
        config.alpn_protocols = [STREAMS, SERVES_TCP, SERVES_UDP].map(<[u8]>::to_vec).into();
        Ok::<_, Error>(config)
    };
    let config = build().map_err(io::Error::other)?;
    QuicServerConfig::try_from(config).map_err(io::Error::other)
}

/// For the side that makes the connection, and what it serves.
pub(super) fn client(binding: &[u8; 32], serves: Option<Protocol>) -> io::Result<QuicClientConfig> {
    let build = || {
        let provider = Arc::new(ring::default_provider());
        let verifier = OneKey {
            key: pair(binding)?.subject_public_key_info(),
            provider: Arc::clone(&provider),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![word(serves).to_vec()];
        Ok::<_, Error>(config)
    };
    let config = build().map_err(io::Error::other)?;
    QuicClientConfig::try_from(config).map_err(io::Error::other)
}

/// Takes one key and no other.
#[derive(Debug)]
struct OneKey {
    /// As SubjectPublicKeyInfo (RFC 8410 section 4).
    key: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OneKey {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        match *key == self.key[..] {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC is TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_compute_the_same_key_from_the_same_handshake() {
        let public = |binding| pair(binding).expect("a key").subject_public_key_info();
        assert_eq!(public(&[1; 32]), public(&[1; 32]));
        assert_ne!(public(&[1; 32]), public(&[2; 32]));
        assert_eq!(public(&[1; 32]).len(), 44, "RFC 8410 section 4");
    }
}
