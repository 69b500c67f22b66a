//! Two devices connect on this machine through a real pairing endpoint and a real relay, and
//! exchange datagrams and byte streams while the path between them changes.

mod connect_support;
mod support;

use std::collections::HashSet;
use std::time::Duration;

use connect_support::{By, World, becomes, content, fresh_key, in_time, meet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use turnserver::client::connect::{ConnectError, Connector, Ended, Progress, PunchedConn};
use turnserver::client::noise::{LARGEST_DATAGRAM, MAX_DATAGRAM};
use turnserver::client::rendezvous::ServerUrl;
use turnserver::pairing::{AccessKey, PathKind, Protocol, Role};

/// Sends until the other side has something, which may take a few where datagrams are lost.
async fn reaches(from: &PunchedConn, to: &PunchedConn, data: &[u8]) {
    reaches_after(None, from, to, data).await;
}

/// The same, where something went that way before: it may have been sent once more than was needed.
async fn reaches_after(before: Option<&[u8]>, from: &PunchedConn, to: &PunchedConn, data: &[u8]) {
    let next = || async {
        loop {
            let received = to.recv().await;
            if before.is_none() || received.as_deref() != before {
                return received;
            }
        }
    };
    let arrives = async {
        loop {
            from.send(data).await.expect("sent");
            let received = tokio::time::timeout(Duration::from_millis(200), next()).await;
            if let Ok(received) = received {
                assert_eq!(received.as_deref(), Some(data));
                return;
            }
        }
    };
    in_time("a datagram", arrives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_go_both_ways_and_the_path_becomes_direct() {
    let world = World::new(By::Udp);
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    assert_eq!((one.role(), two.role()), (Role::Initiator, Role::Receiver));
    assert_eq!(two.protocol(), Protocol::Udp, "the initiator chose it");
    reaches(&one, &two, b"ping").await;
    reaches(&two, &one, b"pong").await;
    for conn in [&one, &two] {
        let info = becomes(&mut conn.path_changes(), PathKind::Direct).await;
        assert!(info.remote.is_some() && info.rtt.is_some(), "{info:?}");
    }
    reaches_after(Some(b"ping"), &one, &two, &content(MAX_DATAGRAM)).await;
    reaches_after(Some(b"pong"), &two, &one, &content(LARGEST_DATAGRAM)).await;
    let long = one.send(&content(LARGEST_DATAGRAM + 1)).await;
    assert_eq!(
        long.map_err(|error| error.kind()),
        Err(std::io::ErrorKind::InvalidInput)
    );
}

/// The server as it is shipped: it mints credentials that are good for this pair alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_alone_is_enough() {
    for relay_only in [false, true] {
        let config = support::Config {
            signaling: Some(String::new()),
            ..support::Config::default()
        };
        let server = support::Server::with(config);
        let url: ServerUrl = server.signaling().to_string().parse().expect("a server");
        let key = AccessKey::new(&fresh_key()).expect("a key");
        let device = Connector::new(url, key).relay_only(relay_only);
        let initiator = device.clone().protocol(Protocol::Udp).connect();
        let (one, two) = tokio::join!(initiator, meet(device));
        let (one, two) = (one.expect("connected"), two.expect("connected"));
        let path = match relay_only {
            true => PathKind::Relayed,
            false => PathKind::Direct,
        };
        becomes(&mut one.path_changes(), path).await;
        echo(one, two, 100_000, async {}).await;
    }
}

/// A laptop without a network: the relay address is a loopback one, and nothing is allowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_by_itself_has_a_relay() {
    let server = support::Server::with(support::Config {
        signaling: Some(String::new()),
        peers: String::new(),
        ..support::Config::default()
    });
    let url: ServerUrl = server.signaling().to_string().parse().expect("a server");
    let key = AccessKey::new(&fresh_key()).expect("a key");
    let device = Connector::new(url, key).relay_only(true);
    let initiator = device.clone().protocol(Protocol::Udp).connect();
    let (one, two) = tokio::join!(initiator, meet(device));
    let (one, two) = (one.expect("connected"), two.expect("connected"));
    reaches(&one, &two, b"ping").await;
    reaches(&two, &one, b"pong").await;
    let relayed = one.path().local.expect("a relayed address");
    assert!(relayed.ip().is_loopback(), "{relayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_relay_by_every_transport() {
    for by in [By::Udp, By::Tcp, By::Tls] {
        let world = World::new(by);
        let (one, two) = world
            .pair(Protocol::Udp, |device| device.relay_only(true))
            .await;
        reaches(&one, &two, b"ping").await;
        reaches(&two, &one, &content(MAX_DATAGRAM)).await;
        for conn in [&one, &two] {
            let info = conn.path();
            assert_eq!(info.path, PathKind::Relayed, "{by:?}");
            assert_eq!(info.reason, "only the relay is to be used");
            assert!(info.local.is_some() && info.remote.is_some(), "{info:?}");
        }
        assert_eq!(one.path().local, two.path().remote, "two allocations");
        assert_eq!(two.path().local, one.path().remote);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_a_direct_path_is_enough() {
    let world = World::new(By::Nothing);
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    assert_eq!(one.path().path, PathKind::Direct);
    reaches(&one, &two, b"ping").await;
    reaches(&two, &one, b"pong").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_at_all_is_told_with_the_reason() {
    let world = World::new(By::Nothing);
    let key = fresh_key();
    let short = |device: Connector| {
        device
            .relay_only(true)
            .establish_timeout(Duration::from_secs(3))
    };
    let one = short(world.device(&key).protocol(Protocol::Udp));
    let (one, two) = tokio::join!(one.connect(), meet(short(world.device(&key))));
    for error in [one.err(), two.err()] {
        let Some(ConnectError::NoPath { reason }) = error else {
            panic!("{error:?}");
        };
        assert!(
            reason.contains("no relay") || reason.contains("left"),
            "{reason}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there() {
    let world = World::new(By::Udp);
    let key = fresh_key();
    let alone = world.device(&key).connect().await;
    assert!(matches!(alone, Err(ConnectError::NobodyWaits)), "{alone:?}");
    let (progress, mut told) = mpsc::unbounded_channel();
    let wait = Duration::from_secs(1);
    let waiting = world.device(&key).protocol(Protocol::Udp).wait(wait);
    let waited = waiting.progress(progress).connect().await;
    assert!(matches!(waited, Err(ConnectError::TimedOut)), "{waited:?}");
    assert!(matches!(told.recv().await, Some(Progress::Waiting { .. })));
}

/// Every datagram carries its number; none may come twice, whatever happens to the path.
#[tokio::test(flavor = "multi_thread")]
async fn a_moving_path_doubles_no_datagram() {
    let world = World::new(By::Udp);
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    let loss = one.direct_loss().expect("a udp session");
    let mut changes = one.path_changes();
    let sender = tokio::spawn(async move {
        let mut number = 0_u32;
        loop {
            if one.send(&number.to_be_bytes()).await.is_err() {
                return;
            }
            number += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let (marks, mut marked) = mpsc::unbounded_channel();
    let receiver = tokio::spawn(async move {
        let mut seen = HashSet::new();
        while let Some(datagram) = two.recv().await {
            let number = u32::from_be_bytes(datagram[..].try_into().expect("a number"));
            assert!(seen.insert(number), "{number} came twice");
            let _ = marks.send(number);
        }
        seen.len()
    });
    let mut flows = async |what: &str| {
        while marked.try_recv().is_ok() {}
        for _ in 0..50 {
            in_time(what, marked.recv())
                .await
                .expect("the receiver lives");
        }
    };
    becomes(&mut changes, PathKind::Direct).await;
    flows("directly").await;
    loss.set(100).await;
    becomes(&mut changes, PathKind::Relayed).await;
    flows("through the relay again").await;
    loss.set(0).await;
    becomes(&mut changes, PathKind::Direct).await;
    flows("directly again").await;
    sender.abort();
    let seen = in_time("the end", receiver).await.expect("no panic");
    assert!(seen >= 150, "{seen}");
}

/// Sends `content` through an echo on the other side while `meanwhile` goes on.
async fn echo(
    one: PunchedConn,
    two: PunchedConn,
    len: usize,
    meanwhile: impl Future<Output = ()> + Send + 'static,
) {
    let echo = tokio::spawn(async move {
        let mut stream = two.into_stream().await.expect("a stream");
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = stream.read(&mut buffer).await.expect("readable");
            if read == 0 {
                break;
            }
            stream.write_all(&buffer[..read]).await.expect("writable");
        }
        stream.close().await.expect("everything arrived");
    });
    let stream = in_time("a stream", one.into_stream())
        .await
        .expect("a stream");
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = content(len);
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        // Slowly, so that it is under way while the path moves.
        for chunk in sent.chunks(8 * 1024) {
            write.write_all(chunk).await.expect("writable");
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        write.shutdown().await.expect("everything arrived");
        write
    });
    let meanwhile = tokio::spawn(meanwhile);
    let mut back = Vec::new();
    in_time("the echo", read.read_to_end(&mut back))
        .await
        .expect("readable");
    assert!(back == expected, "{} bytes came back of {len}", back.len());
    let write = writer.await.expect("no panic");
    let stream = read.unsplit(write);
    in_time("the end", stream.close()).await.expect("in order");
    in_time("the echo ends", echo).await.expect("no panic");
    in_time("what went on meanwhile", meanwhile)
        .await
        .expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moving_path_loses_and_doubles_no_byte() {
    let world = World::new(By::Udp);
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    let loss = one.direct_loss().expect("a udp session");
    let mut changes = one.path_changes();
    let moves = async move {
        becomes(&mut changes, PathKind::Direct).await;
        loss.set(100).await;
        becomes(&mut changes, PathKind::Relayed).await;
        loss.set(0).await;
        becomes(&mut changes, PathKind::Direct).await;
    };
    echo(one, two, 1 << 20, moves).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_arrives_over_a_lossy_path() {
    let world = World::new(By::Nothing);
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    let loss = one.direct_loss().expect("a udp session");
    echo(one, two, 256 * 1024, async move { loss.set(5).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_at_a_time() {
    let world = World::new(By::Udp);
    let (one, two) = world.pair(Protocol::Udp, |device| device).await;
    let (one, two) = tokio::join!(one.into_streams(), two.into_streams());
    let (one, two) = (one.expect("streams"), two.expect("streams"));
    let accepting = two.clone();
    tokio::spawn(async move {
        while let Ok(mut stream) = accepting.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.expect("readable");
                stream.write_all(&all).await.expect("writable");
                stream.shutdown().await.expect("everything arrived");
            });
        }
    });
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..20_usize {
        let streams = one.clone();
        calls.spawn(async move {
            let mut stream = streams.open().await.expect("a stream");
            let sent = content(10_000 + number);
            stream.write_all(&sent).await.expect("writable");
            stream.shutdown().await.expect("everything arrived");
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.expect("readable");
            assert!(back == sent);
        });
    }
    let all = async {
        while let Some(call) = calls.join_next().await {
            call.expect("no panic")
        }
    };
    in_time("twenty streams", all).await;
    // Datagrams go beside them.
    let beside = async {
        loop {
            one.send(b"beside").await.expect("sent");
            let received = tokio::time::timeout(Duration::from_millis(200), two.recv()).await;
            if let Ok(received) = received {
                return received;
            }
        }
    };
    assert_eq!(
        in_time("a datagram", beside).await.as_deref(),
        Some(&b"beside"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_is_told_from_either_side() {
    let world = World::new(By::Udp);
    for first in 0..2 {
        let (one, two) = world.pair(Protocol::Udp, |device| device).await;
        let (closing, other) = if first == 0 { (one, two) } else { (two, one) };
        in_time("the peer knows", closing.close()).await;
        assert_eq!(in_time("the end", other.recv()).await, None);
        assert_eq!(other.ended(), Some(Ended::ByPeer(0)));
        let late = async {
            loop {
                // The queue in front of the session may still take some.
                if let Err(error) = other.send(b"late").await {
                    return error.kind();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert_eq!(
            in_time("an error", late).await,
            std::io::ErrorKind::BrokenPipe
        );
        in_time("it is closed already", other.close()).await;
    }
}

/// However long somebody wants to wait.
#[tokio::test(flavor = "multi_thread")]
async fn endless_times_are_no_error() {
    let world = World::new(By::Udp);
    let endless = |device: Connector| {
        device
            .wait(Duration::MAX)
            .establish_timeout(Duration::MAX)
            .punch_timeout(Duration::MAX)
    };
    let (one, two) = world.pair(Protocol::Udp, endless).await;
    reaches(&one, &two, b"ping").await;
    let (one, _two) = world.pair(Protocol::Tcp, endless).await;
    assert_eq!(one.path().path, PathKind::Direct);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_takes_one_after_the_other_and_outlives_its_server() {
    let mut world = World::new(By::Udp);
    let key = fresh_key();
    let mut host = world.device(&key).host();
    in_time("it is registered", host.registered())
        .await
        .expect("it is taken");
    let guest = tokio::join!(world.device(&key).connect(), host.accept());
    let (first, host_of_first) = (guest.0.expect("a guest"), guest.1.expect("a guest"));
    let both = tokio::join!(
        world.device(&key).connect(),
        world.device(&key).connect(),
        async { [host.accept().await, host.accept().await] }
    );
    for conn in [both.0, both.1].into_iter().chain(both.2) {
        assert_eq!(conn.expect("connected").protocol(), Protocol::Udp);
    }
    world.restart_pairing(By::Udp);
    // What was connected still is.
    reaches(&first, &host_of_first, b"still").await;
    reaches(&host_of_first, &first, b"here").await;
    let (again, host_of_again) = tokio::join!(meet(world.device(&key)), host.accept());
    let (again, host_of_again) = (again.expect("a guest"), host_of_again.expect("a guest"));
    reaches(&again, &host_of_again, b"new").await;
    drop(host);
    reaches(&host_of_again, &again, b"without a host").await;
    let gone = async {
        loop {
            match world.device(&key).connect().await {
                Err(ConnectError::NobodyWaits) => return,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    in_time("the host is gone", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_raw_socket_can_be_taken_out() {
    let world = World::new(By::Udp);
    let (one, two) = world.pair(Protocol::Udp, |device| device.raw(true)).await;
    assert_eq!(one.path().path, PathKind::Direct);
    let (one, two) = tokio::join!(one.into_udp_socket(), two.into_udp_socket());
    let ((one, _), (two, _)) = (one.expect("a socket"), two.expect("a socket"));
    assert_eq!(one.peer_addr().ok(), two.local_addr().ok());
    let raw = async {
        one.send(b"raw").await.expect("sent");
        let mut buffer = [0; 2000];
        loop {
            // Last words of the session may still come.
            let len = two.recv(&mut buffer).await.expect("received");
            if !matches!(buffer[0], 0..=3 | 10..=12) {
                return buffer[..len].to_vec();
            }
        }
    };
    assert_eq!(in_time("a datagram in clear", raw).await, b"raw");
    let (sealed, _peer) = world.pair(Protocol::Udp, |device| device).await;
    let refused = sealed.into_udp_socket().await.map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(std::io::ErrorKind::Unsupported));
}

/// What webrtc-rs runs over.
#[cfg(feature = "webrtc-conn")]
#[tokio::test(flavor = "multi_thread")]
async fn as_a_conn_of_webrtc() {
    use turnserver::client::webrtc::WebrtcConn;
    use webrtc_util::Conn;

    let world = World::new(By::Udp);
    let (one, two) = world
        .pair(Protocol::Udp, |device| device.relay_only(true))
        .await;
    let (one, two) = (WebrtcConn::from(one), WebrtcConn::from(two));
    assert_eq!(one.send(b"ping").await.expect("sent"), 4);
    let mut buffer = [0; 100];
    let (len, from) = in_time("a datagram", two.recv_from(&mut buffer))
        .await
        .expect("one");
    assert_eq!(&buffer[..len], b"ping");
    assert_eq!(Some(from), two.remote_addr());
    in_time("the end", one.close()).await.expect("closed");
    assert!(in_time("the end", two.recv(&mut buffer)).await.is_err());
}
