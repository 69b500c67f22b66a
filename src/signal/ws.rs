//! The WebSocket: joins, signals, results, one JSON object in each text frame.

#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{sleep_until, timeout};

use crate::pairing::{ClientMessage, ErrorCode, Reason, ServerMessage, from_json};
use crate::proto::Mono;
use crate::proto::bucket::TokenBucket;

use super::clock;
use super::frames::{self, Bad, CloseCode, Incoming, Reader};
use super::http;
use super::join::{Guest, Visit, Way};
use super::refusal::Refusal;

/// After so many seconds without a word the server pings.
pub(super) const PING: u64 = 15;

/// After so many seconds without a word, pings unanswered, the connection is dead.
pub(super) const SILENCE: u64 = 40;

/// For how many seconds a connection may neither wait nor take part in a session.
pub(super) const IDLE: u64 = 30;

/// How many seconds a message in several frames may take.
pub(super) const MESSAGE: u64 = 10;

/// How long a client may take to take a message.
const WRITE: Duration = Duration::from_secs(10);

/// Messages a second that a client may send for long, and in one go.
pub(super) const MESSAGES: (u64, u64) = (50, 400);

/// What is read in one go, in bytes; it lies on the stack.
const READ: usize = 2048;

/// Serves a WebSocket until it ends. `read` is what came behind the request; it has to ask to join
/// until `deadline`.
pub(super) fn serve<S>(
    stream: S,
    read: &[u8],
    visit: Arc<Visit>,
    deadline: Mono,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut reader = Reader::default();
    reader.feed(read);
    let now = clock::now().mono;
    let nonce = visit.hub.nonces.of_connection();
    let mut conversation = Conversation {
        wire: Wire { stream, reader },
        guest: Guest::new(visit, Way::WebSocket(nonce)),
        budget: TokenBucket::new(MESSAGES.0, MESSAGES.1),
        heard: now,
        pinged: now,
        busy: now,
        stranger: Some(deadline),
        begun: None,
    };
    // By reference, for what is passed to an async function by value lies in it twice. There may
    // be 100,000 of these that wait.
    async move {
        // Boxed, for it is large and soon over.
        if Box::pin(conversation.greet()).await.is_ok() {
            conversation.run().await;
        }
    }
}

/// The connection, as messages.
struct Wire<S> {
    stream: S,
    reader: Reader,
}

/// Why nothing more comes.
enum End {
    /// The client has gone.
    Gone,
    /// What it sent can not be read.
    Bad(Bad),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire<S> {
    /// What the client says next. Cancel-safe.
    async fn next(&mut self) -> Result<Incoming, End> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Wire::next`]. While it waits it holds no buffer.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, End>> {
        loop {
            match self.reader.next() {
                Ok(Some(incoming)) => return Poll::Ready(Ok(incoming)),
                Ok(None) => {}
                Err(bad) => return Poll::Ready(Err(End::Bad(bad))),
            }
            let mut room = [MaybeUninit::uninit(); READ];
            let mut room = ReadBuf::uninit(&mut room);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room));
            if read.is_err() || room.filled().is_empty() {
                return Poll::Ready(Err(End::Gone));
            }
            self.reader.feed(room.filled());
        }
    }

    async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await
    }
}

struct Conversation<S> {
    wire: Wire<S>,
    guest: Guest,
    budget: TokenBucket,
    /// When the client was heard of last, when it was pinged, when it was no idler.
    heard: Mono,
    pinged: Mono,
    busy: Mono,
    /// Until when it has to ask to join, unless it did.
    stranger: Option<Mono>,
    /// When a message began whose end did not come yet.
    begun: Option<Mono>,
}

/// What there is to do.
enum Turn {
    Event(Option<ServerMessage>),
    Incoming(Result<Incoming, End>),
    Ping,
    /// The client neither waits nor takes part in anything.
    Idle,
}

/// The conversation is over; nothing more is to be said.
struct Over;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Conversation<S> {
    /// Right behind the answer to the request, so that it costs no round trip.
    async fn greet(&mut self) -> Result<(), Over> {
        let Some(nonce) = self.guest.nonce() else {
            return Ok(());
        };
        self.say(&ServerMessage::Hello { nonce }).await
    }

    async fn run(&mut self) {
        loop {
            let due = self.due();
            let turn = self.wait(due).await;
            let Some(turn) = self.decide(turn) else {
                return;
            };
            // Boxed, so that one that only waits does not hold the room for it.
            if Box::pin(self.act(turn)).await.is_err() {
                return;
            }
        }
    }

    /// When something is to be done although nothing happens.
    fn due(&mut self) -> Mono {
        if self.guest.is_busy() {
            self.busy = clock::now().mono;
        }
        let ping = self.heard.max(self.pinged).plus_secs(PING);
        let dead = self.heard.plus_secs(SILENCE);
        let idle = match self.stranger {
            Some(deadline) => deadline,
            None => self.busy.plus_secs(IDLE),
        };
        let unfinished = self.begun.map_or(dead, |begun| begun.plus_secs(MESSAGE));
        ping.min(dead).min(idle).min(unfinished)
    }

    /// Waits until something happens, `None` when nothing did until then.
    async fn wait(&mut self, until: Mono) -> Option<Turn> {
        let mut timer = pin!(sleep_until(clock::instant(until)));
        poll_fn(|cx| {
            // First, or one that never stops sending would have all the time there is.
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(event) = self.guest.poll_next(cx) {
                return Poll::Ready(Some(Turn::Event(event)));
            }
            if let Poll::Ready(incoming) = self.wire.poll_next(cx) {
                return Poll::Ready(Some(Turn::Incoming(incoming)));
            }
            Poll::Pending
        })
        .await
    }

    /// What follows from that; `None` for a connection that is dead.
    fn decide(&mut self, turn: Option<Turn>) -> Option<Turn> {
        let now = clock::now().mono;
        match turn {
            Some(turn) => {
                if let Turn::Incoming(_) = turn {
                    self.heard = now;
                    self.guest.heard();
                }
                Some(turn)
            }
            None if now >= self.heard.plus_secs(SILENCE) => None,
            None if self
                .begun
                .is_some_and(|begun| now >= begun.plus_secs(MESSAGE)) =>
            {
                None
            }
            None if self.stranger.is_some_and(|deadline| now >= deadline) => Some(Turn::Idle),
            None if !self.guest.is_busy() && now >= self.busy.plus_secs(IDLE) => Some(Turn::Idle),
            None => {
                self.pinged = now;
                Some(Turn::Ping)
            }
        }
    }

    async fn act(&mut self, turn: Turn) -> Result<(), Over> {
        match turn {
            Turn::Event(event) => self.tell(event).await,
            Turn::Incoming(incoming) => self.hear(incoming).await,
            Turn::Ping => self.send(&frames::ping()).await,
            Turn::Idle => self.end(CloseCode::Normal, "nothing to wait for").await,
        }
    }

    /// Passes on what the room has.
    async fn tell(&mut self, event: Option<ServerMessage>) -> Result<(), Over> {
        let Some(event) = event else {
            return self.end(CloseCode::Policy, "reads too slowly").await;
        };
        let away = matches!(
            event,
            ServerMessage::Error {
                code: ErrorCode::GoingAway,
                ..
            }
        );
        self.say(&event).await?;
        if away && !self.guest.is_busy() {
            return self.end(CloseCode::Away, "going away").await;
        }
        Ok(())
    }

    /// Acts on what the client says.
    async fn hear(&mut self, incoming: Result<Incoming, End>) -> Result<(), Over> {
        let text = match incoming {
            Ok(Incoming::Text(text)) => {
                self.begun = None;
                text
            }
            Ok(Incoming::Part) => {
                self.begun.get_or_insert(clock::now().mono);
                return self.admit().await;
            }
            // To be flooded with these is no use.
            Ok(Incoming::Ping(payload)) => {
                self.admit().await?;
                return self.send(&frames::pong(&payload)).await;
            }
            Ok(Incoming::Pong) => return self.admit().await,
            Ok(Incoming::Close(code)) => {
                self.send(&frames::closed(code)).await?;
                http::close(&mut self.wire.stream).await;
                return Err(Over);
            }
            Ok(Incoming::Binary) => {
                let text = "messages are text frames";
                return self.break_off(ErrorCode::BadRequest, text).await;
            }
            Err(End::Bad(Bad::TooLong)) => {
                let text = "a message has at most 8192 bytes";
                return self.break_off(ErrorCode::TooLarge, text).await;
            }
            Err(End::Bad(Bad::Utf8)) => {
                let text = "the message is not UTF-8";
                return self.break_off(ErrorCode::BadRequest, text).await;
            }
            Err(End::Bad(Bad::Protocol)) => {
                let text = "not as RFC 6455 has it";
                return self.break_off(ErrorCode::BadRequest, text).await;
            }
            Err(End::Gone) => return Err(Over),
        };
        let mut message = match from_json(text.as_bytes()) {
            Ok(message) => message,
            Err(error) => {
                let text = error.to_string();
                return self.break_off(ErrorCode::BadRequest, &text).await;
            }
        };
        // What a session lets pass is on its account: a host has many of them.
        let sent = match &mut message {
            ClientMessage::Signal { session, blob } => {
                Some(self.guest.signal(*session, std::mem::take(blob)))
            }
            _ => None,
        };
        if let Some(Ok(())) = sent {
            return Ok(());
        }
        self.admit().await?;
        if matches!(
            message,
            ClientMessage::Join(_) | ClientMessage::Renew { .. }
        ) {
            self.stranger = None;
            self.busy = clock::now().mono;
        }
        let done = match message {
            ClientMessage::Join(join) => match self.guest.join(join) {
                Ok(answer) => return self.say(&answer).await,
                Err(refusal) => Err(refusal),
            },
            ClientMessage::Signal { .. } => sent.unwrap_or(Ok(())),
            ClientMessage::Result { session, outcome } => self.guest.report(session, outcome),
            ClientMessage::Leave { session, busy } => self.guest.leave(session, busy),
            ClientMessage::Renew {
                username,
                credential,
            } => match self.guest.renew(&username, &credential) {
                Ok(answer) => return self.say(&answer).await,
                Err(refusal) => Err(refusal),
            },
        };
        match done {
            Ok(()) => Ok(()),
            Err(refusal) => self.say(&refusal.into_message()).await,
        }
    }

    /// Counts a message; a client that sends too many is broken off.
    async fn admit(&mut self) -> Result<(), Over> {
        if self.budget.take(clock::now().mono, 1) {
            return Ok(());
        }
        self.refuse(Reason::Messages.into()).await
    }

    async fn say(&mut self, message: &ServerMessage) -> Result<(), Over> {
        let text = serde_json::to_string(message).expect("messages have string keys");
        self.send(&frames::text(&text)).await
    }

    async fn send(&mut self, frame: &[u8]) -> Result<(), Over> {
        match timeout(WRITE, self.wire.write(frame)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Over),
        }
    }

    /// Says what is wrong, and closes.
    async fn break_off(&mut self, code: ErrorCode, text: &str) -> Result<(), Over> {
        self.refuse(Refusal::new(code, text)).await
    }

    async fn refuse(&mut self, refusal: Refusal) -> Result<(), Over> {
        let code = refusal.code;
        self.say(&refusal.into_message()).await?;
        let close = match code {
            ErrorCode::TooLarge => CloseCode::Size,
            _ => CloseCode::Policy,
        };
        self.end(close, "see the error").await
    }

    /// Closes in order: the client gets a moment to answer.
    async fn end(&mut self, code: CloseCode, reason: &'static str) -> Result<(), Over> {
        const MOMENT: Duration = Duration::from_secs(2);
        let closing = timeout(MOMENT, async {
            if self.wire.write(&frames::close(code, reason)).await.is_err() {
                return false;
            }
            loop {
                match self.wire.next().await {
                    Ok(Incoming::Close(_)) | Err(End::Bad(_)) => return true,
                    Ok(_) => {}
                    Err(End::Gone) => return false,
                }
            }
        });
        if let Ok(true) = closing.await {
            http::close(&mut self.wire.stream).await;
        }
        Err(Over)
    }
}
