//! A pairing server, or somebody on the way to it, that pairs two devices again and again under one
//! session id and repeats what they said before: it gets no key used twice, and nothing of one
//! session accepted in another.

mod connect_support;
mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use connect_support::{fresh_key, in_time};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};
use turnserver::client::connect::{ConnectError, Connector, PunchedConn};
use turnserver::pairing::{
    AccessKey, ClientMessage, Nonce, PathKind, Protocol, Role, ServerMessage, SessionId,
};

type Socket = WebSocketStream<TcpStream>;

/// The one name of all its sessions.
const SESSION: SessionId = SessionId([7; 16]);

/// What the server does with the blobs of the receiver.
#[derive(Clone, Copy)]
enum Plan {
    /// Forwards them.
    Forward,
    /// Sends those of the session before in their place.
    Replace,
    /// Forwards the first one and replaces the others.
    KeepTheFirst,
}

struct Rogue {
    listener: TcpListener,
    /// What initiator and receiver said in the latest session.
    said: [Vec<String>; 2],
}

async fn say(socket: &mut Socket, message: &ServerMessage) {
    let text = serde_json::to_string(message).expect("JSON");
    // One that has gone needs nothing more.
    let _ = socket.send(Message::text(text)).await;
}

/// The next message; `None` when there will be none.
async fn hear(socket: &mut Socket) -> Option<ClientMessage> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return serde_json::from_str(&text).ok(),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

impl Rogue {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        Self {
            listener: listener.expect("loopback"),
            said: Default::default(),
        }
    }

    async fn visitor(&self) -> (Socket, SocketAddr, Role) {
        let (stream, from) = self.listener.accept().await.expect("a device");
        let mut socket = accept_async(stream).await.expect("a WebSocket");
        let nonce = Nonce::from_bytes(&[1; 16]);
        say(&mut socket, &ServerMessage::Hello { nonce }).await;
        match hear(&mut socket).await {
            Some(ClientMessage::Join(join)) => (socket, from, join.role),
            other => panic!("{other:?}"),
        }
    }

    /// Pairs the next two visitors and forwards until both have left.
    async fn session(&mut self, plan: Plan) {
        let mut visitors = [self.visitor().await, self.visitor().await];
        visitors.sort_by_key(|visitor| visitor.2 != Role::Initiator);
        let [(mut one, at_one, _), (mut two, at_two, _)] = visitors;
        let paired = |role, observed, peer_observed| ServerMessage::Paired {
            session: SESSION,
            role,
            protocol: Protocol::Udp,
            observed,
            peer_observed,
            peer_endpoints: Vec::new(),
            ice_servers: Vec::new(),
            ttl_s: 0,
        };
        say(&mut one, &paired(Role::Initiator, at_one, at_two)).await;
        say(&mut two, &paired(Role::Receiver, at_two, at_one)).await;
        let old = std::mem::take(&mut self.said);
        let mut open = [true; 2];
        while open[0] || open[1] {
            let (from, heard) = tokio::select! {
                heard = hear(&mut one), if open[0] => (0, heard),
                heard = hear(&mut two), if open[1] => (1, heard),
            };
            let blob = match heard {
                Some(ClientMessage::Signal { blob, .. }) => blob,
                Some(_) => continue,
                None => {
                    open[from] = false;
                    continue;
                }
            };
            let at = self.said[from].len();
            self.said[from].push(blob.clone());
            let forwarded = match plan {
                Plan::Replace if from == 1 => old[1].get(at).cloned(),
                Plan::KeepTheFirst if from == 1 && at > 0 => old[1].get(at).cloned(),
                _ => Some(blob),
            };
            if let Some(blob) = forwarded {
                let to = if from == 0 { &mut two } else { &mut one };
                let session = SESSION;
                say(to, &ServerMessage::Signal { session, blob }).await;
            }
        }
    }

    /// Two devices meet here. `None` of one that was connected, else its exit code.
    async fn pair(&mut self, key: &str, plan: Plan) -> [Option<u8>; 2] {
        let address = self.listener.local_addr().expect("bound").to_string();
        let device = || {
            let key = AccessKey::new(key).expect("a key");
            Connector::new(address.parse().expect("a server"), key)
                .establish_timeout(Duration::from_secs(3))
        };
        let devices = async {
            let initiator = device().protocol(Protocol::Udp).connect();
            // Else its checks, which are good, may prove a path before anything old comes.
            let silent = matches!(plan, Plan::KeepTheFirst);
            let receiver = device().relay_only(silent).connect();
            let (one, two) = tokio::join!(initiator, receiver);
            if let (Ok(one), Ok(two)) = (&one, &two) {
                exchange(one, two).await;
            }
            [one, two].map(|end| end.err().as_ref().map(ConnectError::exit_code))
        };
        let ((), ended) = tokio::join!(in_time("the end", self.session(plan)), devices);
        ended
    }
}

async fn exchange(one: &PunchedConn, two: &PunchedConn) {
    // There is no relay.
    assert_eq!(one.path().path, PathKind::Direct);
    one.send(b"hello").await.expect("sent");
    let heard = in_time("a datagram", two.recv()).await;
    assert_eq!(heard.as_deref(), Some(&b"hello"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_older_session_of_the_same_name_is_taken() {
    let mut rogue = Rogue::new().await;
    let key = fresh_key();
    assert_eq!(rogue.pair(&key, Plan::Forward).await, [None, None]);
    let old = rogue.said.clone();
    assert!(old.iter().all(|said| said.len() > 1), "{old:?}");
    // Again, as it should be: nothing is sealed as it was, not even what is the same.
    assert_eq!(rogue.pair(&key, Plan::Forward).await, [None, None]);
    let old: HashSet<_> = old.into_iter().flatten().collect();
    for blob in rogue.said.iter().flatten() {
        assert!(!old.contains(blob), "{blob} was said in both");
    }
    for plan in [Plan::Replace, Plan::KeepTheFirst] {
        assert_eq!(rogue.pair(&key, Plan::Forward).await, [None, None]);
        let [initiator, receiver] = rogue.pair(&key, plan).await;
        assert_eq!(initiator, Some(6), "what it hears is not the peer's");
        assert!(receiver.is_some(), "it has no peer");
    }
}
