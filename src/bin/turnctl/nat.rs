//! `turnctl nat`: what lies between this machine and the internet.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::net::{UdpSocket, lookup_host};
use turnserver::client::nat::{self, Report};
use turnserver::client::port_mapping::{PortMapping, Routers};
use turnserver::client::rendezvous::ServerUrl;
use turnserver::pairing::Protocol;

use crate::{pair, say};

/// Where STUN servers listen (RFC 8489 section 18.6).
const STUN_PORT: u16 = 3478;
/// How long routers are asked for a port.
const ROUTERS: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(crate) struct Options {
    /// The pairing or STUN server: `host:port`, or its http or https URL
    server: ServerUrl,
    /// A further STUN server, `host:port`; one with another address tells more
    #[arg(long, value_name = "HOST:PORT", value_parser = with_port)]
    stun: Vec<String>,
    /// Local address
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// Measure for how long a silent socket is remembered, up to so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..=300))]
    lifetime: Option<u64>,
    /// One JSON object a line for each address family; an error is one on standard error
    #[arg(long)]
    json: bool,
}

fn with_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<NonZeroU16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("neither a name nor an address with a port".into()),
    }
}

/// Why nothing is shown.
enum Failure {
    /// The command line asks for what cannot be.
    Usage(String),
    Asking(String),
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Exits with 0 when a server answered, with 1 when none did, with 2 for a wrong command line.
pub(crate) fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (code, why) = match runtime.block_on(look(options)) {
        Ok(code) => return Ok(code),
        Err(Failure::Output(error)) => return Err(error.into()),
        Err(Failure::Usage(why)) => (2, why),
        Err(Failure::Asking(why)) => (1, why),
    };
    pair::failed(options.json, code, &why);
    Ok(code.into())
}

async fn look(options: &Options) -> Result<ExitCode, Failure> {
    let servers = servers(options).await?;
    let how = nat::Options {
        bind: options.bind,
        lifetime: options.lifetime.map(Duration::from_secs),
        ..nat::Options::default()
    };
    let mut answered = false;
    let mut families = Vec::new();
    for v4 in [true, false] {
        let mut servers = servers.clone();
        servers.retain(|server| server.is_ipv4() == v4);
        if let Some(first) = servers.first() {
            let way = nat::has_way(*first, how.bind).await;
            families.push((v4, way, servers));
        }
    }
    let offline = families.iter().all(|(_, way, _)| !way);
    for (v4, way, servers) in families {
        if !way && !offline {
            // What this machine does not speak is neither blocked nor behind a NAT.
            if !options.json {
                let version = if v4 { 4 } else { 6 };
                say::result(format_args!(
                    "IPv{version}: not spoken here, the system knows no way to the server"
                ))?;
            }
            continue;
        }
        let (report, granted) = tokio::join!(nat::discover(&servers, &how), grants(v4));
        let report = report.map_err(|error| Failure::Asking(error.to_string()))?;
        answered |= !report.seen.is_empty();
        show(options.json, &report, v4.then_some(granted))?;
    }
    Ok(match answered {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The server's own port first, then the usual one, then those that were named.
async fn servers(options: &Options) -> Result<Vec<SocketAddr>, Failure> {
    let unknown = |name: &str, error: io::Error| Failure::Asking(format!("{name}: {error}"));
    let host = options.server.host();
    let mut found = Vec::new();
    for port in [options.server.port(), STUN_PORT] {
        let resolved = lookup_host((host, port)).await;
        found.extend(resolved.map_err(|error| unknown(host, error))?);
    }
    for server in &options.stun {
        let resolved = lookup_host(server).await;
        found.extend(resolved.map_err(|error| unknown(server, error))?);
    }
    if let Some(ip) = options.bind {
        found.retain(|server| server.is_ipv4() == ip.is_ipv4());
        if found.is_empty() {
            let version = if ip.is_ipv4() { 4 } else { 6 };
            return Err(Failure::Usage(format!(
                "--bind {ip} is of IPv{version}, and no server that was named has an address of it"
            )));
        }
    }
    let mut unique = Vec::new();
    for server in found {
        if !unique.contains(&server) {
            unique.push(server);
        }
    }
    Ok(unique)
}

/// Whether the router gives out a port, which is given back at once. Only IPv4 needs that.
async fn grants(v4: bool) -> Option<(&'static str, SocketAddr)> {
    if !v4 {
        return None;
    }
    let socket = UdpSocket::bind("0.0.0.0:0").await.ok()?;
    let port = NonZeroU16::new(socket.local_addr().ok()?.port())?;
    let routers = Routers::default();
    let mapping = PortMapping::request(Protocol::Udp, port, &routers, ROUTERS).await?;
    let granted = (mapping.spoken().name(), mapping.external());
    mapping.release().await;
    Some(granted)
}

fn show(
    json: bool,
    report: &Report,
    granted: Option<Option<(&'static str, SocketAddr)>>,
) -> io::Result<()> {
    if json {
        let mut object = json!(report);
        object["outlook"] = json!(report.outlook());
        object["port_mapping"] = match granted.flatten() {
            Some((by, external)) => json!({"by": by, "external": external}),
            None => json!(null),
        };
        return say::result(object);
    }
    say::result(report)?;
    match granted {
        Some(Some((by, external))) => say::result(format_args!(
            "Router:     gives out ports by {by} (tried: {external})"
        )),
        Some(None) => say::result("Router:     gives out no ports (PCP, NAT-PMP, UPnP)"),
        None => Ok(()),
    }
}
