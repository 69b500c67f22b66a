//! A server that is going away: RFC 8656 section 7.2 (300), RFC 8489 section 10.

use turnserver::wire::{Method, attr};

use crate::harness::*;

fn draining(alternates: &[&str]) -> World {
    let mut world = World::new();
    world.shards[0].drain(alternates.iter().map(|text| addr(text)).collect());
    world
}

fn refused(world: &mut World, client: &str) -> Response {
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow(client), &user);
    world.call(&mut client, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    })
}

#[test]
fn a_new_client_is_sent_to_the_sibling_of_its_family_under_integrity() {
    let mut world = draining(&["203.0.113.2:3478", "[2001:db8:2::2]:3478"]);
    for (client, sibling) in [
        ("192.0.2.1:5000", "203.0.113.2:3478"),
        ("[2001:db8:9::1]:5000", "[2001:db8:2::2]:3478"),
    ] {
        // `call` checks the integrity.
        let response = refused(&mut world, client);
        assert_eq!(response.code(), 300);
        let alternate = response.attrs().alternate_server();
        assert_eq!(alternate, Ok(Some(addr(sibling))));
    }
    world.assert_empty();
}

#[test]
fn without_a_sibling_of_its_family_it_is_508() {
    let mut world = draining(&["203.0.113.2:3478"]);
    assert_eq!(refused(&mut world, "[2001:db8:9::1]:5000").code(), 508);
    let mut world = draining(&[]);
    assert_eq!(refused(&mut world, "192.0.2.1:5000").code(), 508);
    world.assert_empty();
}

#[test]
fn a_client_is_never_redirected_to_the_address_it_used() {
    let used = flow("192.0.2.1:5000").local.to_string();
    let mut world = draining(&[&used]);
    assert_eq!(refused(&mut world, "192.0.2.1:5000").code(), 508);
    let mut world = draining(&[&used, "203.0.113.2:3478"]);
    let response = refused(&mut world, "192.0.2.1:5000");
    let alternate = response.attrs().alternate_server();
    assert_eq!(alternate, Ok(Some(addr("203.0.113.2:3478"))));
}

#[test]
fn an_unproven_client_is_challenged_not_redirected() {
    let mut world = draining(&["203.0.113.2:3478"]);
    let request = plain(turnserver::wire::Class::Request, Method::ALLOCATE, |_| {});
    let response = world.answer(0, &flow("192.0.2.1:5000"), &request);
    assert_eq!(response.code(), 401);
    assert_eq!(response.attrs().alternate_server(), Ok(None));
}

#[test]
fn existing_allocations_live_on_and_can_be_refreshed() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let request = client.request(Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
    });
    let first = world.call_bytes(&client, &request);
    world.shards[0].drain(vec![addr("203.0.113.2:3478")]);
    assert_eq!(world.call_bytes(&client, &request), first);
    assert_eq!(world.refresh(&mut client, 600).code(), 0);
    let peer = addr("192.0.2.50:9");
    assert_eq!(world.permit(&mut client, &[peer]).code(), 0);
    assert_eq!(world.bind(&mut client, 0x4000, peer).code(), 0);
    assert_eq!(world.channel(&client, 0x4000, b"x").to_peer().0, peer);
    // What is wrong with a request is still told first.
    let mut other = world.client(flow("192.0.2.1:5001"), &user);
    let response = world.call(&mut other, Method::ALLOCATE, |_| {});
    assert_eq!(response.code(), 400);
}

#[test]
fn a_claim_refused_while_draining_leaves_the_reservation_as_it_was() {
    let mut world = World::new();
    let user = world.setup.users[0].clone();
    let mut first = world.client(flow("192.0.2.1:5000"), &user);
    let token = world
        .allocate_with(&mut first, |b| {
            b.even_port(true);
        })
        .token()
        .expect("a token");
    world.shards[0].drain(vec![addr("203.0.113.2:3478")]);
    let mut second = world.client(flow("192.0.2.1:5001"), &user);
    let response = world.call(&mut second, Method::ALLOCATE, |b| {
        b.u8_rffu(attr::REQUESTED_TRANSPORT, 17);
        b.attribute(attr::RESERVATION_TOKEN, &token);
    });
    assert_eq!(response.code(), 300);
    assert_eq!(world.shared.quotas.held_by("alice"), 2);
    assert_eq!(world.net.held.len(), 1);
    world.pass(601.0);
    world.assert_empty();
}
