//! Beginnings and ends: streams that close, allocations that expire, a process that stops, and
//! what an idle allocation costs.

use turnserver::proto::audit::{Audit, EndReason};
use turnserver::proto::{DropReason, Transport};
use turnserver::wire::{Method, attr};

use crate::harness::*;

fn reasons(world: &World) -> Vec<EndReason> {
    let reason = |audit: &Audit| match audit {
        Audit::Ended { reason, .. } => Some(*reason),
        _ => None,
    };
    world.audits.iter().filter_map(reason).collect()
}

#[test]
fn a_closed_connection_ends_its_allocation() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(stream_flow("192.0.2.1:5000", 1), &user);
    let mut other = world.client(stream_flow("192.0.2.1:5001", 2), &user);
    let relayed = world.allocate(&mut client);
    world.allocate(&mut other);
    let (shard, relay) = world.relay_of(relayed);
    world.close_flow(0, &client.flow);
    assert_eq!(reasons(&world), [EndReason::Disconnected]);
    assert_eq!(world.shards[0].allocations(), 1);
    let outcome = world.from_peer(shard, relay, addr("192.0.2.50:9"), b"x");
    assert_eq!(outcome.drop_reason(), DropReason::NoRelay);
    // A new connection from the same address is another 5-tuple's story.
    let mut again = client.clone();
    again.flow.link = 3;
    world.allocate(&mut again);
    world.close_flow(0, &client.flow);
    assert!(world.shards[0].has_allocation(&again.flow));
    world.close_flow(0, &again.flow);
    world.close_flow(0, &other.flow);
    world.assert_empty();
}

#[test]
fn an_expired_allocation_on_a_stream_asks_for_its_connection_to_be_closed() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut tcp = world.client(stream_flow("192.0.2.1:5000", 1), &user);
    let mut udp = world.client(flow("192.0.2.1:5000"), &user);
    let mut deleted = world.client(stream_flow("192.0.2.1:5001", 2), &user);
    world.allocate(&mut tcp);
    world.allocate(&mut udp);
    world.allocate(&mut deleted);
    world.refresh(&mut deleted, 0);
    assert_eq!(world.closed_flows, []);
    world.pass(601.0);
    assert_eq!(world.closed_flows, [tcp.flow]);
    assert_eq!(
        reasons(&world),
        [EndReason::Deleted, EndReason::Expired, EndReason::Expired]
    );
    world.assert_empty();
}

#[test]
fn expiry_is_never_early_and_at_most_a_second_late() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    for port in 1..=50 {
        let mut client = world.client(flow(&format!("192.0.2.1:{port}")), &user);
        world.allocate(&mut client);
        world.pass(0.037);
    }
    world.pass(600.0 - 50.0 * 0.037 - 0.001);
    assert_eq!(world.shards[0].allocations(), 50);
    world.pass(50.0 * 0.037 + 1.001);
    world.assert_empty();
}

#[test]
fn a_crowd_that_expires_at_once_is_ended_in_bounded_portions() {
    let mut world = Setup {
        ports: 20_000..=29_999,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    for port in 1..=2000 {
        let mut client = world.client(flow(&format!("192.0.2.1:{port}")), &user);
        world.allocate(&mut client);
    }
    world.pass_without_timers(602.0);
    let now = world.now;
    let mut calls = 0;
    while world.shards[0]
        .poll_timeout()
        .is_some_and(|due| due <= now.mono)
    {
        let before = world.shards[0].allocations();
        world.shards[0].handle_timeout(now);
        world.drain_effects(0);
        assert!(before - world.shards[0].allocations() <= 512);
        calls += 1;
    }
    assert!(calls >= 4, "{calls}");
    world.assert_empty();
}

#[test]
fn stopping_ends_everything_with_one_summary_each() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    for port in 1..=5 {
        let mut client = world.client(flow(&format!("192.0.2.1:{port}")), &user);
        world.allocate_with(&mut client, |b| {
            if port == 5 {
                b.even_port(true);
            }
        });
    }
    world.net.defer = true;
    let mut waiting = world.client(flow("192.0.2.1:6"), &user);
    let request = waiting.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        b.even_port(true);
    });
    assert_eq!(world.receive(0, &waiting.flow, &request), Outcome::Waiting);
    let now = world.now;
    world.shards[0].close_all(now);
    world.drain_effects(0);
    world.open_deferred();
    assert_eq!(reasons(&world), [EndReason::Shutdown; 5]);
    assert_eq!(world.snapshot().ended(EndReason::Shutdown), 5);
    assert!(world.net.leases.is_empty() && world.net.held.is_empty());
    assert_eq!(world.shards[0].allocations(), 0);
}

#[test]
fn a_late_socket_of_an_aborted_request_is_closed() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(stream_flow("192.0.2.1:5000", 1), &user);
    world.net.defer = true;
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    world.receive(0, &client.flow, &request);
    world.close_flow(0, &client.flow);
    world.open_deferred();
    world.assert_empty();
}

#[test]
fn transports_are_told_to_the_summary() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(stream_flow("192.0.2.1:5000", 1), &user);
    client.flow.transport = Transport::Tls;
    world.allocate(&mut client);
    world.pass(601.0);
    let ended = world.audits.iter().find_map(|audit| match audit {
        Audit::Ended { flow, seconds, .. } => Some((flow.transport, *seconds)),
        _ => None,
    });
    assert_eq!(ended, Some((Transport::Tls, 600)));
}

#[test]
fn bytes_of_every_kind_never_panic_and_leave_the_server_answering() {
    // A cheap generator of plausible garbage: real messages with bytes changed and cut.
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    world.allocate(&mut client);
    let peer = addr("192.0.2.50:9");
    let seeds = [
        client.request(Method::ALLOCATE, |b| {
            b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
            b.even_port(true);
        }),
        client.request(Method::CREATE_PERMISSION, |b| {
            b.xor_address(attr::XOR_PEER_ADDRESS, peer);
        }),
        client.request(Method::CHANNEL_BIND, |b| {
            b.channel_number(0x4000);
            b.xor_address(attr::XOR_PEER_ADDRESS, peer);
        }),
        client.send(peer, b"payload"),
        channel_data(0x4000, b"payload"),
    ];
    let mut state = 0x9E37_79B9_u32;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize % below
    };
    for _ in 0..20_000 {
        let mut bytes = seeds[random(seeds.len())].clone();
        for _ in 0..random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        bytes.truncate(random(bytes.len() + 1) + 1);
        world.receive(0, &client.flow, &bytes);
    }
    let binding = plain(turnserver::wire::Class::Request, Method::BINDING, |_| {});
    assert_eq!(world.answer(0, &client.flow, &binding).code(), 0);
    assert!(world.shards[0].has_allocation(&client.flow));
}
