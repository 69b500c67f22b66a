use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;

use super::*;
use crate::pairing::{Join, Role, SessionId};

const NONCE: &str = "AAECAwQFBgcICQoLDA0ODw";

/// The server's end of a connection, up to its first message.
async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    let mut socket = accept_async(stream).await.expect("a WebSocket");
    let nonce = serde_json::json!({"type": "hello", "nonce": NONCE});
    let hello = Message::Text(nonce.to_string().into());
    socket.send(hello).await.expect("sent");
    socket
}

const OPTIONS: SocketOptions = SocketOptions {
    bind: None,
    timeout: Duration::from_secs(5),
    roots: None,
};

async fn listener() -> (TcpListener, ServerUrl) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = listener.local_addr().expect("bound").to_string();
    (listener, url.parse().expect("a URL"))
}

async fn pair() -> (Rendezvous, WebSocketStream<TcpStream>) {
    let (listener, url) = listener().await;
    let accepting = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        welcome(stream).await
    };
    let (client, server) = tokio::join!(Rendezvous::connect(&url, &OPTIONS), accepting);
    (client.expect("connected"), server)
}

fn text(message: &ServerMessage) -> Message {
    Message::Text(serde_json::to_string(message).expect("JSON").into())
}

fn left(number: u8) -> ServerMessage {
    let session = SessionId([number; 16]);
    ServerMessage::PeerLeft {
        session,
        busy: false,
    }
}

#[tokio::test]
async fn messages_pass_both_ways_and_none_is_lost_to_a_broken_wait() {
    let (mut client, mut server) = pair().await;
    let key = AccessKey::new("k").expect("a key");
    let join = Join::new(Role::Receiver);
    client.join(&key, join.clone()).await.expect("sent");
    let got = server.next().await.expect("open").expect("a message");
    let got: ClientMessage = serde_json::from_str(got.to_text().expect("text")).expect("JSON");
    assert_eq!(client.nonce().as_str(), NONCE);
    let proven = join.proven(&key, client.nonce());
    assert_eq!(got, ClientMessage::Join(proven));
    let sending = async {
        for number in 0..100 {
            server.send(text(&left(number))).await.expect("sent");
            server
                .send(Message::Ping(vec![number].into()))
                .await
                .expect("sent");
        }
        for _ in 0..100 {
            let pong = server.next().await.expect("open").expect("a message");
            assert!(pong.is_pong(), "{pong:?}");
        }
    };
    let receiving = async {
        let mut number = 0;
        while number < 100 {
            // Most of these waits are broken off at once.
            if let Ok(message) = timeout(Duration::from_micros(1), client.next()).await {
                assert_eq!(message.expect("open"), left(number));
                number += 1;
            }
        }
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn what_is_queued_is_sent_before_the_connection_closes() {
    let (mut client, mut server) = pair().await;
    let session = SessionId([1; 16]);
    for _ in 0..QUEUE {
        client
            .send(&ClientMessage::Leave {
                session,
                busy: false,
            })
            .await
            .expect("sent");
    }
    let counting = async {
        let mut count = 0;
        while let Some(Ok(message)) = server.next().await {
            match message {
                Message::Text(_) => count += 1,
                Message::Close(_) => return count,
                other => panic!("{other:?}"),
            }
        }
        panic!("no close frame after {count}");
    };
    let ((), count) = tokio::join!(client.close(), counting);
    assert_eq!(count, QUEUE);
}

#[tokio::test]
async fn dropping_it_ends_the_connection() {
    let (client, mut server) = pair().await;
    drop(client);
    let end = timeout(Duration::from_secs(5), server.next())
        .await
        .expect("in time");
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
}

#[tokio::test]
async fn one_half_can_listen_alone() {
    let (client, mut server) = pair().await;
    let (sender, mut receiver) = client.split();
    drop(sender);
    server.send(text(&left(7))).await.expect("sent");
    assert_eq!(receiver.next().await.expect("open"), left(7));
    server.close(None).await.expect("closed");
    assert!(matches!(
        receiver.next().await,
        Err(RendezvousError::Closed)
    ));
    assert!(matches!(
        receiver.next().await,
        Err(RendezvousError::Closed)
    ));
}

#[tokio::test]
async fn nonsense_and_too_much_end_it() {
    for message in [
        Message::Text("{}".into()),
        Message::Text("[".into()),
        Message::Text("x".repeat(MAX_MESSAGE + 1).into()),
    ] {
        let (mut client, mut server) = pair().await;
        // A server whose message is refused half-way may see its connection break.
        let _ = server.send(message).await;
        let error = client.next().await.expect_err("refused");
        assert!(matches!(error, RendezvousError::Protocol(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_begins_with_a_hello() {
    for first in [
        text(&left(1)),
        Message::Text("{\"type\":\"hello\"}".into()),
        Message::Text("{\"type\":\"hello\",\"nonce\":\"two words\"}".into()),
    ] {
        let (listener, url) = listener().await;
        let serving = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut socket = accept_async(stream).await.expect("a WebSocket");
            socket.send(first).await.expect("sent");
            socket
        };
        let (client, _socket) = tokio::join!(Rendezvous::connect(&url, &OPTIONS), serving);
        assert!(
            matches!(client, Err(RendezvousError::Protocol(_))),
            "{client:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed() {
    let (mut client, server) = pair().await;
    tokio::time::pause();
    let started = Instant::now();
    let error = client.next().await.expect_err("silence");
    assert!(matches!(error, RendezvousError::TimedOut), "{error:?}");
    // The first ping was due before, but not long: the connection is new.
    let silence = KEEPALIVE * (SILENT_PINGS + 1);
    assert!(silence.abs_diff(started.elapsed()) < Duration::from_secs(5));
    drop(server);
}

#[tokio::test]
async fn a_refusal_says_why() {
    let (listener, url) = listener().await;
    let refusing = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 2048];
        let len = stream.read(&mut request).await.expect("a request");
        let request = String::from_utf8_lossy(&request[..len]);
        assert!(request.starts_with("GET /v1/ws HTTP/1.1\r\n"), "{request}");
        let body = r#"{"type":"error","code":"too_many","message":"slow down"}"#;
        let head = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: ";
        let answer = format!("{head}{}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.expect("answered");
    };
    let (error, ()) = tokio::join!(Rendezvous::connect(&url, &OPTIONS), refusing);
    match error.expect_err("refused") {
        RendezvousError::Refused {
            status: 429,
            code: Some(code),
            message,
        } => {
            assert_eq!(code, crate::pairing::ErrorCode::TooMany);
            assert_eq!(message, "slow down");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let (listener, url) = listener().await;
    let options = SocketOptions {
        timeout: Duration::from_millis(300),
        ..OPTIONS
    };
    let (error, _silent) = tokio::join!(Rendezvous::connect(&url, &options), listener.accept());
    assert!(matches!(error, Err(RendezvousError::TimedOut)), "{error:?}");
}

/// The first one may be silent, as one whose packets are lost is, and the server may have room for
/// one only.
#[tokio::test]
async fn of_a_slow_connection_and_a_second_one_that_is_taken_which_is_ready() {
    for second_is_ready in [true, false] {
        let (listener, url) = listener().await;
        let accepting = async {
            let first = listener.accept().await.expect("the first one");
            let second = listener.accept().await.expect("the second one");
            let (ready, other) = match second_is_ready {
                true => (second, Some(first)),
                false => {
                    // Refused, before the first one is ready.
                    drop(second);
                    (first, None)
                }
            };
            (welcome(ready.0).await, ready.1, other)
        };
        let (client, (_server, at, _silent)) =
            tokio::join!(Rendezvous::connect(&url, &OPTIONS), accepting);
        assert_eq!(client.expect("connected").local_addr(), at);
    }
}

#[tokio::test]
async fn nobody_there_and_other_families_are_told_apart() {
    let (listener, url) = listener().await;
    let options = SocketOptions {
        bind: Some("::1".parse().expect("an address")),
        ..OPTIONS
    };
    let error = Rendezvous::connect(&url, &options)
        .await
        .expect_err("other family");
    assert!(error.to_string().contains("family"), "{error}");
    drop(listener);
    let error = Rendezvous::connect(&url, &OPTIONS)
        .await
        .expect_err("closed");
    assert!(error.to_string().contains("nothing listens"), "{error}");
}

#[tokio::test]
async fn the_local_address_can_be_chosen_and_used_again() {
    let (listener, url) = listener().await;
    let options = SocketOptions {
        bind: Some("127.0.0.2".parse().expect("an address")),
        ..OPTIONS
    };
    let accepting = async {
        let (stream, from) = listener.accept().await.expect("a connection");
        (welcome(stream).await, from)
    };
    let (client, (_server, from)) = tokio::join!(Rendezvous::connect(&url, &options), accepting);
    let client = client.expect("connected");
    assert_eq!(from, client.local_addr());
    assert_eq!(from.ip(), options.bind.expect("given"));
    // A listener and a dialler, while the first connection lives.
    let local = client.local_addr();
    let listening = shared_tcp_socket(local).and_then(|socket| socket.listen(8));
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let target = elsewhere.local_addr().expect("bound");
    let dialled = shared_tcp_socket(local)
        .expect("shared")
        .connect(target)
        .await;
    assert_eq!(dialled.expect("connected").local_addr().ok(), Some(local));
    let reached = TcpStream::connect(local).await.expect("reached");
    let (accepted, _) = listening
        .expect("listening")
        .accept()
        .await
        .expect("accepted");
    assert_eq!(accepted.peer_addr().ok(), reached.local_addr().ok());
}

/// A server that is being started or ended: nothing of that says that it is none.
#[tokio::test]
async fn a_handshake_that_breaks_is_an_end_and_no_offence() {
    for tls in [false, true] {
        for said in [&b""[..], b"HTTP/1.1 101 Switch"] {
            let (listener, url) = listener().await;
            let url: ServerUrl = match tls {
                false => url,
                true if cfg!(feature = "client") => {
                    let port = url.port();
                    format!("https://127.0.0.1:{port}").parse().expect("a URL")
                }
                true => continue,
            };
            let breaking = async {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 2048];
                assert!(stream.read(&mut request).await.expect("a request") > 0);
                // In clear it begins an answer; under TLS nothing of it is one.
                if !tls {
                    stream.write_all(said).await.expect("taken");
                }
            };
            let (error, ()) = tokio::join!(Rendezvous::connect(&url, &OPTIONS), breaking);
            match error {
                Err(RendezvousError::Closed) => assert!(!tls),
                Err(RendezvousError::NoTls) => assert!(tls),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Something else answers at the server's address: it may be the server again later.
#[cfg(feature = "client")]
#[tokio::test]
async fn who_speaks_no_tls_has_no_wrong_certificate() {
    let (listener, url) = listener().await;
    let port = url.port();
    let url: ServerUrl = format!("https://127.0.0.1:{port}").parse().expect("a URL");
    let plain = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let answer = b"HTTP/1.1 502 Bad Gateway\r\n\r\n";
        stream.write_all(answer).await.expect("taken");
        stream
    };
    let (error, _stream) = tokio::join!(Rendezvous::connect(&url, &OPTIONS), plain);
    assert!(matches!(error, Err(RendezvousError::NoTls)), "{error:?}");
    let words = error.expect_err("no TLS").to_string();
    assert!(words.contains("begins with http://"), "{words}");
}

#[cfg(feature = "client")]
fn acceptor(
    certificate: &rustls::pki_types::CertificateDer<'static>,
    key: &rcgen::KeyPair,
) -> tokio_rustls::TlsAcceptor {
    use std::sync::Arc;

    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("fits");
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

/// A certificate as people make them, each with what is wrong and what helps.
#[cfg(feature = "client")]
#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said_in_words() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    let make = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("made"), key)
    };
    let plain = make(|_| {});
    let authority = make(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let expired = make(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let other = make(|params| {
        let name = params.distinguished_name.clone();
        *params = CertificateParams::new(vec!["example.org".into()]).expect("a name");
        params.distinguished_name = name;
    });
    // Of the same name, and of another key.
    let rival = make(|_| {}).0.pem();
    for ((certificate, key), roots, words) in [
        (&plain, None, "--ca names a file"),
        (&plain, Some(&rival), "none of the given certificates"),
        (
            &authority,
            Some(&authority.0.pem()),
            "basicConstraints=critical,CA:FALSE",
        ),
        (&expired, Some(&expired.0.pem()), "has expired"),
        (&other, Some(&other.0.pem()), "for another name"),
    ] {
        let acceptor = acceptor(certificate.der(), key);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let url = format!("https://localhost:{port}").parse().expect("a URL");
        let options = SocketOptions {
            bind: Some("127.0.0.1".parse().expect("an address")),
            roots: roots.map(|pem| pem.clone().into_bytes()),
            ..OPTIONS
        };
        let serving = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            acceptor.accept(stream).await.err()
        };
        let (client, _) = tokio::join!(Rendezvous::connect(&url, &options), serving);
        let error = client.expect_err(words);
        assert!(matches!(error, RendezvousError::Tls(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[cfg(feature = "client")]
#[tokio::test]
async fn tls_needs_the_name_and_a_trusted_root() {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("made");
    let acceptor = acceptor(own.cert.der(), &own.signing_key);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let roots = Some(own.cert.pem().into_bytes());
    for (host, roots, good) in [
        ("localhost", roots.clone(), true),
        ("127.0.0.1", roots, false),
        ("localhost", None, false),
        ("localhost", Some(b"nothing".to_vec()), false),
    ] {
        let url: ServerUrl = format!("https://{host}:{port}").parse().expect("a URL");
        let options = SocketOptions {
            bind: Some("127.0.0.1".parse().expect("an address")),
            roots,
            ..OPTIONS
        };
        let serving = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let stream = acceptor.accept(stream).await.ok()?;
            Some(welcome(stream).await)
        };
        let (client, server) = tokio::join!(Rendezvous::connect(&url, &options), serving);
        match client {
            Ok(_) => assert!(good && server.is_some(), "{host}"),
            Err(RendezvousError::Tls(_)) => assert!(!good, "{host}"),
            Err(other) => panic!("{host}: {other:?}"),
        }
    }
}
