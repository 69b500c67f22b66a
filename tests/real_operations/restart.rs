//! Restart.

use std::net::UdpSocket;
use std::time::Duration;

use super::udp_client;
use crate::support::stun::Client;
use crate::support::{Server, USER, wait_until};

#[test]
fn it_serves_again_right_after_it_was_killed() {
    let mut server = Server::start();
    for _ in 0..5 {
        // Sockets with receives under way, which the kernel takes back last.
        let mut clients: Vec<Client> = (0..8).map(|_| udp_client(&server, USER)).collect();
        clients.iter_mut().for_each(|client| {
            client.allocated();
        });
        server.kill();
        server.start_again();
        server.wait_until_it_answers();
    }
}

#[test]
fn an_address_that_becomes_free_is_waited_for() {
    let mut server = Server::start();
    server.kill();
    let mut others = None;
    assert!(wait_until(Duration::from_secs(5), || {
        others = UdpSocket::bind(server.udp()).ok();
        others.is_some()
    }));
    server.start_again();
    server.wait_for_log("by a server that just ended");
    assert!(server.is_running());
    drop(others);
    server.wait_until_it_answers();
    let waits = server.log().matches("by a server that just ended").count();
    assert_eq!(waits, 1, "said once:\n{}", server.log());
}
