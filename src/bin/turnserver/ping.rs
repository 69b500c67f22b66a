//! `turnserver ping`: is a server up?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, ValueEnum};
use turnserver::client::probe::{self, Transport};
use turnserver::config::{Protocol, Settings};

use crate::source::Source;
use crate::{Common, Failure};

const PORT: u16 = 3478;

#[derive(Args)]
pub(crate) struct Options {
    /// Name or address, with or without a port [default: a listener of --config, or
    /// 127.0.0.1:3478]
    address: Option<String>,
    /// How to reach it
    #[arg(long, value_enum, default_value_t = Choice::Udp)]
    transport: Choice,
    /// How long to wait; requests over UDP are sent again after 0.5, 1.5, 3.5, … seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    Udp,
    Tcp,
}

pub(crate) fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let transport = match options.transport {
        Choice::Udp => Transport::Udp,
        Choice::Tcp => Transport::Tcp,
    };
    let servers = match (&options.address, &common.config) {
        (Some(address), _) => resolve(address)?,
        (None, Some(_)) => vec![listener(&Source::configured(common)?.settings, transport)?],
        (None, None) => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))],
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
fn resolve(text: &str) -> Result<Vec<SocketAddr>, Failure> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
        return Ok(vec![(ip, PORT).into()]);
    }
    let found = match text.rsplit_once(':') {
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) => (host, port).to_socket_addrs(),
            Err(_) => return Err(Failure::Plain(format!("\"{port}\" is not a port"))),
        },
        None => (text, PORT).to_socket_addrs(),
    };
    match found {
        Ok(found) => Ok(found.collect()),
        Err(error) => Err(Failure::Plain(format!("cannot resolve {text}: {error}"))),
    }
}

/// The first listener that speaks the transport; a wildcard is asked by loopback.
fn listener(settings: &Settings, transport: Transport) -> Result<SocketAddr, Failure> {
    let protocol = match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    let mut listeners = settings.listeners.iter();
    let found = listeners
        .find(|listener| listener.protocol == protocol)
        .and_then(|listener| listener.addresses.first());
    let Some(address) = found else {
        return Err(Failure::Plain(format!(
            "the configuration has no {} listener",
            protocol.name()
        )));
    };
    Ok(reachable(*address))
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
