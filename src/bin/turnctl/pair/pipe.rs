//! Standard input to the peer, the peer's bytes to standard output.

use std::io::{self, Read};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use turnserver::client::connect::Stream;

use super::Failure;

/// Bytes that are read at a time.
const CHUNK: usize = 16 * 1024;

/// Standard input, read by a thread of its own: a read that waits for somebody to type cannot be
/// broken off, and must not keep the program from ending.
pub(super) struct Input {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
}

impl Input {
    pub(super) fn open() -> Self {
        let (to, chunks) = mpsc::channel(4);
        std::thread::spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = match input.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(len) => {
                        chunk.truncate(len);
                        Ok(chunk)
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if to.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        Self { chunks }
    }
}

/// What becomes of standard output when the peer's direction has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// It is closed, so that whoever reads it sees the end, whatever the other direction does.
    Closes,
    /// It stays, for the next peer.
    Stays,
}

/// Carries both directions until both have ended. Each ends alone. `said` is what was read of the
/// peer before.
pub(super) async fn run(
    stream: Stream,
    said: &[u8],
    input: &mut Input,
    at_end: Output,
) -> Result<(), Failure> {
    let mut output = tokio::io::stdout();
    let mut write = async |bytes: &[u8]| {
        output.write_all(bytes).await?;
        output.flush().await
    };
    let unwritten = |error: io::Error| broken("standard output", &error);
    // First of all: whoever said it may be gone.
    write(said).await.map_err(unwritten)?;
    let over = stream.over();
    let (mut from_peer, mut to_peer) = tokio::io::split(stream);
    let sending = async {
        tokio::pin!(over);
        loop {
            // Before somebody's next line goes to a peer that is gone.
            let chunk = tokio::select! {
                biased;
                ended = &mut over => return ended.map_err(|error| Unsent::Lost(lost(&error))),
                chunk = input.chunks.recv() => chunk,
            };
            let Some(chunk) = chunk else {
                break;
            };
            let chunk = chunk.map_err(|error| Unsent::Unread(broken("standard input", &error)))?;
            let sent = async {
                to_peer.write_all(&chunk).await?;
                to_peer.flush().await
            };
            sent.await.map_err(|error| Unsent::Lost(lost(&error)))?;
        }
        let ended = to_peer.shutdown().await;
        ended.map_err(|error| Unsent::Lost(lost(&error)))
    };
    let receiving = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from_peer.read(&mut chunk).await;
            let len = read.map_err(|error| lost(&error))?;
            if len == 0 {
                if at_end == Output::Closes {
                    close_output().map_err(unwritten)?;
                }
                return Ok::<(), Failure>(());
            }
            write(&chunk[..len]).await.map_err(unwritten)?;
        }
    };
    {
        tokio::pin!(sending, receiving);
        tokio::select! {
            sent = &mut sending => match sent {
                Ok(()) => receiving.await?,
                Err(Unsent::Unread(failure)) => return Err(failure),
                Err(Unsent::Lost(failure)) => {
                    // What came before is heard; then it fails as well.
                    let _ = receiving.await;
                    return Err(failure);
                }
            },
            received = &mut receiving => {
                received?;
                match sending.await {
                    Ok(()) => {}
                    Err(Unsent::Lost(failure) | Unsent::Unread(failure)) => return Err(failure),
                }
            }
        }
    }
    let closed = from_peer.unsplit(to_peer).close().await;
    closed.map_err(|error| lost(&error))
}

/// Closes standard output; what this program itself would write there goes nowhere.
fn close_output() -> io::Result<()> {
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(nowhere).map_err(io::Error::from)
}

/// Why not everything was sent.
enum Unsent {
    /// The connection broke.
    Lost(Failure),
    /// There is no more to send, and it did not end in order.
    Unread(Failure),
}

fn lost(error: &io::Error) -> Failure {
    broken("the connection was lost", error)
}

fn broken(what: &str, error: &io::Error) -> Failure {
    Failure::Broken(format!("{what}: {error}"))
}
