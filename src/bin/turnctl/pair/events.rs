//! What happens, told on standard error: in words, or as JSON for programs.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use turnserver::client::connect::{PathChanges, PathInfo, Progress};
use turnserver::pairing::PathKind;

/// Tells what happens while two devices come together.
pub(super) struct Events {
    json: bool,
    teller: JoinHandle<()>,
}

impl Events {
    pub(super) fn new(json: bool, mut told: mpsc::UnboundedReceiver<Progress>) -> Self {
        let teller = tokio::spawn(async move {
            while let Some(progress) = told.recv().await {
                if let Some((event, words)) = describe(&progress) {
                    tell(json, &event, &words);
                }
            }
        });
        Self { json, teller }
    }

    /// Something that this program does itself.
    pub(super) fn tell(&self, event: &Value, words: &str) {
        tell(self.json, event, words);
    }

    /// Tells the path now and at every change, until the connection ends.
    pub(super) fn follow(&self, mut changes: PathChanges) -> JoinHandle<()> {
        let json = self.json;
        tokio::spawn(async move {
            let mut info = changes.current();
            loop {
                tell(json, &path_event(&info), &path_words(&info));
                match changes.next().await {
                    Some(next) => info = next,
                    None => return,
                }
            }
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.teller.abort();
    }
}

/// The last line of a command that failed.
pub(super) fn failed(json: bool, code: u8, message: &str) {
    let event = json!({"event": "error", "exit_code": code, "message": message});
    tell(json, &event, &format!("error: {message}"));
}

fn tell(json: bool, event: &Value, words: &str) {
    match json {
        true => eprintln!("{event}"),
        false => eprintln!("{words}"),
    }
}

fn describe(progress: &Progress) -> Option<(Value, String)> {
    Some(match progress {
        Progress::Waiting { observed, wait } => {
            let wait_s = wait.as_secs();
            (
                json!({"event": "waiting", "observed": observed, "wait_s": wait_s}),
                format!("waiting for the other device, {wait_s} s at most (seen as {observed})"),
            )
        }
        Progress::Paired { peer } => (
            json!({"event": "paired", "peer": peer}),
            format!("the other device is there ({peer}), connecting"),
        ),
        Progress::Allocated(relayed) => (
            json!({"event": "relay", "relayed": relayed}),
            format!("a relay is ready ({relayed})"),
        ),
        Progress::NoRelay(reason) => (
            json!({"event": "no_relay", "reason": reason}),
            format!("there is no relay: {reason}"),
        ),
        Progress::GaveUp(reason) => (
            json!({"event": "gave_up", "reason": reason}),
            format!("no direct path: {reason}"),
        ),
        // The connection itself tells of its paths; what the NAT does they tell too.
        _ => return None,
    })
}

fn path_event(info: &PathInfo) -> Value {
    json!({
        "event": "path",
        "path": info.path,
        "local": info.local,
        "remote": info.remote,
        "rtt_ms": info.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        "nat": info.nat,
        "reason": info.reason,
    })
}

fn path_words(info: &PathInfo) -> String {
    let kind = match info.path {
        PathKind::Direct => "directly",
        PathKind::Relayed => "through the relay",
    };
    let end = |address: Option<SocketAddr>| {
        address.map_or_else(|| "?".to_owned(), |address| address.to_string())
    };
    let (local, remote) = (end(info.local), end(info.remote));
    let rtt = info.rtt.map_or_else(String::new, |rtt| {
        format!(", {:.1} ms there and back", rtt.as_secs_f64() * 1000.0)
    });
    let reason = match info.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!("connected {kind}, {local} to {remote}{rtt}{reason}")
}
