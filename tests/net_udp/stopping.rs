//! Draining and stopping.

use std::time::Duration;

use super::server;
use crate::net_support::{Client, eventually};

#[test]
fn draining_refuses_and_stopping_ends_everything() {
    let server = server(2, &["127.0.0.1:0"]);
    let mut old = Client::udp(server.address(0));
    old.allocate();
    server.shards().drain(&[]);
    eventually("every shard has the message", || {
        (0..8).all(|_| {
            let mut client = Client::udp(server.address(0));
            let reply = client.try_allocate(|_| {});
            reply.code() == Some(508)
        })
    });
    assert_eq!(old.refresh(600).code(), None);
    let relays = std::sync::Arc::clone(&server.relays);
    server.stop();
    assert_eq!(relays.in_use(), 0);
}

#[test]
fn stopping_is_quick_while_nothing_happens() {
    let server = server(2, &["127.0.0.1:0"]);
    let (done, stopped) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        server.stop();
        done.send(()).expect("waited for");
    });
    stopped
        .recv_timeout(Duration::from_secs(20))
        .expect("the shards were woken");
    thread.join().expect("no panic");
}
