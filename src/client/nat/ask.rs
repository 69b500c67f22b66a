//! Single questions of the discovery: a Binding request from one socket, sent again until it is
//! answered.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::wire::{Builder, ChangeRequest, Class, ErrorCode, Message, Method, TransactionId};

/// The first sending again; each next one after twice the time before (RFC 8489
/// section 6.2.1, with a shorter start, since the whole shall not take long).
const RTO: Duration = Duration::from_millis(250);

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A success response.
    Mapped {
        /// The own address as the server sees it.
        mapped: SocketAddr,
        /// OTHER-ADDRESS (RFC 5780 section 7.4).
        other: Option<SocketAddr>,
        /// From where the answer came.
        from: SocketAddr,
    },
    /// An error response: the server does not do that.
    Refused(ErrorCode),
    /// Nothing.
    Silence,
}

/// What a request asks for beyond the address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    /// Answer from the other address and port.
    pub(super) change: Option<ChangeRequest>,
    /// Answer to this port of the address that the request came from.
    pub(super) response_port: Option<u16>,
}

/// A socket of the given family.
pub(super) async fn socket(like: SocketAddr, bind: Option<IpAddr>) -> io::Result<UdpSocket> {
    let any: IpAddr = match like {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((bind.unwrap_or(any), 0)).await
}

/// Asks `server` from `socket` and waits for the answer, whichever address it comes from.
pub(super) async fn ask(
    socket: &UdpSocket,
    server: SocketAddr,
    wish: Wish,
    patience: Duration,
) -> io::Result<Answer> {
    let (request, id) = request(wish)?;
    let end = Instant::now() + patience;
    let mut rto = RTO;
    while Instant::now() < end {
        // An ICMP error to an earlier datagram is not the answer.
        let _ = socket.send_to(&request, server).await;
        let until = (Instant::now() + rto).min(end);
        rto *= 2;
        if let Some(answer) = listen(socket, id, until).await {
            return Ok(answer);
        }
    }
    Ok(Answer::Silence)
}

/// Waits for the answer with this transaction id.
pub(super) async fn listen(
    socket: &UdpSocket,
    id: TransactionId,
    until: Instant,
) -> Option<Answer> {
    let mut buffer = [0; 1500];
    loop {
        match timeout_at(until, socket.recv_from(&mut buffer)).await {
            Ok(Ok((len, from))) => {
                if let Some(answer) = parse(&buffer[..len], id, from) {
                    return Some(answer);
                }
            }
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(_) => return None,
        }
    }
}

/// Sends one request and does not wait; the answer goes elsewhere, or shall be heard on
/// another socket.
pub(super) async fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    wish: Wish,
) -> io::Result<TransactionId> {
    let (request, id) = request(wish)?;
    socket.send_to(&request, to).await?;
    Ok(id)
}

/// Waits for the request with this transaction id, which was sent by this program itself.
pub(super) async fn hears(socket: &UdpSocket, id: TransactionId, until: Instant) -> bool {
    let mut buffer = [0; 1500];
    loop {
        match timeout_at(until, socket.recv_from(&mut buffer)).await {
            Ok(Ok((len, _))) => {
                let message = Message::parse(&buffer[..len]);
                if message.is_ok_and(|message| message.transaction_id() == id) {
                    return true;
                }
            }
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(_) => return false,
        }
    }
}

fn request(wish: Wish) -> io::Result<(Vec<u8>, TransactionId)> {
    let mut id = [0; 12];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let id = TransactionId(id);
    let mut buffer = [0; 64];
    let mut builder = Builder::new(&mut buffer, Class::Request, Method::BINDING, id);
    if let Some(change) = wish.change {
        builder.change_request(change);
    }
    if let Some(port) = wish.response_port {
        builder.response_port(port);
    }
    builder.fingerprint();
    let len = builder.finish().expect("64 bytes are enough");
    Ok((buffer[..len].to_vec(), id))
}

fn parse(bytes: &[u8], id: TransactionId, from: SocketAddr) -> Option<Answer> {
    let message = Message::parse(bytes).ok()?;
    if message.transaction_id() != id || message.method() != Method::BINDING {
        return None;
    }
    let attributes = message.unprotected();
    match message.class() {
        Class::Success => {
            let xored = attributes.xor_mapped_address().ok().flatten();
            let mapped = xored.or_else(|| attributes.mapped_address().ok().flatten())?;
            let other = attributes.other_address().ok().flatten();
            Some(Answer::Mapped {
                mapped,
                other,
                from,
            })
        }
        Class::Error => Some(Answer::Refused(attributes.error_code().ok().flatten()?)),
        Class::Request | Class::Indication => None,
    }
}
