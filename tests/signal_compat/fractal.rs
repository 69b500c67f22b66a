//! Clients of Fractal, of both generations.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::Socket;
use turnserver::signal::{Compat, Handle};

use super::{LIMIT, LOCALHOST, again, endpoint, until};

fn fractal() -> (Handle, SocketAddr, SocketAddr) {
    let server = endpoint(Compat {
        fractal: vec![LOCALHOST],
        fractal_first: vec![LOCALHOST],
        ..Compat::default()
    });
    let [second, first] = *server.compat_addresses() else {
        panic!("two addresses");
    };
    (server, second, first)
}

fn udp(from: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

const HOST_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const POST: [u8; 12] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7e, 0x06];
const ASK: [u8; 12] = [0, 0, 0, 0, 127, 0, 0, 3, 0, 0, 0x7e, 0x06];
const NOT_FOUND: [u8; 8] = [127, 0, 0, 3, 0, 0, 0x7e, 0x06];

/// What a reply, or a notification with 0 as its last field, has to be.
fn about(peer: SocketAddr, last: u16) -> [u8; 8] {
    let IpAddr::V4(ip) = peer.ip() else {
        panic!("IPv4 only");
    };
    let mut entry = [0; 8];
    entry[..4].copy_from_slice(&ip.octets());
    entry[4..6].copy_from_slice(&peer.port().to_be_bytes());
    entry[6..].copy_from_slice(&last.to_be_bytes());
    entry
}

/// 8 bytes, and where they came from.
fn eight(socket: &UdpSocket) -> ([u8; 8], SocketAddr) {
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer).expect("a datagram");
    (buffer[..len].try_into().expect("8 bytes"), from)
}

/// Asks until the answer is another one than "not found".
fn ask_until_found(client: &UdpSocket, server: SocketAddr) -> [u8; 8] {
    let started = Instant::now();
    loop {
        client.send_to(&ASK, server).expect("sent");
        let (reply, from) = eight(client);
        assert_eq!(from, server);
        if reply != NOT_FOUND {
            return reply;
        }
        assert!(started.elapsed() < LIMIT, "never found");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn fractal_over_udp() {
    let (_server, at, _) = fractal();
    let (host, client) = (udp(HOST_IP), udp(Ipv4Addr::LOCALHOST));
    // Not found is an answer; an empty datagram and a short one are none.
    for request in [&[][..], &ASK[..11], &ASK[..]] {
        client.send_to(request, at).expect("sent");
    }
    assert_eq!(eight(&client), (NOT_FOUND, at));
    // A post is not acknowledged. One that is longer is cut.
    host.send_to(&[&POST[..], b"more"].concat(), at)
        .expect("sent");
    let reply = ask_until_found(&client, at);
    assert_eq!(reply, about(host.local_addr().expect("an address"), 0x7e06));
    // The host hears of the client from the very port that it posted to.
    let told = about(client.local_addr().expect("an address"), 0);
    assert_eq!(eight(&host), (told, at));
    // Every ask announces its client again, and the two meet.
    client.send_to(&ASK, at).expect("sent");
    assert_eq!(eight(&client).0, reply);
    assert_eq!(eight(&host), (told, at));
    host.send_to(b"", client.local_addr().expect("an address"))
        .expect("sent");
    assert_eq!(client.recv(&mut [0; 8]).expect("a datagram"), 0);
}

fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = again(from);
    socket.connect(&to.into()).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

fn eight_on(mut stream: &TcpStream) -> [u8; 8] {
    let mut entry = [0; 8];
    stream.read_exact(&mut entry).expect("8 bytes");
    entry
}

#[test]
fn fractal_over_tcp_and_between_the_two() {
    let (server, at, _) = fractal();
    let local = |ip: Ipv4Addr| SocketAddr::from((ip, 0));
    let host = connect(local(HOST_IP), at);
    // In pieces: a stream has no datagrams.
    for piece in POST.chunks(5) {
        (&host).write_all(piece).expect("written");
        std::thread::sleep(Duration::from_millis(5));
    }
    let started = Instant::now();
    let (client, reply) = loop {
        let client = connect(local(Ipv4Addr::LOCALHOST), at);
        (&client).write_all(&ASK).expect("written");
        let reply = eight_on(&client);
        if reply != NOT_FOUND {
            break (client, reply);
        }
        assert!(started.elapsed() < LIMIT, "never found");
    };
    let (host_at, client_at) = (
        host.local_addr().expect("an address"),
        client.local_addr().expect("an address"),
    );
    assert_eq!(reply, about(host_at, 0x7e06));
    assert_eq!(eight_on(&host), about(client_at, 0));
    // Told once: it has left to dial.
    let late = connect(local(Ipv4Addr::LOCALHOST), at);
    (&late).write_all(&ASK).expect("written");
    assert_eq!(eight_on(&late), NOT_FOUND);
    // Both close and dial each other from the same ports, at the same time and without a
    // listener.
    drop((host, client, late));
    let (one, two) = (again(host_at), again(client_at));
    let dialing = std::thread::spawn(move || dial_until(one, client_at));
    let two = dial_until(two, host_at);
    let one = dialing.join().expect("dialled");
    (&one).write_all(b"hello").expect("written");
    let mut buffer = [0; 5];
    (&two).read_exact(&mut buffer).expect("read");
    assert_eq!(&buffer, b"hello");
    drop((one, two));
    // A datagram finds a host on TCP, and it hears of it there.
    let host = connect(local(HOST_IP), at);
    (&host).write_all(&POST).expect("written");
    let client = udp(Ipv4Addr::LOCALHOST);
    let reply = ask_until_found(&client, at);
    assert_eq!(reply, about(host.local_addr().expect("an address"), 0x7e06));
    let told = about(client.local_addr().expect("an address"), 0);
    assert_eq!(eight_on(&host), told);
    drop(host);
    until(|| server.snapshot().connections == 0);
    // One that hangs up takes along what it posted.
    let host = connect(local(HOST_IP), at);
    (&host).write_all(&POST).expect("written");
    until(|| server.snapshot().connections == 1);
    drop(host);
    until(|| server.snapshot().connections == 0);
    client.send_to(&ASK, at).expect("sent");
    assert_eq!(eight(&client).0, NOT_FOUND);
}

/// A simultaneous open needs both SYNs to cross; on loopback the first one may meet nobody.
fn dial_until(socket: Socket, to: SocketAddr) -> TcpStream {
    let from = socket.local_addr().expect("an address");
    let from = from.as_socket().expect("an IP address");
    let started = Instant::now();
    let mut socket = Some(socket);
    loop {
        let dialer = socket.take().unwrap_or_else(|| again(from));
        if dialer.connect(&to.into()).is_ok() {
            return dialer.into();
        }
        drop(dialer);
        assert!(started.elapsed() < LIMIT, "the two never meet");
    }
}

#[test]
fn fractals_first_generation_in_either_order() {
    let (_server, _, at) = fractal();
    for machine_first in [true, false] {
        let (machine, client) = (udp(HOST_IP), udp(Ipv4Addr::LOCALHOST));
        let ask = || client.send_to(b"127.0.0.3C", at).expect("sent");
        let offer = || machine.send_to(b"S", at).expect("sent");
        if machine_first {
            offer();
            std::thread::sleep(Duration::from_millis(50));
            ask();
        } else {
            ask();
            std::thread::sleep(Duration::from_millis(50));
            offer();
        }
        let here = |socket: &UdpSocket| socket.local_addr().expect("an address");
        assert_eq!(eight(&client), (about(here(&machine), 0), at));
        assert_eq!(eight(&machine), (about(here(&client), 0), at));
    }
}
