//! How soon the first byte of the application is there after two devices have come together, in
//! round trips, which are counted: see `connect_support/hops.rs`.

mod connect_support;
mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;

use connect_support::hops::Hops;
use connect_support::minting::Minting;
use connect_support::{fresh_key, in_time};
use support::{Config, Server};
use tokio::sync::mpsc;
use turnserver::client::connect::{Connector, Progress, PunchedConn};
use turnserver::pairing::{AccessKey, Protocol};
use turnserver::signal;

/// A round trip between the two through the relay: each datagram goes to the server and on.
const RELAY_ROUND_TRIP: u64 = 4;
/// What the receiver sends when it joins is the second message of its connection: the first one
/// asks for the WebSocket.
const JOIN: u32 = 2;
/// On a busy machine a device may miss a hop.
const TRIES: u32 = 4;

/// What there is between a device and the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Udp,
    /// Datagrams vanish.
    UdpBlocked,
}

/// Who waits for the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// One whose allocation is made by then.
    Initiator,
    /// One that gets its credentials when somebody comes.
    Host,
}

/// The hops from the moment that both are there to the first byte, at whichever side.
async fn hops(network: Network, waits: Waits) -> u64 {
    let relay = Server::with(Config {
        // Without it pairs are strangers.
        signaling: Some(String::new()),
        ..Config::default()
    });
    let hops = Hops::start();
    let by_udp = match network {
        Network::Udp => hops.udp(relay.udp()).await,
        Network::UdpBlocked => {
            let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            let address = silent.local_addr().expect("its address");
            // It stays open, so that not even an ICMP error comes back.
            std::mem::forget(silent);
            address
        }
    };
    let mut urls = vec![format!("turn:{by_udp}?transport=udp")];
    if network == Network::UdpBlocked {
        let by_tcp = hops.tcp(relay.tcp(), None).await;
        urls.push(format!("turn:{by_tcp}?transport=tcp"));
    }
    let endpoint = signal::serve(signal::Config {
        fallback: Arc::new(Minting::new(urls, 3600)),
        ..signal::Config::new([(Ipv4Addr::LOCALHOST, 0).into()])
    });
    let endpoint = endpoint.expect("a pairing endpoint");
    let server = endpoint.addresses()[0];
    let key = AccessKey::new(&fresh_key()).expect("a key");
    let (progress, mut told) = mpsc::unbounded_channel();
    let waiting = hops.tcp(server, None).await.to_string();
    let device = Connector::new(waiting.parse().expect("a server"), key.clone());
    let device = device.protocol(Protocol::Udp).relay_only(true);
    let device = device.progress(progress);
    let mut accepted = tokio::spawn(async move {
        match waits {
            Waits::Initiator => device.connect().await,
            Waits::Host => device.host().accept().await,
        }
    });
    in_time("it waits", async {
        while !matches!(told.recv().await, Some(Progress::Waiting { .. })) {}
    })
    .await;
    // And has made its allocation, where it can.
    hops.settle().await;

    let joining = hops.tcp(server, Some(JOIN)).await.to_string();
    let device = Connector::new(joining.parse().expect("a server"), key).relay_only(true);
    let receiver = async { talk(device.connect().await.expect("connected"), &hops).await };
    let initiator = async {
        let conn = (&mut accepted).await.expect("it lives");
        talk(conn.expect("connected"), &hops).await
    };
    let first = async {
        tokio::select! {
            first = receiver => first,
            first = initiator => first,
        }
    };
    let first = in_time("the first byte", first).await;
    first - hops.marked().expect("the receiver has joined")
}

/// Says something and waits for what the other one says; when that came.
async fn talk(conn: PunchedConn, hops: &Hops) -> u64 {
    conn.send(b"x").await.expect("sent");
    assert_eq!(conn.recv().await.as_deref(), Some(&b"x"[..]));
    hops.now()
}

/// The best of some attempts: a slow machine can make it more and never less.
async fn best(network: Network, waits: Waits, most: u64) {
    let mut all = Vec::new();
    for _ in 0..TRIES {
        let taken = hops(network, waits).await;
        all.push(taken);
        if taken <= most {
            return;
        }
    }
    panic!("{network:?} {waits:?}: {all:?} hops, and not {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_takes_three_round_trips_through_the_relay_at_most() {
    for waits in [Waits::Initiator, Waits::Host] {
        best(Network::Udp, waits, 3 * RELAY_ROUND_TRIP).await;
    }
}

/// The receiver knows that UDP is silent when it is paired, so that it has no patience with it
/// but for a quarter of a round trip to the server, which is less than a hop.
#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_where_udp_is_blocked() {
    best(
        Network::UdpBlocked,
        Waits::Initiator,
        3 * RELAY_ROUND_TRIP - 1,
    )
    .await;
}
