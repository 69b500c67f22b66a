//! What happens, told on standard error: in words, or as JSON for programs.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use turnserver::client::connect::{PathChanges, PathInfo, Progress};
use turnserver::pairing::PathKind;

use crate::say;

/// Takes the line on a terminal back that is there for a while only.
const WIPE: &str = "\r\x1b[K";

/// Whether such a line is there: whatever is told next takes its place.
static PASSING: AtomicBool = AtomicBool::new(false);

/// Tells what happens while two devices come together.
pub(super) struct Events {
    json: bool,
    teller: JoinHandle<()>,
}

impl Events {
    /// `ends`: a wait ends after its time, and on a terminal its seconds are counted down.
    pub(super) fn new(json: bool, ends: bool, mut told: mpsc::UnboundedReceiver<Progress>) -> Self {
        let teller = tokio::spawn(async move {
            let counts = ends && !json && std::io::stderr().is_terminal();
            let mut countdown = None;
            loop {
                let next = async {
                    match &countdown {
                        Some(Countdown { next, .. }) => sleep_until(*next).await,
                        None => std::future::pending().await,
                    }
                };
                let progress = tokio::select! {
                    progress = told.recv() => progress,
                    () = next => {
                        countdown = countdown.and_then(Countdown::tick);
                        continue;
                    }
                };
                let Some(progress) = progress else { return };
                if let Progress::Waiting { observed, wait } = progress {
                    if !ends {
                        // The time is how long the server lets it be silent.
                        let event =
                            json!({"event": "waiting", "observed": observed, "wait_s": null});
                        tell(
                            json,
                            &event,
                            &format!("waiting for devices (seen as {observed})"),
                        );
                        continue;
                    }
                    if counts {
                        countdown = Countdown::new(observed, wait).tick();
                        continue;
                    }
                }
                // The relay is made ready during the wait; everything else ends it.
                if !matches!(progress, Progress::Allocated(_) | Progress::NoRelay(_)) {
                    countdown = None;
                }
                if let Some((event, words)) = describe(&progress) {
                    tell(json, &event, &words);
                }
                if let Some(countdown) = &countdown {
                    countdown.draw();
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

/// Lines about what may happen to many clients at once: one a second.
#[derive(Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub(super) const BETWEEN: Duration = Duration::from_secs(1);

    /// Whether the next one may come.
    pub(super) fn may_come(&self) -> bool {
        let now = Instant::now();
        let mut last = self.locked();
        let may = last.is_none_or(|last| now - last >= Self::BETWEEN);
        if may {
            *last = Some(now);
        }
        may
    }

    /// When one came last.
    #[cfg(test)]
    pub(super) fn last(&self) -> Option<Instant> {
        *self.locked()
    }

    fn locked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.teller.abort();
    }
}

/// What a terminal shows while somebody waits: one line, with the seconds that are left.
struct Countdown {
    observed: SocketAddr,
    end: Instant,
    next: Instant,
}

impl Countdown {
    fn new(observed: SocketAddr, wait: Duration) -> Self {
        let now = Instant::now();
        Self {
            observed,
            end: now + wait,
            next: now,
        }
    }

    /// Writes the line in its place.
    fn draw(&self) {
        let left = self.end.saturating_duration_since(Instant::now());
        let seconds = left.as_secs_f64().round() as u64;
        PASSING.store(true, Relaxed);
        let words = waiting_words(self.observed, seconds, "");
        say::aside(format_args!("{WIPE}{words}"));
    }

    /// Draws it and arms the next second, while there is one.
    fn tick(self) -> Option<Self> {
        self.draw();
        let next = self.next + Duration::from_secs(1);
        (next <= self.end).then_some(Self { next, ..self })
    }
}

fn waiting_words(observed: SocketAddr, seconds: u64, at_most: &str) -> String {
    format!("waiting for the other device, {seconds} s{at_most} (seen as {observed})")
}

/// The last line of a command that failed.
pub(crate) fn failed(json: bool, code: u8, message: &str) {
    let event = json!({"event": "error", "exit_code": code, "message": message});
    tell(json, &event, &format!("error: {message}"));
}

/// Tells it in the manner that was asked for.
pub(super) fn tell(json: bool, event: &Value, words: &str) {
    let wipe = match PASSING.swap(false, Relaxed) {
        true => WIPE,
        false => "",
    };
    match json {
        true => say::aside(format_args!("{event}\n")),
        false => say::aside(format_args!("{wipe}{words}\n")),
    }
}

fn describe(progress: &Progress) -> Option<(Value, String)> {
    Some(match progress {
        Progress::Waiting { observed, wait } => {
            let wait_s = wait.as_secs();
            (
                json!({"event": "waiting", "observed": observed, "wait_s": wait_s}),
                waiting_words(*observed, wait_s, " at most"),
            )
        }
        Progress::Retrying { reason, pause } => (
            json!({"event": "retrying", "reason": reason, "pause_s": pause.as_secs_f64()}),
            format!("cannot reach the pairing server, trying again: {reason}"),
        ),
        Progress::Paired { peer } => (
            json!({"event": "paired", "peer": peer}),
            format!("the other device is there ({peer}), connecting"),
        ),
        Progress::TurnedAway { peer } => (
            json!({"event": "device_failed", "peer": peer, "message": "too many devices wait"}),
            format!("a device was turned away ({peer}): too many wait"),
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
