//! Which of a server's addresses answers first (RFC 8305, "Happy Eyeballs"): an address that is
//! silent, as those of a broken IPv6 are, must not hold up the others.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

/// An attempt has so long before the next address is tried beside it (RFC 8305 section 8).
const HEAD_START: Duration = Duration::from_millis(250);

/// Families in turn, from the one that the system puts first (RFC 8305 section 4).
fn in_turn(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let mut turns = VecDeque::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return turns;
        }
        turns.extend([pair.0, pair.1].into_iter().flatten());
    }
}

/// Dials the addresses one after the other, the next when one failed or was silent for a moment,
/// and returns the first connection. It waits for those that are silent without end.
///
/// # Errors
/// The first failure that says more than that a network is not there.
pub(super) async fn first<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    dial: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut left = in_turn(addresses);
    let mut running = FuturesUnordered::new();
    let mut failure: Option<io::Error> = None;
    loop {
        running.extend(left.pop_front().map(&dial));
        let until = Instant::now() + HEAD_START;
        tokio::select! {
            biased;
            result = running.next() => match result {
                Some(Ok(connection)) => return Ok(connection),
                Some(Err(error)) => {
                    failure = match failure {
                        Some(known) if tells_more(&known) || !tells_more(&error) => Some(known),
                        _ => Some(error),
                    };
                }
                None => {
                    return Err(failure.unwrap_or_else(|| {
                        io::Error::new(
                            io::ErrorKind::AddrNotAvailable,
                            "the server has no address of the local address's family",
                        )
                    }));
                }
            },
            () = sleep_until(until), if !left.is_empty() => {}
        }
    }
}

fn tells_more(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    const SILENT: &str = "[2001:db8::1]:1";
    const UNREACHABLE: &str = "[2001:db8::2]:1";
    const REFUSES: &str = "192.0.2.1:1";
    const ANSWERS: &str = "192.0.2.2:1";

    async fn dial(address: SocketAddr) -> io::Result<SocketAddr> {
        match address.to_string().as_str() {
            SILENT => std::future::pending().await,
            UNREACHABLE => Err(ErrorKind::NetworkUnreachable.into()),
            REFUSES => Err(ErrorKind::ConnectionRefused.into()),
            _ => Ok(address),
        }
    }

    async fn among(addresses: &[&str]) -> io::Result<SocketAddr> {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().expect("an address"));
        first(addresses.collect(), dial).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_holds_nobody_up() {
        let begun = Instant::now();
        let answered = among(&[SILENT, ANSWERS]).await.expect("answered");
        assert_eq!(answered.to_string(), ANSWERS);
        assert_eq!(begun.elapsed(), HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_next_is_tried_at_once() {
        let begun = Instant::now();
        let answered = among(&[UNREACHABLE, REFUSES, ANSWERS])
            .await
            .expect("answered");
        assert_eq!(answered.to_string(), ANSWERS);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_failure_that_says_most_is_told() {
        for addresses in [[UNREACHABLE, REFUSES], [REFUSES, UNREACHABLE]] {
            let error = among(&addresses).await.expect_err("nobody answers");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        let error = among(&[UNREACHABLE]).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
        assert!(among(&[]).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_waited_for_when_others_failed() {
        let both = [SILENT, UNREACHABLE];
        let waited = tokio::time::timeout(Duration::from_secs(60), among(&both)).await;
        assert!(waited.is_err(), "no other address's failure ends it");
    }

    #[test]
    fn families_take_turns() {
        let addresses = [SILENT, UNREACHABLE, "[2001:db8::3]:1", REFUSES];
        let addresses = addresses.map(|address| address.parse().expect("an address"));
        let order = in_turn(addresses.into());
        let order: Vec<_> = order.iter().map(ToString::to_string).collect();
        assert_eq!(order, [SILENT, REFUSES, UNREACHABLE, "[2001:db8::3]:1"]);
    }
}
