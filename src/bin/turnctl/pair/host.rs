//! `turnctl host`: stays, and takes one device after the other.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;
use turnserver::client::connect::{Host, PunchedConn};
use turnserver::pairing;

use super::events::Events;
use super::pipe::{self, Input, Output};
use super::serve::serve;
use super::stop::Stop;
use super::{Failure, Manner, Meeting, Protocol, prepare};

/// How long devices are told that it is over, when it is.
const FAREWELL: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    meeting: Meeting,
    /// What is between the devices; with --to, which kind of port that is
    #[arg(value_enum, default_value = "udp")]
    protocol: Protocol,
    /// Serve this address to devices that run `turnctl forward` or `turnctl connect`
    ///
    /// Every TCP connection, or UDP client, at the local port of `turnctl forward` reaches this
    /// address as if it came from this machine; so do standard input and output of `turnctl
    /// connect`, for which over UDP each piece of input is a datagram. Any number of devices at a
    /// time. Without it, one device at a time talks to this terminal.
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    #[command(flatten)]
    manner: Manner,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    super::run(options.manner.json, async { host(options).await })
}

async fn host(options: &Options) -> Result<(), Failure> {
    let (connector, events) = prepare(&options.meeting, &options.manner, false)?;
    let protocol = match options.to {
        // Forwarded bytes move with the path, which only udp sessions do.
        Some(_) => pairing::Protocol::Udp,
        None => options.protocol.into(),
    };
    let to = match &options.to {
        Some(to) => Some(resolve(to).await?),
        None => None,
    };
    let mut stop = Stop::listen();
    let mut host = connector.protocol(protocol).host();
    let events = Arc::new(events);
    let mut served = JoinSet::new();
    let ended = tokio::select! {
        ended = receive(&mut host, to, options.protocol, &events, stop.clone(), &mut served) => ended,
        () = stop.asked() => Ok(()),
    };
    drop(host);
    // Each has heard it, and tells its device. One that talks to this terminal was dropped, and is
    // told by what is left of it.
    let all = async { while served.join_next().await.is_some() {} };
    if to.is_some() {
        let _ = timeout(FAREWELL, all).await;
    } else {
        tokio::time::sleep(FAREWELL / 6).await;
    }
    ended
}

/// Takes one device after the other, or all who come where a port is served.
async fn receive(
    host: &mut Host,
    to: Option<SocketAddr>,
    protocol: Protocol,
    events: &Arc<Events>,
    stop: Stop,
    served: &mut JoinSet<()>,
) -> Result<(), Failure> {
    host.registered().await?;
    let event = json!({"event": "registered"});
    events.tell(&event, "registered; devices with the same key can connect");
    let mut input = to.is_none().then(Input::open);
    loop {
        let accepted = tokio::select! {
            accepted = host.accept() => accepted,
            Some(_) = served.join_next() => continue,
        };
        let conn = match accepted {
            Ok(conn) => conn,
            // One device that failed does not end the others.
            Err(error) if host.is_open() => {
                let text = error.to_string();
                let event = json!({"event": "device_failed", "message": text});
                events.tell(&event, &format!("a device could not connect: {text}"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match (to, &mut input) {
            (Some(to), _) => {
                let (events, stop) = (Arc::clone(events), stop.clone());
                served.spawn(async move {
                    let following = events.follow(conn.path_changes());
                    let served = serve(conn, protocol, to, stop).await;
                    following.abort();
                    left(&events, served.err().map(|error| error.to_string()));
                });
            }
            (None, Some(input)) => talk(conn, input, events).await,
            (None, None) => unreachable!("it reads standard input or serves a port"),
        }
    }
}

async fn resolve(to: &str) -> Result<SocketAddr, Failure> {
    let found = lookup_host(to).await;
    let mut found = found.map_err(|error| Failure::Usage(format!("--to {to}: {error}")))?;
    let none = || Failure::Usage(format!("--to {to}: has no address"));
    found.next().ok_or_else(none)
}

/// Connects standard input and output to one device until both directions have ended.
async fn talk(conn: PunchedConn, input: &mut Input, events: &Events) {
    let stream = match conn.into_stream().await {
        Ok(stream) => stream,
        Err(error) => return left(events, Some(error.to_string())),
    };
    let following = events.follow(stream.path_changes());
    let done = pipe::run(stream, input, Output::Stays).await;
    following.abort();
    left(events, done.err().map(|failure| failure.message()));
}

fn left(events: &Events, why: Option<String>) {
    let words = match &why {
        None => "a device has left".to_owned(),
        Some(why) => format!("a device is gone: {why}"),
    };
    events.tell(&json!({"event": "device_left", "message": why}), &words);
}
