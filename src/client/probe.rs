//! Asks a server one thing and waits for the answer: is it up, and does it allocate?
//!
//! Blocking, on plain sockets: for a command line, a health check and a self test.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::tls;
use crate::wire::{
    Builder, Class, ErrorCode, Integrity, Key, Message, Method, PasswordAlgorithm, StreamFramer,
    TransactionId, attr,
};

/// First retransmission after this time, each next one after twice the time before
/// (RFC 8489 section 6.2.1).
const RTO: Duration = Duration::from_millis(500);
/// Sends of one request over UDP (RFC 8489 section 6.2.1: Rc).
const SENDS: u32 = 7;
/// No answer of a server is longer.
const BUFFER: usize = 2048;
/// REQUESTED-TRANSPORT: UDP (RFC 8656 section 18.7).
const PROTOCOL_UDP: u32 = 17 << 24;

/// How to reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams; requests are retransmitted.
    Udp,
    /// A stream.
    Tcp,
    /// A stream under TLS, whatever certificate the server has.
    Tls,
}

impl Transport {
    /// The lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Why a probe failed.
#[derive(Debug)]
pub enum ProbeError {
    /// The operating system refused, or the server's did (nothing listens there).
    Io(io::Error),
    /// No answer before the deadline.
    Timeout,
    /// The server answered with an error.
    Refused {
        /// What was asked.
        method: Method,
        /// The error.
        code: ErrorCode,
        /// The server's words.
        reason: String,
    },
    /// What came is not the answer to what was asked.
    Protocol(&'static str),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                f.write_str("nothing listens there")
            }
            Self::Io(error) => write!(f, "{error}"),
            Self::Timeout => f.write_str("no answer"),
            Self::Refused {
                method,
                code,
                reason,
            } => {
                write!(f, "{method:?} was refused with {}", code.value())?;
                match reason.as_str() {
                    "" => Ok(()),
                    reason => write!(f, " ({reason})"),
                }
            }
            Self::Protocol(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for ProbeError {}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Io(error),
        }
    }
}

/// The answer to a Binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// This client's address as the server sees it.
    pub mapped: SocketAddr,
    /// From the first request to the answer. For TCP this is after the connection was made, and
    /// for TLS it includes the handshake.
    pub rtt: Duration,
}

/// The answer to an Allocate. The allocation is released before the probe returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The relayed transport address.
    pub relayed: SocketAddr,
    /// This client's address as the server sees it.
    pub mapped: SocketAddr,
}

/// Sends one Binding request.
///
/// # Errors
/// When no success response came within `timeout`.
pub fn binding(
    server: SocketAddr,
    transport: Transport,
    timeout: Duration,
) -> Result<Binding, ProbeError> {
    let mut channel = Channel::open(server, transport, deadline(timeout))?;
    let id = transaction_id()?;
    let started = now();
    let mut request = [0; BUFFER];
    let mut builder = Builder::new(&mut request, Class::Request, Method::BINDING, id);
    builder.fingerprint();
    let len = finish(builder)?;
    let mut answer = [0; BUFFER];
    let answered = channel.ask(&request[..len], id, &mut answer)?;
    let rtt = now().duration_since(started);
    let reply = parse(&answer[..answered])?;
    succeeded(&reply)?;
    Ok(Binding {
        mapped: mapped(&reply)?,
        rtt,
    })
}

/// Allocates with long-term credentials and releases the allocation again: an Allocate without
/// credentials to learn realm and nonce, an authenticated one, and a Refresh with LIFETIME 0.
///
/// # Errors
/// When one of the three failed, or all together took longer than `timeout`.
pub fn allocate(
    server: SocketAddr,
    transport: Transport,
    username: &str,
    password: &str,
    timeout: Duration,
) -> Result<Allocation, ProbeError> {
    let mut session = Session {
        channel: Channel::open(server, transport, deadline(timeout))?,
        username,
        password,
        challenge: None,
    };
    let mut answer = [0; BUFFER];
    let reply = session.request(Method::ALLOCATE, &mut answer)?;
    let attributes = reply.unprotected();
    let relayed = attributes
        .xor_relayed_address()
        .ok()
        .flatten()
        .ok_or(ProbeError::Protocol("the answer has no relayed address"))?;
    let mapped = mapped(&reply)?;
    session.request(Method::REFRESH, &mut answer)?;
    Ok(Allocation { relayed, mapped })
}

/// What a 401 or 438 told.
struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: Key,
}

struct Session<'a> {
    channel: Channel,
    username: &'a str,
    password: &'a str,
    challenge: Option<Challenge>,
}

impl Session<'_> {
    /// Sends a request until it is neither challenged nor its nonce stale, and checks that the
    /// answer is the server's.
    fn request<'b>(
        &mut self,
        method: Method,
        answer: &'b mut [u8; BUFFER],
    ) -> Result<Message<'b>, ProbeError> {
        // One 401 and one 438 are part of the protocol (RFC 8489 section 9.2.5); more are not.
        let mut len = self.once(method, answer)?;
        for _ in 0..2 {
            let reply = parse(&answer[..len])?;
            let code = error_code(&reply);
            let challenged = (code == Some(ErrorCode::UNAUTHENTICATED) && self.challenge.is_none())
                || code == Some(ErrorCode::STALE_NONCE);
            if !challenged {
                break;
            }
            self.learn(&reply.unprotected())?;
            len = self.once(method, answer)?;
        }
        let reply = parse(&answer[..len])?;
        succeeded(&reply)?;
        if let Some(challenge) = &self.challenge {
            // RFC 8489 section 9.2.5: an answer without valid integrity is not one.
            reply
                .verify(&challenge.key)
                .map_err(|_| ProbeError::Protocol("the answer's integrity is wrong"))?;
        }
        Ok(reply)
    }

    /// Sends a request with what is known by now; returns the length of the answer.
    fn once(&mut self, method: Method, answer: &mut [u8; BUFFER]) -> Result<usize, ProbeError> {
        let id = transaction_id()?;
        let mut request = [0; BUFFER];
        let mut builder = Builder::new(&mut request, Class::Request, method, id);
        if method == Method::ALLOCATE {
            builder.u32(attr::REQUESTED_TRANSPORT, PROTOCOL_UDP);
        } else {
            builder.u32(attr::LIFETIME, 0);
        }
        if let Some(challenge) = &self.challenge {
            builder
                .attribute(attr::USERNAME, self.username.as_bytes())
                .attribute(attr::REALM, &challenge.realm)
                .attribute(attr::NONCE, &challenge.nonce)
                .integrity(Integrity::Sha1, &challenge.key);
        }
        builder.fingerprint();
        let len = finish(builder)?;
        self.channel.ask(&request[..len], id, answer)
    }

    fn learn(&mut self, attributes: &crate::wire::Attrs<'_>) -> Result<(), ProbeError> {
        let missing = ProbeError::Protocol("the challenge has no realm and nonce");
        let (Some(realm), Some(nonce)) = (attributes.realm(), attributes.nonce()) else {
            return Err(missing);
        };
        self.challenge = Some(Challenge {
            realm: realm.to_vec(),
            nonce: nonce.to_vec(),
            key: Key::long_term(
                PasswordAlgorithm::Md5,
                self.username.as_bytes(),
                realm,
                self.password.as_bytes(),
            ),
        });
        Ok(())
    }
}

enum Socket {
    Udp(UdpSocket),
    Tcp(Timed),
    Tls(Box<tls::Stream<Timed>>),
}

/// A way to the server, and when to give up.
struct Channel {
    socket: Socket,
    deadline: Instant,
}

impl Channel {
    fn open(
        server: SocketAddr,
        transport: Transport,
        deadline: Instant,
    ) -> Result<Self, ProbeError> {
        let socket = match transport {
            Transport::Udp => {
                let any: IpAddr = match server {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((any, 0))?;
                // Connected, so that only the server's datagrams and ICMP errors arrive.
                socket.connect(server)?;
                Socket::Udp(socket)
            }
            Transport::Tcp => Socket::Tcp(connect(server, deadline)?),
            Transport::Tls => {
                let stream = tls::over(connect(server, deadline)?, server);
                Socket::Tls(Box::new(stream.map_err(io::Error::other)?))
            }
        };
        Ok(Self { socket, deadline })
    }

    /// Sends a request and waits for the response with its transaction id.
    fn ask(
        &mut self,
        request: &[u8],
        id: TransactionId,
        answer: &mut [u8; BUFFER],
    ) -> Result<usize, ProbeError> {
        match &mut self.socket {
            Socket::Udp(socket) => ask_udp(socket, self.deadline, request, id, answer),
            Socket::Tcp(stream) => ask_stream(stream, request, id, answer),
            Socket::Tls(stream) => ask_stream(&mut **stream, request, id, answer),
        }
    }
}

fn connect(server: SocketAddr, deadline: Instant) -> Result<Timed, ProbeError> {
    let stream = TcpStream::connect_timeout(&server, left(deadline)?)?;
    stream.set_nodelay(true)?;
    Ok(Timed { stream, deadline })
}

/// A connection whose every step ends at the deadline: one over TLS takes as many steps as the
/// server likes, also when it is asked for a single byte.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        left(self.deadline).map_err(|_| io::ErrorKind::TimedOut.into())
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn parse(bytes: &[u8]) -> Result<Message<'_>, ProbeError> {
    Message::parse(bytes).map_err(|_| ProbeError::Protocol("the answer is not STUN"))
}

fn ask_udp(
    socket: &UdpSocket,
    deadline: Instant,
    request: &[u8],
    id: TransactionId,
    answer: &mut [u8; BUFFER],
) -> Result<usize, ProbeError> {
    let mut rto = RTO;
    for _ in 0..SENDS {
        socket.send(request)?;
        let until = now() + rto.min(left(deadline)?);
        rto *= 2;
        while let Ok(wait) = left(until) {
            socket.set_read_timeout(Some(wait))?;
            match socket.recv(answer).map_err(ProbeError::from) {
                Ok(len) if answers(&answer[..len], id) => return Ok(len),
                // Not ours: a late answer to an earlier request.
                Ok(_) => {}
                Err(ProbeError::Timeout) => break,
                // signal(7): a receive with a timeout is not restarted, not even after SIGCONT.
                Err(ProbeError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Err(ProbeError::Timeout)
}

fn ask_stream(
    stream: &mut (impl Read + Write),
    request: &[u8],
    id: TransactionId,
    answer: &mut [u8; BUFFER],
) -> Result<usize, ProbeError> {
    stream.write_all(request)?;
    let framer = StreamFramer::new(BUFFER);
    let mut filled = 0;
    loop {
        let frame = framer
            .next(&answer[..filled])
            .map_err(|_| ProbeError::Protocol("the server does not speak STUN"))?;
        if let Some(frame) = frame {
            if answers(&answer[..frame.len], id) {
                return Ok(frame.len);
            }
            answer.copy_within(frame.padded_len..filled, 0);
            filled -= frame.padded_len;
            continue;
        }
        let read = match stream.read(&mut answer[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Err(ProbeError::Protocol("the server closed the connection"));
        }
        filled += read;
    }
}

/// Whether these bytes are the response to this request (RFC 8489 section 6.3.1).
fn answers(bytes: &[u8], id: TransactionId) -> bool {
    Message::parse(bytes).is_ok_and(|message| {
        message.transaction_id() == id && matches!(message.class(), Class::Success | Class::Error)
    })
}

fn succeeded(reply: &Message<'_>) -> Result<(), ProbeError> {
    if reply.class() == Class::Success {
        return Ok(());
    }
    let code = error_code(reply).ok_or(ProbeError::Protocol("the error answer has no code"))?;
    let reason = reply.unprotected().error_reason().unwrap_or_default();
    Err(ProbeError::Refused {
        method: reply.method(),
        code,
        // Anybody may have written it.
        reason: String::from_utf8_lossy(reason)
            .chars()
            .filter(|c| !c.is_control())
            .take(128)
            .collect(),
    })
}

fn error_code(reply: &Message<'_>) -> Option<ErrorCode> {
    reply.unprotected().error_code().ok().flatten()
}

fn mapped(reply: &Message<'_>) -> Result<SocketAddr, ProbeError> {
    let attributes = reply.unprotected();
    let found = attributes.xor_mapped_address().ok().flatten();
    found
        .or_else(|| attributes.mapped_address().ok().flatten())
        .ok_or(ProbeError::Protocol("the answer has no mapped address"))
}

fn finish(builder: Builder<'_>) -> Result<usize, ProbeError> {
    builder
        .finish()
        .map_err(|_| ProbeError::Protocol("the credentials do not fit a request"))
}

/// RFC 8489 section 5: chosen uniformly at random, cryptographically.
fn transaction_id() -> Result<TransactionId, ProbeError> {
    let mut id = [0; 12];
    getrandom::fill(&mut id).map_err(|error| ProbeError::Io(io::Error::other(error)))?;
    Ok(TransactionId(id))
}

fn deadline(timeout: Duration) -> Instant {
    now() + timeout
}

#[expect(
    clippy::disallowed_methods,
    reason = "a blocking client is its own driver"
)]
fn now() -> Instant {
    Instant::now()
}

/// The time until `deadline`; never zero, which sockets take for "for ever".
fn left(deadline: Instant) -> Result<Duration, ProbeError> {
    match deadline.checked_duration_since(now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(ProbeError::Timeout),
    }
}
