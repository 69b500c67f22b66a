//! Whether the network lets datagrams through, found out while there is time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::wire::{Builder, Class, Message, Method, TransactionId};

/// How long the answer may take.
const WITHIN: Duration = Duration::from_secs(2);

/// Whether this server answers a STUN Binding request (RFC 8489) by UDP. It is asked once.
pub async fn answers_by_udp(server: SocketAddr, bind: Option<IpAddr>) -> bool {
    let asked = timeout(WITHIN, ask(server, bind)).await;
    matches!(asked, Ok(Ok(())))
}

async fn ask(server: SocketAddr, bind: Option<IpAddr>) -> io::Result<()> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((bind.unwrap_or(any), 0)).await?;
    socket.connect(server).await?;
    let mut id = TransactionId([0; 12]);
    getrandom::fill(&mut id.0).map_err(io::Error::other)?;
    let mut request = [0; 64];
    let mut builder = Builder::new(&mut request, Class::Request, Method::BINDING, id);
    builder.fingerprint();
    let len = builder.finish().expect("a short request");
    socket.send(&request[..len]).await?;
    let mut answer = [0; 1500];
    loop {
        let len = socket.recv(&mut answer).await?;
        if Message::parse(&answer[..len]).is_ok_and(|message| message.transaction_id() == id) {
            return Ok(());
        }
    }
}
