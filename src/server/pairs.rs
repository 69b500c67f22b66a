//! What the pairing endpoint has of the relay: URLs of its listeners, and credentials for each
//! pair.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::auth::PairMint;
use crate::config::{Protocol, RelayAddress, Settings, Signaling};
use crate::net::{BoundAddress, Patience, Steering};
use crate::pairing::{IceServer, Role, SessionId};
use crate::proto::pairs::PairId;
use crate::proto::waits::{WaitGuard, Waits};
use crate::signal::room::{Hold, RoomLimits};
use crate::signal::{
    self, Asking, Bond, Bound, Compat, Config, Fallback, Grant, Limits, NoFallback, Renewed,
    Renewing, ServeError,
};

use super::certificates::Store;
use super::{StartError, unix_now};

/// How the endpoint is set up; its relay is told when it is bound.
fn config(signaling: &Signaling, certificates: &Store) -> Config {
    let tls = signaling.certificate.as_ref();
    let waiting = signaling.waiting as usize;
    let per_source = signaling.connections_per_source as usize;
    Config {
        addresses: signaling.addresses.clone(),
        tls: tls.map(|used| certificates.get(used).config_for(b"http/1.1")),
        fallback: Arc::new(NoFallback),
        limits: Limits {
            room: RoomLimits {
                waiting,
                waiting_per_source: per_source,
                sessions: waiting,
                sessions_per_source: per_source,
                max_wait_s: signaling.max_wait.as_secs(),
                ..RoomLimits::default()
            },
            joins_per_minute: signaling.joins_per_minute,
            // Who waits, and both sides of as many sessions as may be in their first seconds.
            connections: waiting.saturating_mul(2),
            // A join over HTTP takes one each.
            connections_per_minute: signaling.joins_per_minute.saturating_mul(4),
            connections_per_source: per_source,
            ..Limits::default()
        },
        compat: Compat {
            stunturn: signaling.stunturn,
            fractal: signaling.fractal.clone(),
            fractal_first: signaling.fractal_first.clone(),
        },
    }
}

/// Opens the addresses of the endpoint.
pub(super) fn bind(
    signaling: &Signaling,
    certificates: &Store,
    patience: &mut Patience,
) -> Result<Bound, StartError> {
    let config = config(signaling, certificates);
    loop {
        match signal::bind(config.clone()) {
            Err(ServeError::Listen(address, error))
                if error.kind() == io::ErrorKind::AddrInUse
                    && patience.wait("pairing", address) => {}
            bound => return bound.map_err(StartError::Signaling),
        }
    }
}

/// For how many seconds the credentials of a wait outlive it: the other side may come in its last
/// moment, and clocks are read on two threads. They are worth nothing without the wait.
const GRACE_S: u64 = 60;

/// The relay as pairs see it.
pub(super) struct Relay {
    pub(super) mint: Arc<PairMint>,
    pub(super) waits: Arc<Waits>,
    pub(super) steering: Steering,
    pub(super) ttl_s: u64,
    /// How old a pair may get whose credentials are renewed, in seconds.
    pub(super) lifetime_s: u64,
    pub(super) doors: Vec<Door>,
    pub(super) addresses: Vec<RelayAddress>,
}

/// One listener.
pub(super) struct Door {
    protocol: Protocol,
    address: SocketAddr,
    /// It speaks TLS, too.
    secure: bool,
    /// It answers Bindings and nothing else.
    discovery: bool,
}

/// The listeners, UDP first. What is `bound` stands in the order of the settings, and what serves
/// discovery alone behind it.
pub(super) fn doors(settings: &Settings, bound: &[BoundAddress]) -> Vec<Door> {
    let listeners = settings.listeners.iter();
    let configured =
        listeners.flat_map(|listener| listener.addresses.iter().map(move |_| listener));
    let mut doors: Vec<Door> = configured
        .zip(bound)
        .map(|(listener, bound)| Door {
            protocol: listener.protocol,
            address: bound.address,
            secure: listener.certificate.is_some(),
            discovery: false,
        })
        .collect();
    doors.sort_by_key(|door| door.protocol);
    // A second port shows clients how their NAT maps.
    let discovery = bound.iter().filter(|bound| !bound.service.is_turn());
    doors.extend(discovery.map(|bound| Door {
        protocol: Protocol::Udp,
        address: bound.address,
        secure: false,
        discovery: true,
    }));
    doors
}

impl Fallback for Relay {
    fn ice_servers(&self, asking: Asking<'_>) -> Vec<IceServer> {
        let now = unix_now();
        let credentials = match asking.bond {
            Bond::Host => None,
            Bond::Wait { session, wait_s } => {
                let ttl_s = wait_s.saturating_add(GRACE_S);
                Some(self.mint.waiting(now, ttl_s, &session.0))
            }
            Bond::Pair {
                session,
                role,
                sides,
            } => {
                let initiator = role == Role::Initiator;
                let ttl_s = self.ttl_s;
                Some(self.mint.mint(now, ttl_s, &session.0, initiator, sides))
            }
        };
        self.servers(asking.reached, asking.host, credentials)
    }

    fn renew(&self, asking: Renewing<'_>) -> Option<Renewed> {
        let shown = (asking.username, asking.credential);
        let made = self
            .mint
            .renew(unix_now(), self.ttl_s, self.lifetime_s, shown)?;
        let credentials = Some((made.username, made.password));
        Some(Renewed {
            session: SessionId(made.session),
            ice_servers: self.servers(asking.reached, asking.host, credentials),
            ttl_s: made.ttl_s,
        })
    }

    fn ttl_s(&self) -> u64 {
        self.ttl_s
    }

    fn hold(&self, session: &SessionId) -> Grant {
        Box::new(Waiting {
            wait: self.waits.begin(PairId::of_session(&session.0)),
            steering: self.steering.clone(),
            paired: false,
        })
    }
}

/// A wait for the other side of a pair, or one that came to an end: what was allocated for it
/// lives on only when there is a pair.
struct Waiting {
    wait: WaitGuard,
    steering: Steering,
    paired: bool,
}

impl Hold for Waiting {
    fn paired(&mut self) {
        self.paired = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.paired {
            return;
        }
        for flow in self.wait.end() {
            self.steering.wait_over(self.wait.pair(), flow);
        }
    }
}

impl Relay {
    /// The servers for one side: those that need no credentials, and with some also the relays.
    fn servers(
        &self,
        reached: SocketAddr,
        name: Option<&str>,
        credentials: Option<(String, String)>,
    ) -> Vec<IceServer> {
        let mut servers = Vec::new();
        let stun = self.urls(reached, |door, host| {
            let udp = door.protocol == Protocol::Udp;
            udp.then(|| format!("stun:{host}:{}", door.address.port()))
                .into_iter()
                .collect()
        });
        if !stun.is_empty() {
            servers.push(IceServer {
                urls: stun,
                username: None,
                credential: None,
            });
        }
        if let Some((username, password)) = credentials {
            servers.push(IceServer {
                urls: self.urls(reached, |door, host| door.turn(host, name)),
                username: Some(username),
                credential: Some(password),
            });
        }
        servers
    }

    /// What `of` makes of every listener, as the world sees it.
    fn urls(&self, reached: SocketAddr, of: impl Fn(&Door, &str) -> Vec<String>) -> Vec<String> {
        let mut found: Vec<(bool, String)> = Vec::new();
        for door in &self.doors {
            let Some(ip) = self.seen(door.address.ip(), reached.ip()) else {
                continue;
            };
            let host = match ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
            for url in of(door, &host) {
                if !found.iter().any(|(_, known)| *known == url) {
                    found.push((ip.is_loopback(), url));
                }
            }
        }
        // A loopback address is of use to nobody else, unless there is nothing else.
        if found.iter().any(|(loopback, _)| !loopback) {
            found.retain(|(loopback, _)| !loopback);
        }
        found.into_iter().map(|(_, url)| url).collect()
    }

    /// The address of a listener as the world sees it: the public one if the configuration names
    /// it, else the listener's own, else (of a wildcard) the one that the request reached, or for
    /// the other family the one that relays.
    fn seen(&self, listening: IpAddr, reached: IpAddr) -> Option<IpAddr> {
        let family = |ip: &IpAddr| ip.is_ipv4() == listening.is_ipv4();
        if !listening.is_unspecified() {
            let known = self.addresses.iter().find(|a| a.local == listening);
            return Some(known.map_or(listening, |relay| relay.public));
        }
        let mut relays = self.addresses.iter().filter(|relay| family(&relay.local));
        let translated = relays.clone().find(|relay| relay.local != relay.public);
        if let Some(relay) = translated {
            return Some(relay.public);
        }
        let usable = match reached {
            // Without the name of an interface it leads nowhere.
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
            IpAddr::V4(_) => true,
        };
        if family(&reached) && usable {
            return Some(reached);
        }
        relays.next().map(|relay| relay.public)
    }
}

impl Door {
    /// Its URLs (RFC 7065). TLS needs a name that the certificate is for: the one by which the
    /// client called the pairing endpoint is the best guess.
    fn turn(&self, host: &str, name: Option<&str>) -> Vec<String> {
        let port = self.address.port();
        if self.discovery {
            return Vec::new();
        }
        let mut urls = match self.protocol {
            Protocol::Udp => vec![format!("turn:{host}:{port}?transport=udp")],
            Protocol::Tcp => vec![format!("turn:{host}:{port}?transport=tcp")],
            Protocol::Tls => Vec::new(),
        };
        if self.secure {
            let host = name.unwrap_or(host);
            urls.push(format!("turns:{host}:{port}?transport=tcp"));
        }
        urls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::PairSecrets;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn relay(doors: &[(Protocol, &str, bool)], addresses: &[(&str, &str)]) -> Relay {
        let secrets = PairSecrets::new([], &[1; 32]);
        let door = |&(protocol, address, secure): &(Protocol, &str, bool)| Door {
            protocol,
            address: address.parse().expect("an address"),
            secure,
            discovery: false,
        };
        Relay {
            mint: PairMint::new(&secrets),
            waits: Waits::new(),
            steering: Steering::default(),
            ttl_s: 600,
            lifetime_s: 6000,
            doors: doors.iter().map(door).collect(),
            addresses: addresses
                .iter()
                .map(|(local, public)| RelayAddress {
                    local: ip(local),
                    public: ip(public),
                })
                .collect(),
        }
    }

    fn urls(relay: &Relay, reached: &str, host: Option<&str>) -> Vec<String> {
        let servers = relay.ice_servers(Asking {
            bond: paired(Role::Receiver),
            reached: reached.parse().expect("an address"),
            host,
        });
        servers.into_iter().flat_map(|server| server.urls).collect()
    }

    const BOTH: [(Protocol, &str, bool); 2] = [
        (Protocol::Udp, "0.0.0.0:3478", false),
        (Protocol::Tcp, "0.0.0.0:3478", true),
    ];

    #[test]
    fn a_public_address_stands_above_all() {
        let relay = relay(&BOTH, &[("10.0.0.1", "203.0.113.7")]);
        let expected = [
            "stun:203.0.113.7:3478",
            "turn:203.0.113.7:3478?transport=udp",
            "turn:203.0.113.7:3478?transport=tcp",
            "turns:pair.example.org:3478?transport=tcp",
        ];
        let found = urls(&relay, "10.0.0.1:8080", Some("pair.example.org"));
        assert_eq!(found, expected);
        let unnamed = urls(&relay, "10.0.0.1:8080", None);
        assert_eq!(unnamed[3], "turns:203.0.113.7:3478?transport=tcp");
    }

    #[test]
    fn a_listener_has_its_address_and_a_wildcard_the_one_that_was_reached() {
        let named = relay(
            &[(Protocol::Udp, "192.0.2.1:3478", false)],
            &[("192.0.2.1", "192.0.2.1")],
        );
        let expected = ["stun:192.0.2.1:3478", "turn:192.0.2.1:3478?transport=udp"];
        assert_eq!(urls(&named, "198.51.100.1:80", None), expected);
        let wildcards = [
            (Protocol::Udp, "0.0.0.0:3478", false),
            (Protocol::Udp, "[::]:3478", false),
        ];
        let addresses = [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1")];
        let wildcard = relay(&wildcards, &addresses);
        let found = urls(&wildcard, "198.51.100.1:80", None);
        let stun = ["stun:198.51.100.1:3478", "stun:[2001:db8::1]:3478"];
        assert_eq!(found[..2], stun);
        let found = urls(&wildcard, "[fe80::1]:80", None);
        let stun = ["stun:192.0.2.1:3478", "stun:[2001:db8::1]:3478"];
        assert_eq!(found[..2], stun);
        // On the machine itself, where nothing else is reached.
        let lonely = relay(&wildcards[..1], &addresses[..1]);
        assert_eq!(
            urls(&lonely, "127.0.0.1:80", None)[0],
            "stun:127.0.0.1:3478"
        );
    }

    fn paired(role: Role) -> Bond {
        Bond::Pair {
            session: SessionId([7; 16]),
            role,
            sides: [ip("192.0.2.5"), ip("192.0.2.6")],
        }
    }

    #[test]
    fn credentials_belong_to_a_session_and_a_side() {
        let relay = relay(&BOTH, &[("192.0.2.1", "192.0.2.1")]);
        let session = SessionId([7; 16]);
        let ask = |bond| {
            let servers = relay.ice_servers(Asking {
                bond,
                reached: "192.0.2.1:80".parse().expect("an address"),
                host: None,
            });
            servers.last().and_then(|server| server.username.clone())
        };
        for (role, side) in [(Role::Initiator, 'i'), (Role::Receiver, 'r')] {
            let name = ask(paired(role)).expect("a name");
            assert!(name.contains(&format!(":pair:{session}:{side}:")), "{name}");
        }
        assert_eq!(ask(Bond::Host), None, "a host that waits has none");
        let now = unix_now();
        let wait_s = 30;
        let name = ask(Bond::Wait { session, wait_s }).expect("a name");
        assert!(name.ends_with(":i:wait"), "{name}");
        let expiry = name
            .split(':')
            .next()
            .and_then(|expiry| expiry.parse().ok());
        let expiry: u64 = expiry.expect("a number");
        assert!((now + 90..now + 95).contains(&expiry), "{name}");

        let grant = relay.hold(&session);
        assert_eq!(relay.waits.len(), 1);
        drop(grant);
        assert!(relay.waits.is_empty());
    }
}
