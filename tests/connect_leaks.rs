//! What two connected devices leave behind: nothing. Alone in its process, because it counts what
//! the process has.

mod connect_support;
mod support;

use std::time::Duration;

use connect_support::{By, World, becomes, fresh_key};
use tokio::io::AsyncWriteExt;
use turnserver::client::connect::ConnectError;
use turnserver::pairing::{PathKind, Protocol};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("readable")
        .count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

async fn once(world: &World) {
    // Dropped without a word, closed in order, as streams, through TCP, given up while waiting.
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    becomes(&mut one.path_changes(), PathKind::Direct).await;
    drop((one, two));
    let (one, _two) = world
        .pair(Protocol::Udp, |device| device.relay_only(true))
        .await;
    one.close().await;
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    let (one, two) = tokio::join!(one.into_stream(), two.into_stream());
    let mut stream = one.expect("a stream");
    stream.write_all(b"x").await.expect("writable");
    drop((stream, two));
    let _pair = world.pair(Protocol::Tcp, |device| device).await;
    let _pair = world
        .pair(Protocol::Tcp, |device| device.relay_only(true))
        .await;
    let key = fresh_key();
    let waiting = world.device(&key).protocol(Protocol::Udp).connect();
    let _ = tokio::time::timeout(Duration::from_millis(300), waiting).await;
    let nobody = world.device(&fresh_key()).connect().await;
    assert!(matches!(nobody, Err(ConnectError::NobodyWaits)));
    let mut host = world.device(&key).host();
    host.registered().await.expect("registered");
}

/// Waits until nothing has changed for 3 s.
async fn settled() -> (usize, usize) {
    let mut last = (descriptors(), tasks());
    let mut same = 0;
    while same < 60 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = (descriptors(), tasks());
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// Waits until no more than this is left, and says what is.
async fn settles(most: (usize, usize)) -> (usize, usize) {
    for _ in 0..600 {
        let left = (descriptors(), tasks());
        if left.0 <= most.0 && left.1 <= most.1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (descriptors(), tasks())
}

#[tokio::test]
async fn no_task_and_no_socket_is_left() {
    let world = World::new(By::Udp);
    // The first round opens what the process keeps.
    once(&world).await;
    // The pairing endpoint in this process closes its ends of the connections a little later.
    let before = settled().await;
    once(&world).await;
    once(&world).await;
    let after = settles(before).await;
    assert_eq!(after.1, before.1, "tasks");
    assert!(
        after.0 <= before.0,
        "descriptors: {} after {}",
        after.0,
        before.0
    );
}
