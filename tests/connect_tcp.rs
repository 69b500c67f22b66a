//! Two devices make a byte stream on this machine, directly and through the relay.

mod connect_support;
mod support;

use std::time::Duration;

use connect_support::{By, World, content, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use turnserver::client::connect::{Connector, Progress, PunchedConn};
use turnserver::pairing::{PathKind, Protocol};

/// Both write at the same time, each ends its direction, and both read it all.
async fn exchange(conn: PunchedConn, len: usize, expected: usize) {
    let stream = conn.into_stream().await.expect("a stream");
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = content(len);
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.expect("writable");
        write.shutdown().await.expect("everything arrived");
        write
    });
    let mut all = Vec::new();
    in_time("all bytes", read.read_to_end(&mut all))
        .await
        .expect("readable");
    assert!(
        all == content(expected),
        "{} of {expected} bytes",
        all.len()
    );
    let write = writer.await.expect("no panic");
    in_time("the end", read.unsplit(write).close())
        .await
        .expect("in order");
}

async fn connects(world: &World, with: impl Fn(Connector) -> Connector, path: PathKind) {
    let (one, two) = world.pair(Protocol::Tcp, with).await;
    for conn in [&one, &two] {
        assert_eq!(conn.protocol(), Protocol::Tcp);
        assert_eq!(conn.path().path, path, "{:?}", conn.path());
        assert!(conn.send(b"no datagrams").await.is_err());
    }
    let one = tokio::spawn(exchange(one, 300_000, 200_000));
    let two = tokio::spawn(exchange(two, 200_000, 300_000));
    one.await.expect("no panic");
    two.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_connection_under_noise() {
    let world = World::new(By::Udp);
    connects(&world, |device| device, PathKind::Direct).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_relay_where_only_that_is_wanted() {
    for by in [By::Udp, By::Tls] {
        let world = World::new(by);
        connects(&world, |device| device.relay_only(true), PathKind::Relayed).await;
    }
}

/// One side dials, the other does not even listen: after its time both take the relay.
#[tokio::test(flavor = "multi_thread")]
async fn through_the_relay_where_no_connection_can_be_made() {
    let world = World::new(By::Udp);
    let key = connect_support::fresh_key();
    let dials = world.device(&key).punch_timeout(Duration::from_millis(250));
    let one = dials.protocol(Protocol::Tcp).connect();
    let two = connect_support::meet(world.device(&key).relay_only(true));
    let (one, two) = tokio::join!(one, two);
    let (one, two) = (one.expect("connected"), two.expect("connected"));
    assert_eq!(one.path().path, PathKind::Relayed);
    assert_eq!(one.path().reason, "the peer told no address to dial");
    let one = tokio::spawn(exchange(one, 1000, 2000));
    let two = tokio::spawn(exchange(two, 2000, 1000));
    one.await.expect("no panic");
    two.await.expect("no panic");
}

/// However long it wants to punch.
#[tokio::test(flavor = "multi_thread")]
async fn an_initiator_does_not_punch_for_one_that_has_left() {
    const LONG: Duration = Duration::from_secs(600);
    let world = World::new(By::Udp);
    let key = connect_support::fresh_key();
    let one = world.device(&key).protocol(Protocol::Tcp);
    let one = one.punch_timeout(LONG).establish_timeout(LONG);
    let (progress, mut told) = mpsc::unbounded_channel();
    let two = world.device(&key).relay_only(true).progress(progress);
    let leaves = async {
        let paired = async { while !matches!(told.recv().await, Some(Progress::Paired { .. })) {} };
        tokio::select! {
            connected = connect_support::meet(two) => panic!("{connected:?}"),
            () = paired => {}
        }
    };
    let (connected, ()) = tokio::join!(in_time("the end", one.connect()), leaves);
    let error = connected.expect_err("nobody is there").to_string();
    assert!(error.contains("the peer has left"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_raw_connection_can_be_taken_out() {
    let world = World::new(By::Udp);
    let (one, two) = world.pair(Protocol::Tcp, |device| device.raw(true)).await;
    let (mut one, _) = one.into_tcp_stream().expect("a connection");
    let keepalive = socket2::SockRef::from(&one).keepalive();
    assert!(keepalive.expect("known"), "a peer that vanishes is noticed");
    let (mut two, _) = two.into_tcp_stream().expect("a connection");
    one.write_all(b"raw").await.expect("writable");
    let mut buffer = [0; 3];
    in_time("3 bytes", two.read_exact(&mut buffer))
        .await
        .expect("readable");
    assert_eq!(&buffer, b"raw");
}

/// One closes while bytes of the other are unread, and the other has not got everything yet.
#[tokio::test(flavor = "multi_thread")]
async fn closing_takes_nothing_back() {
    const LEN: usize = 1_500_000;
    let world = World::new(By::Udp);
    for _ in 0..3 {
        let (one, two) = world.pair(Protocol::Tcp, |device| device).await;
        assert_eq!(one.path().path, PathKind::Direct);
        let (one, two) = tokio::join!(one.into_stream(), two.into_stream());
        let (mut one, mut two) = (one.expect("a stream"), two.expect("a stream"));
        two.write_all(&content(10_000)).await.expect("writable");
        let closing = tokio::spawn(async move {
            one.write_all(&content(LEN)).await.expect("writable");
            one.close().await
        });
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let mut all = Vec::new();
        in_time("all bytes", two.read_to_end(&mut all))
            .await
            .expect("readable");
        assert!(all == content(LEN), "{} of {LEN} bytes", all.len());
        in_time("the end", two.close()).await.expect("in order");
        let closed = in_time("both ends", closing).await.expect("no panic");
        closed.expect("in order");
    }
}
