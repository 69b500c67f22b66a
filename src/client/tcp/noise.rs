//! A byte stream under Noise (`Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`): only who has the
//! session's secret can read it, change it or cut it short unnoticed.
//!
//! Every message is a record: its length in 2 bytes, big-endian, then the ciphertext. The
//! handshake is one record each way, the initiator's first. A record without content ends a
//! direction; the end of the connection without it is an error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::pairing::Role;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// The longest record (Noise specification, section 3).
const MAX_RECORD: usize = 65535;
const LENGTH: usize = 2;
const TAG: usize = 16;
/// Content of one record that is written: small enough that the first bytes are soon through.
const CHUNK: usize = 16 * 1024;
/// Content that may wait to be written.
const WAITING: usize = 4 * CHUNK;

/// A stream under Noise.
pub struct NoiseStream<S> {
    inner: S,
    noise: TransportState,
    incoming: Incoming,
    /// Records that the stream below has not taken yet, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// The record that ends the own direction was written.
    ended: bool,
}

/// What came and was not read yet.
struct Incoming {
    /// The record that is coming in: its length, then its ciphertext.
    record: Vec<u8>,
    filled: usize,
    content: Vec<u8>,
    read: usize,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> NoiseStream<S> {
    /// Shakes hands over `stream`. `prologue` is what both know already, as the session's id.
    ///
    /// # Errors
    /// `PermissionDenied` when the other side does not have the same secret; what the stream
    /// says otherwise. There is no time limit.
    pub async fn handshake(
        mut stream: S,
        role: Role,
        psk: &[u8; 32],
        prologue: &[u8],
    ) -> io::Result<Self> {
        let mut noise = state(role, psk, prologue).map_err(io::Error::other)?;
        let mut record = Vec::new();
        for _ in 0..2 {
            if noise.is_my_turn() {
                let mut buffer = [0; 256];
                let len = noise.write_message(&[], &mut buffer);
                let len = len.map_err(io::Error::other)?;
                record.clear();
                record.extend_from_slice(&(len as u16).to_be_bytes());
                record.extend_from_slice(&buffer[..len]);
                stream.write_all(&record).await?;
                stream.flush().await?;
            } else {
                let len = usize::from(stream.read_u16().await?);
                record.resize(len, 0);
                stream.read_exact(&mut record).await?;
                let mut content = [0; 256];
                let read = noise.read_message(&record, &mut content);
                read.map_err(|_| refused())?;
            }
        }
        Ok(Self {
            inner: stream,
            noise: noise.into_transport_mode().map_err(io::Error::other)?,
            incoming: Incoming {
                record: vec![0; LENGTH],
                filled: 0,
                content: Vec::new(),
                read: 0,
                ended: false,
            },
            outgoing: Vec::new(),
            sent: 0,
            ended: false,
        })
    }

    /// The stream below, to look at.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Encrypts a record behind those that wait.
    fn seal(&mut self, content: &[u8]) -> io::Result<()> {
        let start = self.outgoing.len();
        let len = content.len() + TAG;
        self.outgoing.extend_from_slice(&(len as u16).to_be_bytes());
        self.outgoing.resize(start + LENGTH + len, 0);
        let room = &mut self.outgoing[start + LENGTH..];
        let written = self.noise.write_message(content, room);
        written.map(drop).map_err(io::Error::other)
    }

    /// Hands all that waits to the stream below.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            let rest = &self.outgoing[self.sent..];
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes one whole record from the stream below.
    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let incoming = &mut self.incoming;
        loop {
            while incoming.filled < incoming.record.len() {
                let mut room = ReadBuf::new(&mut incoming.record[incoming.filled..]);
                ready!(Pin::new(&mut self.inner).poll_read(cx, &mut room))?;
                match room.filled().len() {
                    // Cut short, by whom we cannot tell.
                    0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    len => incoming.filled += len,
                }
            }
            if incoming.filled == LENGTH {
                let len = u16::from_be_bytes([incoming.record[0], incoming.record[1]]);
                if usize::from(len) < TAG {
                    return Poll::Ready(Err(refused()));
                }
                incoming.record.resize(LENGTH + usize::from(len), 0);
                continue;
            }
            incoming.content.resize(MAX_RECORD, 0);
            let record = &incoming.record[LENGTH..];
            let len = self.noise.read_message(record, &mut incoming.content);
            incoming.content.truncate(len.map_err(|_| refused())?);
            incoming.read = 0;
            incoming.ended = incoming.content.is_empty();
            incoming.record.truncate(LENGTH);
            incoming.filled = 0;
            return Poll::Ready(Ok(()));
        }
    }
}

fn state(role: Role, psk: &[u8; 32], prologue: &[u8]) -> Result<HandshakeState, snow::Error> {
    let builder = Builder::new(PATTERN.parse()?)
        .psk(0, psk)?
        .prologue(prologue)?;
    match role {
        Role::Initiator => builder.build_initiator(),
        Role::Receiver => builder.build_responder(),
    }
}

fn refused() -> io::Error {
    let text = "the other side does not have the same access key";
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.incoming.read == this.incoming.content.len() && !this.incoming.ended {
            ready!(this.poll_record(cx))?;
        }
        let incoming = &mut this.incoming;
        let rest = &incoming.content[incoming.read..];
        let len = rest.len().min(into.remaining());
        into.put_slice(&rest[..len]);
        incoming.read += len;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if content.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.outgoing.len() - this.sent >= WAITING {
            ready!(this.poll_drain(cx))?;
        }
        let len = content.len().min(CHUNK);
        this.seal(&content[..len])?;
        // What the stream below does not take now goes with the next write, flush or end.
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ended {
            this.ended = true;
            this.seal(&[])?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    type Side = NoiseStream<DuplexStream>;

    async fn sides(
        initiator: ([u8; 32], &[u8]),
        receiver: ([u8; 32], &[u8]),
    ) -> (io::Result<Side>, io::Result<Side>) {
        let (one, two) = duplex(1000);
        let (psk, prologue) = initiator;
        let initiator = NoiseStream::handshake(one, Role::Initiator, &psk, prologue);
        let (psk, prologue) = receiver;
        let receiver = NoiseStream::handshake(two, Role::Receiver, &psk, prologue);
        tokio::join!(initiator, receiver)
    }

    async fn pair() -> (Side, Side) {
        let (one, two) = sides(([7; 32], b"s"), ([7; 32], b"s")).await;
        (one.expect("shaken"), two.expect("shaken"))
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_each_direction_ends_alone() {
        let (mut one, mut two) = pair().await;
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let forth = async {
            one.write_all(&sent).await.expect("written");
            one.shutdown().await.expect("ended");
            assert!(one.write_all(b"more").await.is_err(), "it has ended");
            let mut answer = Vec::new();
            one.read_to_end(&mut answer).await.expect("read");
            answer
        };
        let back = async {
            let mut got = Vec::new();
            two.read_to_end(&mut got).await.expect("read");
            two.write_all(&got[..70_000]).await.expect("written");
            two.shutdown().await.expect("ended");
            got
        };
        let (answer, got) = tokio::join!(forth, back);
        assert!(got == sent && answer == sent[..70_000]);
    }

    #[tokio::test]
    async fn other_secrets_and_sessions_are_refused() {
        for receiver in [([8; 32], &b"s"[..]), ([7; 32], b"t")] {
            let (one, two) = sides(([7; 32], b"s"), receiver).await;
            let error = two.err().expect("refused");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(one.is_err(), "it gets no answer");
        }
    }

    #[tokio::test]
    async fn a_direction_that_is_cut_or_changed_is_an_error() {
        let (one, mut two) = pair().await;
        drop(one);
        let error = two.read_u8().await.expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        for changed in 0..22 {
            let (mut one, mut two) = pair().await;
            one.seal(b"abcd").expect("sealed");
            one.outgoing[changed] ^= 1;
            one.flush().await.expect("written");
            drop(one);
            assert!(two.read_u8().await.is_err(), "byte {changed}");
        }
    }

    #[tokio::test]
    async fn a_reader_that_stops_holds_the_writer_back() {
        let (mut one, _two) = pair().await;
        let mut written = 0;
        let writing = async {
            loop {
                written += one.write(&[0; 5000]).await.expect("written");
            }
        };
        let limit = std::time::Duration::from_millis(200);
        let stopped = tokio::time::timeout(limit, writing).await;
        assert!(
            stopped.is_err() && written <= WAITING + 2 * CHUNK,
            "{written}"
        );
    }
}
