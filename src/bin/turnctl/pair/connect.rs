//! `turnctl connect`: two devices, one connection.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::pipe::{self, Input, Output};
use super::{Failure, Manner, Meeting, Protocol, prepare, seconds};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    meeting: Meeting,
    /// Wait for the other device, and choose what is between them: datagrams or a byte stream
    ///
    /// With udp the connection may change its path at any time and loses nothing by it; with tcp
    /// it is one TCP connection, or the relay. The device that comes second leaves it out.
    #[arg(value_enum)]
    protocol: Option<Protocol>,
    /// Only a device that the server sees from this address is taken
    target_ip: Option<IpAddr>,
    /// Seconds to wait for the other device; the server has its own limit
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,
    #[command(flatten)]
    manner: Manner,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    super::run(options.manner.json, |mut stop| async move {
        tokio::select! {
            ended = connect(options) => ended,
            // What is dropped breaks off, and the peer is told.
            () = stop.asked() => Ok(()),
        }
    })
}

async fn connect(options: &Options) -> Result<(), Failure> {
    let (mut connector, events) = prepare(&options.meeting, &options.manner, true)?;
    if let Some(protocol) = options.protocol {
        connector = connector.protocol(protocol.into());
    }
    if let Some(ip) = options.target_ip {
        connector = connector.target_ip(ip);
    }
    if let Some(wait) = options.wait {
        if options.protocol.is_none() {
            let text =
                "--wait is for the device that names udp or tcp; the other is answered at once";
            return Err(Failure::Usage(text.into()));
        }
        connector = connector.wait(wait);
    }
    let conn = connector.connect().await?;
    let stream = conn.into_stream().await;
    let stream = stream.map_err(|error| Failure::Broken(error.to_string()))?;
    let following = events.follow(stream.path_changes());
    if std::io::stdin().is_terminal() {
        events.tell(
            &json!({"event": "chat"}),
            "what you type goes to the other device line by line; Ctrl-D ends your side",
        );
    }
    let done = pipe::run(stream, &[], &mut Input::open(), Output::Closes).await;
    following.abort();
    done?;
    events.tell(&json!({"event": "ended"}), "the connection has ended");
    Ok(())
}
