//! A host stays: whatever is in its way for a while, and however many come at once.

mod connect_support;
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use connect_support::{By, PATIENCE, World, fresh_key, in_time, meet};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};
use turnserver::client::connect::{ConnectError, Connector, Host, Progress};
use turnserver::client::rendezvous::RendezvousError;
use turnserver::pairing::{AccessKey, ErrorCode, Nonce, Protocol, ServerMessage};
use turnserver::signal;

fn host(listener: &TcpListener, progress: mpsc::UnboundedSender<Progress>) -> Host {
    let server = listener.local_addr().expect("bound").to_string();
    let key = AccessKey::new("k").expect("a key");
    Connector::new(server.parse().expect("a server"), key)
        .progress(progress)
        .host()
}

/// Takes the next connection as a pairing server does, up to the join.
async fn joined(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut socket = accept_async(stream).await.expect("a WebSocket");
    let nonce = Nonce::from_bytes(&[1; 16]);
    say(&mut socket, &ServerMessage::Hello { nonce }).await;
    let join = socket.next().await.expect("open").expect("a join");
    assert!(join.is_text(), "{join}");
    socket
}

async fn say(socket: &mut WebSocketStream<TcpStream>, message: &ServerMessage) {
    let text = serde_json::to_string(message).expect("JSON");
    socket.send(Message::text(text)).await.expect("sent");
}

/// A connection that ends in the handshake, a proxy without its server, something that is no
/// HTTP, and a server that has no room: then it is registered all the same, and says meanwhile
/// what is the matter.
#[tokio::test]
async fn what_may_pass_does_not_end_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let (progress, mut told) = mpsc::unbounded_channel();
    let mut host = host(&listener, progress);
    let serving = async {
        for answer in ["", "HTTP/1.1 502 Bad Gateway\r\n\r\n", "SSH-2.0-x\r\n\r\n"] {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 2048];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            stream.write_all(answer.as_bytes()).await.expect("taken");
        }
        let mut full = joined(&listener).await;
        let message = "later, please".to_owned();
        let code = ErrorCode::TooMany;
        say(&mut full, &error(code, message)).await;
        let mut socket = joined(&listener).await;
        let waiting = ServerMessage::Waiting {
            session: None,
            observed: "192.0.2.1:1000".parse().expect("an address"),
            wait_s: 60,
            ice_servers: Vec::new(),
        };
        say(&mut socket, &waiting).await;
        socket
    };
    let both = async { tokio::join!(serving, host.registered()) };
    let (_socket, registered) = in_time("it is registered", both).await;
    registered.expect("it is taken in the end");
    let mut reasons = Vec::new();
    while let Some(Progress::Retrying { reason, .. }) = told.recv().await {
        reasons.push(reason);
    }
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert!(reasons[0].contains("closed"), "{reasons:?}");
    assert!(reasons[1].contains("502"), "{reasons:?}");
    assert_eq!(reasons[3], "later, please");
}

#[tokio::test]
async fn what_will_not_pass_ends_it_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let (progress, _told) = mpsc::unbounded_channel();
    let mut host = host(&listener, progress);
    let serving = async {
        let mut socket = joined(&listener).await;
        let message = "no such role".to_owned();
        let code = ErrorCode::BadRequest;
        say(&mut socket, &error(code, message)).await;
        socket
    };
    let both = async { tokio::join!(serving, host.registered()) };
    let (_socket, refused) = in_time("it ends", both).await;
    match refused {
        Err(ConnectError::Server { code, message }) => {
            assert_eq!(code, ErrorCode::BadRequest);
            assert_eq!(message, "no such role");
        }
        other => panic!("{other:?}"),
    }
}

/// A certificate for this machine, with its key.
fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made")
}

/// A pairing endpoint at this address, with this certificate.
fn over_tls(at: SocketAddr, own: &rcgen::CertifiedKey<rcgen::KeyPair>) -> signal::Handle {
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("it fits its key");
    let config = signal::Config {
        tls: Some(Arc::new(tls)),
        ..signal::Config::new([at])
    };
    signal::serve(config).expect("a pairing endpoint")
}

/// One that was taken before may be taken again, when the certificate is the right one again; one
/// that never was is told at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_ends_only_who_was_never_taken() {
    let [right, wrong] = [certificate(), certificate()];
    let server = over_tls((Ipv4Addr::LOCALHOST, 0).into(), &right);
    let at = server.addresses()[0];
    let connector = || {
        let url = format!("https://{at}").parse().expect("a server");
        Connector::new(url, AccessKey::new("k").expect("a key"))
            .roots(right.cert.pem().into_bytes())
    };
    let (progress, mut told) = mpsc::unbounded_channel();
    let mut host = connector().progress(progress).host();
    in_time("it is registered", host.registered())
        .await
        .expect("it is taken");
    drop(server);
    let server = over_tls(at, &wrong);
    let refused = async {
        loop {
            match told.recv().await {
                Some(Progress::Retrying { reason, .. }) if reason.contains("no secure") => return,
                Some(_) => {}
                None => panic!("it has ended"),
            }
        }
    };
    in_time("it sees the other certificate", refused).await;
    let early = in_time("it ends", connector().host().registered()).await;
    assert!(
        matches!(
            early,
            Err(ConnectError::Rendezvous(RendezvousError::Tls(_)))
        ),
        "{early:?}"
    );
    drop(server);
    let _server = over_tls(at, &right);
    let taken = async {
        while !matches!(
            told.recv().await.expect("it goes on"),
            Progress::Waiting { .. }
        ) {}
    };
    in_time("it is registered again", taken).await;
    in_time("it knows", host.registered())
        .await
        .expect("it is taken again");
    assert!(host.is_open());
}

/// Gives up later than a test waits. Crowds on a slow machine take their time, and who is turned
/// away has to be told: no time of its own tells it.
fn patient(device: Connector) -> Connector {
    const LATE: Duration = PATIENCE.saturating_mul(10);
    device.establish_timeout(LATE).punch_timeout(LATE)
}

/// A host of that key, registered.
async fn host_for_many(world: &World, key: &str, protocol: Protocol) -> Host {
    let mut host = patient(world.device(key)).protocol(protocol).host();
    in_time("it is registered", host.registered())
        .await
        .expect("it is taken");
    host
}

/// Together they have more to say than a server takes from one connection at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_guests_is_let_in() {
    const GUESTS: usize = 160;
    const AT_ONCE: usize = 50;

    let world = World::new(By::Nothing);
    let key = fresh_key();
    let mut host = host_for_many(&world, &key, Protocol::Udp).await;
    let accepting = async {
        for at in 0..GUESTS {
            let accepted = host.accept().await;
            let guest = accepted.unwrap_or_else(|error| panic!("guest {at}: {error}"));
            tokio::spawn(async move {
                // It knows by then that it is connected.
                guest.recv().await;
                guest.close().await;
            });
        }
    };
    let coming = async {
        let mut guests = JoinSet::new();
        for _ in 0..GUESTS {
            if guests.len() == AT_ONCE {
                let come = guests.join_next().await.expect("some");
                come.expect("no panic");
            }
            let guest = meet(patient(world.device(&key)));
            guests.spawn(async {
                let guest = guest.await.expect("it is let in");
                // Until it is sent away.
                while guest.send(b"here").await.is_ok() {
                    sleep(Duration::from_millis(50)).await;
                }
            });
        }
        guests.join_all().await
    };
    in_time("all are there", async { tokio::join!(accepting, coming) }).await;
}

/// One that takes nobody has room for 64; of a crowd, the others are told that this is the reason.
#[tokio::test(flavor = "multi_thread")]
async fn who_finds_a_host_busy_is_told_so() {
    // One after the other: both at once would take more descriptors than a process may have.
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        is_told_that_a_host_is_busy(protocol).await;
    }
}

async fn is_told_that_a_host_is_busy(protocol: Protocol) {
    const ROOM: usize = 64;
    const MORE: usize = 16;

    let world = World::new(By::Nothing);
    let key = fresh_key();
    let (progress, mut told) = mpsc::unbounded_channel();
    let host = patient(world.device(&key)).progress(progress);
    let mut host = host.protocol(protocol).host();
    let registered = in_time("it is registered", host.registered()).await;
    registered.expect("it is taken");
    let coming: JoinSet<_> = (0..ROOM + MORE)
        .map(|_| meet(patient(world.device(&key))))
        .collect();
    let come = in_time("they were there", coming.join_all()).await;
    let (guests, refused): (Vec<_>, Vec<_>) = come.into_iter().partition(Result::is_ok);
    let met = (guests.len(), refused.len());
    assert_eq!(met, (ROOM, MORE), "{protocol:?}: {refused:?}");
    for refused in refused {
        let error = refused.expect_err("just told apart").to_string();
        assert!(error.contains("busy"), "{protocol:?}: {error}");
    }
    let turned_away = |told: &Progress| matches!(told, Progress::TurnedAway { .. });
    let said = std::iter::from_fn(|| told.try_recv().ok());
    assert_eq!(
        said.filter(turned_away).count(),
        MORE,
        "the host says so too"
    );
    // One that goes on waiting makes no room, and then it does.
    let taken = in_time("one is taken", host.accept_waiting()).await;
    let (taken, place) = taken.expect("it is connected");
    let refused = in_time("an answer", meet(patient(world.device(&key)))).await;
    let refused = refused.expect_err("there is no room").to_string();
    assert!(refused.contains("busy"), "{protocol:?}: {refused}");
    drop(place);
    in_time("there is room", meet(patient(world.device(&key))))
        .await
        .expect("it is let in");
    drop((taken, guests));
}

/// An error that is about the join.
fn error(code: ErrorCode, message: String) -> ServerMessage {
    ServerMessage::Error {
        code,
        message,
        session: None,
        reason: None,
        retry_after_s: None,
        nonce: None,
    }
}
