//! Talks to a pairing endpoint the way clients in other languages do: raw sockets, HTTP by hand,
//! and a WebSocket from another library than the server's own code.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test crate compiles this module and uses its own part of it"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests of real sockets wait in real time"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};
use turnserver::pairing::{AccessKey, Join, Nonce};
use turnserver::signal::{self, Config, Handle, Limits};

/// What an HTTP request came back with.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

/// Patience with a server on the same machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A pairing endpoint alone, with limits of the test's own.
pub fn serve(change: impl FnOnce(&mut Limits)) -> (Handle, SocketAddr) {
    let mut config = Config::from(SocketAddr::from(([127, 0, 0, 1], 0)));
    change(&mut config.limits);
    let handle = signal::serve(config).expect("it serves");
    let address = handle.addresses()[0];
    (handle, address)
}

/// A TCP connection from an address of this machine.
pub fn connect_from(local: IpAddr, server: SocketAddr) -> TcpStream {
    let domain = socket2::Domain::for_address(server);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
    let local = SocketAddr::new(local, 0);
    socket.bind(&local.into()).expect("a local address");
    socket.connect(&server.into()).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

pub fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

/// Sends `POST /v1/pair`, without waiting for the answer.
pub fn post(mut stream: TcpStream, body: &str) -> TcpStream {
    let request = format!(
        "POST /v1/pair HTTP/1.1\r\nHost: pair.example.org\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    stream
}

/// Reads an answer, which ends with the connection.
pub fn reply(mut stream: impl Read) -> Reply {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("an answer");
    parse(&String::from_utf8(text).expect("an answer is text"))
}

pub fn parse(text: &str) -> Reply {
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = match body.trim() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")),
    };
    Reply {
        status: status.expect("a status"),
        head: head.to_lowercase(),
        body,
    }
}

/// One request and its answer.
pub fn pair(server: SocketAddr, body: &Value) -> Reply {
    reply(post(connect(server), &body.to_string()))
}

pub fn initiator(key: &str) -> Value {
    json!({"role": "initiator", "access_key": key})
}

pub fn receiver(key: &str) -> Value {
    json!({"role": "receiver", "access_key": key})
}

/// The same join by id, with the proof that its sender has the key.
pub fn proven(join: &Value, key: &str, nonce: &Value) -> Value {
    let mut join = join.clone();
    join.as_object_mut()
        .expect("an object")
        .remove("access_key");
    let join: Join = serde_json::from_value(join).expect("a join");
    let nonce: Nonce = serde_json::from_value(nonce.clone()).expect("a nonce");
    let key = AccessKey::new(key).expect("a key");
    serde_json::to_value(join.proven(&key, &nonce)).expect("JSON")
}

/// Adds fields to an object.
pub fn with(mut object: Value, more: Value) -> Value {
    let (Some(object_map), Value::Object(more)) = (object.as_object_mut(), more) else {
        panic!("two objects");
    };
    object_map.extend(more);
    object
}

/// A WebSocket, and the nonce that it began with.
pub struct Socket(pub WebSocket<TcpStream>, pub Value);

impl Socket {
    pub fn open(server: SocketAddr) -> Self {
        Self::over(connect(server), server)
    }

    pub fn over(stream: TcpStream, server: SocketAddr) -> Self {
        let url = format!("ws://{server}/v1/ws");
        let (socket, _) = tungstenite::client(url, stream).expect("a WebSocket");
        let mut socket = Self(socket, Value::Null);
        socket.1 = socket.expect("hello")["nonce"].clone();
        socket
    }

    /// Says something.
    pub fn say(&mut self, message: &Value) {
        let text = message.to_string();
        self.0.send(Message::text(text)).expect("it is taken");
    }

    pub fn join(&mut self, join: Value) {
        self.say(&with(join, json!({"type": "join"})));
    }

    /// The next message, whatever it is; `None` at the end of the connection.
    pub fn hear(&mut self) -> Option<Value> {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => {
                    return Some(serde_json::from_str(&text).expect("messages are JSON"));
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) => return None,
                Ok(other) => panic!("{other:?}"),
                Err(tungstenite::Error::Io(error)) => panic!("{error}"),
                Err(_) => return None,
            }
        }
    }

    /// The next message, which is of this type.
    pub fn expect(&mut self, kind: &str) -> Value {
        let message = self.hear().expect("a message");
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// The next message, which is an error with this code.
    pub fn expect_error(&mut self, code: &str) -> Value {
        let message = self.expect("error");
        assert_eq!(message["code"], code, "{message}");
        message
    }

    /// Waits for the server to close with this code.
    pub fn wait_for_close(&mut self, code: u16) {
        loop {
            match self.0.read().expect("a frame before the end") {
                Message::Close(frame) => {
                    let found = frame.map(|frame| u16::from(frame.code));
                    assert_eq!(found, Some(code));
                    // The answer to it.
                    let _ = self.0.flush();
                    return;
                }
                Message::Text(text) => panic!("{text}"),
                _ => {}
            }
        }
    }

    /// Polls until the connection is over, however it ends.
    pub fn wait_for_end(&mut self) {
        loop {
            match self.0.read() {
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) => {
                    assert_ne!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock,
                        "it stays open"
                    );
                    return;
                }
                Err(_) => return,
            }
        }
    }
}
