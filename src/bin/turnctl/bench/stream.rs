//! A client's TCP or TLS connection, non-blocking.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, Socket, Type};
use turnserver::client::tls::AnyCertificate;
use turnserver::wire::StreamFramer;

use super::options::Plan;

/// Where Linux systems keep the certificates that they trust.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
/// A stream that has this much to write takes no more packets.
const CONGESTED: usize = 64 << 10;
const READ: usize = 64 << 10;

/// What all TLS connections share.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(plan: &Plan) -> Result<Self, String> {
        let name = ServerName::try_from(plan.server_name.clone());
        let name = name.map_err(|error| format!("{}: {error}", plan.server_name))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = if plan.options.insecure {
            let anyone = Arc::new(AnyCertificate::new(provider));
            let builder = builder.dangerous();
            builder
                .with_custom_certificate_verifier(anyone)
                .with_no_client_auth()
        } else {
            builder
                .with_root_certificates(roots(plan)?)
                .with_no_client_auth()
        };
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }
}

fn roots(plan: &Plan) -> Result<RootCertStore, String> {
    let given = plan.options.ca.clone();
    let system = || SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
    let path = given
        .or_else(system)
        .ok_or("this system has no list of trusted certificates: give --ca or --insecure")?;
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(format!("{}: no certificate in it", path.display()));
    }
    Ok(roots)
}

/// One client's connection.
pub(super) struct Stream {
    socket: TcpStream,
    tls: Option<ClientConnection>,
    /// What is to be written; the first `written` bytes are.
    out: Vec<u8>,
    written: usize,
    /// What was read; complete messages are taken out at once.
    input: Box<[u8]>,
    filled: usize,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream {
    /// Connects, and shakes hands when there is TLS.
    pub(super) fn connect(plan: &Plan, tls: Option<&Tls>) -> Result<Self, String> {
        let socket = open(plan).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".to_owned(),
            io::ErrorKind::AddrNotAvailable => {
                "--bind is not an address of this machine, or its ports are used up".to_owned()
            }
            _ => error.to_string(),
        })?;
        let tls = tls
            .map(|tls| shake_hands(tls, &socket))
            .transpose()
            .map_err(|error| format!("TLS: {error}"))?;
        let ready = socket.set_nonblocking(true);
        ready.map_err(|error| error.to_string())?;
        Ok(Self {
            socket,
            tls,
            out: Vec::new(),
            written: 0,
            input: vec![0; READ].into(),
            filled: 0,
        })
    }

    /// Whether it takes no more packets for now.
    pub(super) fn is_congested(&self) -> bool {
        self.out.len() - self.written > CONGESTED
    }

    /// Adds a message, padded (RFC 8656 section 12.5); says whether nothing was waiting before.
    pub(super) fn queue(&mut self, message: &[u8]) -> bool {
        let idle = self.out.is_empty();
        self.out.extend_from_slice(message);
        let padded = message.len().next_multiple_of(4);
        self.out.resize(self.out.len() + padded - message.len(), 0);
        idle
    }

    /// Writes what is waiting; says whether all of it went out.
    pub(super) fn write(&mut self) -> bool {
        let written = match &mut self.tls {
            Some(tls) => {
                // The plain text goes into records at once; those wait in the connection.
                if self.out.len() > self.written && !tls.wants_write() {
                    match tls.writer().write(&self.out[self.written..]) {
                        Ok(count) => self.written += count,
                        // A closed connection is told by the next read.
                        Err(_) => self.written = self.out.len(),
                    }
                }
                while tls.wants_write() && tls.write_tls(&mut self.socket).is_ok() {}
                !tls.wants_write()
            }
            None => {
                while self.written < self.out.len() {
                    match self.socket.write(&self.out[self.written..]) {
                        Ok(count) => self.written += count,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(_) => self.written = self.out.len(),
                    }
                }
                true
            }
        };
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written > CONGESTED {
            self.out.drain(..self.written);
            self.written = 0;
        }
        written && self.out.is_empty()
    }

    /// Reads what is there and gives each message to `take`.
    pub(super) fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), String> {
        let closed = || "the server closed the connection".to_owned();
        if let Some(tls) = &mut self.tls {
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(closed()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
            let processed = tls.process_new_packets();
            processed.map_err(|error| format!("TLS: {error}"))?;
        }
        loop {
            let room = &mut self.input[self.filled..];
            let read = match &mut self.tls {
                Some(tls) => tls.reader().read(room),
                None => self.socket.read(room),
            };
            match read {
                Ok(0) => return Err(closed()),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
            let full = self.filled == self.input.len();
            self.cut(&mut take)?;
            // Plain text that TLS holds has to be taken now: nothing will report it again.
            if self.tls.is_none() && !full {
                return Ok(());
            }
        }
    }

    fn cut(&mut self, take: &mut impl FnMut(&[u8])) -> Result<(), String> {
        let framer = StreamFramer::new(READ);
        let mut at = 0;
        while let Some(frame) = framer
            .next(&self.input[at..self.filled])
            .map_err(|_| "what the server sends is neither STUN nor ChannelData")?
        {
            take(&self.input[at..at + frame.len]);
            at += frame.padded_len;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }
}

fn open(plan: &Plan) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(plan.server), Type::STREAM, None)?;
    if let Some(net) = plan.options.bind {
        socket.bind(&std::net::SocketAddr::new(net.addr(), 0).into())?;
    }
    socket.connect_timeout(&plan.server.into(), plan.options.timeout)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(plan.options.timeout))?;
    Ok(socket.into())
}

fn shake_hands(tls: &Tls, socket: &TcpStream) -> io::Result<ClientConnection> {
    let connection = ClientConnection::new(Arc::clone(&tls.config), tls.name.clone());
    let mut connection = connection.map_err(io::Error::other)?;
    let mut socket = socket;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(connection)
}
