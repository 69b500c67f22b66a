//! One who stays, and is paired with one device after the other.

use std::fmt;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::establish::establish;
use super::office::{News, Office};
use super::{ConnectError, Options, Progress, PunchedConn};
use crate::client::rendezvous::{Rendezvous, RendezvousError};
use crate::pairing::{ErrorCode, Join};

/// How many devices may be on their way in at a time.
const MOST: usize = 64;
/// Between attempts to reach the server, doubled up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Stays registered under its access key, also when the pairing server is restarted or out of
/// reach for a while. Dropping it ends that; connections that were made go on.
pub struct Host {
    options: Options,
    news: mpsc::Receiver<Result<News, ConnectError>>,
    registered: watch::Receiver<bool>,
    task: JoinHandle<()>,
    coming: JoinSet<Result<PunchedConn, ConnectError>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Sessions that were made go on: they reach each other without the server.
        self.news.close();
    }
}

impl Host {
    pub(super) fn start(options: Options) -> Self {
        let (told, news) = mpsc::channel(MOST);
        let (tell_registered, registered) = watch::channel(false);
        let task = tokio::spawn(stay(options.clone(), told, tell_registered));
        Self {
            options,
            news,
            registered,
            task,
            coming: JoinSet::new(),
        }
    }

    /// Waits until the pairing server knows this host.
    ///
    /// # Errors
    /// When that can never be: the server refuses such a host.
    pub async fn registered(&mut self) -> Result<(), ConnectError> {
        let known = self.registered.wait_for(|registered| *registered).await;
        known.map(drop).map_err(|_| RendezvousError::Closed.into())
    }

    /// The next device that is connected. Several may be on their way in at a time; the first
    /// that is there comes first. Nothing is lost when the waiting is broken off.
    ///
    /// # Errors
    /// Why one device could not be connected; others still can, as long as
    /// [`Host::is_open`].
    pub async fn accept(&mut self) -> Result<PunchedConn, ConnectError> {
        loop {
            let room = self.coming.len() < MOST;
            tokio::select! {
                news = self.news.recv(), if room => match news {
                    Some(Ok(News::Paired(pair))) => {
                        let options = self.options.clone();
                        self.coming.spawn(async move { establish(&options, *pair, None).await });
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None if self.coming.is_empty() => return Err(RendezvousError::Closed.into()),
                    None => {
                        if let Some(come) = self.coming.join_next().await {
                            return come.unwrap_or_else(panicked);
                        }
                    }
                },
                Some(come) = self.coming.join_next() => return come.unwrap_or_else(panicked),
            }
        }
    }

    /// Whether further devices may come.
    pub fn is_open(&self) -> bool {
        !self.task.is_finished() || !self.coming.is_empty()
    }
}

fn panicked(error: tokio::task::JoinError) -> Result<PunchedConn, ConnectError> {
    Err(std::io::Error::other(error).into())
}

/// Connects to the server again and again, until nobody listens any more or the server says that
/// it never will take this host.
async fn stay(
    options: Options,
    told: mpsc::Sender<Result<News, ConnectError>>,
    registered: watch::Sender<bool>,
) {
    let join = Join {
        host: true,
        ..options.join()
    };
    let mut pause = PAUSE;
    while !told.is_closed() {
        let (to_us, mut news) = mpsc::channel(MOST);
        let visit = async {
            let rendezvous = Rendezvous::connect(&options.server, &options.socket()).await?;
            Office::open(rendezvous, join.clone(), to_us).await
        };
        let office = match visit.await {
            Ok(office) => office,
            Err(error) => {
                if let Some(error) = forever(error) {
                    let _ = told.send(Err(error)).await;
                    return;
                }
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
        loop {
            tokio::select! {
                heard = news.recv() => match heard {
                    Some(News::Waiting { observed, wait_s, .. }) => {
                        pause = PAUSE;
                        registered.send_replace(true);
                        let wait = Duration::from_secs(wait_s);
                        options.tell(Progress::Waiting { observed, wait });
                    }
                    Some(News::Refused(code, message)) if is_final(code) => {
                        let error = ConnectError::said(code, message);
                        let _ = told.send(Err(error)).await;
                        return;
                    }
                    // It is asked again.
                    Some(News::Refused(..)) | None => break,
                    Some(paired) => {
                        if told.send(Ok(paired)).await.is_err() {
                            return;
                        }
                    }
                },
                () = told.closed() => return,
            }
        }
        registered.send_replace(false);
        drop(news);
        tokio::select! {
            () = sleep(pause) => {}
            () = told.closed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What asking again does not change.
const fn is_final(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::BadRequest | ErrorCode::TooLarge)
}

fn forever(error: RendezvousError) -> Option<ConnectError> {
    match error {
        RendezvousError::Tls(_) | RendezvousError::Protocol(_) => Some(error.into()),
        RendezvousError::Refused {
            code: Some(code), ..
        } if is_final(code) => Some(error.into()),
        _ => None,
    }
}
