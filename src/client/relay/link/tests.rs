//! A link to a server of a few lines.

use tokio::net::UdpSocket;
use tokio::task::yield_now;

use super::*;
use crate::client::relay::{Host, Transport};
use crate::client::turn::Credentials;
use crate::wire::{Builder, Class, Message, attr};

/// Grants every request.
async fn grant(socket: UdpSocket) {
    let mut request = [0; 1500];
    while let Ok((len, client)) = socket.recv_from(&mut request).await {
        let message = Message::parse(&request[..len]).expect("a message");
        let mut answer = [0; 200];
        let (method, id) = (message.method(), message.transaction_id());
        let mut builder = Builder::new(&mut answer, Class::Success, method, id);
        builder
            .u32(attr::LIFETIME, 600)
            .xor_address(attr::XOR_RELAYED_ADDRESS, client)
            .xor_address(attr::XOR_MAPPED_ADDRESS, client);
        let len = builder.finish().expect("it fits");
        socket.send_to(&answer[..len], client).await.expect("sent");
    }
}

#[tokio::test]
async fn nothing_is_waited_for_once_the_allocation_is_given_back() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(grant(socket));
    let server = TurnServer {
        host: Host {
            name: address.ip().to_string(),
            port: address.port(),
        },
        transport: Transport::Udp,
        credentials: Credentials::new("alice", "secret"),
    };
    let link = Link::open(&server, address, None, &[]).await;
    let link = link.expect("an allocation");
    // The time stands still as long as there is something to do: no wait for it ever ends.
    tokio::time::pause();
    let busy = async {
        for _ in 0..100_000 {
            yield_now().await;
        }
    };
    tokio::select! {
        () = link.release() => {}
        () = busy => panic!("it waits for more than the answer"),
    }
}
