//! Somebody whom a dishonest pairing server lets in without the key gets nothing: not by what he
//! says there, nor by checks, handshakes and sealed datagrams, directly and through the relay. That
//! an honest one lets nobody in is in `signal_proof.rs`.

mod connect_support;
mod support;

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use connect_support::by_hand::ByHand;
use connect_support::{By, World, fresh_key, in_time};
use support::random::Random;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use turnserver::client::connect::{ConnectError, Connector, Progress};
use turnserver::client::noise::{Kind, Secure};
use turnserver::client::punch::{Agent, Candidate, CandidateKind, Config, Description, Via};
use turnserver::client::relay::{Relay, RelayEvent};
use turnserver::pairing::{AccessKey, Blobs, Opened, Protocol, Role, Salt};

/// How long the honest side looks for its peer.
const HONEST: Duration = Duration::from_secs(6);

/// Everything that it can make: a check, handshakes and sealed datagrams under a guessed key,
/// and others at random.
fn guesses(impostor: &ByHand, to: SocketAddr, check: [u8; 32]) -> Vec<Vec<u8>> {
    let now = Instant::now().into_std();
    let guess = AccessKey::new("a guess")
        .expect("a key")
        .psk(&impostor.session);
    let mut agent = Agent::new(Config::new(impostor.role, check), [1; 32]);
    let own = Candidate::new(CandidateKind::Host, (Ipv4Addr::LOCALHOST, 9).into());
    agent.add_local(own, Via::Socket(0), now);
    let description = Description {
        candidates: vec![Candidate::new(CandidateKind::Host, to)],
        ..Description::default()
    };
    agent.add_remote(&description, now);
    agent.handle_timeout(now);
    let check = agent.poll_transmit().expect("a check").bytes;
    let [mut one, mut two] = [Role::Initiator, Role::Receiver]
        .map(|role| Secure::new(&guess, impostor.session, role, now));
    let mut plain = Vec::new();
    let first = one.poll_transmit().expect("the first message");
    two.handle(now, &first, &mut plain);
    let second = two.poll_transmit().expect("the second message");
    one.handle(now, &second, &mut plain);
    let mut sealed = Vec::new();
    one.seal(now, Kind::Data, b"guess", &mut sealed)
        .expect("open");
    let mut random = Random(7);
    let noise = [10, 11, 12].map(|kind| [&[kind][..], &random.bytes(48)].concat());
    [vec![check, first, second, sealed], noise.to_vec()].concat()
}

/// Every port of IPv4 on which this process takes datagrams.
fn udp_ports() -> Vec<u16> {
    let open = std::fs::read_dir("/proc/self/fd").expect("Linux");
    let targets = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let sockets: HashSet<_> = targets
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    let table = std::fs::read_to_string("/proc/self/net/udp").expect("Linux");
    let port = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let mine = sockets.contains(&format!("socket:[{}]", fields.get(9)?));
        let port = u16::from_str_radix(fields.get(1)?.split_once(':')?.1, 16).ok();
        port.filter(|_| mine)
    };
    table.lines().skip(1).filter_map(port).collect()
}

fn honest(world: &World, key: &str, role: Role) -> (Connector, mpsc::UnboundedReceiver<Progress>) {
    let (progress, told) = mpsc::unbounded_channel();
    let device = world
        .device(key)
        .establish_timeout(HONEST)
        .progress(progress);
    match role {
        Role::Initiator => (device.protocol(Protocol::Udp), told),
        Role::Receiver => (device, told),
    }
}

/// It even knows where the honest side's sockets and its allocation are.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_reach_nothing_and_get_no_answer() {
    for role in [Role::Initiator, Role::Receiver] {
        let world = World::new(By::Udp);
        let key = fresh_key();
        let (device, mut told) = honest(&world, &key, role);
        let connecting = tokio::spawn(connected(device));
        let theirs = match role {
            Role::Initiator => Role::Receiver,
            Role::Receiver => Role::Initiator,
        };
        let mut impostor = in_time("it is paired", ByHand::meet(&world, &key, theirs)).await;
        let end = Instant::now() + HONEST;
        // Its salt is as good as any other; what follows from it, with the key, is not known.
        let guess = AccessKey::new("a guess").expect("a key");
        let mut blobs = Blobs::new(guess, impostor.session, theirs, Salt([9; 16]));
        impostor.say(blobs.first(None)).await;
        let first = in_time("its salt", impostor.hear()).await;
        let Ok(Opened::Secrets(secrets, _)) = blobs.open(&first) else {
            panic!("{first} is no salt");
        };
        let next = in_time("what it tells", impostor.hear()).await;
        assert!(blobs.open(&next).is_err(), "it reads what is sealed");
        let allocated = async {
            loop {
                let told = told.recv().await.expect("the session goes on");
                if let Progress::Allocated(relayed) = told {
                    return relayed;
                }
            }
        };
        let relayed = in_time("its allocation", allocated).await;
        let patience = Duration::from_millis(300);
        let mut relay = Relay::start(&impostor.ice_servers, None, patience);
        relay.reach(relayed);
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let own = socket.local_addr().expect("bound");
        let guesses = guesses(&impostor, relayed, secrets.check);
        let mut heard = [0; 2048];
        let mut way = false;
        let mut asked = HashSet::new();
        while Instant::now() < end {
            for port in udp_ports().into_iter().filter(|port| *port != own.port()) {
                let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                // The pairing server answers whoever asks it.
                if port == world.address.port() {
                    continue;
                }
                asked.insert(port);
                for guess in &guesses {
                    // A port that was closed since is of no interest.
                    let _ = socket.send_to(guess, to).await;
                }
            }
            for guess in guesses.iter().filter(|_| way) {
                relay.send(relayed, guess.clone());
            }
            let pause = (Instant::now() + Duration::from_millis(200)).min(end);
            loop {
                tokio::select! {
                    answer = timeout_at(pause, socket.recv_from(&mut heard)) => match answer {
                        Ok(Ok((len, from))) => panic!("{from} answers {:?}", &heard[..len]),
                        Ok(Err(_)) => {}
                        Err(_) => break,
                    },
                    event = relay.next() => match event.expect("the relay goes on") {
                        RelayEvent::Data(from, data) => panic!("{from} answers {data:?}"),
                        RelayEvent::Reachable(_) => way = true,
                        _ => {}
                    },
                }
            }
        }
        assert!(way, "the relay carries what is sent");
        // Of the device: one for each family of its punching, and that of its relay.
        assert!(asked.len() >= 2, "{asked:?}");
        let ended = in_time("it gives up", connecting).await.expect("no panic");
        // Nobody proved to be a stranger by what anybody may send to a socket.
        assert!(
            matches!(ended, Err(ConnectError::NoPath { .. })),
            "{role:?}: {ended:?}"
        );
    }
}

async fn connected(device: Connector) -> Result<(), ConnectError> {
    loop {
        match device.clone().connect().await {
            Err(ConnectError::NobodyWaits) => sleep(Duration::from_millis(20)).await,
            ended => return ended.map(drop),
        }
    }
}

/// What it says through the pairing server shows at once who it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_gives_it_away() {
    let sealed = || "A".repeat(400);
    let salt = || Salt([9; 16]).to_string();
    let short = || "AAAA".to_owned();
    for role in [Role::Initiator, Role::Receiver] {
        for says in [vec![salt(), sealed()], vec![salt(), salt()], vec![short()]] {
            let world = World::new(By::Udp);
            let key = fresh_key();
            let (device, _told) = honest(&world, &key, role);
            let connecting = tokio::spawn(connected(device));
            let theirs = match role {
                Role::Initiator => Role::Receiver,
                Role::Receiver => Role::Initiator,
            };
            let mut impostor = in_time("it is paired", ByHand::meet(&world, &key, theirs)).await;
            for blob in &says {
                impostor.say(blob.clone()).await;
            }
            let ended = in_time("it is noticed", connecting)
                .await
                .expect("no panic");
            assert!(
                matches!(ended, Err(ConnectError::NotThePeer)),
                "{says:?}: {ended:?}"
            );
        }
    }
}

/// One that is let in and says nothing keeps its place at a host for a moment only, also with a
/// salt, which anybody can draw.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_does_not_wait_long_for_one_who_shows_nothing() {
    for (protocol, says_salt) in [(Protocol::Udp, false), (Protocol::Tcp, true)] {
        let world = World::new(By::Udp);
        let key = fresh_key();
        let mut host = world.device(&key).protocol(protocol).host();
        let registered = in_time("it is registered", host.registered()).await;
        registered.expect("it is taken");
        let meeting = ByHand::meet(&world, &key, Role::Receiver);
        let mut impostor = in_time("it is paired", meeting).await;
        if says_salt {
            impostor.say(Salt([9; 16]).to_string()).await;
        }
        let refused = in_time("it is given up", host.accept()).await;
        let Err(ConnectError::NoPath { reason }) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("does not show"), "{reason}");
        assert!(host.is_open());
    }
}
