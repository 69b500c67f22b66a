//! Bindings and data, over both families and all shards.

use std::net::{SocketAddr, UdpSocket};

use quinn_udp::{Transmit, UdpSocketState};

use super::server;
use crate::net_support::{
    Client, Link, Server, Setup, bind_to_each_other, channel_frame, eventually, peer, receive_from,
};

#[test]
fn binding_over_both_families() {
    let server = server(1, &["127.0.0.1:0", "[::1]:0"]);
    for index in 0..2 {
        let mut client = Client::udp(server.address(index));
        assert_eq!(client.binding(), client.local());
    }
}

#[test]
fn a_wildcard_listener_answers_from_the_address_that_was_reached() {
    let server = server(2, &["0.0.0.0:0", "[::]:0"]);
    let port = server.address(0).port();
    for ip in ["127.0.0.1", "127.0.0.2", "127.9.8.7"] {
        // A connected socket takes datagrams from this very address only.
        let reached: SocketAddr = format!("{ip}:{port}").parse().expect("an address");
        let mut client = Client::udp(reached);
        assert_eq!(client.binding(), client.local());
        // The 5-tuple has that address too: relayed data comes from it.
        let relayed = client.allocate();
        let peer = peer("127.0.0.1");
        client.bind_channel(0x4000, peer.local_addr().expect("bound"));
        peer.send_to(b"hello", relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4000, b"hello".to_vec()));
    }
    let reached = SocketAddr::new("::1".parse().expect("an address"), server.address(1).port());
    let mut client = Client::udp(reached);
    assert_eq!(client.binding(), client.local());
}

#[test]
fn data_passes_both_ways_in_both_families() {
    let server = server(1, &["127.0.0.1:0", "[::1]:0"]);
    for index in 0..2 {
        for ip in ["127.0.0.1", "::1"] {
            let mut client = Client::udp(server.address(index));
            let peer = peer(ip);
            let address = peer.local_addr().expect("bound");
            let relayed = client.allocate_for(address);
            client.permit(address);
            for len in [0, 1, 2, 3, 4, 1200, 20_000] {
                let data = vec![len as u8; len];
                client.send_indication(address, &data, false);
                assert_eq!(receive_from(&peer), (data.clone(), relayed));
                peer.send_to(&data, relayed).expect("sent");
                assert_eq!(client.receive_data(), (address, data));
            }
            client.bind_channel(0x4001, address);
            for len in [0, 1, 2, 3, 4, 1200, 20_000] {
                let data = vec![!(len as u8); len];
                client.send_channel(0x4001, &data);
                assert_eq!(receive_from(&peer), (data.clone(), relayed));
                peer.send_to(&data, relayed).expect("sent");
                assert_eq!(client.receive_channel(), (0x4001, data));
            }
        }
    }
}

#[test]
fn bursts_keep_their_order() {
    let server = server(1, &["127.0.0.1:0"]);
    let mut client = Client::udp(server.address(0));
    let relayed = client.allocate();
    let peer = peer("127.0.0.1");
    client.bind_channel(0x4000, peer.local_addr().expect("bound"));
    for round in 0..20_u32 {
        for number in 0..100_u32 {
            let data = [round.to_be_bytes(), number.to_be_bytes()].concat();
            client.send_channel(0x4000, &data);
            peer.send_to(&data, relayed).expect("sent");
        }
        for number in 0..100_u32 {
            let data = [round.to_be_bytes(), number.to_be_bytes()].concat();
            assert_eq!(receive_from(&peer).0, data);
            assert_eq!(client.receive_channel().1, data);
        }
    }
}

/// Sends equal datagrams, and a last one that may be shorter, in one, which also comes as one over
/// loopback where a socket asks for it.
fn send_in_one(socket: &UdpSocket, to: SocketAddr, datagrams: &[Vec<u8>]) {
    // A socket that a state is made for receives what comes as one, too, and this one shall not.
    let other = peer("127.0.0.1");
    let state = UdpSocketState::new((&other).into()).expect("a socket");
    let transmit = Transmit {
        destination: to,
        ecn: None,
        contents: &datagrams.concat(),
        segment_size: Some(datagrams[0].len()),
        src_ip: None,
    };
    state.send(socket.into(), &transmit).expect("sent");
}

#[test]
fn bursts_that_come_as_one_are_relayed_one_by_one() {
    // On the wildcard address there is packet info, too.
    let server = server(1, &["127.0.0.1:0", "0.0.0.0:0"]);
    for index in 0..2 {
        let server = SocketAddr::from(([127, 0, 0, 1], server.address(index).port()));
        let mut client = Client::udp(server);
        let relayed = client.allocate();
        let peer = peer("127.0.0.1");
        let address = peer.local_addr().expect("bound");
        client.permit(address);
        for (round, len) in [40, 1000, 172, 1, 33, 1000].into_iter().enumerate() {
            // Data indications at first, then channels.
            let channel = round >= 3;
            if channel {
                client.bind_channel(0x4000, address);
            }
            // The first bursts only show the server that there are some.
            for burst in 0..8 {
                let datagrams: Vec<Vec<u8>> = (0..20)
                    .map(|number| {
                        let len = if number == 19 { (len + 1) / 2 } else { len };
                        (0..len).map(|at| (at + number * 3 + burst) as u8).collect()
                    })
                    .collect();
                send_in_one(&peer, relayed, &datagrams);
                for datagram in &datagrams {
                    let seen = match channel {
                        true => client.receive_channel().1,
                        false => client.receive_data().1,
                    };
                    assert_eq!(&seen, datagram);
                }
                let Link::Udp(socket) = &client.link else {
                    panic!("a UDP client");
                };
                if channel {
                    let frames = datagrams.iter().map(|data| channel_frame(0x4000, data));
                    send_in_one(socket, server, &frames.collect::<Vec<_>>());
                    for datagram in &datagrams {
                        assert_eq!(receive_from(&peer), (datagram.clone(), relayed));
                    }
                }
            }
        }
    }
}

#[test]
fn all_shards_take_part() {
    let server = server(2, &["127.0.0.1:0"]);
    let mut clients: Vec<_> = (0..64).map(|_| Client::udp(server.address(0))).collect();
    for client in &mut clients {
        client.allocate();
    }
    eventually("all allocations are counted", || {
        server.shards().allocations() == 64
    });
    for counters in &server.counters {
        let snapshot = counters.snapshot();
        // One in 2^63 that all land on one shard by chance.
        assert!(snapshot.allocations_active > 0, "{snapshot:?}");
    }
    server.stop();
}

#[test]
fn relayed_addresses_of_this_server_reach_each_other_on_any_shard() {
    let server = server(2, &["127.0.0.1:0"]);
    let mut clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = Client::udp(server.address(0));
            let relayed = client.allocate();
            (client, relayed)
        })
        .collect();
    bind_to_each_other(&mut clients);
    for from in 0..clients.len() {
        for to in 0..clients.len() {
            if from == to {
                continue;
            }
            let data = [from as u8, to as u8];
            clients[from].0.send_channel(0x4000 + to as u16, &data);
            let got = clients[to].0.receive_channel();
            assert_eq!(got, (0x4000 + from as u16, data.to_vec()));
        }
    }
}

#[test]
fn relayed_addresses_behind_a_nat_reach_each_other_by_their_public_name() {
    let address = |ip: &str| ip.parse().expect("an address");
    let server = Server::start(Setup {
        threads: 2,
        relays: vec![(address("127.0.0.1"), address("203.0.113.7"))],
        ..Setup::default()
    });
    let mut clients: Vec<_> = (0..6).map(|_| Client::udp(server.address(0))).collect();
    let relayed: Vec<_> = clients.iter_mut().map(Client::allocate).collect();
    for from in 0..clients.len() {
        for other in &relayed {
            clients[from].permit(*other);
        }
        assert_eq!(relayed[from].ip(), address("203.0.113.7"));
    }
    for from in 0..clients.len() {
        for to in (0..clients.len()).filter(|to| *to != from) {
            clients[from].send_indication(relayed[to], b"inside", false);
            // Whatever way it took, the peer is called by its public name.
            let got = clients[to].receive_data();
            assert_eq!(got, (relayed[from], b"inside".to_vec()));
        }
    }
}

/// On both data planes the same, whatever their buffers are like.
#[test]
fn the_largest_datagrams_pass_unharmed() {
    let server = server(1, &["127.0.0.1:0", "0.0.0.0:0"]);
    for index in 0..2 {
        let port = server.address(index).port();
        let mut client = Client::udp(SocketAddr::new([127, 0, 0, 1].into(), port));
        let relayed = client.allocate();
        let peer = peer("127.0.0.1");
        let address = peer.local_addr().expect("bound");
        client.bind_channel(0x4000, address);
        for (round, len) in [9000, 60_000, 65_500, 172].into_iter().enumerate() {
            let data: Vec<u8> = (0..len).map(|at| (at * 7 + round) as u8).collect();
            // One at a time: the client's socket buffer holds little more.
            for _ in 0..3 {
                client.send_channel(0x4000, &data);
                peer.send_to(&data, relayed).expect("sent");
                assert_eq!(receive_from(&peer), (data.clone(), relayed));
                assert_eq!(client.receive_channel(), (0x4000, data.clone()));
            }
        }
        // What a datagram over IPv4 holds less the header of ChannelData is the most.
        peer.send_to(&[2; 65_503], relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4000, vec![2; 65_503]));
        // One without room for the header goes nowhere, and harms nothing.
        peer.send_to(&[1; 65_507], relayed).expect("sent");
        peer.send_to(b"after", relayed).expect("sent");
        assert_eq!(client.receive_channel(), (0x4000, b"after".to_vec()));
    }
}
