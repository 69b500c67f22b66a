//! How long a WebSocket lives that does little, by a clock that the tests turn.

use std::net::SocketAddr;
use std::sync::OnceLock;

use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use super::*;
use crate::signal::{Config, listener};

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;

/// The other end of a WebSocket.
struct Client {
    stream: DuplexStream,
    since: Instant,
}

/// One that was just accepted, and greeted.
async fn client() -> Client {
    let hub = Arc::new(crate::signal::hub(&Config::new([]), [[7; 32]; 2]));
    let observed = SocketAddr::from(([192, 0, 2, 1], 1));
    let place = hub.doors.enter(observed.ip()).expect("a place");
    let visit = Arc::new(Visit {
        hub,
        observed: observed.into(),
        reached: observed.into(),
        host: OnceLock::new(),
        place,
    });
    let (stream, other) = duplex(1 << 16);
    let deadline = clock::now().mono.plus_secs(listener::WHOLE);
    tokio::spawn(serve(other, &[], visit, deadline));
    let mut client = Client {
        stream,
        since: Instant::now(),
    };
    let (kind, hello) = client.hear().await.expect("a hello");
    assert_eq!(kind, TEXT, "{hello:?}");
    client
}

impl Client {
    /// Writes a frame, masked with zeros.
    async fn say(&mut self, first: u8, payload: &str) {
        let len = u8::try_from(payload.len()).expect("a short one");
        assert!(len < 126);
        let frame = [&[first, 0x80 | len, 0, 0, 0, 0], payload.as_bytes()].concat();
        // The server may have closed already.
        let _ = self.stream.write_all(&frame).await;
    }

    /// The kind and payload of the next frame; `None` at the end of the connection.
    async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.ok()?;
        let len = match self.stream.read_u8().await.ok()? {
            126 => self.stream.read_u16().await.ok()?,
            len => len.into(),
        };
        let mut payload = vec![0; len.into()];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((first & 0x0F, payload))
    }

    async fn join(&mut self, join: &str) {
        self.say(FIN | TEXT, join).await;
        let (kind, answer) = self.hear().await.expect("an answer");
        assert_eq!(kind, TEXT, "{answer:?}");
    }

    async fn host(&mut self) {
        self.join(r#"{"type":"join","role":"initiator","host":true,"access_key":"k"}"#)
            .await;
    }

    fn seconds(&self) -> u64 {
        self.since.elapsed().as_secs()
    }

    /// Pings every 4 s. After how many seconds the connection ends, and with what code.
    async fn end(&mut self) -> (u64, Option<u16>) {
        loop {
            assert!(self.seconds() < 200, "it stays");
            tokio::select! {
                frame = self.hear() => match frame {
                    Some((CLOSE, code)) => {
                        let code = code.first_chunk().map(|code| u16::from_be_bytes(*code));
                        return (self.seconds(), code);
                    }
                    Some(_) => {}
                    None => return (self.seconds(), None),
                },
                () = sleep(Duration::from_secs(4)) => self.say(FIN | PING, "").await,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_silent_is_pinged_and_then_dropped() {
    let mut client = client().await;
    client.host().await;
    for expected in [15, 30] {
        assert_eq!(client.hear().await, Some((PING, Vec::new())));
        assert_eq!(client.seconds(), expected);
    }
    assert_eq!(client.hear().await, None);
    assert_eq!(client.seconds(), 40);
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_stays() {
    let mut client = client().await;
    client.host().await;
    for round in 1..=20 {
        assert_eq!(client.hear().await, Some((PING, Vec::new())));
        assert_eq!(client.seconds(), 15 * round);
        client.say(FIN | PONG, "").await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_ask_to_join_goes_soon() {
    assert_eq!(client().await.end().await, (15, Some(1000)));
    let mut client = client().await;
    client
        .join(r#"{"type":"join","role":"receiver","access_key":"k"}"#)
        .await;
    assert_eq!(client.end().await, (30, Some(1000)), "it may ask again");
}

#[tokio::test(start_paused = true)]
async fn a_message_has_to_end() {
    let mut client = client().await;
    client.host().await;
    client.say(TEXT, "{").await;
    assert_eq!(client.end().await, (10, None));
}

#[tokio::test(start_paused = true)]
async fn every_frame_counts() {
    let mut client = client().await;
    client.host().await;
    client.say(TEXT, "{").await;
    for _ in 0..1000 {
        client.say(0, "").await;
    }
    let (kind, error) = client.hear().await.expect("an answer");
    let error = String::from_utf8(error).expect("text");
    assert!(kind == TEXT && error.contains("\"messages\""), "{error}");
    assert_eq!(client.end().await, (0, Some(1008)));
}
