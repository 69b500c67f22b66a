//! When somebody asks this program to end: Ctrl-C, or SIGTERM. What is under way then ends in
//! order; who asks once more does not wait for that.

use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::events;

/// How long ending in order may take: a session tells for 2 s that it closes to a peer who does not
/// confirm it, and gives its allocation back then.
const IN_ORDER: Duration = Duration::from_secs(4);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What `kill` sends.
    #[cfg_attr(not(unix), expect(dead_code, reason = "only Unix has it"))]
    Terminate,
}

impl Signal {
    /// As shells count: 128 and the signal's number.
    pub(super) const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    NotYet,
    /// It is time to end in order.
    Once(Signal),
    /// That took too long, or somebody has asked again.
    Enough(Signal),
}

/// Tells everybody who waits that it is time to end.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<Asked>);

impl Stop {
    /// Listens from now on, and says so when somebody asks; without a way to listen the system
    /// ends the program itself. Takes one task.
    pub(super) fn listen(json: bool) -> Self {
        let (told, asked) = watch::channel(Asked::NotYet);
        let signals = signals();
        tokio::spawn(pass_on(signals, told, move |signal| {
            let event = json!({"event": "stopping", "signal": signal.name()});
            events::tell(json, &event, "ending in order; the same again ends at once");
        }));
        Self(asked)
    }

    /// Who has asked.
    pub(super) fn signal(&self) -> Option<Signal> {
        match *self.0.borrow() {
            Asked::NotYet => None,
            Asked::Once(signal) | Asked::Enough(signal) => Some(signal),
        }
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&mut self) {
        self.until(|asked| *asked != Asked::NotYet).await;
    }

    /// Waits until there is no time left to end in order.
    pub(super) async fn enough(&mut self) {
        self.until(|asked| matches!(asked, Asked::Enough(_))).await;
    }

    async fn until(&mut self, reached: impl FnMut(&Asked) -> bool) {
        if self.0.wait_for(reached).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn pass_on(
    mut signals: mpsc::Receiver<Signal>,
    told: watch::Sender<Asked>,
    tell: impl FnOnce(Signal),
) {
    let Some(signal) = signals.recv().await else {
        // Kept, for those who wait.
        return told.closed().await;
    };
    tell(signal);
    told.send_replace(Asked::Once(signal));
    tokio::select! {
        Some(_) = signals.recv() => {}
        () = sleep(IN_ORDER) => {}
    }
    told.send_replace(Asked::Enough(signal));
    told.closed().await;
}

/// The signals from now on.
#[cfg(unix)]
fn signals() -> mpsc::Receiver<Signal> {
    use tokio::signal::unix::{SignalKind, signal};

    let (to, signals) = mpsc::channel(2);
    for (kind, which) in [
        (SignalKind::interrupt(), Signal::Interrupt),
        (SignalKind::terminate(), Signal::Terminate),
    ] {
        let Ok(mut arrived) = signal(kind) else {
            continue;
        };
        let to = to.clone();
        tokio::spawn(async move {
            while arrived.recv().await.is_some() && to.send(which).await.is_ok() {}
        });
    }
    signals
}

#[cfg(not(unix))]
fn signals() -> mpsc::Receiver<Signal> {
    let (to, signals) = mpsc::channel(2);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() && to.send(Signal::Interrupt).await.is_ok() {}
    });
    signals
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn stop() -> (mpsc::Sender<Signal>, Stop) {
        let (to, signals) = mpsc::channel(2);
        let (told, asked) = watch::channel(Asked::NotYet);
        tokio::spawn(pass_on(signals, told, |_| {}));
        (to, Stop(asked))
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_four_seconds_to_end_in_order() {
        let (to, mut stop) = stop();
        let began = Instant::now();
        assert_eq!(stop.signal(), None);
        to.send(Signal::Terminate).await.expect("listening");
        stop.asked().await;
        assert_eq!(stop.signal(), Some(Signal::Terminate));
        assert_eq!(began.elapsed(), Duration::ZERO);
        stop.enough().await;
        assert_eq!(began.elapsed().as_secs(), 4);
        assert_eq!(stop.signal().map(Signal::exit_code), Some(143));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_does_not_wait() {
        let (to, mut stop) = stop();
        let began = Instant::now();
        to.send(Signal::Interrupt).await.expect("listening");
        to.send(Signal::Terminate).await.expect("listening");
        stop.enough().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(stop.signal().map(Signal::exit_code), Some(130), "the first");
    }
}
