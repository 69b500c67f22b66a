//! Steering running shards from other threads: a queue and an eventfd for each of them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

use super::admission::Admission;
use super::bind::{Bound, ShardSockets, StreamListener};
use super::descriptors::Descriptors;
use super::mmsg::Mmsg;
use super::plane::DataPlane;
use super::relays::{RelayOpener, Reservations};
use super::shard::Shard;
use super::streams::Streams;
use super::uring::{self, Uring};
use super::{AuditSink, DataPath, Limits, Service, Serving, StreamLimits, sys};
use crate::proto::pairs::PairId;
use crate::proto::ports::RelayAddresses;
use crate::proto::{Flow, Policy, Relay};

/// What a shard is told.
pub(super) enum Command {
    SetPolicy(Arc<Policy>),
    Drain(Vec<SocketAddr>),
    /// A wait of this pair ended without the other side; it had an allocation on this flow.
    WaitOver(PairId, Flow),
    /// Close a connection, which had to make room for another shard's.
    Close(u64),
    Stop,
}

/// How a shard is reached, and what it publishes.
pub(super) struct Mailbox {
    queue: Mutex<Vec<Command>>,
    wake: File,
    pub(super) allocations: AtomicUsize,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::default(),
            wake: sys::eventfd()?.into(),
            allocations: AtomicUsize::new(0),
        })
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(super) fn post(&self, command: Command) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(command);
        // It can only fail when the counter is full, and then the shard is awake already.
        let _ = (&self.wake).write(&1_u64.to_ne_bytes());
    }

    /// What was posted since the last call. The eventfd is emptied before the queue, so that
    /// nothing posted in between is overlooked.
    pub(super) fn take(&self) -> Vec<Command> {
        let _ = (&self.wake).read(&mut [0; 8]);
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The running shards. Dropping them stops them, as [`Shards::stop`] does.
pub struct Shards {
    mailboxes: Arc<[Mailbox]>,
    threads: Vec<JoinHandle<()>>,
}

impl Bound {
    /// Starts one thread for each shard. `make` makes the shard's core by its index; `relays`
    /// are the ports for relayed transport addresses, the same ones that the cores know.
    /// `audit` is called on the shards' threads and must be quick.
    ///
    /// A shard that panics takes the process down (abort), after saying so in the log: half a
    /// server that hangs is worse than one that is started again.
    ///
    /// # Errors
    /// When a thread, an epoll instance or random bytes are not to be had, or io_uring is asked
    /// for and does not work ([`Unavailable`](super::Unavailable)).
    pub fn start(
        self,
        mut make: impl FnMut(usize) -> Relay,
        relays: Arc<RelayAddresses>,
        audit: AuditSink,
    ) -> io::Result<Shards> {
        let best = self.data_path.probe().map_err(io::Error::other)?;
        let count = self.shards.len();
        let mailboxes: Arc<[Mailbox]> = (0..count)
            .map(|_| Mailbox::new())
            .collect::<Result<_, _>>()?;
        let limits = Limits::from(&self.streams);
        let StreamLimits {
            per_source, total, ..
        } = self.streams;
        // Unauthenticated connections never take more than a quarter of the descriptors.
        let descriptors = usize::try_from(self.fd_limit / 4).unwrap_or(usize::MAX);
        let kept = Descriptors::new(self.fd_limit);
        let common = Common {
            admission: Arc::new(Admission::new(per_source, total.min(descriptors))),
            limits,
            reservations: Arc::new(Reservations::default()),
            relays,
            relay_buffer: self.relay_buffer,
            descriptors: kept,
            mailboxes: Arc::clone(&mailboxes),
            audit,
            segmentation: self.segmentation,
            best,
            forced: self.data_path == DataPath::IoUring,
            fd_limit: self.fd_limit,
        };
        let cpus = sys::allowed_cpus();
        let pin = self.pin && count > 1 && count <= cpus.len();
        let (ready, started) = mpsc::channel();
        let mut shards = Shards {
            mailboxes,
            threads: Vec::with_capacity(count),
        };
        for (index, sockets) in self.shards.into_iter().enumerate() {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(io::Error::other)?;
            let relay = make(index);
            let common = common.clone();
            let ready = ready.clone();
            let cpu = pin.then(|| cpus[index]);
            let thread = thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || {
                    let run = || {
                        if let Some(cpu) = cpu {
                            let _ = sys::pin_to(cpu);
                        }
                        common.run(index, sockets, relay, seed, ready)
                    };
                    match catch_unwind(AssertUnwindSafe(run)) {
                        Ok(Ok(())) => return,
                        Ok(Err(error)) => tracing::error!(shard = index, %error, "shard failed"),
                        Err(_) => tracing::error!(shard = index, "shard panicked"),
                    }
                    std::process::abort();
                })?;
            shards.threads.push(thread);
        }
        drop(ready);
        let mut serving = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = started.recv();
            serving.push(begun.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?);
        }
        while let Some(data_path) = serving.first().cloned() {
            let all = serving.len();
            serving.retain(|other| *other != data_path);
            tracing::info!(%data_path, threads = all - serving.len(), "relaying");
        }
        Ok(shards)
    }
}

/// What the UDP listeners of a shard are for, and its stream listeners.
pub(super) type Listeners = (Vec<Service>, Vec<StreamListener>);

/// What all shards share, or have a copy of.
#[derive(Clone)]
struct Common {
    admission: Arc<Admission>,
    limits: Limits,
    reservations: Arc<Reservations>,
    relays: Arc<RelayAddresses>,
    relay_buffer: usize,
    descriptors: Descriptors,
    mailboxes: Arc<[Mailbox]>,
    audit: AuditSink,
    segmentation: bool,
    best: Serving,
    forced: bool,
    fd_limit: u64,
}

impl Common {
    /// Makes a shard, says so, and runs it until it is told to stop.
    fn run(
        self,
        index: usize,
        sockets: ShardSockets,
        relay: Relay,
        seed: [u8; 32],
        ready: mpsc::Sender<io::Result<Serving>>,
    ) -> io::Result<()> {
        let ShardSockets { udp, streams } = sockets;
        let services = udp.iter().map(|listener| listener.service).collect();
        let parts = (relay, (services, streams), seed);
        let segments = self.segmentation;
        if self.best != Serving::IoUring {
            let mmsg = (self.best.clone(), Mmsg::new(udp, segments));
            return self.serve(index, mmsg, parts, ready);
        }
        match uring::new_ring(self.fd_limit) {
            Ok(ring) => {
                let uring = (Serving::IoUring, Uring::new(ring, udp, segments));
                self.serve(index, uring, parts, ready)
            }
            // It worked when it was probed: another shard has the memory or the descriptor.
            Err(error) if !self.forced => {
                tracing::warn!(shard = index, %error, "no io_uring for this shard: it uses mmsg");
                let mmsg = Mmsg::new(udp, segments);
                let serving = Serving::Mmsg(Some(error.into()));
                self.serve(index, (serving, mmsg), parts, ready)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        }
    }

    fn serve<P: DataPlane>(
        self,
        index: usize,
        (serving, plane): (Serving, io::Result<P>),
        (relay, listeners, seed): (Relay, Listeners, [u8; 32]),
        ready: mpsc::Sender<io::Result<Serving>>,
    ) -> io::Result<()> {
        match plane.and_then(|plane| self.shard(index, plane, relay, listeners, seed)) {
            Ok(shard) => {
                let _ = ready.send(Ok(serving));
                drop(ready);
                shard.run()
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        }
    }

    fn shard<P: DataPlane>(
        self,
        index: usize,
        plane: P,
        relay: Relay,
        listeners: Listeners,
        seed: [u8; 32],
    ) -> io::Result<Shard<P>> {
        let counters = Arc::clone(relay.counters());
        let streams = Streams::new(index, self.admission, self.limits, counters);
        let opener = RelayOpener::new(
            self.relays,
            self.reservations,
            ChaCha12Rng::from_seed(seed),
            self.relay_buffer,
            self.descriptors,
        );
        Shard::new(
            index,
            plane,
            relay,
            streams,
            listeners,
            opener,
            self.mailboxes,
            self.audit,
        )
    }
}

impl Shards {
    /// Gives every shard a new policy. Allocations live on.
    pub fn set_policy(&self, policy: &Arc<Policy>) {
        self.post(|| Command::SetPolicy(Arc::clone(policy)));
    }

    /// Refuses allocations from now on: with 300 to a sibling (at most one address for each
    /// family), or with 508 when there is none. Those that exist live on.
    pub fn drain(&self, alternates: &[SocketAddr]) {
        self.post(|| Command::Drain(alternates.to_vec()));
    }

    /// For others that tell the shards something.
    pub fn steering(&self) -> Steering {
        Steering(Arc::clone(&self.mailboxes))
    }

    /// Number of allocations, as of each shard's last turn.
    pub fn allocations(&self) -> usize {
        let all = self.mailboxes.iter();
        all.map(|mailbox| mailbox.allocations.load(Relaxed)).sum()
    }

    /// Ends all allocations, closes everything and waits for the threads.
    pub fn stop(self) {
        drop(self);
    }

    fn post(&self, command: impl Fn() -> Command) {
        for mailbox in self.mailboxes.iter() {
            mailbox.post(command());
        }
    }
}

/// Tells shards what happened elsewhere, as long as they run. The default one tells nobody.
#[derive(Clone)]
pub struct Steering(Arc<[Mailbox]>);

impl Default for Steering {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl Steering {
    /// See [`Relay::wait_over`]. Whichever shard has the flow acts on it.
    pub fn wait_over(&self, pair: PairId, flow: Flow) {
        for mailbox in self.0.iter() {
            mailbox.post(Command::WaitOver(pair, flow));
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.post(|| Command::Stop);
        for thread in self.threads.drain(..) {
            // A shard that panics aborts the process, so there is no panic to pass on.
            let _ = thread.join();
        }
    }
}
