//! `turnctl host`: stays, and takes one device after the other.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use turnserver::client::connect::{Host, Place, PunchedConn, Stream};
use turnserver::pairing;

use super::events::Events;
use super::pipe::{self, Input, Output};
use super::serve::serve;
use super::service::Service;
use super::stop::Stop;
use super::{Failure, Manner, Meeting, Protocol, prepare};

/// Bytes of a device that waits for its turn, about; the rest stays with it.
const MOST_SAID: usize = 64 * 1024;

/// What devices come for.
#[derive(Clone)]
enum Served {
    Port(Arc<Service>),
    /// Standard input and output, for whoever has the turn: first come, first served. While too
    /// many wait, the library turns further ones away. Input is opened for the first of them.
    Terminal(Arc<Mutex<Option<Input>>>),
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
    let what = match &options.to {
        Some(to) => Served::Port(Arc::new(Service::find(to, Arc::clone(&events)).await?)),
        None => Served::Terminal(Arc::new(Mutex::new(None))),
    };
    let mut host = connector.protocol(protocol).host();
    let mut devices = JoinSet::new();
    let ended = tokio::select! {
        ended = receive(&mut host, what, options.protocol, &events, stop.clone(), &mut devices) => ended,
        () = stop.asked() => Ok(()),
    };
    drop(host);
    if stop.signal().is_some() {
        // Each has heard it, and tells its device.
        while devices.join_next().await.is_some() {}
    }
    ended
}

/// Takes all who come.
async fn receive(
    host: &mut Host,
    what: Served,
    protocol: Protocol,
    events: &Arc<Events>,
    stop: Stop,
    devices: &mut JoinSet<()>,
) -> Result<(), Failure> {
    host.registered().await?;
    let event = json!({"event": "registered"});
    events.tell(&event, "registered; devices with the same key can connect");
    loop {
        let accepted = tokio::select! {
            accepted = host.accept_waiting() => accepted,
            Some(_) = devices.join_next() => continue,
        };
        let (conn, place) = match accepted {
            Ok(device) => device,
            // One device that failed does not end the others.
            Err(error) if host.is_open() => {
                failed(events, &error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let (what, events, mut stop) = (what.clone(), Arc::clone(events), stop.clone());
        devices.spawn(async move {
            match what {
                Served::Port(to) => {
                    drop(place);
                    let following = events.follow(conn.path_changes());
                    let served = serve(conn, protocol, to, stop).await;
                    following.abort();
                    left(&events, served.err().map(|error| error.to_string()));
                }
                Served::Terminal(input) => tokio::select! {
                    () = talk(conn, place, &input, &events) => {}
                    // What is dropped breaks off, and the device is told.
                    () = stop.asked() => {}
                },
            }
        });
    }
}

/// Connects standard input and output to a device, when its turn comes, until both directions have
/// ended.
async fn talk(conn: PunchedConn, place: Place, input: &Mutex<Option<Input>>, events: &Events) {
    let mut stream = match conn.into_stream().await {
        Ok(stream) => stream,
        Err(error) => return failed(events, &error.to_string()),
    };
    let mut said = Vec::new();
    let mut input = tokio::select! {
        input = input.lock() => input,
        error = broken(&mut stream, &mut said) => {
            return failed(events, &format!("before its turn: {error}"));
        }
    };
    drop(place);
    let following = events.follow(stream.path_changes());
    let input = input.get_or_insert_with(Input::open);
    let done = pipe::run(stream, &said, input, Output::Stays).await;
    following.abort();
    left(events, done.err().map(|failure| failure.message()));
}

/// Waits until a device that waits for its turn has gone, which over TCP nobody knows who does not
/// read. One that has said everything may go: it is heard in its turn.
async fn broken(stream: &mut Stream, said: &mut Vec<u8>) -> io::Error {
    let mut chunk = [0; 4096];
    while said.len() < MOST_SAID {
        match stream.read(&mut chunk).await {
            Ok(0) => return std::future::pending().await,
            Ok(len) => said.extend_from_slice(&chunk[..len]),
            Err(error) => return error,
        }
    }
    match stream.over().await {
        Err(error) => error,
        Ok(()) => std::future::pending().await,
    }
}

/// A device had no turn.
fn failed(events: &Events, why: &str) {
    let event = json!({"event": "device_failed", "message": why});
    events.tell(&event, &format!("a device could not connect: {why}"));
}

fn left(events: &Events, why: Option<String>) {
    let words = match &why {
        None => "a device has left".to_owned(),
        Some(why) => format!("a device is gone: {why}"),
    };
    events.tell(&json!({"event": "device_left", "message": why}), &words);
}
