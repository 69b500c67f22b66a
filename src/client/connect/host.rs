//! One who stays, and is paired with one device after the other.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::establish::{establish, patience};
use super::office::{News, Office, Pair};
use super::{ConnectError, Options, Progress, PunchedConn};
use crate::client::rendezvous::{Rendezvous, RendezvousError};
use crate::pairing::{ClientMessage, ErrorCode, Join, SessionId};

/// How many devices may be on their way in, or wait to be taken. Further ones are turned away.
const MOST: usize = 64;
/// Between attempts to reach the server, doubled up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// So long one who is turned away may wait for its turn to be told.
const TURN_AWAY: Duration = Duration::from_secs(5);

/// Stays registered under its access key, also when the pairing server is restarted, out of reach,
/// or without its certificate for a while. Dropping it ends that; connections that were taken go on.
pub struct Host {
    arrivals: mpsc::Receiver<Arrival>,
    /// Those that came before somebody asked whether it is registered.
    early: VecDeque<Arrival>,
    registered: watch::Receiver<bool>,
}

/// One of the 64 places of a [`Host`], for a device that is on its way in or waits. Free for the
/// next device when it is dropped.
pub struct Place(#[expect(dead_code, reason = "it is there to be dropped")] OwnedSemaphorePermit);

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

enum Arrival {
    /// A device that is connected, or could not be.
    Device(Box<Result<PunchedConn, ConnectError>>, Place),
    /// Why no more of them can come.
    NoMore(ConnectError),
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl Host {
    pub(super) fn start(options: Options) -> Self {
        let (told, arrivals) = mpsc::channel(MOST + 1);
        let (tell_registered, registered) = watch::channel(false);
        tokio::spawn(stay(options, told, tell_registered));
        Self {
            arrivals,
            early: VecDeque::new(),
            registered,
        }
    }

    /// Waits until the pairing server knows this host. [`Progress::Retrying`] tells of every
    /// attempt that did not succeed.
    ///
    /// # Errors
    /// When that can never be: the server refuses such a host, or is not who it should be and has
    /// never taken this host.
    pub async fn registered(&mut self) -> Result<(), ConnectError> {
        let known = self.registered.wait_for(|registered| *registered).await;
        if known.is_ok() {
            return Ok(());
        }
        // It says why as its last word.
        while let Some(arrival) = self.arrivals.recv().await {
            match arrival {
                Arrival::NoMore(error) => return Err(error),
                Arrival::Device(..) => self.early.push_back(arrival),
            }
        }
        Err(RendezvousError::Closed.into())
    }

    /// The next device that is connected. They connect whether or not somebody waits here; the
    /// first that is there comes first. While 64 of them are on their way in or wait here, further
    /// ones are turned away ([`Progress::TurnedAway`]), and told that this side is busy. Nothing is
    /// lost when the waiting is broken off.
    ///
    /// # Errors
    /// Why one device could not be connected; others still can, as long as
    /// [`Host::is_open`].
    pub async fn accept(&mut self) -> Result<PunchedConn, ConnectError> {
        self.accept_waiting().await.map(|(conn, _)| conn)
    }

    /// As [`Host::accept`], of a device that goes on waiting: it counts as one of the 64 until the
    /// place is dropped.
    ///
    /// # Errors
    /// As [`Host::accept`].
    pub async fn accept_waiting(&mut self) -> Result<(PunchedConn, Place), ConnectError> {
        let early = self.early.pop_front();
        let arrival = match early {
            Some(arrival) => Some(arrival),
            None => self.arrivals.recv().await,
        };
        match arrival {
            Some(Arrival::Device(come, place)) => Ok(((*come)?, place)),
            Some(Arrival::NoMore(error)) => Err(error),
            None => Err(RendezvousError::Closed.into()),
        }
    }

    /// Whether further devices may come.
    pub fn is_open(&self) -> bool {
        !(self.arrivals.is_closed() && self.arrivals.is_empty() && self.early.is_empty())
    }
}

/// Connects one device, unless the host ends before.
async fn receive(options: Options, pair: Pair, place: Place, told: mpsc::Sender<Arrival>) {
    let patience = patience(pair.round_trip, None);
    tokio::select! {
        come = establish(&options, pair, None, patience) => {
            let _ = told.send(Arrival::Device(Box::new(come), place)).await;
        }
        () = told.closed() => {}
    }
}

/// Tells a device that it cannot come now, when those that are on their way in leave room for it.
fn turn_away(session: SessionId, outgoing: mpsc::Sender<ClientMessage>) {
    let busy = true;
    let leave = ClientMessage::Leave { session, busy };
    tokio::spawn(async move {
        let _ = timeout(TURN_AWAY, outgoing.send(leave)).await;
    });
}

/// Connects to the server again and again, until nobody listens any more or the server says that
/// it never will take this host.
async fn stay(options: Options, told: mpsc::Sender<Arrival>, registered: watch::Sender<bool>) {
    let places = Arc::new(Semaphore::new(MOST));
    let join = Join {
        host: true,
        ..options.join()
    };
    let mut pause = PAUSE;
    let mut known = false;
    while !told.is_closed() {
        let (to_us, mut news) = mpsc::channel(MOST);
        let visit = async {
            let rendezvous = Rendezvous::connect(&options.server, &options.socket()).await?;
            Office::open(rendezvous, &options.key, join.clone(), to_us).await
        };
        let office = match visit.await {
            Ok(office) => office,
            Err(error) if is_forever(&error, known) => return give_up(&told, error.into()).await,
            Err(error) => {
                let reason = error.to_string();
                options.tell(Progress::Retrying { reason, pause });
                tokio::select! {
                    () = sleep(pause) => {}
                    () = told.closed() => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        // It ends when nobody takes its news any more.
        tokio::spawn(office.run());
        let reason = loop {
            tokio::select! {
                heard = news.recv() => match heard {
                    Some(News::Waiting { observed, wait_s, .. }) => {
                        pause = PAUSE;
                        known = true;
                        registered.send_replace(true);
                        let wait = Duration::from_secs(wait_s);
                        options.tell(Progress::Waiting { observed, wait });
                    }
                    Some(News::Refused(code, message)) if is_final(code) => {
                        return give_up(&told, ConnectError::said(code, message)).await;
                    }
                    // It is asked again.
                    Some(News::Refused(_, message)) => break message,
                    None => break RendezvousError::Closed.to_string(),
                    Some(News::Paired(pair)) => match Arc::clone(&places).try_acquire_owned() {
                        Ok(place) => {
                            let (options, told) = (options.clone(), told.clone());
                            tokio::spawn(receive(options, *pair, Place(place), told));
                        }
                        Err(_) => {
                            options.tell(Progress::TurnedAway { peer: pair.peer });
                            turn_away(pair.session, pair.post.outgoing);
                        }
                    },
                },
                () = told.closed() => return,
            }
        };
        options.tell(Progress::Retrying { reason, pause });
        registered.send_replace(false);
        drop(news);
        tokio::select! {
            () = sleep(pause) => {}
            () = told.closed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Says why no more devices can come.
async fn give_up(told: &mpsc::Sender<Arrival>, error: ConnectError) {
    let _ = told.send(Arrival::NoMore(error)).await;
}

/// What asking again does not change.
const fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::BadRequest | ErrorCode::TooLarge | ErrorCode::ProofWrong
    )
}

/// Whether asking again is of no use. Something else than the server may answer for a while, as a
/// hotel's login page or a proxy whose server starts. `known`: the server has taken this host
/// before, so that a wrong certificate is no mistake of the user, but may pass as well: somebody
/// else answers, or the certificate has run out and is renewed.
const fn is_forever(error: &RendezvousError, known: bool) -> bool {
    match error {
        RendezvousError::Tls(_) => !known,
        RendezvousError::Refused {
            code: Some(code), ..
        } => is_final(*code),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_turned_away_is_told_also_when_others_are_before_it() {
        let (outgoing, mut sent) = mpsc::channel(1);
        let (first, second) = (SessionId([1; 16]), SessionId([2; 16]));
        turn_away(first, outgoing.clone());
        turn_away(second, outgoing);
        for expected in [first, second] {
            let told = sent.recv().await;
            let said = matches!(
                told,
                Some(ClientMessage::Leave { session, busy: true }) if session == expected
            );
            assert!(said, "{told:?}");
        }
    }
}
