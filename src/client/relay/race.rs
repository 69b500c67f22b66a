//! Which way to the relay works: all are tried, UDP first, and the first allocation is taken.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::link::Link;
use super::servers::{Transport, TurnServer};
use super::{RelayError, now};

/// How long an attempt to allocate may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Between two servers that are reached in the same way.
const STAGGER: Duration = Duration::from_millis(60);
/// Where UDP has answered it gets so much longer before streams are tried as well.
const UDP_WORKS: Duration = Duration::from_millis(400);
/// How long an attempt that is no longer needed may take until it has something to give back.
const ABANDONED: Duration = Duration::from_secs(2);

/// One attempt that has not begun.
struct Waiting {
    due: Instant,
    server: TurnServer,
}

/// The attempts. What they still make is given back when it is dropped.
struct Race {
    attempts: JoinSet<Result<Link, RelayError>>,
    waiting: VecDeque<Waiting>,
    /// Whether a server has answered by UDP.
    udp_heard: Arc<AtomicBool>,
    over: watch::Sender<bool>,
    bind: Option<IpAddr>,
}

/// When each attempt begins: at once by the best transport that there is, by each next one
/// `patience` later.
fn order(servers: Vec<TurnServer>, patience: Duration, start: Instant) -> VecDeque<Waiting> {
    let mut all: Vec<Waiting> = Vec::new();
    let mut later = Duration::ZERO;
    for server in servers {
        if let Some(before) = all.last() {
            later += match before.server.transport == server.transport {
                true => STAGGER.min(patience),
                false => patience,
            };
        }
        let due = start + later;
        all.push(Waiting { due, server });
    }
    all.into()
}

/// Allocates by whichever way works first. `patience`: how long the network may take to answer a
/// datagram; where UDP is silent for longer, streams are tried.
///
/// # Errors
/// Of the last attempt, when all have failed.
pub(super) async fn allocate(
    servers: Vec<TurnServer>,
    patience: Duration,
    bind: Option<IpAddr>,
) -> Result<Link, RelayError> {
    let mut race = Race {
        attempts: JoinSet::new(),
        waiting: order(servers, patience, now()),
        udp_heard: Arc::default(),
        over: watch::Sender::new(false),
        bind,
    };
    let mut last = RelayError::NoServer;
    loop {
        race.begin_due();
        if race.attempts.is_empty() && !race.begin_next() {
            return Err(last);
        }
        let due = race.waiting.front().map(|next| next.due);
        tokio::select! {
            Some(ended) = race.attempts.join_next() => match ended {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => last = error,
                Err(panicked) => last = RelayError::Io(io::Error::other(panicked)),
            },
            () = sleep_until(due.unwrap_or_else(now).into()), if due.is_some() => {}
        }
    }
}

impl Race {
    /// Begins what is due; later where UDP has answered and only needs a little longer.
    fn begin_due(&mut self) {
        let now = now();
        while let Some(next) = self.waiting.front_mut()
            && next.due <= now
        {
            let stream = next.server.transport != Transport::Udp;
            if stream && self.udp_heard.swap(false, Relaxed) {
                for waiting in &mut self.waiting {
                    waiting.due += UDP_WORKS;
                }
                return;
            }
            self.begin_next();
        }
    }

    /// Begins the next attempt; false when there is none.
    fn begin_next(&mut self) -> bool {
        let Some(Waiting { server, .. }) = self.waiting.pop_front() else {
            return false;
        };
        let heard = match server.transport {
            Transport::Udp => Arc::clone(&self.udp_heard),
            _ => Arc::default(),
        };
        let (bind, over) = (self.bind, self.over.subscribe());
        self.attempts.spawn(attempt(server, bind, heard, over));
        true
    }
}

async fn attempt(
    server: TurnServer,
    bind: Option<IpAddr>,
    udp_heard: Arc<AtomicBool>,
    mut over: watch::Receiver<bool>,
) -> Result<Link, RelayError> {
    let heard = AtomicBool::new(false);
    let open = async {
        let mut last = RelayError::Io(io::ErrorKind::NotFound.into());
        for address in server.host.resolve().await {
            if bind.is_some_and(|bind| bind.is_ipv4() != address.is_ipv4()) {
                continue;
            }
            let told = [&heard, &*udp_heard];
            let link = Link::open(&server, address, bind, &told);
            match timeout(ATTEMPT, link).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(error)) => last = error,
                Err(_) => last = RelayError::Io(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(last)
    };
    // Only who was answered has asked for an allocation by name, and may be given one.
    let abandoned = async {
        let _ = over.wait_for(|over| *over).await;
        if heard.load(Relaxed) {
            sleep(ABANDONED).await;
        }
    };
    tokio::select! {
        opened = open => opened,
        () = abandoned => Err(RelayError::Io(io::ErrorKind::ConnectionAborted.into())),
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        let mut attempts = std::mem::take(&mut self.attempts);
        self.over.send_replace(true);
        // Without a runtime there is nobody to go on for.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if attempts.is_empty() {
            return;
        }
        runtime.spawn(async move {
            while let Some(ended) = attempts.join_next().await {
                if let Ok(Ok(link)) = ended {
                    link.release().await;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::relay::turn_servers;
    use crate::pairing::IceServer;

    fn servers(urls: &[&str]) -> Vec<TurnServer> {
        turn_servers(&[IceServer {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            username: Some("u".into()),
            credential: Some("p".into()),
        }])
    }

    fn delays(urls: &[&str], patience: u64) -> Vec<u64> {
        let (start, patience) = (now(), Duration::from_millis(patience));
        let order = order(servers(urls), patience, start);
        let delay = |waiting: &Waiting| (waiting.due - start).as_millis() as u64;
        order.iter().map(delay).collect()
    }

    #[tokio::test]
    async fn the_best_transport_begins_at_once_and_the_next_when_it_is_silent() {
        let (udp, tcp) = ("turn:192.0.2.1", "turn:192.0.2.1?transport=tcp");
        let (udp_v6, tls) = ("turn:[2001:db8::1]", "turns:192.0.2.1");
        assert_eq!(delays(&[udp, tcp, tls], 40), [0, 40, 80]);
        assert_eq!(delays(&[udp, udp_v6, tcp], 200), [0, 60, 260]);
        assert_eq!(delays(&[tls, tcp], 40), [0, 40], "no UDP to wait for");
        assert_eq!(delays(&[tls], 40), [0]);
    }

    /// A relay that answers nothing by UDP, and asks for credentials by TCP.
    #[tokio::test(start_paused = true)]
    async fn a_stream_is_tried_as_soon_as_udp_was_silent_for_too_long() {
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0")
            .await
            .expect("a socket");
        let silent = udp.local_addr().expect("its address");
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a socket");
        let answers = tcp.local_addr().expect("its address");
        let urls = [
            format!("turn:{silent}"),
            format!("turn:{answers}?transport=tcp"),
        ];
        let servers = servers(&[&urls[0], &urls[1]]);
        let start = tokio::time::Instant::now();
        let racing = allocate(servers, Duration::from_millis(40), None);
        let dialled = tokio::select! {
            _ = racing => panic!("nobody gives an allocation"),
            accepted = tcp.accept() => accepted.map(|_| start.elapsed()),
        };
        assert_eq!(dialled.expect("a connection").as_millis(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_attempt_does_not_wait_for_one_that_has_failed() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a socket");
        let refused = gone.local_addr().expect("its address");
        drop(gone);
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a socket");
        let answers = tcp.local_addr().expect("its address");
        let urls = [
            format!("turn:{refused}?transport=tcp"),
            format!("turns:{answers}"),
        ];
        let servers = servers(&[&urls[0], &urls[1]]);
        let start = tokio::time::Instant::now();
        let racing = allocate(servers, Duration::from_secs(60), None);
        let dialled = tokio::select! {
            _ = racing => panic!("nobody gives an allocation"),
            accepted = tcp.accept() => accepted.map(|_| start.elapsed()),
        };
        assert_eq!(dialled.expect("a connection").as_millis(), 0);
    }
}
