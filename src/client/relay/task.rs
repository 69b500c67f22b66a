//! Keeps a relay: allocates, passes on, and allocates again when the allocation is lost.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until};

use super::link::{Happened, Link, MOST_PEERS};
use super::servers::TurnServer;
use super::{Command, RelayError, RelayEvent, now, race};
use crate::client::turn::Failure;

/// What of the queue of events data leaves free.
const RESERVED: usize = 64;
/// Between attempts, doubled up to [`LONGEST_PAUSE`] where the server says no, and up to
/// [`LONGEST_SILENCE`] where it says nothing: it may be there again at any time.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
const LONGEST_SILENCE: Duration = Duration::from_secs(2);
/// An allocation that lasted so long is made again at once when it is lost.
const LASTED: Duration = Duration::from_secs(1);
/// How long one whose server was silent may still come back after there is another: the network
/// may have been gone, and who has sent to the old one knows no other.
const LAST_CHANCE: Duration = Duration::from_millis(2500);

pub(super) struct Task {
    pub(super) servers: watch::Receiver<Vec<TurnServer>>,
    pub(super) bind: Option<IpAddr>,
    pub(super) patience: Duration,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<RelayEvent>,
    pub(super) peers: Vec<SocketAddr>,
}

/// How the service of an allocation ends.
enum End {
    /// The owner is gone.
    Gone,
    Lost(RelayError),
    /// There is another one.
    Replaced(Box<Link>),
}

fn longest_pause(lost: &RelayError) -> Duration {
    match lost {
        RelayError::Turn(Failure::Refused(..)) => LONGEST_PAUSE,
        _ => LONGEST_SILENCE,
    }
}

impl Task {
    pub(super) async fn run(mut self) {
        if self.servers.borrow().is_empty() {
            self.tell(RelayEvent::Lost(RelayError::NoServer));
            return;
        }
        let mut pause = PAUSE;
        let mut other = None;
        loop {
            let opened = match other.take() {
                Some(link) => Some(Ok(link)),
                None => {
                    let servers = self.servers.borrow_and_update().clone();
                    let race = race::allocate(servers, self.patience, self.bind);
                    self.orders_during(race).await
                }
            };
            let lost = match opened {
                None => return,
                Some(Ok(link)) => {
                    pause = PAUSE;
                    let since = now();
                    match self.serve(link).await {
                        End::Gone => return,
                        End::Replaced(link) => {
                            other = Some(*link);
                            continue;
                        }
                        End::Lost(lost) if now() >= since + LASTED => {
                            self.tell(RelayEvent::Lost(lost));
                            continue;
                        }
                        End::Lost(lost) => lost,
                    }
                }
                Some(Err(lost)) => lost,
            };
            let longest = longest_pause(&lost);
            self.tell(RelayEvent::Lost(lost));
            if self.orders_during(sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// The latest peers stand last.
    fn remember(&mut self, peer: SocketAddr) {
        self.peers.retain(|known| *known != peer);
        self.peers.push(peer);
        if self.peers.len() > MOST_PEERS {
            self.peers.remove(0);
        }
    }

    /// Data is dropped when nobody takes it, like on a full socket; what changes finds room.
    fn tell(&self, event: RelayEvent) {
        if matches!(event, RelayEvent::Data(..)) && self.events.capacity() <= RESERVED {
            return;
        }
        let _ = self.events.try_send(event);
    }

    fn tell_of(&self, link: &Link) {
        if let Some(allocation) = link.allocation() {
            self.tell(RelayEvent::Allocated {
                relayed: allocation.relayed,
                local: link.local_addr(),
                reliable: link.is_reliable(),
            });
        }
    }

    /// Does something while orders come in; `None` when the owner is gone.
    async fn orders_during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                command = self.commands.recv() => match command? {
                    Command::Reach(peer) => self.remember(peer),
                    Command::Check | Command::Send(..) => {}
                },
            }
        }
    }

    /// Keeps an allocation until it is lost, or until the owner is gone.
    async fn serve(&mut self, mut link: Link) -> End {
        self.tell_of(&link);
        for &peer in &self.peers {
            link.reach(peer);
        }
        loop {
            let happened = tokio::select! {
                Ok(()) = self.servers.changed() => {
                    link.renew(&self.servers.borrow_and_update());
                    continue;
                }
                command = self.commands.recv() => {
                    match command {
                        Some(Command::Reach(peer)) => {
                            self.remember(peer);
                            link.reach(peer);
                        }
                        Some(Command::Check) => link.check(),
                        Some(Command::Send(peer, data)) => link.send(peer, &data),
                        None => {
                            link.release().await;
                            return End::Gone;
                        }
                    }
                    continue;
                }
                happened = link.next() => happened,
            };
            match happened {
                Ok(Happened::Reachable(peer)) => self.tell(RelayEvent::Reachable(peer)),
                Ok(Happened::Refused(peer, failure)) => {
                    self.tell(RelayEvent::Refused(peer, failure));
                }
                Ok(Happened::Data(peer, data)) => self.tell(RelayEvent::Data(peer, data)),
                Ok(Happened::Silent) => {
                    self.tell(RelayEvent::Lost(RelayError::Turn(Failure::TimedOut)));
                    link = match self.outlast(link).await {
                        Ok(link) => link,
                        Err(end) => return end,
                    };
                    self.tell_of(&link);
                    if let Some(&peer) = self.peers.last() {
                        link.reach(peer);
                    }
                }
                Ok(Happened::Heard) => {}
                Err(lost) => return End::Lost(lost),
            }
        }
    }

    /// The server is silent: another allocation is tried for, by every way that there is, and the
    /// one that there was is asked for as well. `Ok` when it is there again.
    async fn outlast(&mut self, link: Link) -> Result<Link, End> {
        let servers = self.servers.clone();
        let (patience, bind) = (self.patience, self.bind);
        let race = async move {
            loop {
                let current = servers.borrow().clone();
                match race::allocate(current, patience, bind).await {
                    Ok(link) => return link,
                    Err(lost) => sleep(longest_pause(&lost)).await,
                }
            }
        };
        tokio::pin!(race);
        let mut old = Some(link);
        let mut other: Option<(Link, Instant)> = None;
        loop {
            let until = other.as_ref().map(|other| other.1);
            let happens = async {
                match &mut old {
                    Some(link) => link.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                happened = happens => match (happened, old.take(), other.take()) {
                    (Ok(Happened::Heard), Some(link), other) => {
                        if let Some((other, _)) = other {
                            tokio::spawn(other.release());
                        }
                        return Ok(link);
                    }
                    (Ok(_), link, still) => (old, other) = (link, still),
                    (Err(_), _, Some((link, _))) => return Err(End::Replaced(Box::new(link))),
                    // What is under way may be given the port that this one had.
                    (Err(_), _, None) => {}
                },
                link = &mut race, if other.is_none() => match old {
                    Some(_) => other = Some((link, now() + LAST_CHANCE)),
                    None => return Err(End::Replaced(Box::new(link))),
                },
                () = sleep_until(until.unwrap_or_else(now).into()), if until.is_some() => {
                    if let (Some((link, _)), Some(old)) = (other.take(), old.take()) {
                        tokio::spawn(old.release());
                        return Err(End::Replaced(Box::new(link)));
                    }
                }
                command = self.commands.recv() => match command {
                    Some(Command::Reach(peer)) => {
                        self.remember(peer);
                        if let Some(link) = &mut old {
                            link.reach(peer);
                        }
                    }
                    Some(Command::Check | Command::Send(..)) => {}
                    None => {
                        let all = old.into_iter().chain(other.map(|other| other.0));
                        for link in all {
                            tokio::spawn(link.release());
                        }
                        return Err(End::Gone);
                    }
                },
            }
        }
    }
}
