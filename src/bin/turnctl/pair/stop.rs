//! When somebody asks this program to end: Ctrl-C, or SIGTERM.

use tokio::sync::watch;

/// Tells everybody who waits that it is time to end.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens from now on; without a way to listen the system ends the program itself.
    pub(super) fn listen() -> Self {
        let (told, asked) = watch::channel(false);
        tokio::spawn(async move {
            signalled().await;
            // Nobody may wait any more.
            let _ = told.send(true);
        });
        Self(asked)
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(unix)]
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};

    let next = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = next(SignalKind::interrupt()) => {}
        () = next(SignalKind::terminate()) => {}
    }
}

#[cfg(not(unix))]
async fn signalled() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
