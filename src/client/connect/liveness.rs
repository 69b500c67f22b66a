//! Whether the peer of a punched TCP connection is still there.
//!
//! An idle connection is asked by the system. For bytes that nobody acknowledges the system's own
//! limit is a quarter of an hour, and `TCP_USER_TIMEOUT` also ends connections whose peer is there
//! and does not read. So it is looked at here.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::client::session::silent;

/// A connection that was idle for so long is asked.
const IDLE: Duration = Duration::from_secs(30);
/// How often it is asked, and looked at.
const EVERY: Duration = Duration::from_secs(10);
/// How often in vain, until the peer is given up.
const QUESTIONS: u32 = 3;
const LOOKS: u32 = 6;

/// Lets the system find out when the peer of an idle connection has gone: after a minute.
pub(super) fn keep_alive(stream: &TcpStream) {
    let questions = TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(EVERY)
        .with_retries(QUESTIONS);
    // The connection is of use without.
    let _ = SockRef::from(stream).set_tcp_keepalive(&questions);
}

/// Looks at a connection from time to time.
pub(super) struct Liveness {
    look: Interval,
    silence: Silence,
}

impl Liveness {
    pub(super) fn new() -> Self {
        let mut look = interval_at(Instant::now() + EVERY, EVERY);
        // After the machine has slept the peer has its time anew.
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            look,
            silence: Silence::default(),
        }
    }

    /// Ready when the peer has left what was sent unanswered for a minute. The connection is then
    /// shut down, for whoever else waits for it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &TcpStream) -> Poll<io::Error> {
        while !self.silence.is_over() {
            ready!(self.look.poll_tick(cx));
            self.silence.looked(unanswered(stream));
            if self.silence.is_over() {
                let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Both);
            }
        }
        Poll::Ready(silent())
    }
}

/// How often in a row nothing was answered.
#[derive(Default)]
struct Silence(u32);

impl Silence {
    /// `unanswered`: since when something waits for an answer of the peer's system.
    fn looked(&mut self, unanswered: Option<Duration>) {
        self.0 = match unanswered {
            // An answer since the last look makes it less than that.
            Some(since) if since >= EVERY => self.0 + 1,
            _ => 0,
        };
    }

    /// What was first seen a moment after it was sent has had that many looks less one.
    const fn is_over(&self) -> bool {
        self.0 > LOOKS
    }
}

#[cfg(all(feature = "client", target_os = "linux"))]
fn unanswered(stream: &TcpStream) -> Option<Duration> {
    crate::client::sys::unanswered(stream).ok().flatten()
}

/// Elsewhere the system alone decides.
#[cfg(not(all(feature = "client", target_os = "linux")))]
fn unanswered(_: &TcpStream) -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(seconds: &[Option<u64>]) -> bool {
        let mut silence = Silence::default();
        for since in seconds {
            silence.looked(since.map(Duration::from_secs));
        }
        silence.is_over()
    }

    #[test]
    fn a_minute_without_any_answer_is_the_end() {
        let silent: Vec<_> = (1..=7).map(|look| Some(look * 10)).collect();
        assert!(looks(&silent));
        assert!(!looks(&silent[1..]), "not yet");
        // An hour of idleness before it does not count.
        assert!(!looks(&[Some(3600)]));
        // A peer that answers and does not read.
        assert!(!looks(&[Some(3); 100]));
        let mut answered = silent.clone();
        answered[4] = Some(1);
        assert!(!looks(&answered));
        answered[4] = None;
        assert!(!looks(&answered));
    }

    #[tokio::test]
    async fn the_system_is_told_to_ask() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).await.expect("connected");
        keep_alive(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("known"));
        assert_eq!(socket.tcp_keepalive_time().expect("known"), IDLE);
        assert_eq!(socket.tcp_keepalive_interval().expect("known"), EVERY);
        assert_eq!(socket.tcp_keepalive_retries().expect("known"), QUESTIONS);
    }

    #[cfg(all(feature = "client", target_os = "linux"))]
    #[tokio::test]
    async fn what_the_peers_system_has_is_answered_whether_or_not_it_is_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).await.expect("connected");
        assert_eq!(unanswered(&stream), None);
        // Until nothing more fits: the peer's window is closed.
        let full = async {
            loop {
                stream.writable().await.expect("open");
                let _ = stream.try_write(&[0; 65536]);
            }
        };
        let full = tokio::time::timeout(Duration::from_millis(500), full).await;
        assert!(full.is_err());
        // The system asks for room, and is answered.
        let mut asked = (0..40).map(|_| {
            std::thread::park_timeout(Duration::from_millis(50));
            unanswered(&stream)
        });
        assert!(asked.all(|since| since.is_none_or(|since| since < EVERY)));
    }
}
