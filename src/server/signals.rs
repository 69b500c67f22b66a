//! The control thread: signals, the certificate watch, draining, and the operator's endpoint.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal as handler};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use crate::ops::http;
use crate::signal;

use super::Server;

/// How often certificate files and a drain's progress are looked at.
const TICK: Duration = Duration::from_millis(500);

/// The process's signal handlers, waiting to be heard.
///
/// Install them before the sockets open: whoever sees the server answer may send a signal at
/// once, and without a handler SIGHUP ends the process.
pub struct Signals {
    runtime: Runtime,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over SIGHUP, SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// When the runtime or the handlers can not be set up.
    pub fn install() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let guard = runtime.enter();
        let hangup = handler(SignalKind::hangup())?;
        let terminate = handler(SignalKind::terminate())?;
        let interrupt = handler(SignalKind::interrupt())?;
        drop(guard);
        Ok(Self {
            runtime,
            hangup,
            terminate,
            interrupt,
        })
    }
}

/// Serves until the server is to stop.
pub(super) fn serve(server: &mut Server, signals: Signals) {
    let Signals {
        runtime,
        hangup,
        terminate,
        interrupt,
    } = signals;
    runtime.block_on(control(server, hangup, terminate, interrupt));
}

async fn control(
    server: &mut Server,
    mut hangup: Signal,
    mut terminate: Signal,
    mut interrupt: Signal,
) {
    if let Some((listener, views)) = server.ops.take() {
        tokio::spawn(async move {
            if let Err(error) = http::serve(listener, views).await {
                error!(%error, "metrics and health are no longer served");
            }
        });
    }
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = hangup.recv() => server.reload(),
            _ = interrupt.recv() => return,
            _ = terminate.recv() => return drain(server, hangup, terminate, interrupt).await,
            _ = tick.tick() => server.certificates.reload_changed(),
        }
    }
}

/// Refuses new allocations and waits for the live ones, until the deadline or a second signal.
async fn drain(
    server: &mut Server,
    mut hangup: Signal,
    mut terminate: Signal,
    mut interrupt: Signal,
) {
    server.draining.store(true, Ordering::Relaxed);
    server.shards.drain(&server.settings.drain.alternate);
    server.signaling.iter().for_each(signal::Handle::drain);
    let deadline = Instant::now() + server.settings.drain.deadline;
    info!(
        allocations = server.shards.allocations(),
        deadline_s = server.settings.drain.deadline.as_secs(),
        "draining: no new allocations; a second signal stops at once"
    );
    let mut tick = interval(TICK);
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            () = sleep_until(deadline) => {
                warn!(allocations = server.shards.allocations(), "the drain deadline has passed");
                return;
            }
            _ = hangup.recv() => server.reload(),
            _ = tick.tick() => {
                server.certificates.reload_changed();
                if server.shards.allocations() == 0 {
                    info!("drained: the last allocation is gone");
                    return;
                }
            }
        }
    }
}
