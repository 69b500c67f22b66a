//! One WebSocket to a pairing server, see `docs/signalling.md`.
//!
//! A task of its own reads, answers pings and sends them, so that the connection stays alive
//! while its owner does something else, and waiting for the next message may be broken off at
//! any time. The task ends with the connection or when both halves are dropped.
//!
//! TLS takes the feature `client`; without it a server at `https` is an error.

mod error;
mod eyeballs;
mod socket;
#[cfg(test)]
mod tests;
#[cfg(feature = "client")]
mod tls;
mod url;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::pairing::{AccessKey, ClientMessage, Join, Nonce, ServerMessage, from_json};

pub use error::RendezvousError;
pub use socket::{SocketOptions, shared_tcp_socket};
pub use url::{ServerUrl, UrlError};

/// The longest message that is taken from a server, in bytes: a blob and ICE servers fit often.
const MAX_MESSAGE: usize = 64 * 1024;
/// How many messages wait on either side until the connection itself is held back.
const QUEUE: usize = 64;
/// A ping goes out this often: NATs forget connections that are silent for long.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// When so many pings passed without a word from the server, it is gone.
const SILENT_PINGS: u32 = 3;
/// How long the last words may take.
const CLOSING: Duration = Duration::from_secs(2);
/// Where packets are lost, TCP waits longer each time. So when a connection is not ready after this
/// time there is a second one, and the first that is ready is taken.
const SECOND: Duration = Duration::from_secs(2);

/// A byte stream, plain or under TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Socket = WebSocketStream<Box<dyn Stream>>;
type Incoming = Result<ServerMessage, RendezvousError>;

/// A connection to a pairing server.
#[derive(Debug)]
pub struct Rendezvous {
    sender: Sender,
    receiver: Receiver,
    nonce: Nonce,
}

/// The half that sends.
#[derive(Debug)]
pub struct Sender {
    queue: mpsc::Sender<String>,
}

/// The half that receives, and the one that owns the connection.
#[derive(Debug)]
pub struct Receiver {
    queue: mpsc::Receiver<Incoming>,
    task: Option<JoinHandle<()>>,
    local: SocketAddr,
    server: SocketAddr,
    round_trip: Duration,
}

impl Rendezvous {
    /// Connects from a socket with SO_REUSEADDR and SO_REUSEPORT, and asks for the WebSocket.
    ///
    /// # Errors
    /// When that did not succeed within [`SocketOptions::timeout`].
    pub async fn connect(
        server: &ServerUrl,
        options: &SocketOptions,
    ) -> Result<Self, RendezvousError> {
        let began = Instant::now();
        let first = Self::connect_untimed(server, options);
        let second = async {
            sleep(SECOND).await;
            Self::connect_untimed(server, options).await
        };
        let connected = async {
            tokio::pin!(first, second);
            // What becomes of one is no answer as long as the other may still be ready.
            tokio::select! {
                connected = &mut first => match connected {
                    Err(error) if began.elapsed() >= SECOND => second.await.map_err(|_| error),
                    connected => connected,
                },
                connected = &mut second => match connected {
                    Ok(connected) => Ok(connected),
                    Err(_) => first.await,
                },
            }
        };
        timeout(options.timeout, connected)
            .await
            .unwrap_or(Err(RendezvousError::TimedOut))
    }

    async fn connect_untimed(
        server: &ServerUrl,
        options: &SocketOptions,
    ) -> Result<Self, RendezvousError> {
        let (stream, round_trip) = socket::connect(server, options).await?;
        let local = stream.local_addr().map_err(RendezvousError::Connect)?;
        let peer = stream.peer_addr().map_err(RendezvousError::Connect)?;
        let stream: Box<dyn Stream> = match server.is_tls() {
            false => Box::new(stream),
            #[cfg(feature = "client")]
            true => Box::new(tls::over(stream, server, options).await?),
            #[cfg(not(feature = "client"))]
            true => {
                let missing = std::io::Error::other("this program was built without TLS");
                return Err(RendezvousError::Tls(missing));
            }
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .read_buffer_size(4096);
        let request = server.websocket();
        let (mut socket, _) = client_async_with_config(request, stream, Some(config))
            .await
            .map_err(from_handshake)?;
        let nonce = hello(&mut socket).await?;
        let (to_server, outgoing) = mpsc::channel(QUEUE);
        let (incoming, from_server) = mpsc::channel(QUEUE);
        let task = tokio::spawn(serve(socket, outgoing, incoming));
        Ok(Self {
            sender: Sender { queue: to_server },
            receiver: Receiver {
                queue: from_server,
                task: Some(task),
                local,
                server: peer,
                round_trip,
            },
            nonce,
        })
    }

    /// This end of the connection. Its port may be bound again by [`shared_tcp_socket`].
    pub const fn local_addr(&self) -> SocketAddr {
        self.receiver.local
    }

    /// The server's end of the connection.
    pub const fn server_addr(&self) -> SocketAddr {
        self.receiver.server
    }

    /// The time to the server and back, as the handshake of TCP took it.
    pub const fn round_trip(&self) -> Duration {
        self.receiver.round_trip
    }

    /// Sends a message; it is on its way when this returns, not yet received.
    ///
    /// # Errors
    /// When the connection has ended; [`Rendezvous::next`] tells why.
    pub async fn send(&mut self, message: &ClientMessage) -> Result<(), RendezvousError> {
        self.sender.send(message).await
    }

    /// Joins under the id of this key, and proves to the server that this side has it. The key
    /// itself stays here.
    ///
    /// # Errors
    /// As [`Rendezvous::send`].
    pub async fn join(&mut self, key: &AccessKey, join: Join) -> Result<(), RendezvousError> {
        let join = join.proven(key, &self.nonce);
        self.send(&ClientMessage::Join(join)).await
    }

    /// What joins on this connection have to sign; see [`Rendezvous::join`].
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The next message. Nothing is lost when the waiting is broken off.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn next(&mut self) -> Incoming {
        self.receiver.next().await
    }

    /// Two halves, which may live in different tasks.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// Sends what is queued and closes the connection in order, within 2 s.
    pub async fn close(self) {
        let (sender, mut receiver) = self.split();
        drop(sender);
        receiver.queue.close();
        if let Some(task) = &mut receiver.task {
            // When that takes too long, dropping the receiver ends the task.
            let _ = timeout(CLOSING, task).await;
        }
    }
}

impl Sender {
    /// As [`Rendezvous::send`].
    ///
    /// # Errors
    /// As [`Rendezvous::send`].
    pub async fn send(&mut self, message: &ClientMessage) -> Result<(), RendezvousError> {
        let text = serde_json::to_string(message)
            .map_err(|error| RendezvousError::Protocol(error.to_string()))?;
        let sent = self.queue.send(text).await;
        sent.map_err(|_| RendezvousError::Closed)
    }
}

impl Receiver {
    /// As [`Rendezvous::next`].
    ///
    /// # Errors
    /// As [`Rendezvous::next`].
    pub async fn next(&mut self) -> Incoming {
        match self.queue.recv().await {
            Some(incoming) => incoming,
            None => Err(RendezvousError::Closed),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Carries messages both ways until either side ends it.
async fn serve(
    mut socket: Socket,
    mut outgoing: mpsc::Receiver<String>,
    incoming: mpsc::Sender<Incoming>,
) {
    let mut pings = interval_at(Instant::now() + KEEPALIVE, KEEPALIVE);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = 0;
    let mut sending = true;
    let ended = loop {
        // Reading is held back while nobody takes what was read.
        let room = incoming.reserve();
        tokio::select! {
            biased;
            text = outgoing.recv(), if sending => match text {
                Some(text) => {
                    if let Err(error) = socket.send(Message::Text(text.into())).await {
                        break from_socket(error);
                    }
                }
                // Nobody sends any more. Who still listens hears on.
                None if incoming.is_closed() => {
                    let _ = timeout(CLOSING, socket.close(None)).await;
                    return;
                }
                None => sending = false,
            },
            _ = pings.tick() => {
                // Only who reads can say that nothing was heard.
                silent += u32::from(incoming.capacity() > 0);
                if silent > SILENT_PINGS {
                    break RendezvousError::TimedOut;
                }
                if let Err(error) = socket.send(Message::Ping(Default::default())).await {
                    break from_socket(error);
                }
            }
            received = async {
                let room = room.await;
                (room, socket.next().await)
            } => {
                silent = 0;
                let (Ok(room), Some(received)) = received else {
                    break RendezvousError::Closed;
                };
                match received {
                    Ok(Message::Text(text)) => match parse(&text) {
                        Ok(message) => room.send(Ok(message)),
                        Err(error) => break error,
                    },
                    Ok(Message::Close(_)) => break RendezvousError::Closed,
                    // Pings are answered by the library while it reads.
                    Ok(_) => {}
                    Err(error) => break from_socket(error),
                }
            }
        }
    };
    let _ = incoming.send(Err(ended)).await;
    let _ = timeout(CLOSING, socket.close(None)).await;
}

/// The first message, which comes right behind the answer to the request.
async fn hello(socket: &mut Socket) -> Result<Nonce, RendezvousError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return match parse(&text)? {
                    ServerMessage::Hello { nonce } => Ok(nonce),
                    other => Err(RendezvousError::Protocol(format!(
                        "it does not begin with a hello: {other:?}"
                    ))),
                };
            }
            Some(Ok(Message::Close(_))) | None => return Err(RendezvousError::Closed),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(from_socket(error)),
        }
    }
}

fn parse(text: &Utf8Bytes) -> Incoming {
    from_json(text.as_bytes()).map_err(|error| RendezvousError::Protocol(error.to_string()))
}

fn from_handshake(error: Error) -> RendezvousError {
    match error {
        Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let (code, message) = match from_json(body) {
                Ok(ServerMessage::Error { code, message, .. }) => (Some(code), message),
                _ => (None, String::new()),
            };
            RendezvousError::Refused {
                status: response.status().as_u16(),
                code,
                message,
            }
        }
        error => from_socket(error),
    }
}

fn from_socket(error: Error) -> RendezvousError {
    match error {
        Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed => RendezvousError::Closed,
        // It broke, in the handshake or behind it.
        Error::Protocol(
            ProtocolError::HandshakeIncomplete | ProtocolError::ResetWithoutClosingHandshake,
        ) => RendezvousError::Closed,
        error => RendezvousError::Protocol(error.to_string()),
    }
}
