//! The `turn` crate: UDP only, binds a channel after its first datagram to a peer.

use super::*;
use turn::client::{Client, ClientConfig};
use webrtc_util::Conn;

const OPENING: &[u8] = b"open";

async fn client(server: SocketAddr, (username, password): (&str, &str)) -> Client {
    let host = match server {
        SocketAddr::V4(_) => "127.0.0.1:0",
        SocketAddr::V6(_) => "[::1]:0",
    };
    let socket = tokio::net::UdpSocket::bind(host).await.expect("a socket");
    let client = Client::new(ClientConfig {
        stun_serv_addr: server.to_string(),
        turn_serv_addr: server.to_string(),
        username: username.to_owned(),
        password: password.to_owned(),
        realm: REALM.to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(socket),
        vnet: None,
    })
    .await
    .expect("a client");
    client.listen().await.expect("it listens");
    client
}

/// Sends datagrams of many sizes; each comes back unchanged from `peer`. The first ones go
/// as Send indications, the rest over the channel that the client binds meanwhile.
async fn echoes(relay: &impl Conn, peer: SocketAddr) {
    let mut buffer = vec![0; 4096];
    for round in 0..40_usize {
        let payload: Vec<u8> = (0..round * 31 + 1).map(|i| (i * round) as u8).collect();
        relay.send_to(&payload, peer).await.expect("sent");
        let received = loop {
            let received =
                tokio::time::timeout(Duration::from_secs(5), relay.recv_from(&mut buffer));
            let (len, from) = received.await.expect("it comes back").expect("received");
            // The datagram that opened the far side may have passed, or not.
            if &buffer[..len] != OPENING {
                break (&buffer[..len], from);
            }
        };
        assert_eq!(received, (&payload[..], peer));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn learns_its_address() {
    let server = Server::start();
    let client = client(server.udp(), USER).await;
    let mapped = client.send_binding_request().await.expect("an answer");
    assert_eq!(mapped.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    client.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_to_a_peer() {
    let server = Server::start();
    let client = client(server.udp(), USER).await;
    let relay = client.allocate().await.expect("an allocation");
    let (first, last) = server.ports.relay();
    let relayed = relay.local_addr().expect("a relayed address");
    assert!((first..=last).contains(&relayed.port()));
    echoes(&relay, Echo::start(Ipv4Addr::LOCALHOST.into()).address).await;
    client.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_to_another_relay() {
    let server = Server::start();
    let (left, right) = (
        client(server.udp(), USER).await,
        client(server.udp(), OTHER_USER).await,
    );
    let left_relay = left.allocate().await.expect("an allocation");
    let right_relay = right.allocate().await.expect("an allocation");
    let left_address = left_relay.local_addr().expect("a relayed address");
    let right_address = right_relay.local_addr().expect("a relayed address");
    // Permission on the far side first: it is given by sending.
    right_relay
        .send_to(OPENING, left_address)
        .await
        .expect("sent");

    let echo = tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((len, from)) = right_relay.recv_from(&mut buffer).await {
            if right_relay.send_to(&buffer[..len], from).await.is_err() {
                break;
            }
        }
    });
    echoes(&left_relay, right_address).await;
    echo.abort();
    left.close().await.expect("closed");
    right.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn is_refused_with_a_wrong_password() {
    let server = Server::start();
    let client = client(server.udp(), (USER.0, "wrong")).await;
    assert!(client.allocate().await.is_err());
    client.close().await.expect("closed");
}
