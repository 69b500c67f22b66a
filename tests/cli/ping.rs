//! `turnserver ping`, against the server and against what is none.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use turnserver::client::probe::{self, ProbeError, Transport};
use turnserver::wire::{Builder, Class, Message, Method, TransactionId, attr};

use super::support::Ports;
use super::{Server, certificate, comes_up, err, file, out, run, turnserver};

/// The section that keeps a server to the relay ports that nobody else has.
fn relay_ports(ports: &Ports) -> String {
    let (first, last) = ports.relay();
    format!("[relay]\nports = \"{first}-{last}\"")
}

#[test]
fn a_server_answers_ping_over_both_transports_and_stops_on_sigterm() {
    let ports = Ports::claim();
    let address = format!("127.0.0.1:{}", ports.plain());
    let listeners = ["udp", "tcp"]
        .map(|p| format!("[[listener]]\nprotocol = \"{p}\"\naddress = \"{address}\"\n"))
        .concat();
    let file = file(&format!("{listeners}{}", relay_ports(&ports)));
    let mut server = Server::start(file.path());
    let up = comes_up(&["ping", &address]).is_some();
    assert!(up, "the server did not come up");
    for transport in ["udp", "tcp"] {
        let output = run(&["ping", &address, "--transport", transport]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert!(
            out(&output).contains("is seen as 127.0.0.1:"),
            "{}",
            out(&output)
        );
        let by_config = run(&["ping", "--config", file.path(), "--transport", transport]);
        assert!(out(&by_config).starts_with(&format!("{address} {transport}")));
    }
    let server_address: SocketAddr = address.parse().expect("an address");
    for transport in [Transport::Udp, Transport::Tcp] {
        let second = Duration::from_secs(2);
        let done = probe::allocate(server_address, transport, "alice", "her-password", second)
            .expect("alice may allocate");
        let (first, last) = ports.relay();
        assert!((first..=last).contains(&done.relayed.port()));
        let refused = probe::allocate(server_address, transport, "alice", "wrong", second);
        assert!(matches!(refused, Err(ProbeError::Refused { code, .. }) if code.value() == 401));
    }
    server.signal("-TERM");
    assert_eq!(server.0.wait().expect("it ends").code(), Some(0));
}

/// A ping that waits for 1 s, of what takes it and says nothing.
#[track_caller]
fn hears_nothing(ping: &[&str]) {
    let output = run(ping);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("no answer within 1 s"),
        "{}",
        err(&output)
    );
}

/// A health check reaches the server by an address that its certificate does not name.
#[test]
fn ping_over_tls_takes_any_certificate() {
    let ports = Ports::claim();
    let (tls, both) = (ports.tls(), ports.plain());
    let relay = relay_ports(&ports);
    let certificate_lines = "certificate = \"cert.pem\"\nkey = \"key.pem\"";
    let listeners = {
        format!(
            "[[listener]]\nprotocol = \"tls\"\naddress = \"127.0.0.1:{tls}\"\n\
             {certificate_lines}\n{relay}"
        )
    };
    let only = file(&listeners);
    certificate(only.directory.path(), "turn.example.org", 2199);
    let server = Server::start(only.path());
    let up = comes_up(&["ping", "--config", only.path()]).is_some();
    assert!(up, "the only listener is asked");
    let address = format!("127.0.0.1:{tls}");
    let output = run(&["ping", &address, "--transport", "tls"]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(out(&output).starts_with(&format!("{address} tls: this address is seen as 127.")));
    let output = run(&["ping", "--config", only.path(), "--transport", "udp"]);
    assert!(err(&output).contains("no udp listener"), "{}", err(&output));
    drop(server);
    let output = run(&["ping", "--config", only.path()]);
    assert!(
        err(&output).contains("nothing listens there"),
        "{}",
        err(&output)
    );

    // A tcp listener with a certificate is asked by both, and udp comes first.
    let lines = format!(
        "[[listener]]\nprotocol = \"tcp\"\naddress = \"127.0.0.1:{both}\"\n\
         {certificate_lines}\n[[listener]]\nprotocol = \"udp\"\naddress = \"127.0.0.1:{both}\"\n\
         {relay}"
    );
    let mixed = file(&lines);
    certificate(mixed.directory.path(), "turn.example.org", 2199);
    let _server = Server::start(mixed.path());
    for (transport, shown) in [(None, "udp"), (Some("tcp"), "tcp"), (Some("tls"), "tls")] {
        let mut arguments = vec!["ping", "--config", mixed.path(), "--timeout", "5"];
        arguments.extend(transport.iter().flat_map(|name| ["--transport", name]));
        let answered = comes_up(&arguments).expect("it answers");
        assert!(
            answered.starts_with(&format!("127.0.0.1:{both} {shown}:")),
            "{answered}"
        );
    }

    // Something listens, and does not shake hands.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    hears_nothing(&["ping", &address, "--transport", "tls", "--timeout", "1"]);
}

#[test]
fn ping_fails_with_one_where_nothing_answers() {
    let ports = Ports::claim();
    let port = ports.plain();
    for transport in ["udp", "tcp"] {
        let output = run(&[
            "ping",
            &format!("127.0.0.1:{port}"),
            "--transport",
            transport,
        ]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err(&output).contains("nothing listens there"),
            "{}",
            err(&output)
        );
    }
    // Something listens, and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    hears_nothing(&["ping", &address, "--timeout", "1"]);
}

/// A stopped and continued process has its system calls interrupted, as under a job control shell.
#[test]
fn an_interrupted_ping_goes_on() {
    for transport in ["udp", "tcp"] {
        let both = || {
            let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
            let listener = TcpListener::bind(silent.local_addr().expect("bound"));
            listener.ok().map(|listener| (silent, listener))
        };
        let found = (0..100).find_map(|_| both());
        let (silent, listener) = found.expect("a port that is free for both");
        let address = listener.local_addr().expect("bound").to_string();
        let ping = turnserver(&["ping", &address, "--transport", transport])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        // It waits for an answer by then.
        let accepted = match transport {
            "tcp" => Some(listener.accept().expect("a connection")),
            _ => {
                silent.recv(&mut [0; 100]).expect("a request");
                None
            }
        };
        let mut ping = Server(ping);
        for signal in ["-STOP", "-CONT"] {
            ping.signal(signal);
        }
        let mut shown = String::new();
        let errors = ping.0.stderr.as_mut().expect("piped");
        errors.read_to_string(&mut shown).expect("UTF-8");
        assert!(
            shown.contains("no answer within 2 s"),
            "{transport}: {shown}"
        );
        drop(accepted);
    }
}

/// However many steps a handshake takes, they end together.
#[test]
fn a_server_that_shakes_hands_byte_by_byte_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let dripping = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a connection");
        let pace = Some(Duration::from_millis(50));
        client.set_read_timeout(pace).expect("not zero");
        // The beginning of a handshake record of 16 KiB.
        let record = [&[0x16, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc][..], &[0; 400]].concat();
        let mut hello = [0; 1024];
        record
            .iter()
            .take_while(|byte| {
                let gone = matches!(client.read(&mut hello), Ok(0));
                !gone && client.write_all(&[**byte]).is_ok()
            })
            .count()
    });
    let answer = probe::binding(address, Transport::Tls, Duration::from_millis(200));
    assert!(matches!(answer, Err(ProbeError::Timeout)), "{answer:?}");
    let sent = dripping.join().expect("no panic");
    assert!(sent < 400, "it listened to all {sent} bytes");
}

/// RFC 8489 section 6.2.1: a lost request is sent again with the same transaction id, and a
/// response to another one is not taken.
#[test]
fn a_binding_request_is_sent_again() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("bound");
    let answering = thread::spawn(move || {
        let mut first = [0; 1500];
        let (len, _) = server.recv_from(&mut first).expect("a request");
        let mut again = [0; 1500];
        let (len_again, client) = server.recv_from(&mut again).expect("the same request");
        assert_eq!(first[..len], again[..len_again]);
        let request = Message::parse(&again[..len_again]).expect("STUN");
        for (id, port) in [
            (TransactionId([7; 12]), 1),
            (request.transaction_id(), 4242),
        ] {
            let mut answer = [0; 100];
            let mut builder = Builder::new(&mut answer, Class::Success, Method::BINDING, id);
            builder.xor_address(attr::XOR_MAPPED_ADDRESS, SocketAddr::new(client.ip(), port));
            let len = builder.finish().expect("it fits");
            server.send_to(&answer[..len], client).expect("sent");
        }
    });
    let answer = probe::binding(address, Transport::Udp, Duration::from_secs(5)).expect("answered");
    assert_eq!(answer.mapped.port(), 4242);
    assert!(answer.rtt >= Duration::from_millis(500));
    answering.join().expect("the server's checks passed");
}
