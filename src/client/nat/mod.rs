//! What lies between this machine and the internet (RFC 5780): which outer addresses its sockets
//! get, who may send to them, whether they can be reached from inside, and for how long they are
//! remembered.
//!
//! A server with two addresses tells all of that. One with a single address and two ports, or
//! two different servers, still tells something, and what they cannot tell is reported as not
//! known rather than guessed.

mod ask;
mod decide;
mod report;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::wire::ChangeRequest;
use ask::{Answer, Wish, ask, hears, listen, send, socket};
pub use report::{Filtering, Lifetime, Mapping, Ports, Report, Seen};

/// How many fresh sockets show how ports are chosen.
const SAMPLES: usize = 4;
/// Times of silence that are tried, in seconds.
const SILENCES: [u64; 9] = [10, 20, 30, 45, 60, 90, 120, 180, 300];

/// How to look.
#[derive(Clone, Debug)]
pub struct Options {
    /// The local address; the system's choice when absent.
    pub bind: Option<IpAddr>,
    /// How long each question waits for its answer.
    pub patience: Duration,
    /// Measure for how long a silent socket is remembered, up to so many seconds.
    pub lifetime: Option<Duration>,
}

impl Default for Options {
    /// 2 s for each question, no lifetime.
    fn default() -> Self {
        Self {
            bind: None,
            patience: Duration::from_secs(2),
            lifetime: None,
        }
    }
}

/// Asks these servers, which are of one address family. The first that answers is the one that
/// is asked for answers from elsewhere. Takes about 3 times [`Options::patience`], and
/// [`Options::lifetime`] on top.
///
/// # Errors
/// When no socket can be had. That nobody answers is a result, not an error.
pub async fn discover(servers: &[SocketAddr], options: &Options) -> io::Result<Report> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "no server to ask");
    let like = *servers.first().ok_or_else(missing)?;
    let main = socket(like, options.bind).await?;
    let local = local_address(&main, like).await?;
    let (seen, other) = outer_addresses(&main, servers, options).await?;
    let mut report = Report {
        ip_version: if like.is_ipv4() { 4 } else { 6 },
        local,
        mapping: decide::mapping(&own_addresses(local), local, &seen),
        seen,
        filtering: Filtering::Unknown,
        ports: Ports::Unknown,
        hairpin: None,
        lifetime: None,
    };
    let Some(&Seen { server, mapped }) = report.seen.first() else {
        return Ok(report);
    };
    let able = other.is_some_and(|other| other.ip() != server.ip());
    // Alone: other new sockets would take ports in between.
    report.ports = ports(server, options).await?;
    let (filtering, hairpin) = tokio::join!(
        filtering(server, able, options),
        hairpin(&main, mapped, options),
    );
    report.filtering = filtering?;
    if report.mapping != Mapping::None {
        report.hairpin = Some(hairpin?);
    }
    if let Some(longest) = options.lifetime {
        report.lifetime = lifetime(server, longest, options).await?;
    }
    Ok(report)
}

/// Whether the system knows a way from this local address to a server at all. Nothing is sent.
pub async fn has_way(server: SocketAddr, bind: Option<IpAddr>) -> bool {
    match socket(server, bind).await {
        Ok(probe) => probe.connect(server).await.is_ok(),
        Err(_) => false,
    }
}

/// Asks every server, and the first one's other address at both of its ports.
async fn outer_addresses(
    main: &UdpSocket,
    servers: &[SocketAddr],
    options: &Options,
) -> io::Result<(Vec<Seen>, Option<SocketAddr>)> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut further = None;
    let mut targets: Vec<SocketAddr> = servers.to_vec();
    let mut at = 0;
    while at < targets.len() {
        let server = targets[at];
        at += 1;
        let answer = ask(main, server, Wish::default(), options.patience).await?;
        let Answer::Mapped { mapped, other, .. } = answer else {
            continue;
        };
        if seen.is_empty() {
            further = other.filter(|other| other.is_ipv4() == server.is_ipv4());
            if let Some(other) = further {
                // RFC 5780 section 4.3: test II, then test III.
                targets.extend([SocketAddr::new(other.ip(), server.port()), other]);
            }
        }
        if !seen.iter().any(|seen| seen.server == server) {
            seen.push(Seen { server, mapped });
        }
    }
    Ok((seen, further))
}

/// RFC 5780 section 4.4. Each question has its own socket, so that none opens the way for
/// another's answer.
async fn filtering(server: SocketAddr, able: bool, options: &Options) -> io::Result<Filtering> {
    let question = |ip| async move {
        let socket = socket(server, options.bind).await?;
        // The way to this server is opened first.
        ask(&socket, server, Wish::default(), options.patience).await?;
        let change = Some(ChangeRequest { ip, port: true });
        let wish = Wish {
            change,
            ..Wish::default()
        };
        match ask(&socket, server, wish, options.patience).await? {
            // It pays no heed to the wish.
            Answer::Mapped { from, .. } if from == server => Ok(Answer::Silence),
            answer => Ok::<_, io::Error>(answer),
        }
    };
    let (elsewhere, other_port) = tokio::join!(question(true), question(false));
    Ok(decide::filtering(able, elsewhere?, other_port?))
}

async fn ports(server: SocketAddr, options: &Options) -> io::Result<Ports> {
    let mut sockets = Vec::new();
    let mut pairs = Vec::new();
    for _ in 0..SAMPLES {
        let socket = socket(server, options.bind).await?;
        let answer = ask(&socket, server, Wish::default(), options.patience).await?;
        if let Answer::Mapped { mapped, .. } = answer {
            pairs.push((socket.local_addr()?.port(), mapped.port()));
        }
        // Kept, so that no port is given twice.
        sockets.push(socket);
    }
    Ok(decide::ports(&pairs))
}

/// RFC 5780 section 4.5, between two sockets.
async fn hairpin(main: &UdpSocket, mapped: SocketAddr, options: &Options) -> io::Result<bool> {
    let second = socket(mapped, options.bind).await?;
    // Two, since one may be lost.
    let first = send(&second, mapped, Wish::default()).await;
    let Ok(first) = first else {
        // The system knows no way there.
        return Ok(false);
    };
    let half = options.patience / 2;
    if hears(main, first, Instant::now() + half).await {
        return Ok(true);
    }
    let Ok(again) = send(&second, mapped, Wish::default()).await else {
        return Ok(false);
    };
    Ok(hears(main, again, Instant::now() + half).await)
}

/// RFC 5780 section 4.6, with one pair of sockets for each time of silence, all at once.
async fn lifetime(
    server: SocketAddr,
    longest: Duration,
    options: &Options,
) -> io::Result<Option<Lifetime>> {
    // Whether the server can send to another port at all, without any silence.
    if still_there(server, Duration::ZERO, options).await? != Some(true) {
        return Ok(None);
    }
    let mut tests = JoinSet::new();
    for silence in SILENCES.map(Duration::from_secs) {
        if silence <= longest {
            let options = options.clone();
            tests.spawn(async move { (silence, still_there(server, silence, &options).await) });
        }
    }
    let mut found = Lifetime {
        at_least_s: 0,
        less_than_s: None,
    };
    while let Some(Ok((silence, there))) = tests.join_next().await {
        let silence = silence.as_secs();
        match there? {
            Some(true) => found.at_least_s = found.at_least_s.max(silence),
            Some(false) => {
                found.less_than_s = Some(found.less_than_s.map_or(silence, |s| s.min(silence)));
            }
            None => {}
        }
    }
    // Each later test would only find the same: the first one that failed decides.
    if let Some(less) = found.less_than_s {
        found.at_least_s = found.at_least_s.min(less);
    }
    Ok(Some(found))
}

/// Whether a socket that was silent is still reached at its outer address; `None` when the
/// server does not help.
async fn still_there(
    server: SocketAddr,
    silence: Duration,
    options: &Options,
) -> io::Result<Option<bool>> {
    let silent = socket(server, options.bind).await?;
    let answer = ask(&silent, server, Wish::default(), options.patience).await?;
    let Answer::Mapped { mapped, .. } = answer else {
        return Ok(None);
    };
    sleep(silence).await;
    let asking = socket(server, options.bind).await?;
    let wish = Wish {
        response_port: Some(mapped.port()),
        ..Wish::default()
    };
    for _ in 0..3 {
        let id = send(&asking, server, wish).await?;
        let until = Instant::now() + options.patience / 3;
        tokio::select! {
            answer = listen(&silent, id, until) => match answer {
                Some(Answer::Mapped { .. }) => return Ok(Some(true)),
                _ => continue,
            },
            // Answered to the asking port: refused, or not understood.
            Some(_) = listen(&asking, id, until) => return Ok(None),
        }
    }
    Ok(Some(false))
}

/// The address from which the system reaches the server.
async fn local_address(main: &UdpSocket, server: SocketAddr) -> io::Result<SocketAddr> {
    let mut local = main.local_addr()?;
    if local.ip().is_unspecified() {
        let probe = socket(server, None).await?;
        if probe.connect(server).await.is_ok() {
            local.set_ip(probe.local_addr()?.ip());
        }
    }
    Ok(local)
}

fn own_addresses(local: SocketAddr) -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let own = interfaces.iter().map(|interface| interface.ip());
    own.chain([local.ip()]).collect()
}
