//! Drain, end and restart, and what is left behind.

use std::net::TcpStream;

use serde_json::json;

use super::credentials::{allocated, turn};
use super::{PATIENCE, sockets, start, until};
use crate::signal_support::{Socket, connect, initiator, pair, post, receiver, reply, with};

#[test]
fn a_drain_sends_those_who_wait_away_and_lets_sessions_go_on() {
    let mut server = start("");
    // An allocation keeps the drain from being over at once.
    let [(mut a, for_a), (mut b, _)] = sockets(server.signaling(), "key");
    let (_, username, password) = turn(&for_a);
    let mut held = Socket::open(server.signaling());
    held.join(with(initiator("host"), json!({"host": true})));
    held.expect("waiting");
    let request = post(connect(server.signaling()), &initiator("k").to_string());
    until(|| server.metric("turnserver_signaling_waiting ") == Some(2));
    let client = crate::support::stun::Client::new(
        crate::support::stun::Wire::udp(server.udp()).expect("a socket"),
        (&username, &password),
    );
    let _allocation = allocated(client);
    server.signal("TERM");
    held.expect_error("going_away");
    held.wait_for_end();
    let answer = reply(request);
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (503, &json!("going_away"))
    );
    let answer = pair(server.signaling(), &receiver("host"));
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (503, &json!("going_away"))
    );
    let session = for_a["session"].clone();
    a.say(&json!({"type": "signal", "session": session, "blob": "still"}));
    assert_eq!(b.expect("signal")["blob"], "still");
    server.signal("TERM");
    assert!(
        server
            .wait_for_end(PATIENCE)
            .is_some_and(|status| status.success())
    );
    b.wait_for_end();
}

#[test]
fn all_who_wait_hear_that_the_server_goes_away() {
    const HOSTS: usize = 1000;
    let mut server = start("joins_per_minute = 0");
    let join = with(initiator("host"), json!({"host": true}));
    let mut hosts: Vec<Socket> = (0..HOSTS)
        .map(|n| {
            let mut host = Socket::open(server.signaling());
            host.join(with(
                join.clone(),
                json!({"access_key": format!("host {n}")}),
            ));
            host.expect("waiting");
            host
        })
        .collect();
    let polls: Vec<TcpStream> = (0..100)
        .map(|n| {
            let wait = initiator(&format!("poll {n}")).to_string();
            post(connect(server.signaling()), &wait)
        })
        .collect();
    until(|| server.metric("turnserver_signaling_waiting ") == Some(HOSTS as u64 + 100));
    // Nothing is allocated, so that the drain is over at once.
    server.signal("TERM");
    for host in &mut hosts {
        host.expect_error("going_away");
        host.wait_for_close(1001);
    }
    for poll in polls {
        assert_eq!(reply(poll).body["code"], "going_away");
    }
    let ended = server.wait_for_end(PATIENCE);
    assert!(ended.is_some_and(|status| status.success()));
}

#[test]
fn a_host_registers_again_after_a_restart() {
    let mut server = start("");
    let join = with(initiator("host"), json!({"host": true}));
    let mut host = Socket::open(server.signaling());
    host.join(join.clone());
    host.expect("waiting");
    for _ in 0..3 {
        let mut guest = Socket::open(server.signaling());
        guest.join(receiver("host"));
        let session = guest.expect("paired")["session"].clone();
        assert_eq!(host.expect("paired")["session"], session);
        drop(guest);
        assert_eq!(host.expect("peer_left")["session"], session);
    }
    server.kill();
    host.wait_for_end();
    server.start_again();
    server.wait_until_it_answers();
    let mut host = Socket::open(server.signaling());
    host.join(join);
    host.expect("waiting");
    let answer = pair(server.signaling(), &receiver("host"));
    assert_eq!(host.expect("paired")["session"], answer.body["session"]);
}

#[test]
fn a_thousand_waits_leave_no_descriptor() {
    let server = start("joins_per_minute = 0");
    let before = server.settled_descriptors();
    let wait = with(initiator("k"), json!({"wait_s": 1})).to_string();
    for round in 0..4 {
        let wait = wait.replace("\"k\"", &format!("\"k{round}\""));
        let polls: Vec<TcpStream> = (0..250)
            .map(|n| {
                let wait = wait.replace("\"k", &format!("\"k{n}-"));
                post(connect(server.signaling()), &wait)
            })
            .collect();
        for poll in polls {
            assert_eq!(reply(poll).status, 408);
        }
    }
    until(|| server.metric("turnserver_signaling_connections_active ") == Some(0));
    assert_eq!(server.metric("turnserver_signaling_waiting "), Some(0));
    assert_eq!(
        server.metric("turnserver_signaling_waits_total{end=\"timed_out\"}"),
        Some(1000)
    );
    until(|| server.descriptors() <= before);
}
