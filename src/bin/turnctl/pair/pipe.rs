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
    let over = stream.over();
    let (mut from_peer, mut to_peer) = tokio::io::split(stream);
    let sending = async {
        tokio::pin!(over);
        loop {
            // Before somebody's next line goes to a peer that is gone.
            let chunk = tokio::select! {
                biased;
                ended = &mut over => return ended.map_err(|error| lost(&error)),
                chunk = input.chunks.recv() => chunk,
            };
            let Some(chunk) = chunk else {
                break;
            };
            let chunk = chunk.map_err(|error| broken("standard input", &error))?;
            let sent = to_peer.write_all(&chunk).await;
            sent.map_err(|error| lost(&error))?;
            to_peer.flush().await.map_err(|error| lost(&error))?;
        }
        to_peer.shutdown().await.map_err(|error| lost(&error))
    };
    let receiving = async {
        let mut output = tokio::io::stdout();
        let mut write = async |bytes: &[u8]| {
            output.write_all(bytes).await?;
            output.flush().await
        };
        let unwritten = |error: io::Error| broken("standard output", &error);
        write(said).await.map_err(unwritten)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from_peer.read(&mut chunk).await;
            let len = read.map_err(|error| lost(&error))?;
            if len == 0 {
                if at_end == Output::Closes {
                    close_output().map_err(unwritten)?;
                }
                return Ok(());
            }
            write(&chunk[..len]).await.map_err(unwritten)?;
        }
    };
    tokio::try_join!(sending, receiving)?;
    let closed = from_peer.unsplit(to_peer).close().await;
    closed.map_err(|error| lost(&error))
}

/// Closes standard output; what this program itself would write there goes nowhere.
fn close_output() -> io::Result<()> {
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(nowhere).map_err(io::Error::from)
}

fn lost(error: &io::Error) -> Failure {
    broken("the connection was lost", error)
}

fn broken(what: &str, error: &io::Error) -> Failure {
    Failure::Broken(format!("{what}: {error}"))
}
