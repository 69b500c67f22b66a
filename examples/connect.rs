//! Two devices connect and say hello. On one of them, first:
//!
//! ```text
//! cargo run --example connect -- pairing.example.org:8080 SOME-LONG-KEY udp
//! ```
//!
//! and on the other one the same without `udp`.

use std::env;
use std::error::Error;

use turnserver::client::connect::Connector;
use turnserver::pairing::{AccessKey, Protocol};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let (server, key, initiates) = match &arguments[..] {
        [server, key] => (server, key, false),
        [server, key, protocol] if protocol == "udp" => (server, key, true),
        _ => return Err("usage: connect SERVER KEY [udp]".into()),
    };
    let mut connector = Connector::new(server.parse()?, AccessKey::new(key)?);
    if initiates {
        connector = connector.protocol(Protocol::Udp);
    }
    let conn = connector.connect().await?;
    let mut changes = conn.path_changes();
    println!("connected: {:?}", changes.current());
    conn.send(b"hello").await?;
    loop {
        tokio::select! {
            datagram = conn.recv() => match datagram {
                Some(datagram) => println!("{}", String::from_utf8_lossy(&datagram)),
                None => break,
            },
            Some(path) = changes.next() => println!("now: {path:?}"),
            _ = tokio::signal::ctrl_c() => {
                conn.close().await;
                break;
            }
        }
    }
    Ok(())
}
