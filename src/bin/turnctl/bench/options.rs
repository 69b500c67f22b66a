//! The command line of `bench`, and what it amounts to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, ValueEnum, error::ErrorKind};
use ipnet::IpNet;
use turnserver::auth;
use turnserver::client::turn::Credentials;

use super::{payload, worker};

#[derive(Args)]
pub(crate) struct Options {
    /// Name or address of the server, with or without a port [default port: 3478, for tls 5349]
    pub(super) server: String,
    /// User name
    #[arg(long, short, value_name = "NAME")]
    pub(super) user: Option<String>,
    /// Password of the user
    #[arg(long, short, value_name = "PASSWORD", conflicts_with = "secret")]
    pub(super) password: Option<String>,
    /// Secret from which to make time-limited credentials, with or without --user
    #[arg(
        long,
        value_name = "SECRET",
        env = "TURNCTL_SECRET",
        hide_env_values = true
    )]
    pub(super) secret: Option<String>,
    /// How clients reach the server
    #[arg(long, short, value_enum, default_value_t = Transport::Udp)]
    pub(super) transport: Transport,
    /// Certificates to trust for tls, as PEM [default: those of the system]
    #[arg(long, value_name = "FILE", env = "SSL_CERT_FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long)]
    pub(super) insecure: bool,
    /// What to measure
    #[arg(long, short, value_enum, default_value_t = Mode::Relay)]
    pub(super) mode: Mode,
    /// How many allocations [default: 10; in mode allocate and binding, from how many client
    /// addresses: 256, or in mode allocate all of a network given with --bind]
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) allocations: Option<u32>,
    /// Bytes of application data in each packet
    #[arg(long, short, value_name = "BYTES", default_value_t = 172,
          value_parser = clap::value_parser!(u16).range(payload::HEADER as i64..=9000))]
    pub(super) size: u16,
    /// Packets per second, all allocations and directions together [default: 50 for each
    /// allocation and direction]
    #[arg(long, short, value_name = "PACKETS", conflicts_with = "search",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) rate: Option<u64>,
    /// So many packets of an allocation and way are sent at once, as those of a video frame are
    #[arg(long, value_name = "PACKETS", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=worker::BURST as i64))]
    pub(super) burst: u8,
    /// Search for the highest rate with at most --max-loss
    #[arg(long)]
    pub(super) search: bool,
    /// Where the search begins
    #[arg(long, value_name = "PACKETS", default_value_t = 8000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) search_from: u64,
    /// Where the search ends at the latest
    #[arg(long, value_name = "PACKETS", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) search_to: u64,
    /// Loss that still counts as none, in percent; so many duplicates do, too
    #[arg(long, value_name = "PERCENT", default_value_t = 0.1, value_parser = percent)]
    pub(super) max_loss: f64,
    /// Seconds after which a packet counts as lost though it comes, and for which, or for 1, one is
    /// waited for at the end: streams hold packets back for long before they lose any
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(super) max_delay: Duration,
    /// Which way packets flow: up is from clients to peers
    #[arg(long, short, value_enum, default_value_t = Direction::Both)]
    pub(super) direction: Direction,
    /// Send and Data indications instead of channels
    #[arg(long)]
    pub(super) indications: bool,
    /// No peers: each two clients are each other's peer, by their relayed addresses, and a packet
    /// crosses two relays. Works behind any NAT
    #[arg(long)]
    pub(super) pairs: bool,
    /// Seconds of each measurement [default: 10; of each step of a search: 2]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) duration: Option<Duration>,
    /// Seconds of load before each measurement that do not count
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    pub(super) warm_up: Duration,
    /// Seconds without any answer after which the server counts as silent
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(super) timeout: Duration,
    /// Local address of the clients. A network (10.9.0.0/16, 127.1.0.0/16): each client has an
    /// address of its own from it, and one socket serves them all, which is several times faster
    /// than a socket each; it must be routed to this machine, as all of 127.0.0.0/8 is
    #[arg(long, value_name = "IP|NETWORK", value_parser = bind)]
    pub(super) bind: Option<IpNet>,
    /// Local address of the peers [default: the one that leads to the server]
    #[arg(long, value_name = "IP")]
    pub(super) peer_bind: Option<IpAddr>,
    /// How many peers the allocations share [default: 4, at most one for each allocation]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) peers: Option<u32>,
    /// Threads that generate the load
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) threads: u32,
    /// Requests under way at a time: while allocating, and in mode allocate and binding
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) concurrency: u32,
    /// Write the result as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// No progress line
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// How clients reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Packets through allocations
    Relay,
    /// Allocate without credentials, Allocate, Refresh 0: such cycles per second
    Allocate,
    /// Bindings per second
    Binding,
    /// Idle allocations, held for --duration
    Hold,
}

/// Which way packets flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    Up,
    Down,
    Both,
}

macro_rules! display_as_named {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value();
                f.write_str(value.as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}
display_as_named!(Transport, Mode, Direction);

fn percent(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("not between 0 and 100"),
    }
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(Duration::from_secs_f64(value)),
        _ => Err("not between 0 and 86400"),
    }
}

fn bind(text: &str) -> Result<IpNet, &'static str> {
    let ip = text.parse::<IpAddr>().map(IpNet::from);
    ip.or_else(|_| text.parse())
        .map_err(|_| "neither an address nor a network")
}

/// What to do, checked and complete.
pub(super) struct Plan {
    pub(super) server: SocketAddr,
    /// The name that the server's certificate must have.
    pub(super) server_name: String,
    pub(super) credentials: Arc<Credentials>,
    pub(super) transport: Transport,
    pub(super) mode: Mode,
    pub(super) clients: usize,
    pub(super) size: usize,
    pub(super) peer_ip: IpAddr,
    pub(super) peers: usize,
    pub(super) threads: usize,
    pub(super) duration: Duration,
    pub(super) options: Options,
}

impl Plan {
    /// Checks what the parser cannot, resolves the name, makes the credentials. Wrong usage ends
    /// the process with the parser's own message.
    pub(super) fn new(options: Options) -> Result<Self, String> {
        let server = resolve(&options)?;
        let threads = options.threads as usize;
        let usual = match (options.mode, options.bind) {
            (Mode::Relay | Mode::Hold, _) => 10,
            // A server may remember an address for a while after its allocation is gone.
            (Mode::Allocate, Some(net)) if room(net) > 256 => room(net).min(1 << 20) as u32,
            _ => 256,
        };
        let clients = options.allocations.unwrap_or(usual) as usize;
        if options.pairs && !clients.is_multiple_of(2 * threads) {
            usage("--pairs takes an even number of allocations for each thread");
        }
        if clients < threads {
            usage("each thread needs an allocation");
        }
        if let Some(net) = options.bind {
            check_bind(&options, net, server, clients);
        }
        if options.search && options.search_from > options.search_to {
            usage("--search-from is above --search-to");
        }
        if options.duration.is_some_and(|duration| duration.is_zero()) {
            usage("--duration must be above zero");
        }
        let peer_ip = match options.peer_bind {
            Some(ip) => ip,
            None => source_towards(server)?,
        };
        let peers = options.peers.unwrap_or(4) as usize;
        Ok(Self {
            server,
            server_name: host_of(&options.server).to_owned(),
            credentials: credentials(&options)?,
            transport: options.transport,
            mode: options.mode,
            clients,
            size: options.size.into(),
            peer_ip,
            peers: peers.min(clients / threads),
            threads,
            duration: options.duration.unwrap_or(match options.search {
                true => Duration::from_secs(2),
                false => Duration::from_secs(10),
            }),
            options,
        })
    }

    pub(super) fn reliable(&self) -> bool {
        self.transport != Transport::Udp
    }

    /// Packets per second when nothing else is asked for.
    pub(super) fn rate(&self) -> f64 {
        let directions = match self.options.direction {
            Direction::Both if !self.options.pairs => 2,
            _ => 1,
        };
        let usual = 50 * directions * self.clients as u64;
        self.options.rate.unwrap_or(usual) as f64
    }
}

fn check_bind(options: &Options, net: IpNet, server: SocketAddr, clients: usize) {
    if net.addr().is_ipv4() != server.is_ipv4() {
        usage("--bind and the server are of different address families");
    }
    if room(net) > 1 && options.transport != Transport::Udp {
        usage("--bind with a network is for UDP; give one address");
    }
    if room(net) > 1 && room(net) < clients as u64 {
        usage("the network of --bind has fewer addresses than there are clients");
    }
}

/// How many addresses for clients there are; 1 when it is a single address.
fn room(net: IpNet) -> u64 {
    let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
    match 1_u64.checked_shl(host_bits) {
        // The first and the last address of an IPv4 network are not for hosts.
        Some(all) => all.saturating_sub(2).max(1),
        None => u64::MAX,
    }
}

/// Ends the process as the parser does for what it finds itself.
fn usage(text: &str) -> ! {
    #[derive(Parser)]
    struct Bench {
        #[command(flatten)]
        _options: Options,
    }
    let mut command = Bench::command()
        .name("turnctl bench")
        .bin_name("turnctl bench");
    command.error(ErrorKind::ValueValidation, text).exit()
}

fn credentials(options: &Options) -> Result<Arc<Credentials>, String> {
    if options.mode == Mode::Binding {
        return Ok(Credentials::new("", ""));
    }
    match (&options.user, &options.password, &options.secret) {
        (user, _, Some(secret)) => {
            let now = std::time::UNIX_EPOCH.elapsed();
            let now = now.map_err(|_| "the clock of this machine is before 1970")?;
            // Longer than any run.
            let ttl = 2 * 86_400;
            let (user, password) = auth::mint(
                user.as_deref(),
                ttl,
                secret.as_bytes(),
                now.as_secs(),
                false,
            );
            Ok(Credentials::new(&user, &password))
        }
        (Some(user), Some(password), None) => Ok(Credentials::new(user, password)),
        _ => usage("credentials are missing: --user and --password, or --secret"),
    }
}

fn host_of(server: &str) -> &str {
    if let Some((host, _)) = server.strip_prefix('[').and_then(|s| s.split_once(']')) {
        return host;
    }
    match server.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') => host,
        _ => server,
    }
}

/// `host`, `host:port`, an address, or an address and a port; of the family of --bind.
fn resolve(options: &Options) -> Result<SocketAddr, String> {
    let text = options.server.as_str();
    let port = match options.transport {
        Transport::Tls => 5349,
        _ => 3478,
    };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let host = host_of(text);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return match text.len() - host.len() {
            0 | 2 => Ok((ip, port).into()),
            _ => Err(format!("{text} is not an address with a port")),
        };
    }
    let port = match text.rsplit_once(':') {
        Some((_, number)) => match number.parse() {
            Ok(number) => number,
            Err(_) => return Err(format!("{number:?} is not a port")),
        },
        None => port,
    };
    let found = (host, port).to_socket_addrs();
    let mut found = found.map_err(|error| format!("cannot resolve {host}: {error}"))?;
    found
        .find(|address| {
            let bind = options.bind.map(|net| net.addr());
            bind.is_none_or(|ip| ip.is_ipv4() == address.is_ipv4())
        })
        .ok_or_else(|| format!("{host} has no address of the family of --bind"))
}

/// The local address from which datagrams to the server leave.
fn source_towards(server: SocketAddr) -> Result<IpAddr, String> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| {
            socket.connect(server)?;
            socket.local_addr()
        })
        .map(|address| address.ip())
        .map_err(|error| format!("no way to {server}: {error}"))
}
