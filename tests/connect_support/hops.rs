//! A network in which everything between the devices and their servers takes one hop, whatever
//! that takes by the clock: what was sent is held until nobody has anything more to send, and
//! then delivered all at once. So round trips can be counted. A device that is slow, on a busy
//! machine, can only need more of them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// So long nobody has sent anything: nobody will until something arrives.
const QUIET: Duration = Duration::from_millis(120);
/// Those who repeat something do not hold the others up for longer.
const LONGEST: Duration = Duration::from_millis(360);

type Writer = mpsc::UnboundedSender<Vec<u8>>;

struct Flight {
    due: u64,
    to: Writer,
    bytes: Vec<u8>,
    /// Remembers when it arrived.
    marks: bool,
}

#[derive(Default)]
struct State {
    hop: u64,
    sent_at: Option<Instant>,
    flights: VecDeque<Flight>,
    marked: Option<u64>,
}

/// The network.
#[derive(Clone, Default)]
pub struct Hops(Arc<Mutex<State>>);

impl Hops {
    pub fn start() -> Self {
        let new = Self::default();
        tokio::spawn(new.clone().run());
        new
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many hops have passed.
    pub fn now(&self) -> u64 {
        self.state().hop
    }

    /// When the message arrived that is to be remembered.
    pub fn marked(&self) -> Option<u64> {
        self.state().marked
    }

    /// Waits until nobody has anything more to say.
    pub async fn settle(&self) {
        let mut since = Instant::now();
        while since.elapsed() < LONGEST * 2 {
            if !self.state().flights.is_empty() {
                since = Instant::now();
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn send(&self, not_before: u64, to: &Writer, bytes: Vec<u8>, marks: bool) {
        let mut state = self.state();
        let due = not_before.max(state.hop + 1);
        state.sent_at = Some(Instant::now());
        let to = to.clone();
        state.flights.push_back(Flight {
            due,
            to,
            bytes,
            marks,
        });
    }

    async fn run(self) {
        let mut since = Instant::now();
        loop {
            let (due, idle) = {
                let state = self.state();
                let quiet = state.sent_at.unwrap_or(since) + QUIET;
                (quiet.min(since + LONGEST), state.flights.is_empty())
            };
            if idle {
                sleep(Duration::from_millis(1)).await;
                since = Instant::now();
                continue;
            }
            if Instant::now() < due {
                sleep_until(due).await;
                continue;
            }
            since = Instant::now();
            let mut state = self.state();
            state.hop += 1;
            let hop = state.hop;
            let flights = std::mem::take(&mut state.flights);
            let (arrive, fly): (VecDeque<_>, VecDeque<_>) =
                flights.into_iter().partition(|flight| flight.due <= hop);
            state.flights = fly;
            for flight in arrive {
                if flight.marks {
                    state.marked = Some(hop);
                }
                // Whoever has gone gets nothing.
                let _ = flight.to.send(flight.bytes);
            }
        }
    }

    /// An address that is `server` by UDP, one hop away.
    pub async fn udp(&self, server: SocketAddr) -> SocketAddr {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let front = Arc::new(front.expect("a socket"));
        let address = front.local_addr().expect("its address");
        let hops = self.clone();
        tokio::spawn(async move {
            let mut clients: HashMap<SocketAddr, Writer> = HashMap::new();
            let mut buffer = vec![0; 65_536];
            while let Ok((len, client)) = front.recv_from(&mut buffer).await {
                let writer = match clients.entry(client) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        new.insert(hops.clone().udp_client(&front, client, server).await)
                    }
                };
                hops.send(0, writer, buffer[..len].to_vec(), false);
            }
        });
        address
    }

    /// What one client sends leaves from a socket of its own; what comes back goes to it.
    async fn udp_client(
        self,
        front: &Arc<UdpSocket>,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Writer {
        let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let back = Arc::new(back.expect("a socket"));
        back.connect(server).await.expect("a server");
        let (to_server, mut for_server) = mpsc::unbounded_channel::<Vec<u8>>();
        let (to_client, mut for_client) = mpsc::unbounded_channel::<Vec<u8>>();
        let (out, reading, front) = (Arc::clone(&back), back, Arc::clone(front));
        tokio::spawn(async move {
            while let Some(bytes) = for_server.recv().await {
                let _ = out.send(&bytes).await;
            }
        });
        tokio::spawn(async move {
            while let Some(bytes) = for_client.recv().await {
                let _ = front.send_to(&bytes, client).await;
            }
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(len) = reading.recv(&mut buffer).await {
                self.send(0, &to_client, buffer[..len].to_vec(), false);
            }
        });
        to_server
    }

    /// An address that is `server` by TCP, one hop away; what the handshake of a connection takes
    /// included. The arrival of the message with this number on a connection is remembered.
    pub async fn tcp(&self, server: SocketAddr, mark: Option<u32>) -> SocketAddr {
        let front = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let front = front.expect("a socket");
        let address = front.local_addr().expect("its address");
        let hops = self.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = front.accept().await {
                // It is closed at the end of a test.
                let Ok(back) = TcpStream::connect(server).await else {
                    return;
                };
                for end in [&client, &back] {
                    end.set_nodelay(true).expect("a TCP socket");
                }
                let (from_client, into_client) = client.into_split();
                let (from_server, into_server) = back.into_split();
                // There and back, and then the first data.
                let open = hops.now() + 3;
                tokio::spawn(hops.clone().pump(from_client, into_server, open, mark));
                tokio::spawn(hops.clone().pump(from_server, into_client, open, None));
            }
        });
        address
    }

    async fn pump(
        self,
        mut from: impl AsyncRead + Unpin,
        mut into: impl AsyncWrite + Send + Unpin + 'static,
        open: u64,
        mark: Option<u32>,
    ) {
        let (writer, mut written) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::spawn(async move {
            while let Some(bytes) = written.recv().await {
                if into.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let mut buffer = vec![0; 65_536];
        let mut number = 0;
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            number += 1;
            self.send(open, &writer, buffer[..len].to_vec(), mark == Some(number));
        }
    }
}
