//! The sockets of both generations.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::RandomState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::proto::Mono;
use crate::proto::bucket::TokenBucket;
use crate::signal::doors::Place;
use crate::signal::hub::Hub;
use crate::signal::rate::Rate;
use crate::signal::{Compat, clock, listener};

use super::Entry;
use super::first::{Queue, Request as First};
use super::table::{LIFETIME, REQUEST, Request, Table, Via};

/// How long a connection may be silent: a post is over by then.
const IDLE: Duration = Duration::from_secs(LIFETIME);

/// How long accepting or receiving rests after an error.
const REST: Duration = Duration::from_millis(100);

/// Requests of one address a minute. A host posts ten times a second until it is found.
const PER_MINUTE: u32 = 3000;

/// Log lines a second for long, and in one go.
const LINES: (u64, u64) = (20, 1000);

/// How often the kernel is asked for a port, where it chooses: the one that it gives for datagrams
/// may be taken for connections.
const CHOICES: usize = 16;

/// Open sockets of the switched-on generations.
pub(in crate::signal) struct Fractal {
    second: Vec<(UdpSocket, std::net::TcpListener)>,
    first: Vec<UdpSocket>,
}

impl Fractal {
    /// Opens what is switched on.
    pub(in crate::signal) fn bind(compat: &Compat) -> Result<Self, (SocketAddrV4, io::Error)> {
        let udp = |address: SocketAddrV4| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let second = |&address: &SocketAddrV4| {
            let both = || {
                let socket = udp(address)?;
                let same = SocketAddr::new(IpAddr::V4(*address.ip()), socket.local_addr()?.port());
                Ok((socket, listener::open(same)?))
            };
            let mut choices = std::iter::repeat_with(both).take(match address.port() {
                0 => CHOICES,
                _ => 1,
            });
            let taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
            let opened = choices.find(|tried| !tried.as_ref().is_err_and(taken));
            let opened = opened.unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()));
            opened.map_err(|error| (address, error))
        };
        let first = |&address: &SocketAddrV4| udp(address).map_err(|error| (address, error));
        Ok(Self {
            second: compat
                .fractal
                .iter()
                .map(second)
                .collect::<Result<_, _>>()?,
            first: compat
                .fractal_first
                .iter()
                .map(first)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Where it is served, the second generation first, with ports as the kernel gave them.
    pub(in crate::signal) fn addresses(&self) -> Vec<SocketAddr> {
        let all = self.second.iter().map(|(socket, _)| socket);
        let all = all.chain(&self.first);
        all.filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves, within a runtime.
    pub(in crate::signal) fn serve(self, hub: &Arc<Hub>) -> io::Result<()> {
        if self.second.is_empty() && self.first.is_empty() {
            return Ok(());
        }
        let seed = || -> io::Result<u64> {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            Ok(u64::from_le_bytes(bytes))
        };
        let [a, b, c, d] = [seed()?, seed()?, seed()?, seed()?];
        let meeting = Arc::new(Meeting {
            table: Mutex::new(State {
                table: Table::new(RandomState::with_seeds(a, b, c, d)),
                connections: HashMap::new(),
                last: 0,
            }),
            queue: Mutex::default(),
            rate: Rate::new(PER_MINUTE, seed()?),
            lines: Mutex::new(Lines {
                budget: TokenBucket::new(LINES.0, LINES.1),
                suppressed: 0,
            }),
            hub: Arc::clone(hub),
        });
        tokio::spawn(Arc::clone(&meeting).forget());
        for (socket, listener) in self.second {
            let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(Arc::clone(&meeting).datagrams(Arc::clone(&socket)));
            tokio::spawn(Arc::clone(&meeting).connections(listener, socket));
        }
        for socket in self.first {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::spawn(Arc::clone(&meeting).texts(socket));
        }
        Ok(())
    }
}

/// What all sockets share.
struct Meeting {
    table: Mutex<State>,
    queue: Mutex<Queue>,
    rate: Rate,
    lines: Mutex<Lines>,
    hub: Arc<Hub>,
}

/// Which requests are logged: anybody can forge their senders, and must not fill the disk.
struct Lines {
    budget: TokenBucket,
    suppressed: u64,
}

impl Lines {
    /// Whether to log one now: then, how many were left out before it.
    fn pass(&mut self, now: Mono) -> Option<u64> {
        if self.budget.take(now, 1) {
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        None
    }
}

struct State {
    table: Table,
    /// How hosts that posted over TCP are told.
    connections: HashMap<u64, oneshot::Sender<Entry>>,
    last: u64,
}

fn v4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) if address.port() != 0 => Some(address),
        _ => None,
    }
}

impl Meeting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to log a request now: then, how many were left out before it.
    fn logs(&self, now: Mono) -> Option<u64> {
        let lines = self.lines.lock();
        lines.unwrap_or_else(PoisonError::into_inner).pass(now)
    }

    fn passes(&self, now: Mono, from: SocketAddrV4) -> bool {
        self.rate.pass(now, from.ip())
    }

    /// Forgets what has expired, for ever.
    async fn forget(self: Arc<Self>) {
        loop {
            sleep(IDLE).await;
            self.state().table.sweep(clock::now().mono);
        }
    }

    /// The UDP half of the second generation.
    async fn datagrams(self: Arc<Self>, socket: Arc<tokio::net::UdpSocket>) {
        // A datagram that is longer is cut.
        let mut bytes = [0; REQUEST];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut bytes).await else {
                sleep(REST).await;
                continue;
            };
            let now = clock::now().mono;
            // An empty datagram wakes things up and means nothing.
            let request = Request::decode(&bytes[..len]);
            if let (Some(from), Some(request)) = (v4(from), request)
                && self.passes(now, from)
                && let Some(reply) = self.handle(now, from, request, Via::Udp, &socket)
            {
                // One that can not be sent is a lost datagram.
                let _ = socket.try_send_to(&reply, from.into());
            }
        }
    }

    /// Carries out a request; the reply of an ask.
    fn handle(
        &self,
        now: Mono,
        from: SocketAddrV4,
        request: Request,
        via: Via,
        socket: &tokio::net::UdpSocket,
    ) -> Option<Entry> {
        let mut state = self.state();
        match request {
            Request::Post { service } => {
                let news = state.table.post(now, from, service, via);
                drop(state);
                if !news {
                    debug!(host = %from, service, "fractal: posted again");
                } else if let Some(suppressed) = self.logs(now) {
                    info!(host = %from, service, suppressed, "fractal: posted");
                }
                None
            }
            Request::Ask { host, service } => {
                let answer = state.table.ask(now, from, host, service);
                let found = answer.notify.is_some();
                match answer.notify {
                    Some((Via::Udp, to, told)) => {
                        let _ = socket.try_send_to(&told, to.into());
                    }
                    Some((Via::Tcp(connection), _, told)) => {
                        if let Some(host) = state.connections.remove(&connection) {
                            let _ = host.send(told);
                        }
                    }
                    None => {}
                }
                drop(state);
                if let Some(suppressed) = self.logs(now) {
                    info!(client = %from, %host, service, found, suppressed, "fractal: asked");
                }
                Some(answer.reply)
            }
        }
    }

    /// The TCP half of the second generation.
    async fn connections(
        self: Arc<Self>,
        listener: tokio::net::TcpListener,
        socket: Arc<tokio::net::UdpSocket>,
    ) {
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                sleep(REST).await;
                continue;
            };
            // Descriptors are for calls first.
            let place = listener::is_spare(&stream).then(|| self.hub.doors.enter(from.ip()));
            match (v4(from), place.flatten()) {
                (Some(from), Some(place)) => {
                    let (place, socket) = (Arc::new(place), Arc::clone(&socket));
                    let meeting = Arc::clone(&self);
                    let task = meeting.connection(stream, from, socket, Arc::clone(&place));
                    place.serve(tokio::spawn(task).abort_handle());
                }
                _ => self.hub.counters.connection_refused(),
            }
        }
    }

    /// One connection: requests come in, and what they lead to goes out.
    async fn connection(
        self: Arc<Self>,
        mut stream: TcpStream,
        from: SocketAddrV4,
        socket: Arc<tokio::net::UdpSocket>,
        _place: Arc<Place>,
    ) {
        let _ = stream.set_nodelay(true);
        let (number, mut told) = self.enter();
        let _leaving = Leaving {
            meeting: &self,
            from,
            number,
        };
        let mut bytes = [0; REQUEST];
        let mut len = 0;
        loop {
            let answer = tokio::select! {
                told = &mut told => match told {
                    Ok(told) => told,
                    Err(_) => return,
                },
                read = timeout(IDLE, stream.read(&mut bytes[len..])) => {
                    match read {
                        Ok(Ok(read @ 1..)) => len += read,
                        _ => return,
                    }
                    if len < REQUEST {
                        continue;
                    }
                    len = 0;
                    let now = clock::now().mono;
                    let Some(request) = Request::decode(&bytes) else { return };
                    if !self.passes(now, from) {
                        return;
                    }
                    match self.handle(now, from, request, Via::Tcp(number), &socket) {
                        Some(reply) => reply,
                        None => continue,
                    }
                }
            };
            // The client closes first, to dial from the port that it has here.
            if stream.write_all(&answer).await.is_ok() {
                let _ = timeout(IDLE, drain(&mut stream)).await;
            }
            return;
        }
    }

    fn enter(&self) -> (u64, oneshot::Receiver<Entry>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        state.connections.insert(number, sender);
        (number, receiver)
    }

    fn leave(&self, from: SocketAddrV4, number: u64) {
        let mut state = self.state();
        state.connections.remove(&number);
        state.table.gone(*from.ip(), number);
    }

    /// The first generation.
    async fn texts(self: Arc<Self>, socket: tokio::net::UdpSocket) {
        let mut bytes = [0; 512];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut bytes).await else {
                sleep(REST).await;
                continue;
            };
            let now = clock::now().mono;
            let (Some(from), Some(request)) = (v4(from), First::decode(&bytes[..len])) else {
                continue;
            };
            if !self.passes(now, from) {
                continue;
            }
            let met = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.handle(now, from, request)
            };
            if let Some(suppressed) = self.logs(now) {
                let met = met.is_some();
                info!(%from, ?request, met, suppressed, "fractal: first generation");
            }
            for (to, told) in met.into_iter().flatten() {
                let _ = socket.try_send_to(&told, to.into());
            }
        }
    }
}

/// A connection that takes along what it posted, however it ends.
struct Leaving<'a> {
    meeting: &'a Meeting,
    from: SocketAddrV4,
    number: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.meeting.leave(self.from, self.number);
    }
}

/// Reads until the client closes.
async fn drain(stream: &mut TcpStream) {
    let mut ignored = [0; 64];
    for _ in 0..64 {
        if !matches!(stream.read(&mut ignored).await, Ok(1..)) {
            return;
        }
    }
}
