//! What the URLs of ICE servers say (RFC 7064, RFC 7065).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::client::turn::Credentials;
use crate::pairing::IceServer;

/// The most servers of one kind that are tried.
const MOST: usize = 6;

/// How to reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream under TLS.
    Tls,
}

/// Where a server is: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name, or an address without brackets.
    pub name: String,
    /// The port.
    pub port: u16,
}

impl Host {
    /// The addresses, by DNS where it is a name. At most one of each family, because the others
    /// are the same server by another way.
    pub async fn resolve(&self) -> Vec<SocketAddr> {
        if let Ok(ip) = self.name.parse::<IpAddr>() {
            return vec![(ip, self.port).into()];
        }
        let found = tokio::net::lookup_host((self.name.as_str(), self.port)).await;
        let found: Vec<_> = found.into_iter().flatten().collect();
        let one = |v4| {
            found
                .iter()
                .find(|address| address.is_ipv4() == v4)
                .copied()
        };
        [one(true), one(false)].into_iter().flatten().collect()
    }
}

/// A relay and what it takes.
#[derive(Clone, Debug)]
pub struct TurnServer {
    /// Where it is.
    pub host: Host,
    /// How to reach it.
    pub transport: Transport,
    /// What it takes.
    pub credentials: Arc<Credentials>,
}

/// The relays among the servers, UDP first and TLS last.
pub fn turn_servers(servers: &[IceServer]) -> Vec<TurnServer> {
    let mut found: Vec<TurnServer> = Vec::new();
    for server in servers {
        let (Some(username), Some(password)) = (&server.username, &server.credential) else {
            continue;
        };
        let credentials = Credentials::new(username, password);
        for url in &server.urls {
            let Some((host, transport)) = parse_turn(url) else {
                continue;
            };
            let known = |known: &TurnServer| known.host == host && known.transport == transport;
            if !found.iter().any(known) {
                found.push(TurnServer {
                    host,
                    transport,
                    credentials: Arc::clone(&credentials),
                });
            }
        }
    }
    found.sort_by_key(|server| server.transport);
    found.truncate(MOST);
    found
}

/// The servers that tell reflexive addresses over UDP: those that say so, and the relays, which
/// do it as well (RFC 8656 section 5).
pub fn stun_servers(servers: &[IceServer]) -> Vec<Host> {
    let mut found: Vec<Host> = Vec::new();
    for url in servers.iter().flat_map(|server| &server.urls) {
        let host = match url.split_once(':') {
            Some(("stun", rest)) => host(rest, 3478),
            _ => parse_turn(url)
                .filter(|(_, transport)| *transport == Transport::Udp)
                .map(|(host, _)| host),
        };
        if let Some(host) = host
            && !found.contains(&host)
            && found.len() < MOST
        {
            found.push(host);
        }
    }
    found
}

fn parse_turn(url: &str) -> Option<(Host, Transport)> {
    let (scheme, rest) = url.split_once(':')?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (transport, port) = match (scheme, query) {
        ("turn", "" | "transport=udp") => (Transport::Udp, 3478),
        ("turn", "transport=tcp") => (Transport::Tcp, 3478),
        ("turns", "" | "transport=tcp") => (Transport::Tls, 5349),
        // DTLS, and what does not exist.
        _ => return None,
    };
    Some((host(rest, port)?, transport))
}

fn host(text: &str, default: u16) -> Option<Host> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']')?;
            name.parse::<std::net::Ipv6Addr>().ok()?;
            match rest {
                "" => (name, None),
                rest => (name, Some(rest.strip_prefix(':')?)),
            }
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port != 0)?,
        None => default,
    };
    let name = name.to_owned();
    (!name.is_empty() && name.len() <= 255).then_some(Host { name, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(urls: &[&str]) -> IceServer {
        IceServer {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            username: Some("u".into()),
            credential: Some("p".into()),
        }
    }

    #[test]
    fn urls_as_the_rfcs_write_them() {
        let servers = [server(&[
            "turns:turn.example.org",
            "turn:192.0.2.1:3479?transport=tcp",
            "turn:[2001:db8::1]:3478",
            "turn:turn.example.org?transport=udp",
            "turn:turn.example.org",
            "stun:stun.example.org:8080",
            "turns:x?transport=udp",
            "turn:x:0",
            "turn:x:99999",
            "turn::1",
            "turn:[x]",
            "turn:[2001:db8::1]3478",
            "http://x",
            "",
        ])];
        let found: Vec<_> = turn_servers(&servers)
            .iter()
            .map(|server| {
                let host = &server.host;
                format!("{} {} {:?}", host.name, host.port, server.transport)
            })
            .collect();
        assert_eq!(
            found,
            [
                "2001:db8::1 3478 Udp",
                "turn.example.org 3478 Udp",
                "192.0.2.1 3479 Tcp",
                "turn.example.org 5349 Tls",
            ]
        );
        let found: Vec<_> = stun_servers(&servers)
            .iter()
            .map(|host| format!("{} {}", host.name, host.port))
            .collect();
        assert_eq!(
            found,
            [
                "2001:db8::1 3478",
                "turn.example.org 3478",
                "stun.example.org 8080"
            ]
        );
    }

    #[test]
    fn a_relay_without_credentials_is_none() {
        let mut server = server(&["turn:192.0.2.1"]);
        server.credential = None;
        assert!(turn_servers(&[server]).is_empty());
    }

    #[test]
    fn only_so_many_are_tried() {
        let urls: Vec<_> = (1..100).map(|n| format!("turn:192.0.2.{n}")).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        assert_eq!(turn_servers(&[server(&urls)]).len(), MOST);
        assert_eq!(stun_servers(&[server(&urls)]).len(), MOST);
    }
}
