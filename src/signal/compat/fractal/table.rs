//! Second generation: hosts post a service number, clients ask for it by the host's address.
//! Sans-IO.

use std::net::{Ipv4Addr, SocketAddrV4};

use ahash::RandomState;
use hashbrown::HashMap;

use crate::proto::Mono;

use super::{Entry, entry};

/// Bytes of a request.
pub const REQUEST: usize = 12;
/// How long a post counts, in seconds.
pub const LIFETIME: u64 = 30;
/// Posts of one address; one more evicts its oldest.
pub const PER_SOURCE: usize = 6;
/// Addresses with posts. Beyond it new ones are turned away.
const MOST_SOURCES: usize = 16_384;

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Where is the host that offers this service?
    Ask {
        /// The host's address as the world sees it.
        host: Ipv4Addr,
        /// The number of the service: chosen by the host, not a port of its NAT.
        service: u16,
    },
    /// This host offers a service.
    Post {
        /// Its number.
        service: u16,
    },
}

impl Request {
    /// Reads a request. The type is little-endian as its clients' machines are, all else is in
    /// network order. What follows 12 bytes is ignored, as it always was.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [kind @ .., _, _, _, _, _, _, _, _] = *bytes.first_chunk::<REQUEST>()?;
        let &[_, _, _, _, a, b, c, d, _, _, high, low] = bytes.first_chunk()?;
        let service = u16::from_be_bytes([high, low]);
        match u32::from_le_bytes(kind) {
            0 => Some(Self::Ask {
                host: Ipv4Addr::new(a, b, c, d),
                service,
            }),
            1 => Some(Self::Post { service }),
            _ => None,
        }
    }
}

/// How a host is reached that posted: over UDP, or on its TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// From the port of the protocol.
    Udp,
    /// On the connection that it posted on.
    Tcp(u64),
}

struct Post {
    service: u16,
    endpoint: SocketAddrV4,
    via: Via,
    expires: Mono,
}

/// What an ask comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For the client. A port of 0 says that there is no such host.
    pub reply: Entry,
    /// For the host, when there is one: how, where, and what.
    pub notify: Option<(Via, SocketAddrV4, Entry)>,
}

/// All posts.
pub struct Table {
    /// By address; the oldest post first.
    posts: HashMap<Ipv4Addr, Vec<Post>, RandomState>,
}

impl Table {
    /// No posts. The hash is seeded, as anybody chooses the keys.
    pub fn new(seeds: RandomState) -> Self {
        Self {
            posts: HashMap::with_hasher(seeds),
        }
    }

    /// A host offers a service, or goes on to. True when it is news.
    pub fn post(&mut self, now: Mono, from: SocketAddrV4, service: u16, via: Via) -> bool {
        if !self.posts.contains_key(from.ip()) && self.posts.len() >= MOST_SOURCES {
            self.sweep(now);
            if self.posts.len() >= MOST_SOURCES {
                return false;
            }
        }
        let own = self.posts.entry(*from.ip()).or_default();
        let known = own.iter().position(|post| post.service == service);
        let former = known.map(|at| own.remove(at));
        if own.len() >= PER_SOURCE {
            own.remove(0);
        }
        own.push(Post {
            service,
            endpoint: from,
            via,
            expires: now.plus_secs(LIFETIME),
        });
        former.is_none_or(|former| former.expires <= now || former.endpoint != from)
    }

    /// A client looks for a service.
    pub fn ask(&mut self, now: Mono, from: SocketAddrV4, host: Ipv4Addr, service: u16) -> Answer {
        let nobody = Answer {
            reply: entry(SocketAddrV4::new(host, 0), service),
            notify: None,
        };
        let Some(posts) = self.posts.get_mut(&host) else {
            return nobody;
        };
        let live = |post: &Post| post.service == service && post.expires > now;
        let Some(at) = posts.iter().position(live) else {
            return nobody;
        };
        let (endpoint, via) = (posts[at].endpoint, posts[at].via);
        // A host closes its connection to dial from the same port: it can be told once. Over UDP
        // every client is announced to it.
        if matches!(via, Via::Tcp(_)) {
            posts.remove(at);
            if posts.is_empty() {
                self.posts.remove(&host);
            }
        }
        Answer {
            reply: entry(endpoint, service),
            notify: Some((via, endpoint, entry(from, 0))),
        }
    }

    /// A host's connection is gone, and with it what was posted there.
    pub fn gone(&mut self, host: Ipv4Addr, connection: u64) {
        self.retain_of(host, |post| post.via != Via::Tcp(connection));
    }

    /// Forgets what has expired.
    pub fn sweep(&mut self, now: Mono) {
        self.posts.retain(|_, posts| {
            posts.retain(|post| post.expires > now);
            !posts.is_empty()
        });
    }

    /// How many posts there are, expired ones included until they are swept.
    pub fn len(&self) -> usize {
        self.posts.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.posts.is_empty()
    }

    fn retain_of(&mut self, host: Ipv4Addr, keep: impl FnMut(&Post) -> bool) {
        if let Some(posts) = self.posts.get_mut(&host) {
            posts.retain(keep);
            if posts.is_empty() {
                self.posts.remove(&host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    const HOST: &str = "127.0.0.1:48823";
    const CLIENT: &str = "127.0.0.1:52788";

    #[test]
    fn requests_to_the_byte() {
        let ask = [0, 0, 0, 0, 127, 0, 0, 1, 9, 9, 0x7e, 0x06];
        let host = Ipv4Addr::LOCALHOST;
        let service = 32_262;
        assert_eq!(Request::decode(&ask), Some(Request::Ask { host, service }));
        let mut post = [1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 0x7e, 0x06, 77];
        assert_eq!(Request::decode(&post), Some(Request::Post { service }));
        assert_eq!(Request::decode(&post[..11]), None);
        post[0] = 2;
        assert_eq!(Request::decode(&post), None);
        let big_endian = [0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 0x7e, 0x06];
        assert_eq!(Request::decode(&big_endian), None);
    }

    #[test]
    fn answers_to_the_byte() {
        let (mut table, now) = (table(), Mono(1));
        let reply = table.ask(now, at(CLIENT), Ipv4Addr::LOCALHOST, 32_262);
        let nobody = [0x7f, 0, 0, 1, 0, 0, 0x7e, 0x06];
        assert_eq!((reply.reply, reply.notify), (nobody, None));
        assert!(table.post(now, at(HOST), 32_262, Via::Udp));
        assert!(!table.post(now, at(HOST), 32_262, Via::Udp), "no news");
        let told = [0x7f, 0, 0, 1, 0xce, 0x34, 0, 0];
        for _ in 0..2 {
            let answer = table.ask(now, at(CLIENT), Ipv4Addr::LOCALHOST, 32_262);
            assert_eq!(answer.reply, [0x7f, 0, 0, 1, 0xbe, 0xb7, 0x7e, 0x06]);
            assert_eq!(answer.notify, Some((Via::Udp, at(HOST), told)));
        }
        let other = table.ask(now, at(CLIENT), Ipv4Addr::LOCALHOST, 32_263);
        assert_eq!(other.notify, None);
    }

    #[test]
    fn a_post_counts_for_30_s_from_the_last_one() {
        let mut table = table();
        let start = Mono(1_000_000);
        let found = |table: &mut Table, now| {
            let answer = table.ask(now, at(CLIENT), Ipv4Addr::LOCALHOST, 7);
            answer.notify.is_some()
        };
        table.post(start, at(HOST), 7, Via::Udp);
        table.post(start.plus_secs(10), at(HOST), 7, Via::Udp);
        assert!(found(&mut table, start.plus_secs(39)));
        assert!(!found(&mut table, start.plus_secs(40)));
        table.sweep(start.plus_secs(39));
        assert_eq!(table.len(), 1);
        table.sweep(start.plus_secs(40));
        assert!(table.is_empty());
    }

    #[test]
    fn the_7th_post_of_an_address_evicts_the_oldest() {
        let (mut table, now) = (table(), Mono(1));
        for service in 1..=6 {
            table.post(now, at(HOST), service, Via::Udp);
        }
        // A refresh makes it the youngest.
        table.post(now, at(HOST), 1, Via::Udp);
        table.post(now, at(HOST), 7, Via::Udp);
        let found = |table: &mut Table, service| {
            let answer = table.ask(now, at(CLIENT), Ipv4Addr::LOCALHOST, service);
            answer.notify.is_some()
        };
        let held: Vec<u16> = (1..=7).filter(|s| found(&mut table, *s)).collect();
        assert_eq!(held, [1, 3, 4, 5, 6, 7]);
        assert_eq!(table.len(), PER_SOURCE);
    }

    #[test]
    fn a_host_on_tcp_is_told_once_and_a_closed_connection_takes_its_posts_along() {
        let (mut table, now) = (table(), Mono(1));
        let ask = |table: &mut Table| table.ask(now, at(CLIENT), Ipv4Addr::LOCALHOST, 7).notify;
        table.post(now, at(HOST), 7, Via::Tcp(5));
        assert!(ask(&mut table).is_some());
        assert!(ask(&mut table).is_none());
        assert!(table.is_empty());
        table.post(now, at(HOST), 7, Via::Tcp(5));
        // Posted anew elsewhere: the old connection's end does not touch it.
        table.post(now, at(HOST), 7, Via::Tcp(6));
        table.gone(Ipv4Addr::LOCALHOST, 5);
        assert_eq!(ask(&mut table).map(|(via, ..)| via), Some(Via::Tcp(6)));
        table.post(now, at(HOST), 7, Via::Tcp(7));
        table.gone(Ipv4Addr::LOCALHOST, 7);
        assert!(table.is_empty());
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let (mut table, now) = (table(), Mono(1));
        for host in 0..MOST_SOURCES as u32 + 100 {
            let from = SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000 + host), 1);
            table.post(now, from, 7, Via::Udp);
        }
        assert_eq!(table.len(), MOST_SOURCES);
        // Those that were there go on, and with time there is room again.
        let first = SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000), 1);
        assert!(table.post(now.plus_secs(29), first, 8, Via::Udp));
        assert!(table.post(now.plus_secs(30), at("192.0.2.1:1"), 7, Via::Udp));
    }
}
