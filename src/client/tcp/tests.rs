use std::net::{IpAddr, Ipv4Addr};

use tokio::net::{TcpListener, TcpSocket};

use super::schedule::REFUSALS;
use super::*;
use crate::client::rendezvous::shared_tcp_socket;

/// One side, and the socket that keeps its port as the connection to the server would.
struct Side {
    config: Config,
    sockets: Sockets,
    port: u16,
    _signalling: TcpSocket,
}

const SECRET: [u8; 32] = [9; 32];

fn side(role: Role, any: &str) -> Side {
    let any: IpAddr = any.parse().expect("an address");
    let signalling = shared_tcp_socket((any, 0).into()).expect("a port");
    let local = signalling.local_addr().expect("bound");
    let bind = (!any.is_unspecified()).then_some(any);
    Side {
        config: Config {
            spacing: Duration::from_millis(20),
            ..Config::new(role, SECRET)
        },
        sockets: Sockets::open(local, bind).expect("listening"),
        port: local.port(),
        _signalling: signalling,
    }
}

fn to(addresses: impl IntoIterator<Item = SocketAddr>) -> mpsc::Receiver<SocketAddr> {
    let (sender, receiver) = mpsc::channel(32);
    for address in addresses {
        sender.try_send(address).expect("room");
    }
    receiver
}

fn loopback(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), port).into()
}

/// They are the two ends of one connection, and it carries bytes.
async fn same(one: &mut Punched, two: &mut Punched) {
    assert_eq!((one.local, one.remote), (two.remote, two.local));
    one.stream.write_all(b"ping").await.expect("written");
    two.stream.write_all(b"pong").await.expect("written");
    let mut got = [0; 4];
    one.stream.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"pong");
    two.stream.read_exact(&mut got).await.expect("read");
    assert_eq!(&got, b"ping");
}

/// Ends of established connections between the two ports, as the kernel counts them.
fn established(one: u16, two: u16) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("a table");
    let between = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let mut port = || {
            let (_, port) = fields.next()?.split_once(':')?;
            u16::from_str_radix(port, 16).ok()
        };
        let ports = [port(), port()];
        let ours = [[Some(one), Some(two)], [Some(two), Some(one)]].contains(&ports);
        ours && fields.next() == Some("01")
    };
    table.lines().filter(between).count()
}

/// Both dial and both listen, under several addresses at once: of up to eight connections one
/// is left, the same on both sides, every time.
#[tokio::test]
async fn of_many_connections_the_same_one_survives_on_both_sides() {
    for round in 0..100_u64 {
        let initiator = side(Role::Initiator, "0.0.0.0");
        let receiver = side(Role::Receiver, "0.0.0.0");
        let ports = (initiator.port, receiver.port);
        let addresses = |port| [1, 2, 3, 4].map(|last| loopback(last, port));
        let skew = Duration::from_micros(round % 10 * 300);
        let (early, late) = if round % 2 == 0 {
            (skew, Duration::ZERO)
        } else {
            (Duration::ZERO, skew)
        };
        let one = async {
            tokio::time::sleep(early).await;
            punch(&initiator.config, initiator.sockets, to(addresses(ports.1))).await
        };
        let two = async {
            tokio::time::sleep(late).await;
            punch(&receiver.config, receiver.sockets, to(addresses(ports.0))).await
        };
        let (one, two) = tokio::join!(one, two);
        let (mut one, mut two) = (one.expect("connected"), two.expect("connected"));
        same(&mut one, &mut two).await;
        assert_eq!(established(ports.0, ports.1), 2, "both ends of one");
    }
}

#[tokio::test]
async fn one_dialling_side_is_enough_and_addresses_may_come_late() {
    for role in [Role::Initiator, Role::Receiver] {
        let (one, two) = (
            side(Role::Initiator, "127.0.0.1"),
            side(Role::Receiver, "127.0.0.1"),
        );
        let (sender, late) = mpsc::channel(1);
        let (target, peers) = match role {
            Role::Initiator => (two.port, (late, to([]))),
            Role::Receiver => (one.port, (to([]), late)),
        };
        let telling = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            sender.send(loopback(1, target)).await.expect("listening");
        };
        let (one, two, ()) = tokio::join!(
            punch(&one.config, one.sockets, peers.0),
            punch(&two.config, two.sockets, peers.1),
            telling,
        );
        same(&mut one.expect("connected"), &mut two.expect("connected")).await;
    }
}

#[tokio::test]
async fn ipv6_too() {
    let (one, two) = (side(Role::Initiator, "::1"), side(Role::Receiver, "::1"));
    let at = |port| to([SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))]);
    let (to_two, to_one) = (at(two.port), at(one.port));
    let (one, two) = tokio::join!(
        punch(&one.config, one.sockets, to_two),
        punch(&two.config, two.sockets, to_one),
    );
    same(&mut one.expect("connected"), &mut two.expect("connected")).await;
}

/// What somebody without the secret can say to a connection.
async fn impostor(mut stream: TcpStream, way: usize) -> Vec<u8> {
    let mut heard = vec![0; 1024];
    let mut len = 0;
    let greeting = [&b"tpn1 I am your friend"[..HELLO], &[0; PROOF], &[0; PROOF]].concat();
    match way % 3 {
        // Says nothing.
        0 => {}
        // The right form, wrong proofs.
        1 => drop(stream.write_all(&greeting).await),
        // Says back what it hears.
        _ => {
            while let Ok(read @ 1..) = stream.read(&mut heard[len..]).await {
                let _ = stream.write_all(&heard[len..len + read]).await;
                len += read;
            }
        }
    }
    while let Ok(read @ 1..) = stream.read(&mut heard[len..]).await {
        len += read;
    }
    heard.truncate(len);
    heard
}

#[tokio::test]
async fn impostors_get_nothing_and_do_not_keep_the_peer_out() {
    let (one, two) = (
        side(Role::Initiator, "127.0.0.1"),
        side(Role::Receiver, "127.0.0.1"),
    );
    let (port_one, port_two) = (one.port, two.port);
    let mut strangers = JoinSet::new();
    // Some sit at addresses that are dialled,
    let mut guessed = Vec::new();
    for way in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        guessed.push(listener.local_addr().expect("bound"));
        strangers.spawn(async move {
            let (stream, _) = listener.accept().await.expect("dialled");
            impostor(stream, way).await
        });
    }
    // and more than are verified at a time dial in, before the peer does.
    for way in 0..3 * MOST_UNPROVEN {
        let stream = TcpStream::connect(loopback(1, [port_one, port_two][way % 2])).await;
        strangers.spawn(impostor(stream.expect("accepted"), way));
    }
    let (sender, late) = mpsc::channel(8);
    let telling = async {
        for address in guessed {
            sender.send(address).await.expect("listening");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        sender.send(loopback(1, port_two)).await.expect("listening");
    };
    let (one, two, ()) = tokio::join!(
        punch(&one.config, one.sockets, late),
        punch(&two.config, two.sockets, to([])),
        telling,
    );
    let (mut one, mut two) = (one.expect("connected"), two.expect("connected"));
    assert_eq!(one.remote, loopback(1, port_two));
    same(&mut one, &mut two).await;
    drop((one, two));
    while let Some(heard) = strangers.join_next().await {
        // A greeting and a proof that nothing can be done with, and the connection is closed.
        assert!(heard.expect("heard").len() <= HELLO + PROOF);
    }
}

#[tokio::test]
async fn another_secret_is_a_stranger() {
    let (one, mut two) = (
        side(Role::Initiator, "127.0.0.1"),
        side(Role::Receiver, "127.0.0.1"),
    );
    two.config.secret = [8; 32];
    let config = |side: &Side| Config {
        timeout: Duration::from_millis(400),
        ..side.config.clone()
    };
    let (first, second) = (config(&one), config(&two));
    let to_two = to([loopback(1, two.port)]);
    let (one, two) = tokio::join!(
        punch(&first, one.sockets, to_two),
        punch(&second, two.sockets, to([])),
    );
    let (one, two) = (one.expect_err("a stranger"), two.expect_err("a stranger"));
    assert!(one.strangers > 0 && two.strangers > 0, "{one:?} {two:?}");
    assert!(one.to_string().contains("somebody else"), "{one}");
}

#[tokio::test]
async fn tries_and_time_are_honoured() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        listener.local_addr().expect("bound")
    };
    // A closed port refuses, which is tried again besides, as often as the time allows.
    for (tries, peers) in [(5, vec![closed]), (500, vec![])] {
        let known = peers.len() as u32;
        let one = side(Role::Initiator, "127.0.0.1");
        let config = Config {
            tries,
            timeout: Duration::from_millis(700),
            spacing: Duration::from_millis(20),
            ..one.config
        };
        let started = std::time::Duration::from_millis(700);
        let began = Instant::now();
        let error = punch(&config, one.sockets, to(peers))
            .await
            .expect_err("nobody there");
        assert!(began.elapsed().abs_diff(started) < Duration::from_secs(1));
        assert_eq!(error.strangers, 0);
        assert!(error.dials >= 20 * known, "{error:?}");
        assert!(error.dials <= (5 + REFUSALS) * known, "{error:?}");
        // One may be under way.
        assert!(error.dials - error.refused <= 1, "{error:?}");
    }
}

#[tokio::test]
async fn nothing_is_left_when_an_attempt_is_dropped() {
    let one = side(Role::Initiator, "127.0.0.1");
    let waiting = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let target = waiting.local_addr().expect("bound");
    let attempt = punch(&one.config, one.sockets, to([target]));
    let mut reached = None;
    let accepting = async {
        reached = waiting.accept().await.ok();
        std::future::pending::<()>().await;
    };
    let limit = Duration::from_millis(200);
    tokio::select! {
        _ = attempt => panic!("nobody proved anything"),
        () = accepting => {}
        () = tokio::time::sleep(limit) => {}
    }
    let (mut stream, _) = reached.expect("dialled");
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the connection is closed");
    let again = TcpStream::connect(loopback(1, one.port)).await;
    assert!(again.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn own_addresses_carry_the_port_and_lead_back() {
    let one = side(Role::Initiator, "0.0.0.0");
    for address in one.sockets.addresses() {
        assert!(address.is_ipv6() || address.port() == one.port, "{address}");
        assert!(!address.ip().is_loopback() && !address.ip().is_unspecified());
    }
    let bound = side(Role::Initiator, "127.0.0.2");
    assert_eq!(bound.sockets.addresses(), [loopback(2, bound.port)]);
}
