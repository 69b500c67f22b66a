//! A Binding over TLS that trusts exactly one certificate.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::stun::{BINDING, Message};

/// A TLS stream to the server.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Shakes hands with a server that must present `trusted` (DER).
pub fn connect(
    server: SocketAddr,
    trusted: &[u8],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Stream, String> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from(trusted.to_vec());
    roots.add(certificate).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a valid name");
    let mut connection =
        ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    let mut socket = TcpStream::connect(server).map_err(|error| error.to_string())?;
    let limit = Some(Duration::from_secs(5));
    socket.set_read_timeout(limit).expect("above zero");
    while connection.is_handshaking() {
        let done = connection.complete_io(&mut socket);
        done.map_err(|error| error.to_string())?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Asks for a binding; says why not.
pub fn binding(
    server: SocketAddr,
    trusted: &[u8],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<(), String> {
    let mut stream = connect(server, trusted, versions)?;
    let request = Message::new(BINDING);
    let written = stream.write_all(request.bytes());
    written.map_err(|error| error.to_string())?;
    // 32 bytes: the minimal reply to an IPv4 client.
    let mut reply = [0; 32];
    let read = stream.read_exact(&mut reply);
    read.map_err(|error| error.to_string())?;
    let reply = Message::parse(&reply).ok_or("not STUN")?;
    (reply.is_success() && reply.id() == request.id())
        .then_some(())
        .ok_or_else(|| "not the answer".to_owned())
}
