//! Byte streams of the library, where waiting is broken off, streams are dropped, and nobody
//! accepts.

mod connect_support;
mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use connect_support::{By, World, fresh_key, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use turnserver::client::quic::Streams;
use turnserver::pairing::{PathKind, Protocol};

async fn streams(world: &World) -> (Streams, Streams, turnserver::client::connect::DirectLoss) {
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    let loss = one.direct_loss().expect("a udp session");
    let (one, two) = tokio::join!(one.into_streams(), two.into_streams());
    (one.expect("streams"), two.expect("streams"), loss)
}

/// Over a lossy path a stream is known by a later one before its own first bytes come: it is
/// given out all the same, and waits for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn no_stream_is_lost_when_the_waiting_is_broken_off() {
    const STREAMS: u32 = 200;
    let world = World::new(By::Nothing);
    let (one, two, loss) = streams(&world).await;
    loss.set(25).await;
    let opening = tokio::spawn(async move {
        let mut open = Vec::new();
        for number in 0..STREAMS {
            let mut stream = one.open().await.expect("a stream");
            // Nearly a datagram for each.
            let mut bytes = number.to_be_bytes().to_vec();
            bytes.resize(1000, 0);
            stream.write_all(&bytes).await.expect("writable");
            open.push(stream);
        }
        for stream in &mut open {
            stream.shutdown().await.expect("everything arrived");
        }
        one
    });
    let mut reading = tokio::task::JoinSet::new();
    let accepting = async {
        while reading.len() < STREAMS as usize {
            let soon = timeout(Duration::from_micros(200), two.accept()).await;
            if let Ok(accepted) = soon {
                let mut stream = accepted.expect("a stream");
                reading.spawn(async move {
                    let number = stream.read_u32().await.expect("its number");
                    let mut rest = Vec::new();
                    stream.read_to_end(&mut rest).await.expect("the rest");
                    number
                });
            }
        }
    };
    in_time("every stream", accepting).await;
    let numbers: BTreeSet<_> = reading.join_all().await.into_iter().collect();
    assert!(numbers.into_iter().eq(0..STREAMS));
    in_time("the other side", opening).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_breaks_off_and_the_others_go_on() {
    let world = World::new(By::Udp);
    let (one, two, _) = streams(&world).await;
    let mut kept = one.open().await.expect("a stream");
    let mut dropped = one.open().await.expect("a stream");
    dropped.write_all(b"half of ").await.expect("writable");
    let mut kept_there = two.accept().await.expect("a stream");
    let mut dropped_there = two.accept().await.expect("a stream");
    let mut half = [0; 8];
    dropped_there.read_exact(&mut half).await.expect("readable");
    drop(dropped);
    let end = in_time("the end", dropped_there.read(&mut half)).await;
    assert_eq!(end.expect_err("no end").kind(), ErrorKind::ConnectionReset);
    // Also the reader's side: what was written is not read.
    let mut unread = one.open().await.expect("a stream");
    unread.write_all(b"never read").await.expect("writable");
    drop(two.accept().await.expect("a stream"));
    let ended = in_time("it is known", unread.shutdown()).await;
    assert_eq!(ended.expect_err("no end").kind(), ErrorKind::BrokenPipe);
    kept.write_all(b"whole").await.expect("writable");
    let mut all = Vec::new();
    let (ended, read) = tokio::join!(kept.shutdown(), kept_there.read_to_end(&mut all));
    ended.expect("everything arrived");
    read.expect("readable");
    assert_eq!(all, b"whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_knows_that_the_peer_takes_no_more() {
    let world = World::new(By::Udp);
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        // In order, and broken off.
        for in_order in [true, false] {
            let (one, two) = world.pair(protocol, |device| device).await;
            let (one, two) = tokio::join!(one.into_stream(), two.into_stream());
            let (one, two) = (one.expect("a stream"), two.expect("a stream"));
            let over = one.over();
            tokio::pin!(over);
            let early = timeout(Duration::from_millis(100), &mut over).await;
            assert!(early.is_err(), "{protocol:?}: it is there");
            let mut one = one;
            one.write_all(b"never read").await.expect("writable");
            if in_order && protocol == Protocol::Udp {
                in_time("the end", two.close()).await.expect("in order");
                in_time("it is over", over).await.expect("in order");
            } else {
                // Closed with bytes that nobody has read.
                timeout(Duration::from_millis(200), std::future::pending::<()>())
                    .await
                    .expect_err("never");
                drop(two);
                in_time("it is over", over).await.expect_err("broken");
            }
        }
    }
}

/// Who closes has made sure that its end is here; that nobody has read so far changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_not_read_yet_is_no_loss() {
    let world = World::new(By::Udp);
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    let (one, two) = tokio::join!(one.into_stream(), two.into_stream());
    let (mut one, mut two) = (one.expect("a stream"), two.expect("a stream"));
    let sent: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    one.write_all(&sent).await.expect("writable");
    let over = two.over();
    in_time("the peer has all", one.close())
        .await
        .expect("in order");
    in_time("it is over", over).await.expect("in order");
    let ended = in_time("the own end", two.shutdown()).await;
    ended.expect("the peer has left in order");
    let mut all = Vec::new();
    in_time("all of it", two.read_to_end(&mut all))
        .await
        .expect("readable");
    assert!(all == sent, "{} bytes", all.len());
}

/// QUIC says once how it closes, and the session, which is heard in any case, says the same. Nothing
/// then goes on beside who holds what has ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_session_too_says_how_its_streams_were_left() {
    let world = World::new(By::Udp);
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let mut usual = None;
    for in_order in [true, false] {
        let (one, two, _) = streams(&world).await;
        match in_order {
            true => one.close().await,
            false => drop(one),
        }
        assert!(in_time("the end", two.recv()).await.is_none());
        let kind = match in_order {
            true => ErrorKind::BrokenPipe,
            false => ErrorKind::ConnectionReset,
        };
        assert_eq!(two.why_ended().kind(), kind);
        timeout(Duration::from_secs(1), std::future::pending::<()>())
            .await
            .expect_err("never");
        let usual = *usual.get_or_insert_with(tasks);
        let end = async {
            while tasks() > usual {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time("the end of what served it", end).await;
    }
}

/// It is told of the stream alone, whether or not the connection ends too.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_among_others_knows_how_the_peer_left_it() {
    let world = World::new(By::Udp);
    let (one, two, _) = streams(&world).await;
    for in_order in [true, false] {
        let mut stream = one.open().await.expect("a stream");
        let over = stream.over();
        stream.write_all(b"never read").await.expect("writable");
        let there = in_time("it is there", two.accept()).await;
        let there = there.expect("a stream");
        if in_order {
            in_time("the end", there.close()).await.expect("in order");
            in_time("it is over", over).await.expect("in order");
        } else {
            drop(there);
            in_time("it is over", over).await.expect_err("broken");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_connect_to_a_host_that_does_not_look() {
    let world = World::new(By::Udp);
    let key = fresh_key();
    let mut host = world.device(&key).host();
    in_time("it is registered", host.registered())
        .await
        .expect("it is taken");
    let guests = async { tokio::join!(world.device(&key).connect(), world.device(&key).connect()) };
    let (one, two) = in_time("both are connected", guests).await;
    // Neither leaves before the host has both: it may give out the other one first.
    let guests = [one, two].map(|guest| guest.expect("connected"));
    for guest in &guests {
        guest.send(b"hello").await.expect("sent");
        let here = in_time("a device", host.accept()).await;
        let here = here.expect("connected");
        assert!(matches!(
            here.path().path,
            PathKind::Direct | PathKind::Relayed
        ));
    }
    assert!(host.is_open());
}
