//! The WebSocket: joins, signals, results, one JSON object in each text frame.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::pairing::{ClientMessage, ErrorCode, ServerMessage};
use crate::proto::bucket::TokenBucket;

use super::clock;
use super::join::{Guest, Refusal, Visit};

/// The longest message in bytes: a signal with the longest blob takes less.
const MAX_MESSAGE: usize = 8192;

/// After so long without a word the server pings.
const PING: Duration = Duration::from_secs(15);

/// After so long without a word, pings unanswered, the connection is dead.
const SILENCE: Duration = Duration::from_secs(40);

/// How long a connection may neither wait nor take part in a session.
const IDLE: Duration = Duration::from_secs(30);

/// How long a client may take to take a message.
const WRITE: Duration = Duration::from_secs(10);

/// Messages a second that a client may send for long, and in one go.
const MESSAGES: (u64, u64) = (50, 400);

/// Serves a WebSocket until it ends. `read` is what came behind the request.
pub(super) async fn serve<S>(stream: S, read: Vec<u8>, visit: Arc<Visit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(128)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket =
        WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
    let conversation = Conversation {
        socket,
        guest: Guest::new(visit, true),
        budget: TokenBucket::new(MESSAGES.0, MESSAGES.1),
    };
    conversation.run().await;
}

struct Conversation<S> {
    socket: WebSocketStream<S>,
    guest: Guest,
    budget: TokenBucket,
}

/// What there is to do.
enum Turn {
    Event(Option<ServerMessage>),
    Message(Result<Message, Error>),
    Ping,
    /// The client neither waits nor takes part in anything.
    Idle,
}

/// The conversation is over; nothing more is to be said.
struct Over;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Conversation<S> {
    async fn run(mut self) {
        let mut heard = now();
        let mut pinged = heard;
        let mut busy = heard;
        loop {
            if self.guest.is_busy() {
                busy = now();
            }
            let due = (heard.max(pinged) + PING)
                .min(heard + SILENCE)
                .min(busy + IDLE);
            let turn = tokio::select! {
                event = self.guest.next() => Turn::Event(event),
                message = self.socket.next() => {
                    heard = now();
                    self.guest.heard();
                    match message {
                        Some(message) => Turn::Message(message),
                        None => return,
                    }
                }
                () = sleep_until(due) => {
                    let now = now();
                    if now >= heard + SILENCE {
                        return;
                    } else if !self.guest.is_busy() && now >= busy + IDLE {
                        Turn::Idle
                    } else {
                        pinged = now;
                        Turn::Ping
                    }
                }
            };
            // Boxed, so that one that only waits does not hold the room for it.
            if Box::pin(self.act(turn)).await.is_err() {
                return;
            }
        }
    }

    async fn act(&mut self, turn: Turn) -> Result<(), Over> {
        match turn {
            Turn::Event(event) => self.tell(event).await,
            Turn::Message(message) => self.hear(message).await,
            Turn::Ping => self.send(Message::Ping(Bytes::new())).await,
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
    async fn hear(&mut self, message: Result<Message, Error>) -> Result<(), Over> {
        let text = match message {
            Ok(Message::Text(text)) => text,
            Ok(Message::Ping(_) | Message::Pong(_)) => {
                // Pings are answered by the library; to be flooded with them is no use.
                return self.admit().await;
            }
            // The library answers a Close, and then says that the connection is closed.
            Ok(Message::Close(_) | Message::Frame(_)) => return Ok(()),
            Ok(Message::Binary(_)) => {
                return self
                    .break_off(ErrorCode::BadRequest, "messages are text frames")
                    .await;
            }
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => {
                let text = "a message has at most 8192 bytes";
                return self.break_off(ErrorCode::TooLarge, text).await;
            }
            Err(Error::Utf8(_)) => {
                let text = "the message is not UTF-8";
                return self.break_off(ErrorCode::BadRequest, text).await;
            }
            Err(Error::Protocol(_)) => {
                let text = "not as RFC 6455 has it";
                return self.break_off(ErrorCode::BadRequest, text).await;
            }
            Err(_) => return Err(Over),
        };
        self.admit().await?;
        let message = match serde_json::from_str(&text) {
            Ok(message) => message,
            Err(error) => {
                let text = error.to_string();
                return self.break_off(ErrorCode::BadRequest, &text).await;
            }
        };
        let done = match message {
            ClientMessage::Join(join) => match self.guest.join(join) {
                Ok(answer) => return self.say(&answer).await,
                Err(refusal) => Err(refusal),
            },
            ClientMessage::Signal { session, blob } => self.guest.signal(session, blob),
            ClientMessage::Result { session, outcome } => self.guest.report(session, outcome),
            ClientMessage::Leave { session } => self.guest.leave(session),
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
        let text = "too many messages";
        self.break_off(ErrorCode::TooMany, text).await
    }

    async fn say(&mut self, message: &ServerMessage) -> Result<(), Over> {
        let text = serde_json::to_string(message).expect("messages have string keys");
        self.send(Message::text(text)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Over> {
        match timeout(WRITE, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Over),
        }
    }

    /// Says what is wrong, and closes.
    async fn break_off(&mut self, code: ErrorCode, text: &str) -> Result<(), Over> {
        self.say(&Refusal::new(code, text).into_message()).await?;
        let close = match code {
            ErrorCode::TooLarge => CloseCode::Size,
            _ => CloseCode::Policy,
        };
        self.end(close, "see the error").await
    }

    /// Closes in order: the client gets a moment to answer.
    async fn end(&mut self, code: CloseCode, reason: &'static str) -> Result<(), Over> {
        const MOMENT: Duration = Duration::from_secs(2);
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let _ = timeout(MOMENT, async {
            if self.socket.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        })
        .await;
        Err(Over)
    }
}

/// The runtime's clock, which its timers go by.
fn now() -> Instant {
    Instant::now()
}
