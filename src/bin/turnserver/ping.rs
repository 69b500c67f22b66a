//! `turnserver ping`: is a server up?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, ValueEnum};
use turnserver::client::probe::{self, Transport};
use turnserver::config::{Listener, Protocol, Settings};

use crate::source::Source;
use crate::{Common, Failure};

const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;

#[derive(Args)]
pub(crate) struct Options {
    /// Name or address, with or without a port [default: a listener of --config, or
    /// 127.0.0.1:3478]
    address: Option<String>,
    /// How to reach it; over TLS any certificate is taken, for this only asks whether the server
    /// is up [default: udp, or what --config listens on]
    #[arg(long, value_enum)]
    transport: Option<Choice>,
    /// How long to wait; requests over UDP are sent again after 0.5, 1.5, 3.5, … seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    Udp,
    Tcp,
    Tls,
}

impl Choice {
    fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            Self::Tcp => Transport::Tcp,
            Self::Tls => Transport::Tls,
        }
    }
}

pub(crate) fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let chosen = options.transport.map(Choice::transport);
    let (servers, transport) = match (&options.address, &common.config) {
        (None, Some(_)) => {
            let settings = Source::configured(common)?.settings;
            let (server, transport) = listener(&settings, chosen)?;
            (vec![server], transport)
        }
        (address, _) => {
            let transport = chosen.unwrap_or(Transport::Udp);
            let port = match transport {
                Transport::Udp | Transport::Tcp => PORT,
                Transport::Tls => TLS_PORT,
            };
            let servers = match address {
                Some(address) => resolve(address, port)?,
                None => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))],
            };
            (servers, transport)
        }
    };
    // A name may have addresses that the server does not listen on.
    let mut last = Ok(());
    for server in servers {
        last = ask(server, transport, options.timeout);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn ask(server: SocketAddr, transport: Transport, seconds: u64) -> Result<(), Failure> {
    match probe::binding(server, transport, Duration::from_secs(seconds)) {
        Ok(answer) => {
            crate::print(&format!(
                "{server} {}: this address is seen as {}, {:.2} ms",
                transport.name(),
                answer.mapped,
                answer.rtt.as_secs_f64() * 1000.0
            ));
            Ok(())
        }
        Err(error) => Err(Failure::Plain(match error {
            probe::ProbeError::Timeout => format!(
                "{server} {}: no answer within {seconds} s",
                transport.name(),
            ),
            error => format!("{server} {}: {error}", transport.name()),
        })),
    }
}

/// `host`, `host:port`, an address, or an address and a port.
fn resolve(text: &str, default: u16) -> Result<Vec<SocketAddr>, Failure> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
        return Ok(vec![(ip, default).into()]);
    }
    let found = match text.rsplit_once(':') {
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) => (host, port).to_socket_addrs(),
            Err(_) => return Err(Failure::Plain(format!("\"{port}\" is not a port"))),
        },
        None => (text, default).to_socket_addrs(),
    };
    match found {
        Ok(found) => Ok(found.collect()),
        Err(error) => Err(Failure::Plain(format!("cannot resolve {text}: {error}"))),
    }
}

/// The first listener that speaks the transport, else the first over UDP, TCP or TLS, in this
/// order; a wildcard is asked by loopback.
fn listener(
    settings: &Settings,
    chosen: Option<Transport>,
) -> Result<(SocketAddr, Transport), Failure> {
    let speaks = |listener: &Listener, transport| match transport {
        Transport::Udp => listener.protocol == Protocol::Udp,
        Transport::Tcp => listener.protocol == Protocol::Tcp,
        Transport::Tls => listener.certificate.is_some(),
    };
    let all = [Transport::Udp, Transport::Tcp, Transport::Tls];
    for transport in chosen.map_or(all.to_vec(), |only| vec![only]) {
        let mut listeners = settings.listeners.iter();
        let found = listeners.find(|listener| speaks(listener, transport));
        if let Some(address) = found.and_then(|listener| listener.addresses.first()) {
            return Ok((reachable(*address), transport));
        }
    }
    Err(Failure::Plain(format!(
        "the configuration has no {} listener",
        chosen.map_or("usable", Transport::name)
    )))
}

/// Where a listener can be reached from this machine.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
