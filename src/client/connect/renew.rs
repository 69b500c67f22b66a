//! Keeps the credentials of a pair valid, as long as its session lives. Each time by a connection
//! of its own: that works whether or not the one that made the pair is still there, and also
//! after the server was started again.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::Options;
use crate::client::rendezvous::{Rendezvous, RendezvousError};
use crate::client::session::Renewal;
use crate::pairing::{ClientMessage, ErrorCode, IceServer, ServerMessage};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Between attempts.
const PAUSE: Duration = Duration::from_secs(30);

/// What the server says to who asks.
enum Answer {
    Renewed(Vec<IceServer>, Duration),
    /// The pair is too old, or the credentials were not valid any more.
    Never,
}

/// Renews until the session ends, or the server says that it never will.
pub(super) async fn keep(
    options: Options,
    session: Renewal,
    mut ice_servers: Vec<IceServer>,
    mut ttl: Duration,
) {
    while !ttl.is_zero() && credentials(&ice_servers).is_some() {
        let start = Instant::now();
        let end = start + ttl;
        // A third of the time is for what may go wrong.
        let mut next = end - ttl / 3;
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = session.ended() => return,
            }
            let limit = end.min(Instant::now() + ATTEMPT);
            match timeout_at(limit, ask(&options, &ice_servers)).await {
                Ok(Ok(Answer::Renewed(servers, new_ttl))) => {
                    session.renewed(servers.clone()).await;
                    (ice_servers, ttl) = (servers, new_ttl);
                    break;
                }
                Ok(Ok(Answer::Never)) => return,
                Ok(Err(_)) | Err(_) => {}
            }
            if Instant::now() >= end {
                return;
            }
            next = Instant::now() + PAUSE.min(ttl / 12);
        }
    }
}

fn credentials(ice_servers: &[IceServer]) -> Option<(String, String)> {
    let mut both = ice_servers
        .iter()
        .filter_map(|server| server.username.clone().zip(server.credential.clone()));
    both.next()
}

async fn ask(options: &Options, ice_servers: &[IceServer]) -> Result<Answer, RendezvousError> {
    let Some((username, credential)) = credentials(ice_servers) else {
        return Ok(Answer::Never);
    };
    let mut rendezvous = Rendezvous::connect(&options.server, &options.socket()).await?;
    let renew = ClientMessage::Renew {
        username,
        credential,
    };
    rendezvous.send(&renew).await?;
    let answer = loop {
        match rendezvous.next().await? {
            ServerMessage::Renewed {
                ice_servers, ttl_s, ..
            } => break Answer::Renewed(ice_servers, Duration::from_secs(ttl_s)),
            ServerMessage::Error {
                code: ErrorCode::NoSession | ErrorCode::BadRequest,
                ..
            } => break Answer::Never,
            // Later, perhaps.
            ServerMessage::Error { code, message, .. } => {
                return Err(RendezvousError::Protocol(format!("{code:?}: {message}")));
            }
            _ => {}
        }
    };
    rendezvous.close().await;
    Ok(answer)
}
