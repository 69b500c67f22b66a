//! TCP and TLS clients against real sockets on loopback.

#[path = "../net_support/mod.rs"]
mod net_support;

mod connections;
mod frames;
mod relaying;

use std::io::Read;
use std::net::TcpStream;

use net_support::{Client, Pem, Server, Setup, listener, peer, receive_from};
use turnserver::net::{ListenerConfig, Protocol, StreamLimits};

fn server(listeners: Vec<ListenerConfig>, streams: StreamLimits) -> Server {
    Server::start(Setup {
        threads: 2,
        listeners,
        streams,
        ..Setup::default()
    })
}

fn tcp_server(streams: StreamLimits) -> Server {
    server(vec![listener(Protocol::Tcp, "127.0.0.1:0")], streams)
}

fn with_tls(protocol: Protocol, pem: &Pem) -> ListenerConfig {
    ListenerConfig {
        tls: Some(pem.load()),
        ..listener(protocol, "127.0.0.1:0")
    }
}

/// Waits for the end of a connection that the server closes.
fn closed(mut socket: &TcpStream) {
    let mut chunk = [0; 4096];
    while matches!(socket.read(&mut chunk), Ok(1..)) {}
}

fn relays_both_ways(client: &mut Client) {
    assert_eq!(client.binding(), client.local());
    let peer = peer("127.0.0.1");
    let address = peer.local_addr().expect("bound");
    let relayed = client.allocate();
    client.permit(address);
    client.send_indication(address, b"indication", false);
    assert_eq!(receive_from(&peer), (b"indication".to_vec(), relayed));
    peer.send_to(b"back", relayed).expect("sent");
    assert_eq!(client.receive_data(), (address, b"back".to_vec()));
    client.bind_channel(0x4002, address);
    for len in [0, 1, 2, 3, 4, 5, 1200, 16_383, 16_384, 40_000, 60_000] {
        let data: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        client.send_channel(0x4002, &data);
        assert_eq!(receive_from(&peer), (data.clone(), relayed));
        peer.send_to(&data, relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4002, data));
    }
}
