//! A NAT in front of a relay that may forget what it has mapped: whoever sends through it then has
//! another address for the relay, and what the relay sends to the old one is lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// Who sends through it, from where, and what brings the answers.
struct Mapping {
    client: SocketAddr,
    outer: Arc<UdpSocket>,
    back: AbortHandle,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.back.abort();
    }
}

/// The NAT.
pub struct Nat {
    pub address: SocketAddr,
    mappings: Arc<Mutex<Vec<Option<Mapping>>>>,
    longest: Arc<AtomicUsize>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nat {
    /// An address behind which is `server`.
    pub async fn before(server: SocketAddr) -> Self {
        let any = SocketAddr::new(server.ip(), 0);
        let front = Arc::new(UdpSocket::bind(any).await.expect("a socket"));
        let new = Self {
            address: front.local_addr().expect("its address"),
            mappings: Arc::default(),
            longest: Arc::default(),
        };
        let (mappings, longest) = (Arc::clone(&new.mappings), Arc::clone(&new.longest));
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((len, client)) = front.recv_from(&mut buffer).await {
                longest.fetch_max(len, Relaxed);
                let known = locked(&mappings)
                    .iter()
                    .flatten()
                    .find(|mapping| mapping.client == client)
                    .map(|mapping| Arc::clone(&mapping.outer));
                let outer = match known {
                    Some(outer) => outer,
                    None => {
                        let new = Mapping::new(&front, client, server).await;
                        let outer = Arc::clone(&new.outer);
                        locked(&mappings).push(Some(new));
                        outer
                    }
                };
                let _ = outer.send(&buffer[..len]).await;
            }
        });
        new
    }

    /// Forgets one of the mappings, counted from the first that was made.
    pub fn forget(&self, number: usize) {
        let forgotten = locked(&self.mappings)
            .get_mut(number)
            .and_then(Option::take);
        assert!(forgotten.is_some(), "there is none with number {number}");
    }

    /// The numbers of the mappings that there are.
    pub fn live(&self) -> Vec<usize> {
        let mappings = locked(&self.mappings);
        let live = (0..)
            .zip(mappings.iter())
            .filter(|(_, live)| live.is_some());
        live.map(|(number, _)| number).collect()
    }

    /// The most bytes of UDP payload that anybody has sent through it in one datagram.
    pub fn longest(&self) -> usize {
        self.longest.load(Relaxed)
    }
}

impl Mapping {
    async fn new(front: &Arc<UdpSocket>, client: SocketAddr, server: SocketAddr) -> Self {
        let outer = UdpSocket::bind(SocketAddr::new(server.ip(), 0)).await;
        let outer = Arc::new(outer.expect("a socket"));
        outer.connect(server).await.expect("a server");
        let (reading, front) = (Arc::clone(&outer), Arc::clone(front));
        let back = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                if let Ok(len) = reading.recv(&mut buffer).await {
                    let _ = front.send_to(&buffer[..len], client).await;
                }
            }
        });
        Self {
            client,
            outer,
            back: back.abort_handle(),
        }
    }
}
