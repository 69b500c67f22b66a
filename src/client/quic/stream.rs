//! One byte stream between the two.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::{ApplicationClose, ConnectionError, RecvStream, SendStream, StoppedError, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::{Link, OPENING, why};
use crate::client::session::{Ended, State};

type Delivered = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// The peer is left in order.
const IN_ORDER: VarInt = VarInt::from_u32(0);
/// The stream is broken off.
pub(super) const BROKEN_OFF: VarInt = VarInt::from_u32(1);
/// The stream leads nowhere: who accepted it cannot reach the port that it serves.
pub(super) const UNREACHED: VarInt = VarInt::from_u32(2);

/// The end of what the peer takes.
pub type Over = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// How far the own direction is with its end.
enum Ending {
    NotYet,
    /// It was told; the peer may not have everything yet.
    Told(Delivered),
    Over(Option<(io::ErrorKind, String)>),
}

/// A byte stream in both directions. Shutting down ends the own direction, and waits until the
/// peer has everything; the other direction goes on. One that is dropped before is broken off, and
/// the peer reads an error.
pub struct QuicStream {
    send: SendStream,
    recv: RecvStream,
    ending: Ending,
    /// What came of the peer before the connection was closed, and was not read yet.
    rest: VecDeque<u8>,
    /// The byte that begins it is still to come.
    opening: bool,
    /// What the peer is told when nothing more is taken of it, or comes.
    parting: VarInt,
    link: Arc<Link>,
}

impl fmt::Debug for QuicStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuicStream({})", self.send.id())
    }
}

impl QuicStream {
    /// One that was opened here and has begun.
    pub(super) const fn opened(send: SendStream, recv: RecvStream, link: Arc<Link>) -> Self {
        Self {
            send,
            recv,
            ending: Ending::NotYet,
            rest: VecDeque::new(),
            opening: false,
            parting: BROKEN_OFF,
            link,
        }
    }

    /// One that the peer has opened.
    pub(super) fn accepted(send: SendStream, recv: RecvStream, link: Arc<Link>) -> Self {
        let mut stream = Self::opened(send, recv, link);
        stream.opening = true;
        stream
    }

    /// Takes the byte that a stream begins with.
    fn poll_opening(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut room = ReadBuf::new(&mut byte);
        ready!(self.poll_received(cx, &mut room))?;
        Poll::Ready(match room.filled() {
            [OPENING] => {
                self.opening = false;
                Ok(())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        })
    }

    fn poll_peer(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.opening {
            ready!(self.poll_opening(cx))?;
        }
        self.poll_received(cx, buffer)
    }

    fn poll_received(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let received = self.recv.poll_read_buf(cx, buffer);
        received.map_err(|error| why::unread(error, &self.link.session.state()))
    }

    /// Whether the peer has ended its direction of a connection that is closed: takes all that has
    /// come, which the window bounds.
    fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let mut bytes = [0; 4096];
        loop {
            let mut room = ReadBuf::new(&mut bytes);
            match self.poll_peer(cx, &mut room) {
                Poll::Ready(Ok(())) if room.filled().is_empty() => return true,
                Poll::Ready(Ok(())) => self.rest.extend(room.filled()),
                _ => return false,
            }
        }
    }

    /// Waits until the peer takes nothing more: it has closed the connection in order, or an error
    /// says why not.
    pub fn over(&self) -> Over {
        let stopped = self.send.stopped();
        let state = self.link.session.state();
        Box::pin(async move {
            match stopped.await {
                // It may be told of the stream before it is told of the connection.
                Ok(None | Some(IN_ORDER)) => Ok(()),
                Ok(Some(code)) => Err(why::stopped(code)),
                Err(StoppedError::ConnectionLost(error)) if in_order(&error, &state) => Ok(()),
                Err(error) => Err(why::unstopped(error, &state)),
            }
        })
    }

    /// Ends the own direction, where it has not ended yet, and when this is the last stream
    /// closes the connection: returns when the peer knows, or after 2 s. What the peer still
    /// sends is lost.
    ///
    /// # Errors
    /// When the connection or the stream broke before the peer had everything that was written. A
    /// peer that has closed it in order and takes no more is no error.
    pub async fn close(mut self) -> io::Result<()> {
        let ended = poll_fn(|cx| Pin::new(&mut self).poll_shutdown(cx)).await;
        let link = Arc::clone(&self.link);
        self.parting = IN_ORDER;
        drop(self);
        if let Some(link) = Arc::into_inner(link) {
            link.close().await;
        }
        ended
    }

    /// Breaks it off because the port that it was to lead to cannot be reached: the peer reads
    /// and writes `ConnectionRefused`.
    pub fn refuse(mut self) {
        self.parting = UNREACHED;
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        if matches!(self.ending, Ending::NotYet) {
            // Left alone it would look like an end. An error says that it is over anyhow.
            let _ = self.send.reset(self.parting);
        }
        // An error says that everything of the peer has come.
        let _ = self.recv.stop(self.parting);
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            return self.poll_peer(cx, buffer);
        }
        let (next, _) = self.rest.as_slices();
        let len = next.len().min(buffer.remaining());
        buffer.put_slice(&next[..len]);
        self.rest.drain(..len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.send).poll_write(cx, bytes);
        written.map_err(|error| why::unwritten(error, &self.link.session.state()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written is on its way; nothing waits for more.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.ending, Ending::NotYet) {
            // An error says that the peer wants no more.
            let _ = this.send.finish();
            this.ending = Ending::Told(Box::pin(this.send.stopped()));
        }
        if let Ending::Told(delivered) = &mut this.ending {
            let failed = match ready!(delivered.as_mut().poll(cx)) {
                // The peer has everything, or enough.
                Ok(None | Some(IN_ORDER)) => None,
                Ok(Some(code)) => Some(why::stopped(code)),
                // Who closes in order has read all that it wants, and its own end is here before,
                // whether or not that was read yet.
                Err(StoppedError::ConnectionLost(error))
                    if in_order(&error, &this.link.session.state()) && this.has_ended(cx) =>
                {
                    None
                }
                Err(error) => Some(why::unstopped(error, &this.link.session.state())),
            };
            let failed = failed.map(|error| (error.kind(), error.to_string()));
            this.ending = Ending::Over(failed);
        }
        Poll::Ready(match &this.ending {
            Ending::Over(Some((kind, words))) => Err(io::Error::new(*kind, words.clone())),
            _ => Ok(()),
        })
    }
}

/// Whether the connection was closed by intent. Where QUIC's word of that was lost, the session's
/// own, which is repeated until it is confirmed, says so.
pub(super) fn in_order(error: &ConnectionError, session: &watch::Receiver<State>) -> bool {
    match error {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }) => {
            *error_code == IN_ORDER
        }
        ConnectionError::LocallyClosed => true,
        _ => session.borrow().ended == Some(Ended::ByPeer(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u32) -> ConnectionError {
        ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: VarInt::from_u32(code),
            reason: Default::default(),
        })
    }

    /// QUIC says once that it closes; the session goes on saying so.
    #[test]
    fn the_sessions_word_counts_where_quics_was_lost() {
        let (tell, session) = watch::channel(State::relayed(""));
        assert!(in_order(&closed(0), &session));
        assert!(!in_order(&closed(1), &session));
        let lost = ConnectionError::Reset;
        assert!(!in_order(&lost, &session));
        for (ended, expected) in [
            (Ended::ByPeer(0), true),
            (Ended::ByPeer(1), false),
            (Ended::Silent, false),
        ] {
            tell.send_modify(|state| state.ended = Some(ended));
            assert_eq!(in_order(&lost, &session), expected);
            assert!(
                !in_order(&closed(1), &session),
                "QUIC's own word counts more"
            );
        }
    }
}
