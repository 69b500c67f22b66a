//! `turnctl host`: stays, and takes one device after the other.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use turnserver::client::connect::{Host, Place, PunchedConn, Stream};
use turnserver::pairing;

use super::events::Events;
use super::pipe::{self, Input, Output};
use super::serve::serve;
use super::service::Service;
use super::stop::Stop;
use super::{Failure, Manner, Meeting, Protocol, prepare};

/// A device that waits for its turn at this terminal. While there are too many of them, the library
/// turns further ones away.
struct Waiting {
    stream: Stream,
    place: Place,
}

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
    /// time. Without it, one device at a time talks to this terminal, and up to 64 others wait for
    /// their turn.
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    #[command(flatten)]
    manner: Manner,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    super::run(options.manner.json, |stop| host(options, stop))
}

async fn host(options: &Options, mut stop: Stop) -> Result<(), Failure> {
    let (connector, events) = prepare(&options.meeting, &options.manner, false)?;
    let protocol = match options.to {
        // Forwarded bytes move with the path, which only udp sessions do.
        Some(_) => pairing::Protocol::Udp,
        None => options.protocol.into(),
    };
    let events = Arc::new(events);
    let to = match &options.to {
        Some(to) => Some(Arc::new(Service::find(to, Arc::clone(&events)).await?)),
        None => None,
    };
    let mut host = connector.protocol(protocol).host();
    let mut served = JoinSet::new();
    let ended = tokio::select! {
        ended = receive(&mut host, to, options.protocol, &events, stop.clone(), &mut served) => ended,
        () = stop.asked() => Ok(()),
    };
    drop(host);
    if stop.signal().is_some() {
        // Each has heard it, and tells its device.
        while served.join_next().await.is_some() {}
    }
    ended
}

/// Takes one device after the other, or all who come where a port is served.
async fn receive(
    host: &mut Host,
    to: Option<Arc<Service>>,
    protocol: Protocol,
    events: &Arc<Events>,
    stop: Stop,
    served: &mut JoinSet<()>,
) -> Result<(), Failure> {
    host.registered().await?;
    let event = json!({"event": "registered"});
    events.tell(&event, "registered; devices with the same key can connect");
    let (waits, turn) = mpsc::unbounded_channel();
    let talks = async {
        match &to {
            None => talk_to_each(turn, events).await,
            Some(_) => std::future::pending().await,
        }
    };
    tokio::pin!(talks);
    loop {
        let accepted = tokio::select! {
            accepted = host.accept_waiting() => accepted,
            Some(_) = served.join_next() => continue,
            () = &mut talks => continue,
        };
        let (conn, place) = match accepted {
            Ok(device) => device,
            // One device that failed does not end the others.
            Err(error) if host.is_open() => {
                let text = error.to_string();
                let event = json!({"event": "device_failed", "message": text});
                events.tell(&event, &format!("a device could not connect: {text}"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let events = Arc::clone(events);
        match &to {
            Some(to) => {
                drop(place);
                let (to, stop) = (Arc::clone(to), stop.clone());
                served.spawn(async move {
                    let following = events.follow(conn.path_changes());
                    let served = serve(conn, protocol, to, stop).await;
                    following.abort();
                    left(&events, served.err().map(|error| error.to_string()));
                });
            }
            None => drop(served.spawn(queue(conn, place, waits.clone(), events))),
        }
    }
}

/// Lets a device wait for its turn at this terminal.
async fn queue(
    conn: PunchedConn,
    place: Place,
    waits: mpsc::UnboundedSender<Waiting>,
    events: Arc<Events>,
) {
    match conn.into_stream().await {
        // Nobody takes it any more when this program ends.
        Ok(stream) => drop(waits.send(Waiting { stream, place })),
        Err(error) => left(&events, Some(error.to_string())),
    }
}

/// Connects standard input and output to one device after the other, each until both directions
/// have ended.
async fn talk_to_each(mut turn: mpsc::UnboundedReceiver<Waiting>, events: &Events) {
    let mut input = Input::open();
    while let Some(Waiting { stream, place }) = turn.recv().await {
        drop(place);
        let following = events.follow(stream.path_changes());
        let done = pipe::run(stream, &mut input, Output::Stays).await;
        following.abort();
        left(events, done.err().map(|failure| failure.message()));
    }
}

fn left(events: &Events, why: Option<String>) {
    let words = match &why {
        None => "a device has left".to_owned(),
        Some(why) => format!("a device is gone: {why}"),
    };
    events.tell(&json!({"event": "device_left", "message": why}), &words);
}
