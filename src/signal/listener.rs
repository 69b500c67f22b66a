//! Takes connections, and tells by the first byte what a client speaks.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::pairing::{ErrorCode, Reason};
use crate::proto::Mono;

use super::clock;
use super::compat::stunturn;
use super::http;
use super::hub::Hub;
use super::join::Visit;
use super::refusal::Refusal;

/// Connections that the kernel holds until they are accepted; it lowers this to its own limit.
const BACKLOG: i32 = 4096;

/// What the kernel holds for a connection that does not read, in bytes; Linux doubles it.
const SEND_BUFFER: usize = 32 << 10;

/// How long a new connection may stay silent.
const FIRST_BYTE: Duration = Duration::from_secs(10);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many seconds a connection may take from its beginning until it asks to join.
pub(super) const WHOLE: u64 = 15;

/// How long accepting rests after an error, which is a want of descriptors or memory.
const REST: Duration = Duration::from_millis(100);

/// Opens a listening socket.
pub(super) fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart need not wait for connections of the former server to be forgotten.
    socket.set_reuse_address(true)?;
    // Connections have the same. Without it the kernel holds megabytes for one that does not read.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts for ever.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    hub: Arc<Hub>,
) {
    let tls = tls.map(TlsAcceptor::from);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                sleep(REST).await;
                continue;
            }
        };
        let spare = is_spare(&stream);
        let now = clock::now().mono;
        let may_enter = spare && hub.knocks.pass(now, from.ip());
        let place = may_enter.then(|| hub.doors.enter(from.ip())).flatten();
        let (Some(place), Ok(reached)) = (place, stream.local_addr()) else {
            hub.counters.connection_refused();
            // As much as the kernel takes at once; nobody is waited for.
            let refusal = Refusal::from(Reason::Connections).into_message();
            // Nothing is said in clear where a client expects TLS.
            if tls.is_none() {
                let _ = stream.try_write(&http::raw(&refusal));
            }
            continue;
        };
        let visit = Arc::new(Visit {
            hub: Arc::clone(&hub),
            observed: from.into(),
            reached: reached.into(),
            host: OnceLock::new(),
            place,
        });
        let deadline = now.plus_secs(WHOLE);
        visit.spawn(welcome(stream, tls.clone(), Arc::clone(&visit), deadline));
    }
}

/// Finds out what a client speaks, and leaves it to whoever speaks that. It has to ask to join
/// until `deadline`.
async fn welcome(stream: TcpStream, tls: Option<TlsAcceptor>, visit: Arc<Visit>, deadline: Mono) {
    // Answers are written whole, and what is lost of them comes again soon.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&stream).set_tcp_thin_linear_timeouts(true);
    let mut first = [0];
    let Ok(Ok(1)) = timeout(FIRST_BYTE, stream.peek(&mut first)).await else {
        return;
    };
    match (first[0], tls) {
        (0x16, Some(tls)) => {
            if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await {
                visit.spawn(http::serve(stream, Arc::clone(&visit), deadline));
            }
        }
        (b'A'..=b'Z', None) => {
            visit.spawn(http::serve(stream, Arc::clone(&visit), deadline));
        }
        (b'A'..=b'Z', Some(_)) => {
            let refusal = Refusal::new(ErrorCode::BadRequest, "use https or wss here");
            let text = http::raw(&refusal.into_message());
            if stream.try_write(&text).is_ok() {
                http::close(stream).await;
            }
        }
        (first, _) if visit.hub.stunturn && stunturn::begins(first) => {
            visit.spawn(stunturn::serve(stream, Arc::clone(&visit)));
        }
        // Neither HTTP nor TLS.
        _ => {}
    }
}

/// Whether there is a descriptor for this connection: three quarters are for pairing at most, the
/// rest is for calls.
pub(super) fn is_spare(stream: &TcpStream) -> bool {
    static CEILING: LazyLock<i32> = LazyLock::new(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.and_then(|limit| i32::try_from(limit).ok());
        limit.map_or(i32::MAX, |limit| limit / 4 * 3)
    });
    // The kernel hands out the lowest free number: a high one means that few are left.
    stream.as_raw_fd() < *CEILING
}
