//! Wrong passwords cost their sender, and nobody else.

use turnserver::wire::Method;

use super::{assert_challenge, world_and_client};
use crate::harness::*;

#[test]
fn wrong_passwords_have_a_smaller_budget_of_their_own() {
    let mut world = Setup {
        replies: 10,
        ..Setup::default()
    }
    .world();
    let user = User::new("alice", "wrong");
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    let answered = (0..1000)
        .filter(|_| {
            let request = client.request(Method::ALLOCATE, |_| {});
            let outcome = world.receive(0, &client.flow, &request);
            matches!(outcome, Outcome::Reply { .. })
        })
        .count();
    assert!((1..=5).contains(&answered), "{answered}");
    // As many lines in the log as answers, not as tries.
    assert_eq!(world.audits.len(), answered);
    assert_eq!(world.snapshot().authentication_failures, 1000);
}

#[test]
fn proven_users_are_not_budgeted() {
    let mut world = Setup {
        replies: 10,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let mut client = world.client(flow("192.0.2.1:5000"), &user);
    world.allocate(&mut client);
    for _ in 0..500 {
        assert_eq!(world.refresh(&mut client, 600).code(), 0);
    }
}

#[test]
fn an_office_behind_one_address_does_not_wait_once_somebody_is_known_there() {
    let mut world = Setup {
        replies: 10,
        ..Setup::default()
    }
    .world();
    let user = world.setup.users[0].clone();
    let mut first = world.client(flow("192.0.2.1:5000"), &user);
    world.allocate(&mut first);
    // Each new client's first request is answered by a challenge, all in the same instant.
    for port in 6000..6060 {
        let mut client = world.client(flow(&format!("192.0.2.1:{port}")), &user);
        world.allocate(&mut client);
    }
}

#[test]
fn an_unknown_user_is_401_also_where_an_earlier_attempt_failed() {
    let (mut world, mut client) = world_and_client();
    client.name = b"mallory".to_vec();
    for _ in 0..3 {
        let request = client.request(Method::ALLOCATE, |_| {});
        assert_challenge(&world.answer(0, &client.flow, &request), 401);
    }
    client.name = b"alice".to_vec();
    world.allocate(&mut client);
}
