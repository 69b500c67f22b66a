//! The transports below a client, and what is asked without one.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::{BINDING, Message, XOR_MAPPED_ADDRESS};

/// Asks for a binding over UDP; returns the mapped address.
pub fn binding_udp(server: SocketAddr, limit: Duration) -> Option<SocketAddr> {
    let mut wire = Wire::udp(server).ok()?;
    wire.set_timeout(limit);
    let request = Message::new(BINDING);
    wire.send(request.bytes()).ok()?;
    let reply = wire.receive_message()?;
    (reply.id() == request.id() && reply.is_success())
        .then(|| reply.get_address(XOR_MAPPED_ADDRESS))?
}

/// Asks for a binding over TCP; returns the mapped address.
pub fn binding_tcp(server: SocketAddr, limit: Duration) -> Option<SocketAddr> {
    let mut wire = Wire::tcp(server).ok()?;
    wire.set_timeout(limit);
    wire.send(Message::new(BINDING).bytes()).ok()?;
    wire.receive_message()?.get_address(XOR_MAPPED_ADDRESS)
}

/// A client's transport to the server.
#[derive(Debug)]
pub enum Wire {
    /// Datagrams.
    Udp(UdpSocket),
    /// A byte stream.
    Tcp(TcpStream),
}

impl Wire {
    /// A UDP socket connected to the server: it hears only what comes from that very address.
    pub fn udp(server: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self::udp_from(any, server)
    }

    /// The same from an address of this machine.
    pub fn udp_from(local: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect(server)?;
        let wire = Self::Udp(socket);
        wire.set_timeout(Duration::from_secs(5));
        Ok(wire)
    }

    /// A TCP connection to the server.
    pub fn tcp(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        let wire = Self::Tcp(stream);
        wire.set_timeout(Duration::from_secs(5));
        Ok(wire)
    }

    /// How long a receive waits.
    pub fn set_timeout(&self, limit: Duration) {
        let limit = Some(limit);
        match self {
            Self::Udp(socket) => socket.set_read_timeout(limit),
            Self::Tcp(stream) => stream.set_read_timeout(limit),
        }
        .expect("a timeout above zero can be set");
    }

    /// The client's address.
    pub fn local(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp(stream) => stream.local_addr(),
        }
        .expect("a bound socket has an address")
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(bytes).map(drop),
            Self::Tcp(stream) => stream.write_all(bytes),
        }
    }

    /// The next STUN or ChannelData message, `None` at the end or after the timeout.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Udp(socket) => {
                let mut buffer = vec![0; 65_536];
                let len = socket.recv(&mut buffer).ok()?;
                buffer.truncate(len);
                Some(buffer)
            }
            Self::Tcp(stream) => {
                let mut frame = vec![0; 4];
                stream.read_exact(&mut frame).ok()?;
                let length = usize::from(u16::from_be_bytes([frame[2], frame[3]]));
                let total = match frame[0] >> 6 {
                    0 => 20 + length,
                    _ => 4 + length.next_multiple_of(4),
                };
                frame.resize(total, 0);
                stream.read_exact(&mut frame[4..]).ok()?;
                Some(frame)
            }
        }
    }

    /// The next message when it is STUN.
    pub fn receive_message(&mut self) -> Option<Message> {
        Message::parse(&self.receive()?)
    }
}

/// An echo peer on loopback.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Echo {
    /// Starts one; its thread ends with the process.
    pub fn start(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                // A peer that is gone is no reason to stop echoing.
                let _ = socket.send_to(&buffer[..len], from);
            }
        });
        Self { address }
    }
}
