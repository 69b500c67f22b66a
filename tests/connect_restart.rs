//! Two devices stay connected when their relay is started again, or knows them no longer by the
//! address that they send from.

mod connect_support;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use connect_support::rebinding::Nat;
use connect_support::{By, World, becomes, content, fresh_key, in_time, meet};
use support::{Config, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{sleep, timeout};
use turnserver::client::connect::{Connector, PathInfo, Progress, PunchedConn};
use turnserver::client::noise::MAX_DATAGRAM;
use turnserver::client::relay::{Relay, RelayEvent};
use turnserver::pairing::{AccessKey, IceServer, PathKind, Protocol};

/// What a device tells of itself.
type Told = UnboundedReceiver<Progress>;

/// The server as it is shipped, with a secret that outlives it.
fn server() -> Server {
    Server::with(Config {
        signaling: Some(String::new()),
        ..Config::default()
    })
}

/// A crash, and somebody who notices.
async fn restart(server: &mut Server) {
    server.kill();
    sleep(Duration::from_millis(700)).await;
    server.start_again();
    server.wait_until_it_answers();
}

/// Two devices that meet at a server, and what they tell.
async fn pair(at: SocketAddr, relay_only: bool) -> [(PunchedConn, Told); 2] {
    let key = AccessKey::new(&fresh_key()).expect("a key");
    let server = at.to_string().parse().expect("a server");
    let device = Connector::new(server, key).relay_only(relay_only);
    let (tell, told) = mpsc::unbounded_channel();
    let (tell_other, told_by_other) = mpsc::unbounded_channel();
    let initiator = device.clone().protocol(Protocol::Udp).progress(tell);
    let receiver = meet(device.progress(tell_other));
    let (one, two) = tokio::join!(initiator.connect(), receiver);
    let (one, two) = (one.expect("connected"), two.expect("connected"));
    [(one, told), (two, told_by_other)]
}

/// Waits for another allocation.
async fn allocates(told: &mut Told) {
    while told.try_recv().is_ok() {}
    let allocated = async {
        while let Some(event) = told.recv().await {
            if matches!(event, Progress::Allocated(_)) {
                return;
            }
        }
        panic!("the session has ended");
    };
    in_time("an allocation", allocated).await;
}

async fn reaches(from: &PunchedConn, to: &PunchedConn, data: &[u8]) {
    let arrives = async {
        loop {
            from.send(data).await.expect("sent");
            let received = timeout(Duration::from_millis(200), to.recv()).await;
            if let Ok(received) = received {
                assert_eq!(received.as_deref(), Some(data));
                return;
            }
        }
    };
    in_time("a datagram", arrives).await;
}

/// A stream that carries `len` bytes from one to the other, slowly, so that it is under way while
/// other things happen.
async fn carries(one: PunchedConn, two: PunchedConn, len: usize) {
    let (one, two) = tokio::join!(one.into_stream(), two.into_stream());
    let (mut one, mut two) = (one.expect("a stream"), two.expect("a stream"));
    let sent = content(len);
    let expected = sent.clone();
    let write = async {
        for chunk in sent.chunks(4096) {
            one.write_all(chunk).await.expect("writable");
            sleep(Duration::from_millis(20)).await;
        }
        one.shutdown().await.expect("everything arrived");
    };
    let read = async {
        let mut all = Vec::new();
        two.read_to_end(&mut all).await.expect("readable");
        assert!(all == expected, "{} bytes came of {len}", all.len());
        two.shutdown().await.expect("nothing was said");
    };
    in_time("all bytes", async { tokio::join!(write, read) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_stream_outlives_its_server() {
    let mut server = server();
    let [(one, _), (two, _)] = pair(server.signaling(), true).await;
    let before = [one.path(), two.path()].map(|path| (path.local, path.remote));
    let mut changes = [one.path_changes(), two.path_changes()];
    let stream = tokio::spawn(carries(one, two, 1 << 20));
    for _ in 0..2 {
        sleep(Duration::from_secs(1)).await;
        restart(&mut server).await;
    }
    for (changes, before) in changes.iter_mut().zip(before) {
        let path = becomes(changes, PathKind::Relayed).await;
        assert_eq!(path.remote, before.1, "nobody else could tell another one");
    }
    stream.await.expect("all bytes, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_session_gets_its_fallback_back() {
    let mut server = server();
    let [(one, mut told), (two, mut told_by_other)] = pair(server.signaling(), false).await;
    becomes(&mut one.path_changes(), PathKind::Direct).await;
    becomes(&mut two.path_changes(), PathKind::Direct).await;
    let again = async { tokio::join!(allocates(&mut told), allocates(&mut told_by_other)) };
    let ((), _) = tokio::join!(restart(&mut server), again);
    let loss = one.direct_loss().expect("a udp session");
    loss.set(100).await;
    for conn in [&one, &two] {
        becomes(&mut conn.path_changes(), PathKind::Relayed).await;
    }
    reaches(&one, &two, b"still").await;
    reaches(&two, &one, b"here").await;
}

/// Its secrets are others, so that it knows nobody any more.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_way_is_told_of_none() {
    let mut server = server();
    let [(one, mut told), (_two, _told)] = pair(server.signaling(), true).await;
    // Its time may change as long as there is one.
    let way = |info: PathInfo| (info.path, info.local, info.remote);
    let before = way(one.path());
    let mut changes = one.path_changes();
    while told.try_recv().is_ok() {}
    server.kill();
    let config = Config {
        secrets: Vec::new(),
        users: Vec::new(),
        ..server.config.clone()
    };
    let text = config.render(&server.ports);
    std::fs::write(server.dir.path().join("stunner.toml"), text).expect("config written");
    server.start_again();
    server.wait_until_it_answers();
    let gone = async { while !matches!(told.recv().await, Some(Progress::NoRelay(_))) {} };
    in_time("it notices", gone).await;
    // By then it has asked some more times.
    sleep(Duration::from_secs(4)).await;
    assert!(one.ended().is_none(), "it still hopes");
    if let Ok(change) = timeout(Duration::ZERO, changes.next()).await {
        assert_eq!(way(change.expect("it goes on")), before);
    }
    assert_eq!(way(one.path()), before, "the last one that there was");
    let mut last = None;
    while let Ok(event) = told.try_recv() {
        if let Progress::Path(info) = event.clone() {
            assert_eq!(way(info), before);
        }
        assert_ne!(last.as_ref(), Some(&event), "twice");
        last = Some(event);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_stream_outlives_the_mappings_of_its_nat() {
    let relay = Server::start();
    let nat = Nat::before(relay.udp()).await;
    let world = World::with(relay, By::At(nat.address));
    let [(one, mut told), (two, mut told_by_other)] = pair(world.address, true).await;
    let stream = tokio::spawn(carries(one, two, 1 << 20));
    // One side, which knows nothing of it and only listens; the other, which sends; both.
    for _ in 0..2 {
        sleep(Duration::from_millis(500)).await;
        nat.forget(nat.live()[0]);
        let again = async {
            tokio::select! {
                () = allocates(&mut told) => {}
                () = allocates(&mut told_by_other) => {}
            }
        };
        in_time("the side that has moved", again).await;
    }
    sleep(Duration::from_millis(500)).await;
    for number in nat.live() {
        nat.forget(number);
    }
    let both = async { tokio::join!(allocates(&mut told), allocates(&mut told_by_other)) };
    in_time("both sides", both).await;
    stream.await.expect("all bytes, in order");
}

fn ice_server(address: SocketAddr) -> [IceServer; 1] {
    let (username, credential) = support::USER;
    [IceServer {
        urls: vec![format!("turn:{address}?transport=udp")],
        username: Some(username.to_owned()),
        credential: Some(credential.to_owned()),
    }]
}

async fn relay(at: SocketAddr) -> (Relay, SocketAddr) {
    let mut relay = Relay::start(&ice_server(at), None, Duration::from_secs(1));
    match in_time("an allocation", relay.next()).await {
        Some(RelayEvent::Allocated { relayed, .. }) => (relay, relayed),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_may_move_as_often_as_it_likes() {
    let server = Server::with(Config {
        peers: "allow = [\"127.0.0.0/8\", \"::1/128\"]\ndeny = [\"127.9.0.0/16\"]\n".to_owned(),
        ..Config::default()
    });
    let (mut relay, _) = relay(server.udp()).await;
    let peer = |number: u8| SocketAddr::from(([127, 1, 0, number], 1000 + u16::from(number)));
    let nowhere = SocketAddr::from(([127, 9, 0, 1], 9));
    for address in (1..=40).map(peer).chain([peer(1), peer(40), peer(1)]) {
        // Where the peer was on its way is not where it is.
        relay.reach(nowhere);
        relay.reach(address);
        loop {
            match in_time("the peer", relay.next()).await {
                // It was asked for a moment alone.
                Some(RelayEvent::Refused(refused, _)) if refused == nowhere => {}
                Some(RelayEvent::Reachable(reached)) if reached == address => break,
                other => panic!("{other:?} instead of {address}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_ahead_of_a_channel_fits_every_ipv6_path() {
    let server = Server::start();
    let nat = Nat::before(server.udp6()).await;
    let (mut one, _) = relay(nat.address).await;
    let (mut two, relayed) = relay(nat.address).await;
    // What the session makes of the longest datagram that it promises.
    let sealed = content(MAX_DATAGRAM + 26);
    one.reach(relayed);
    for data in [&sealed[..], b"short", &sealed] {
        one.send(relayed, data.to_vec());
    }
    let mut came = Vec::new();
    while came.len() < 3 {
        tokio::select! {
            event = in_time("the datagrams", two.next()) => match event {
                Some(RelayEvent::Data(_, data)) => came.push(data.len()),
                other => panic!("{other:?}"),
            },
            _ = one.next() => {}
        }
    }
    came.sort_unstable();
    assert_eq!(came, [5, sealed.len(), sealed.len()]);
    let longest = nat.longest();
    assert!((1200..=1232).contains(&longest), "{longest} bytes");
}
