//! The port that `turnctl host --to` serves, at whichever of its addresses it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::sleep;

use super::Failure;
use super::events::{Events, Seldom};

/// After an error of a socket, so that a row of them does not keep the machine busy.
const RECEIVE_AGAIN: Duration = Duration::from_millis(10);

pub(super) struct Service {
    /// As it was asked for.
    name: String,
    /// At least one.
    addresses: Vec<SocketAddr>,
    /// Which of them takes new UDP sockets: the one that refused none, or none since.
    udp_at: AtomicUsize,
    events: Arc<Events>,
    lines: Seldom,
}

impl Service {
    pub(super) async fn find(name: &str, events: Arc<Events>) -> Result<Self, Failure> {
        let found = lookup_host(name).await;
        let found = found.map_err(|error| Failure::Usage(format!("--to {name}: {error}")))?;
        let addresses: Vec<_> = found.collect();
        if addresses.is_empty() {
            return Err(Failure::Usage(format!("--to {name}: has no address")));
        }
        Ok(Self::at(name, addresses, events))
    }

    fn at(name: &str, addresses: Vec<SocketAddr>, events: Arc<Events>) -> Self {
        Self {
            name: name.to_owned(),
            addresses,
            udp_at: AtomicUsize::new(0),
            events,
            lines: Seldom::default(),
        }
    }

    /// A connection to the first address that takes one.
    ///
    /// # Errors
    /// That there is none, which was told.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let connected = TcpStream::connect(&self.addresses[..]).await;
        connected.map_err(|error| self.failed(&error))
    }

    /// A socket for one UDP client.
    ///
    /// # Errors
    /// That there is none, which was told.
    pub(super) async fn socket(self: &Arc<Self>) -> io::Result<Socket> {
        let first = self.udp_at.load(Relaxed);
        let mut failed = None;
        for at in (0..self.addresses.len()).map(|more| self.after(first, more)) {
            match connected(self.addresses[at]).await {
                Ok(socket) => {
                    return Ok(Socket {
                        service: Arc::clone(self),
                        at: Mutex::new(At {
                            address: at,
                            socket: Arc::new(socket),
                            unanswered: None,
                            refusals: 0,
                        }),
                    });
                }
                Err(error) => failed = Some(error),
            }
        }
        let error = failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
        Err(self.failed(&error))
    }

    fn after(&self, at: usize, more: usize) -> usize {
        (at + more) % self.addresses.len()
    }

    /// Says on this side that a device is not served, and why.
    fn failed(&self, error: &io::Error) -> io::Error {
        let text = format!("cannot reach {}: {error}", self.name);
        if self.lines.may_come() {
            let event = json!({"event": "service_failed", "message": text});
            self.events.tell(&event, &text);
        }
        io::Error::new(error.kind(), text)
    }
}

/// What one UDP client has. Nothing tells whether a service listens at an address but that a
/// datagram is refused there: the next address then gets it, and what comes later.
pub(super) struct Socket {
    service: Arc<Service>,
    at: Mutex<At>,
}

struct At {
    /// By its place in the list.
    address: usize,
    socket: Arc<UdpSocket>,
    /// What was sent last, where it may have to go to another address.
    unanswered: Option<Vec<u8>>,
    /// How many refusals there were since the last answer.
    refusals: usize,
}

impl Socket {
    /// A datagram, which may be lost.
    pub(super) async fn send(&self, bytes: &[u8]) {
        let socket = {
            let mut at = unpoisoned(&self.at);
            at.unanswered = (self.service.addresses.len() > 1).then(|| bytes.to_vec());
            Arc::clone(&at.socket)
        };
        send(&socket, bytes).await;
    }

    /// The next answer. Nothing is lost when the waiting is broken off.
    ///
    /// # Errors
    /// All addresses have refused, which was told; one may take what comes later.
    pub(super) async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let socket = Arc::clone(&unpoisoned(&self.at).socket);
            match socket.recv(buffer).await {
                Ok(len) => {
                    let mut at = unpoisoned(&self.at);
                    at.unanswered = None;
                    at.refusals = 0;
                    return Ok(len);
                }
                Err(error) if is_refusal(&error) => self.refused(&error).await?,
                Err(_) => sleep(RECEIVE_AGAIN).await,
            }
        }
    }

    /// Goes on to the next address.
    ///
    /// # Errors
    /// Once all have refused, which was told; what was refused is lost.
    async fn refused(&self, error: &io::Error) -> io::Result<()> {
        let service = &self.service;
        let count = service.addresses.len();
        let (here, all, again) = {
            let mut at = unpoisoned(&self.at);
            at.refusals += 1;
            let all = at.refusals >= count;
            (at.address, all, at.unanswered.take().filter(|_| !all))
        };
        let result = match all {
            true => Err(service.failed(error)),
            false => Ok(()),
        };
        for next in (1..count).map(|more| service.after(here, more)) {
            // One without a route is as one that refuses.
            let Ok(socket) = connected(service.addresses[next]).await else {
                unpoisoned(&self.at).refusals += 1;
                continue;
            };
            let socket = Arc::new(socket);
            service.udp_at.store(next, Relaxed);
            {
                let mut at = unpoisoned(&self.at);
                at.address = next;
                at.socket = Arc::clone(&socket);
                at.unanswered.clone_from(&again);
            }
            if let Some(again) = again {
                send(&socket, &again).await;
            }
            break;
        }
        result
    }
}

/// An error is about what was sent before: the next try sends, and its own error is told to who
/// receives.
async fn send(socket: &UdpSocket, bytes: &[u8]) {
    if socket
        .send(bytes)
        .await
        .is_err_and(|error| is_refusal(&error))
    {
        let _ = socket.send(bytes).await;
    }
}

/// Whether an ICMP message says that nothing is there.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

async fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Nothing between lock and unlock leaves it half changed.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn service(addresses: Vec<SocketAddr>) -> Arc<Service> {
        let (_, told) = mpsc::unbounded_channel();
        let events = Arc::new(Events::new(true, false, told));
        Arc::new(Service::at("a name", addresses, events))
    }

    fn was_told(service: &Service) -> bool {
        service.lines.last().is_some()
    }

    #[tokio::test]
    async fn a_connection_goes_to_the_first_address_that_takes_it() {
        // The number of a UDP port, so that nobody else gets it for TCP meanwhile by chance.
        let closed = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
        let closed = closed.local_addr().expect("bound");
        let open = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let both = service(vec![closed, open.local_addr().expect("bound")]);
        let mut stream = both.connect().await.expect("the second one listens");
        let (mut accepted, _) = open.accept().await.expect("connected");
        stream.write_all(b"hello").await.expect("writable");
        let mut hello = [0; 5];
        accepted.read_exact(&mut hello).await.expect("readable");
        assert!(!was_told(&both));
        let one = service(vec![closed]);
        let error = one.connect().await.expect_err("nothing listens");
        assert!(error.to_string().starts_with("cannot reach a name: "));
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(was_told(&one));
    }

    #[tokio::test]
    async fn a_datagram_that_is_refused_goes_to_the_next_address() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let closed = closed.local_addr().expect("bound");
        let open = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
        // Nothing is sent to everybody without asking for that.
        let no_way = ([255, 255, 255, 255], 9).into();
        let both = service(vec![closed, no_way, open.local_addr().expect("bound")]);
        let socket = both.socket().await.expect("a socket");
        let exchange = async |socket: &Socket| {
            let mut heard = [0; 10];
            let mut answer = [0; 10];
            socket.send(b"hello").await;
            let serving = async {
                let (len, from) = open.recv_from(&mut heard).await.expect("readable");
                assert_eq!(&heard[..len], b"hello");
                open.send_to(b"HELLO", from).await.expect("sent");
            };
            let both = async { tokio::join!(serving, socket.recv(&mut answer)) };
            let ((), len) = timeout(PATIENCE, both).await.expect("in time");
            assert_eq!(&answer[..len.expect("answered")], b"HELLO");
        };
        exchange(&socket).await;
        exchange(&socket).await;
        let later = both.socket().await.expect("a socket");
        assert_eq!(unpoisoned(&later.at).address, 2, "the one that answers");
        exchange(&later).await;
        assert!(!was_told(&both));
    }

    #[tokio::test]
    async fn what_every_address_refuses_is_told() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let closed = closed.local_addr().expect("bound");
        let twice = service(vec![closed, closed]);
        let socket = twice.socket().await.expect("a socket");
        let told = async {
            // More come than are refused, since refusals are taken one by one.
            let asking = async {
                loop {
                    socket.send(b"hello").await;
                    sleep(RECEIVE_AGAIN / 5).await;
                }
            };
            let mut buffer = [0; 10];
            tokio::select! {
                received = socket.recv(&mut buffer) => received,
                () = asking => unreachable!("it has no end"),
            }
        };
        let told = timeout(PATIENCE, told).await.expect("in time");
        assert!(told.is_err_and(|error| is_refusal(&error)));
        assert!(was_told(&twice));
    }

    #[tokio::test(start_paused = true)]
    async fn many_failures_at_once_are_told_once() {
        let service = service(vec![([127, 0, 0, 1], 1).into()]);
        let when = || service.lines.last();
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        service.failed(&refused);
        let first = when();
        assert!(first.is_some());
        sleep(Seldom::BETWEEN / 2).await;
        service.failed(&refused);
        assert_eq!(when(), first);
        sleep(Seldom::BETWEEN / 2).await;
        service.failed(&refused);
        assert_ne!(when(), first);
    }
}
