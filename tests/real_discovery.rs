//! NAT behaviour discovery (RFC 5780) over sockets: answers really leave from the other address
//! and the other port, on both data paths, with listeners of their own and with wildcards.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use support::stun::{self, Message, XOR_MAPPED_ADDRESS};
use support::{Config, Ports, Server};

const CHANGE_REQUEST: u16 = 0x0003;
const RESPONSE_PORT: u16 = 0x0027;
const MAPPED_ADDRESS: u16 = 0x0001;
const RESPONSE_ORIGIN: u16 = 0x802B;
const OTHER_ADDRESS: u16 = 0x802C;

/// A second port on the same hosts: known before the file is written.
fn server(hosts: &[&str], relay: &str, data_path: &'static str) -> Server {
    let second = |ports: &Ports| {
        let addresses: Vec<String> = hosts
            .iter()
            .map(|host| format!("{host}:{}", ports.peer()))
            .collect();
        format!("[[listener]]\nprotocol = \"udp\"\naddress = {addresses:?}\n")
    };
    Server::with_ports(|ports| Config {
        hosts: hosts.iter().map(ToString::to_string).collect(),
        relay: format!("address = {relay}\n"),
        tls: false,
        extra: second(ports),
        environment: vec![("TURNSERVER_DATA_PATH", data_path)],
        ..Config::default()
    })
}

/// An address that is not xored.
fn plain(message: &Message, kind: u16) -> Option<SocketAddr> {
    let value: [u8; 8] = message.get(kind)?.try_into().ok()?;
    let [_, 1, high, low, ip @ ..] = value else {
        return None;
    };
    Some((ip, u16::from_be_bytes([high, low])).into())
}

/// Asks `to` and returns the answer with the address that it came from.
fn ask(
    socket: &UdpSocket,
    to: SocketAddr,
    fill: impl Fn(Message) -> Message,
) -> Option<(Message, SocketAddr)> {
    let request = fill(Message::new(stun::BINDING));
    socket.send_to(request.bytes(), to).expect("sent");
    heard(socket)
}

fn heard(socket: &UdpSocket) -> Option<(Message, SocketAddr)> {
    let mut buffer = [0; 1500];
    let (len, from) = socket.recv_from(&mut buffer).ok()?;
    Some((Message::parse(&buffer[..len])?, from))
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let limit = Some(Duration::from_secs(5));
    socket.set_read_timeout(limit).expect("a timeout");
    socket
}

#[test]
fn answers_leave_from_the_other_address_and_port() {
    for (hosts, data_path) in [
        (["127.0.0.1", "127.0.0.2"].as_slice(), "auto"),
        (["127.0.0.1", "127.0.0.2"].as_slice(), "mmsg"),
        (["0.0.0.0"].as_slice(), "auto"),
        (["0.0.0.0"].as_slice(), "mmsg"),
    ] {
        let server = server(hosts, "[\"127.0.0.1\", \"127.0.0.2\"]", data_path);
        let at = |ip: [u8; 4], port| SocketAddr::from((ip, port));
        let (first, second) = (server.ports.plain(), server.ports.peer());
        let reached = at([127, 0, 0, 1], first);
        let other = at([127, 0, 0, 2], second);
        let socket = socket();
        let mapped = socket.local_addr().expect("an address");
        for (flags, from) in [
            (None, reached),
            (Some(0), reached),
            (Some(2), at([127, 0, 0, 1], second)),
            (Some(4), at([127, 0, 0, 2], first)),
            (Some(6), other),
        ] {
            let fill = |message: Message| match flags {
                Some(flags) => message.attr(CHANGE_REQUEST, &[0, 0, 0, flags]),
                None => message,
            };
            let (answer, source) = ask(&socket, reached, fill).expect("an answer");
            assert_eq!(source, from, "flags {flags:?}");
            assert_eq!(answer.get_address(XOR_MAPPED_ADDRESS), Some(mapped));
            assert_eq!(plain(&answer, MAPPED_ADDRESS), Some(mapped));
            assert_eq!(plain(&answer, RESPONSE_ORIGIN), Some(from));
            assert_eq!(plain(&answer, OTHER_ADDRESS), Some(other));
        }
        // From the other end the first one is the other.
        let (answer, source) = ask(&socket, other, |m| m).expect("an answer");
        assert_eq!(
            (source, plain(&answer, OTHER_ADDRESS)),
            (other, Some(reached))
        );
        // To another port of the same host.
        let elsewhere = self::socket();
        let port = elsewhere.local_addr().expect("an address").port();
        let request = Message::new(stun::BINDING).attr(RESPONSE_PORT, &port.to_be_bytes());
        socket.send_to(request.bytes(), reached).expect("sent");
        let (answer, source) = heard(&elsewhere).expect("an answer");
        assert_eq!(source, reached);
        assert_eq!(answer.get_address(XOR_MAPPED_ADDRESS), Some(mapped));
    }
}

#[test]
fn one_address_with_two_ports_claims_nothing() {
    let server = server(&["127.0.0.1"], "\"127.0.0.1\"", "auto");
    let reached = server.udp();
    let socket = socket();
    let (answer, _) = ask(&socket, reached, |m| m).expect("an answer");
    assert_eq!(answer.get(OTHER_ADDRESS), None);
    assert_eq!(answer.attributes().count(), 1);
    let fill = |m: Message| m.attr(CHANGE_REQUEST, &[0, 0, 0, 2]);
    let (answer, _) = ask(&socket, reached, fill).expect("an answer");
    assert_eq!(answer.error(), Some(420));
}
