//! An attempt at a direct path lasts as long and tries as often as the device was told, and one
//! that cannot succeed is given up.

mod connect_support;
mod support;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use connect_support::by_hand::ByHand;
use connect_support::{By, World, fresh_key, in_time, meet};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use turnserver::client::connect::{Connector, Progress};
use turnserver::client::punch::{Candidate, CandidateKind, Description};
use turnserver::pairing::{AccessKey, Blobs, Opened, Protocol, Role, Salt};

/// An initiator, and what it tells.
fn initiator(world: &World, key: &str) -> (Connector, UnboundedReceiver<Progress>) {
    let (progress, told) = mpsc::unbounded_channel();
    let device = world.device(key).protocol(Protocol::Udp);
    (device.progress(progress), told)
}

/// Why it gives up.
async fn gives_up(told: &mut UnboundedReceiver<Progress>) -> String {
    let giving_up = async {
        loop {
            let told = told.recv().await.expect("the session goes on");
            if let Progress::GaveUp(reason) = told {
                return reason;
            }
        }
    };
    in_time("it gives up", giving_up).await
}

/// A peer that has the key, names this address and answers no check.
async fn peer(world: &World, key: &str, address: SocketAddr) -> ByHand {
    let mut peer = in_time("they meet", ByHand::meet(world, key, Role::Receiver)).await;
    let key = AccessKey::new(key).expect("a key");
    let mut blobs = Blobs::new(key, peer.session, peer.role, Salt([9; 16]));
    peer.say(blobs.first(None)).await;
    let salt = in_time("its salt", peer.hear()).await;
    let opened = blobs.open(&salt).expect("its salt");
    assert!(matches!(opened, Opened::Secrets(..)), "{opened:?}");
    let description = Description {
        candidates: vec![Candidate::new(CandidateKind::Host, address)],
        ..Description::default()
    };
    let description = serde_json::to_vec(&description).expect("JSON");
    peer.say(blobs.seal(&description).expect("open")).await;
    peer
}

/// The checks that a device sends in one attempt.
async fn checks_in_vain(with: impl Fn(Connector) -> Connector) -> usize {
    let world = World::new(By::Nothing);
    let key = fresh_key();
    let (device, mut told) = initiator(&world, &key);
    let connecting = tokio::spawn(with(device).connect());
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let silent = silent.expect("a socket");
    let address = silent.local_addr().expect("bound");
    let _peer = peer(&world, &key, address).await;
    gives_up(&mut told).await;
    connecting.abort();
    let mut buffer = [0; 1500];
    let mut checks = 0;
    while let Ok(len) = silent.try_recv(&mut buffer) {
        // A Binding request (RFC 8489 section 5); what else comes is no check.
        checks += usize::from(buffer[..len].starts_with(&[0, 1]));
    }
    checks
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_lasts_as_long_as_it_was_told() {
    let short = |device: Connector| device.punch_timeout(Duration::from_millis(300));
    let checks = checks_in_vain(short).await;
    // One every 50 ms. A slow machine sends fewer, the 10 s of the default take more than 60.
    assert!((1..20).contains(&checks), "{checks}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_is_tried_as_often_as_it_was_told() {
    let two_seconds = Duration::from_secs(2);
    let seldom = |device: Connector| device.tries(3).punch_timeout(two_seconds);
    assert_eq!(checks_in_vain(seldom).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_wants_the_relay_only_is_not_waited_for() {
    let world = World::new(By::Udp);
    let key = fresh_key();
    let (device, mut told) = initiator(&world, &key);
    // What it would take if it waited.
    let device = device.punch_timeout(Duration::from_secs(3600));
    let peer = tokio::spawn(meet(world.device(&key).relay_only(true)));
    let conn = in_time("they are connected", device.connect()).await;
    let _conn = conn.expect("connected");
    let reason = gives_up(&mut told).await;
    assert!(reason.contains("relay only"), "{reason}");
    let _peer = peer.await.expect("no panic").expect("connected");
}

/// One has IPv4 only and the other IPv6.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_reach_each_other_is_given_up_in_the_same_time() {
    let world = World::new(By::Nothing);
    let key = fresh_key();
    let (device, mut told) = initiator(&world, &key);
    let device = device.bind(Ipv4Addr::LOCALHOST.into());
    let device = device.punch_timeout(Duration::from_millis(300));
    let connecting = tokio::spawn(device.connect());
    let address = (Ipv6Addr::LOCALHOST, 9).into();
    let _peer = peer(&world, &key, address).await;
    let reason = gives_up(&mut told).await;
    connecting.abort();
    assert!(reason.contains("in common"), "{reason}");
}
