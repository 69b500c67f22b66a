//! TCP connections through NATs on both sides.
//!
//! Both sides listen on the port from which they reached the pairing server, for the whole
//! attempt, and dial every address of the other from that same port again and again. NATs let a
//! SYN in that looks like an answer to one that went out; whether the kernels then see one side
//! dial and the other accept, or both dial (RFC 9293 section 3.5, simultaneous open), does not
//! matter here. Addresses come in as they become known.
//!
//! Every connection is verified by a keyed exchange of nonces (`verify`), so strangers and other
//! programs behind a guessed address get nothing. Of all verified ones the initiator chooses the
//! first, the receiver confirms, and the rest are closed: both return the same one, and nothing
//! stays behind when [`punch`] is done or dropped.
//!
//! What runs over the connection is not secured by that; [`noise`] does.

pub mod noise;
mod schedule;
mod sockets;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use std::{fmt, io};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::prompt::prompt;
use crate::pairing::Role;
use schedule::{Dial, Schedule};
pub use sockets::Sockets;
use verify::{Exchange, HELLO, NotThePeer, PROOF, Step, Verifier};

/// How long a new connection has for the exchange of nonces.
const PROVE_WITHIN: Duration = Duration::from_secs(3);
/// How long the receiver has to confirm the choice.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);
/// Accepted connections that have proven nothing yet; one more closes the oldest.
const MOST_UNPROVEN: usize = 16;

/// What one side tells the other, as JSON in a sealed blob; several may come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Where to dial: the machine's own addresses, and the one that the server saw.
    pub addresses: Vec<SocketAddr>,
}

/// How an attempt is made.
#[derive(Clone)]
pub struct Config {
    /// Which side this is.
    pub role: Role,
    /// `check` of the session's secrets.
    pub secret: [u8; 32],
    /// Dials of each address, at most.
    pub tries: u32,
    /// For the whole attempt.
    pub timeout: Duration,
    /// Between two dials of one address, at least.
    pub spacing: Duration,
}

impl Config {
    /// 50 tries in 10 s, 200 ms apart.
    pub const fn new(role: Role, secret: [u8; 32]) -> Self {
        Self {
            role,
            secret,
            tries: 50,
            timeout: Duration::from_secs(10),
            spacing: Duration::from_millis(200),
        }
    }
}

/// The one connection that survived, on both sides the same.
#[derive(Debug)]
pub struct Punched {
    /// The connection; nothing but the exchange has passed over it.
    pub stream: TcpStream,
    /// The own end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// From the own greeting to the peer's proof.
    pub rtt: Duration,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PunchError {
    /// Dials that were made.
    pub dials: u32,
    /// Those that were refused or found no way.
    pub refused: u32,
    /// Connections to or from somebody who is not the peer.
    pub strangers: u32,
}

impl fmt::Display for PunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dials = self.dials;
        match self {
            Self { dials: 0, .. } => f.write_str("the peer told no address to dial"),
            Self { strangers: 1.., .. } => {
                write!(
                    f,
                    "somebody else answered at the peer's addresses ({dials} dials)"
                )
            }
            Self { refused: 0, .. } => write!(f, "none of {dials} dials was answered"),
            Self { refused, .. } => write!(f, "{refused} of {dials} dials were refused"),
        }
    }
}

impl std::error::Error for PunchError {}

/// Connects to the peer, whose addresses come through `peers` as they become known.
///
/// # Errors
/// When there is no connection within the time.
pub async fn punch(
    config: &Config,
    sockets: Sockets,
    peers: mpsc::Receiver<SocketAddr>,
) -> Result<Punched, PunchError> {
    let mut attempt = Attempt::new(config, sockets);
    match timeout(config.timeout, attempt.run(peers)).await {
        Ok(punched) => Ok(punched),
        Err(_) => Err(PunchError {
            dials: attempt.schedule.dials(),
            ..attempt.failed
        }),
    }
}

/// A connection whose other end has proven to be the peer.
struct Proven {
    stream: TcpStream,
    exchange: Exchange,
    rtt: Duration,
}

/// What a task of an attempt ends with.
enum Ended {
    /// A dial, and when it began.
    Dialled(Dial, Instant, io::Result<TcpStream>),
    /// The exchange of nonces.
    Proven(Result<Proven, NotThePeer>),
    /// The initiator's choice and the receiver's answer, on either side; `None` when the
    /// connection broke.
    Chosen(Option<Proven>),
}

struct Attempt {
    role: Role,
    verifier: Verifier,
    sockets: Sockets,
    schedule: Schedule,
    /// Ends with the attempt, and so does every connection that was not handed out.
    tasks: JoinSet<Ended>,
    /// Accepted connections that are being verified, oldest first.
    unproven: VecDeque<(Id, AbortHandle)>,
    /// Of the initiator: verified ones while another is being confirmed.
    spare: VecDeque<Proven>,
    choosing: bool,
    failed: PunchError,
}

impl Attempt {
    fn new(config: &Config, sockets: Sockets) -> Self {
        Self {
            role: config.role,
            verifier: Verifier::new(&config.secret, config.role),
            sockets,
            schedule: Schedule::new(config.tries, config.spacing),
            tasks: JoinSet::new(),
            unproven: VecDeque::new(),
            spare: VecDeque::new(),
            choosing: false,
            failed: PunchError::default(),
        }
    }

    async fn run(&mut self, mut peers: mpsc::Receiver<SocketAddr>) -> Punched {
        let mut more = true;
        loop {
            self.dial_what_is_due();
            let next = self.schedule.next();
            let wait = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                peer = peers.recv(), if more => match peer {
                    Some(peer) => self.schedule.add(peer, Instant::now()),
                    None => more = false,
                },
                accepted = self.sockets.accept() => match accepted {
                    Ok((stream, _)) => self.verify_accepted(stream),
                    // No descriptors left, or a connection that was over before it was taken.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Some(punched) = self.ended(ended) {
                        return punched;
                    }
                }
                () = wait => {}
            }
        }
    }

    fn dial_what_is_due(&mut self) {
        let now = Instant::now();
        while let Some(dial) = self.schedule.due(now) {
            let Some(from) = self.sockets.local(dial.address) else {
                // The machine does not have this family; it is not tried again.
                continue;
            };
            self.tasks.spawn(async move {
                let dialled = timeout(dial.patience, sockets::dial(from, dial.address)).await;
                let dialled = dialled.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
                Ended::Dialled(dial, now, dialled)
            });
        }
    }

    fn verify_accepted(&mut self, stream: TcpStream) {
        if self.unproven.len() == MOST_UNPROVEN
            && let Some((_, oldest)) = self.unproven.pop_front()
        {
            oldest.abort();
        }
        let task = self.verify(stream);
        self.unproven.push_back((task.id(), task));
    }

    fn verify(&mut self, stream: TcpStream) -> AbortHandle {
        let verifier = self.verifier.clone();
        self.tasks.spawn(async move {
            let proven = timeout(PROVE_WITHIN, prove(stream, &verifier)).await;
            Ended::Proven(proven.unwrap_or(Err(NotThePeer)))
        })
    }

    /// Goes on where a task ended; returns the connection when it is the one.
    fn ended(&mut self, ended: Result<(Id, Ended), tokio::task::JoinError>) -> Option<Punched> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        self.unproven.retain(|(unproven, _)| *unproven != id);
        // One that was closed for a newer one.
        let (_, ended) = ended.ok()?;
        match ended {
            Ended::Dialled(dial, began, Ok(stream)) => {
                self.verify(stream);
                // It may be a stranger's, so the dials go on, but not in a hurry.
                self.schedule
                    .ended(dial.address, began, Instant::now() + PROVE_WITHIN);
            }
            Ended::Dialled(dial, began, Err(error)) => {
                self.failed.refused += u32::from(error.kind() != io::ErrorKind::TimedOut);
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    // Without random numbers those of the other side will do.
                    let random = getrandom::u32().unwrap_or_default();
                    self.schedule
                        .refused(dial.address, began, Instant::now(), random);
                } else {
                    self.schedule.ended(dial.address, began, Instant::now());
                }
            }
            Ended::Proven(Ok(proven)) => match self.role {
                Role::Initiator => {
                    self.spare.push_back(proven);
                    self.choose();
                }
                // Until the initiator chooses it, or closes it.
                Role::Receiver => {
                    self.tasks
                        .spawn(async { Ended::Chosen(chosen(proven).await.ok()) });
                }
            },
            Ended::Proven(Err(NotThePeer)) => self.failed.strangers += 1,
            Ended::Chosen(proven) => {
                if let Some(punched) = proven.and_then(finished) {
                    return Some(punched);
                }
                self.choosing = false;
                self.choose();
            }
        }
        None
    }

    /// Of the initiator: tells the receiver which one, unless it was told one already.
    fn choose(&mut self) {
        if self.role == Role::Initiator
            && !self.choosing
            && let Some(proven) = self.spare.pop_front()
        {
            self.choosing = true;
            self.tasks.spawn(async {
                let confirmed = timeout(CONFIRM_WITHIN, confirmed(proven)).await;
                Ended::Chosen(confirmed.ok().and_then(Result::ok))
            });
        }
    }
}

fn finished(proven: Proven) -> Option<Punched> {
    let local = proven.stream.local_addr().ok()?;
    let remote = proven.stream.peer_addr().ok()?;
    Some(Punched {
        stream: proven.stream,
        local,
        remote,
        rtt: proven.rtt,
    })
}

/// The exchange of nonces.
async fn prove(mut stream: TcpStream, verifier: &Verifier) -> Result<Proven, NotThePeer> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|_| NotThePeer)?;
    let own = Verifier::hello(nonce);
    let exchange = async {
        prompt(&stream)?;
        stream.write_all(&own).await?;
        let began = Instant::now();
        let mut other = [0; HELLO];
        stream.read_exact(&mut other).await?;
        let exchange = verifier.greeted(&own, &other).map_err(|_| refused())?;
        stream.write_all(&exchange.send(Step::Proof)).await?;
        let mut proof = [0; PROOF];
        stream.read_exact(&mut proof).await?;
        exchange.check(Step::Proof, &proof).map_err(|_| refused())?;
        Ok::<_, io::Error>((exchange, began.elapsed()))
    };
    let (exchange, rtt) = exchange.await.map_err(|_| NotThePeer)?;
    Ok(Proven {
        stream,
        exchange,
        rtt,
    })
}

/// Of the initiator: chooses this connection and waits for the receiver to confirm.
async fn confirmed(mut proven: Proven) -> io::Result<Proven> {
    let choice = proven.exchange.send(Step::Choice);
    proven.stream.write_all(&choice).await?;
    read_choice(proven).await
}

/// Of the receiver: waits to be chosen and confirms.
async fn chosen(proven: Proven) -> io::Result<Proven> {
    let mut proven = read_choice(proven).await?;
    let choice = proven.exchange.send(Step::Choice);
    proven.stream.write_all(&choice).await?;
    Ok(proven)
}

async fn read_choice(mut proven: Proven) -> io::Result<Proven> {
    let mut choice = [0; PROOF];
    proven.stream.read_exact(&mut choice).await?;
    let checked = proven.exchange.check(Step::Choice, &choice);
    checked.map_err(|_| refused())?;
    Ok(proven)
}

fn refused() -> io::Error {
    io::ErrorKind::PermissionDenied.into()
}
