//! A device whose every word a test chooses.

use std::time::Duration;

use tokio::time::sleep;
use turnserver::client::rendezvous::{Rendezvous, SocketOptions};
use turnserver::pairing::{
    AccessKey, ClientMessage, IceServer, Join, Protocol, Role, ServerMessage, SessionId,
};

use super::World;

/// A device that says what a test wants it to.
pub struct ByHand {
    rendezvous: Rendezvous,
    pub role: Role,
    pub session: SessionId,
    pub ice_servers: Vec<IceServer>,
}

impl ByHand {
    /// Meets a device, in the role that this one leaves. The key is not used for anything else.
    pub async fn meet(world: &World, key: &str, role: Role) -> Self {
        let server = world.address.to_string().parse().expect("a server");
        let key = AccessKey::new(key).expect("a key");
        let join = Join {
            protocol: (role == Role::Initiator).then_some(Protocol::Udp),
            ..Join::new(role)
        };
        loop {
            let options = SocketOptions::default();
            let connected = Rendezvous::connect(&server, &options).await;
            let mut rendezvous = connected.expect("a server");
            rendezvous.join(&key, join.clone()).await.expect("sent");
            loop {
                match rendezvous.next().await.expect("open") {
                    ServerMessage::Paired {
                        session,
                        ice_servers,
                        ..
                    } => {
                        return Self {
                            rendezvous,
                            role,
                            session,
                            ice_servers,
                        };
                    }
                    ServerMessage::Error { .. } => break,
                    _ => {}
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Passes a blob to the other side.
    pub async fn say(&mut self, blob: String) {
        let session = self.session;
        let signal = ClientMessage::Signal { session, blob };
        self.rendezvous.send(&signal).await.expect("sent");
    }

    /// The next blob of the other side.
    pub async fn hear(&mut self) -> String {
        loop {
            match self.rendezvous.next().await.expect("open") {
                ServerMessage::Signal { blob, .. } => return blob,
                ServerMessage::PeerLeft { .. } => panic!("it left without a word"),
                _ => {}
            }
        }
    }
}
