//! Which way datagrams go: through the relay from the start, directly once that is proven, and
//! through the relay again when the direct way dies. Nothing here touches sockets or clocks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client::punch::{CandidateKind, Path, Via};
use crate::pairing::PathKind;

/// So much silence on the direct path, and what is sent goes through the relay as well: whatever
/// arrives twice is dropped on the other side.
const DOUBT: Duration = Duration::from_millis(300);

/// Where something is sent and nothing comes for so long, the relay is asked whether it still knows
/// us, then after twice the time, up to [`LONGEST_QUIET`].
const QUIET: Duration = Duration::from_millis(500);
const LONGEST_QUIET: Duration = Duration::from_secs(30);

/// So long after a direct path was found, what is sent goes through the relay as well: the peer
/// may notice the path later, and nothing shall wait for that.
const BEGINNING: Duration = Duration::from_millis(200);

/// A move of the round-trip time below this is not worth telling.
const RTT_STEP: Duration = Duration::from_millis(20);

/// How two devices are connected, for programs and people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// With or without a relay between them.
    pub path: PathKind,
    /// The own address: on a direct path as the peer sees it, else the relayed one.
    pub local: Option<SocketAddr>,
    /// The peer's address: on a direct path where datagrams go to, else its relayed one.
    pub remote: Option<SocketAddr>,
    /// The time to the peer and back, once it was measured.
    pub rtt: Option<Duration>,
    /// What the own NAT does, in words, where that was found out.
    pub nat: Option<String>,
    /// Why this path and no better one, in words.
    pub reason: String,
}

impl PathInfo {
    /// Whether it is to be told to somebody who was told `known` last: the path is another one, has
    /// another reason, or takes 20 ms more or less. A time that is not known yet counts as 0. What
    /// is known of the NAT changes no path.
    pub(crate) fn is_news_after(&self, known: &Self) -> bool {
        let same = (self.path, self.local, self.remote, &self.reason)
            == (known.path, known.local, known.remote, &known.reason);
        let before = known.rtt.unwrap_or_default();
        !same || self.rtt.is_some_and(|rtt| rtt.abs_diff(before) >= RTT_STEP)
    }
}

/// A way for one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From this socket to this address.
    Direct(Via, SocketAddr),
    /// Through the own relay to this address, which is the peer's relayed one.
    Relay(SocketAddr),
}

#[derive(Debug)]
struct Direct {
    path: Path,
    since: Instant,
    heard: Instant,
}

/// The ways there are.
#[derive(Debug)]
pub(super) struct Paths {
    direct: Option<Direct>,
    /// The own relayed address, while there is one.
    own_relayed: Option<SocketAddr>,
    /// Where the peer is to be reached through the relay.
    peer_relayed: Option<SocketAddr>,
    /// Whether the relay lets it be reached.
    reachable: bool,
    relay_rtt: Option<Duration>,
    /// When to ask the relay next, and how long to wait then.
    quiet: Option<(Instant, Duration)>,
    nat: Option<String>,
    reason: String,
}

impl Paths {
    /// No way yet, because of `reason`.
    pub(super) fn new(reason: &str) -> Self {
        Self {
            direct: None,
            own_relayed: None,
            peer_relayed: None,
            reachable: false,
            relay_rtt: None,
            quiet: None,
            nat: None,
            reason: reason.to_owned(),
        }
    }

    /// Something is sent; whether to ask the relay if it still knows us.
    pub(super) fn is_relay_in_doubt(&mut self, now: Instant) -> bool {
        if self.own_relayed.is_none() {
            return false;
        }
        match self.quiet {
            None => {
                self.quiet = Some((now + QUIET, QUIET));
                false
            }
            Some((at, wait)) if at <= now => {
                let wait = (wait * 2).min(LONGEST_QUIET);
                self.quiet = Some((now + wait, wait));
                true
            }
            Some(_) => false,
        }
    }

    /// The peer was heard, whichever way.
    pub(super) const fn not_quiet(&mut self) {
        self.quiet = None;
    }

    /// Where to send a datagram now: the best way, and a second one when the best is in doubt.
    pub(super) fn ways(&self, now: Instant) -> impl Iterator<Item = Way> + use<> {
        let direct = self.direct.as_ref();
        let doubtful = direct
            .is_none_or(|direct| direct.heard + DOUBT <= now || now < direct.since + BEGINNING);
        let direct = direct.map(|direct| Way::Direct(direct.path.via, direct.path.remote));
        let relay = self.relay().filter(|_| doubtful);
        direct.into_iter().chain(relay)
    }

    /// All ways, for the messages that must arrive.
    pub(super) fn all_ways(&self) -> impl Iterator<Item = Way> + use<> {
        let direct = self.direct.as_ref();
        let direct = direct.map(|direct| Way::Direct(direct.path.via, direct.path.remote));
        direct.into_iter().chain(self.relay())
    }

    fn relay(&self) -> Option<Way> {
        let ready = self.own_relayed.is_some() && self.reachable;
        self.peer_relayed.filter(|_| ready).map(Way::Relay)
    }

    /// Whether there is a direct path.
    pub(super) const fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// The direct path.
    pub(super) fn direct(&self) -> Option<&Path> {
        self.direct.as_ref().map(|direct| &direct.path)
    }

    /// Whether there is any.
    pub(super) fn is_any(&self) -> bool {
        self.all_ways().next().is_some()
    }

    /// A direct path is proven.
    pub(super) fn selected(&mut self, now: Instant, path: Path) {
        self.reason = match path.kind {
            CandidateKind::Host => "the peer's own address answers",
            CandidateKind::ServerReflexive => "the address that a server saw of the peer answers",
            CandidateKind::PeerReflexive => "the peer came from an address that nobody foresaw",
            CandidateKind::Mapped => "the peer's router opened a port for it",
            CandidateKind::Predicted => "the port that the peer's NAT was to give next answers",
            CandidateKind::Relayed => "the peer answers through its relay",
        }
        .to_owned();
        self.direct = Some(Direct {
            path,
            since: now,
            heard: now,
        });
    }

    /// The round-trip time of the direct path; it is kept when it has changed by much.
    pub(super) fn measured(&mut self, rtt: Duration) {
        if let Some(direct) = &mut self.direct
            && direct.path.rtt.abs_diff(rtt) >= RTT_STEP
        {
            direct.path.rtt = rtt;
        }
    }

    /// There is no direct path, or none any more.
    pub(super) fn lost(&mut self, reason: &str) {
        self.direct = None;
        self.reason = reason.to_owned();
    }

    /// The peer was heard from there.
    pub(super) fn heard(&mut self, now: Instant, via: Via, from: SocketAddr) {
        if let Some(direct) = &mut self.direct
            && (direct.path.via, direct.path.remote) == (via, from)
        {
            direct.heard = now;
            self.quiet = None;
        }
    }

    /// A ping was answered. Only without a direct path it says something of the relay.
    pub(super) fn round_trip(&mut self, rtt: Duration) {
        if self.direct.is_none() {
            self.relay_rtt = Some(rtt);
        }
    }

    /// The own allocation was made, or lost.
    pub(super) fn own_relayed(&mut self, relayed: Option<SocketAddr>) {
        self.own_relayed = relayed;
        self.reachable = false;
        self.relay_rtt = None;
    }

    /// Where the peer is to be reached through the relay; true when that is new.
    pub(super) fn peer_relayed(&mut self, relayed: SocketAddr) -> bool {
        let new = self.peer_relayed != Some(relayed);
        if new {
            self.peer_relayed = Some(relayed);
            self.reachable = false;
        }
        new
    }

    /// Where that is, as far as it is known.
    pub(super) const fn info_of_peer(&self) -> Option<SocketAddr> {
        self.peer_relayed
    }

    /// The relay lets this peer be reached; true when it is the one we want.
    pub(super) fn reachable(&mut self, peer: SocketAddr) -> bool {
        let ours = self.peer_relayed == Some(peer);
        self.reachable |= ours;
        ours
    }

    /// What is known of the own NAT.
    pub(super) fn nat(&mut self, nat: &str) {
        self.nat = Some(nat.to_owned());
    }

    /// How the two are connected.
    pub(super) fn info(&self) -> PathInfo {
        let nat = self.nat.clone();
        let reason = self.reason.clone();
        match &self.direct {
            Some(direct) => PathInfo {
                path: PathKind::Direct,
                local: direct.path.local,
                remote: Some(direct.path.remote),
                rtt: Some(direct.path.rtt),
                nat,
                reason,
            },
            None => PathInfo {
                path: PathKind::Relayed,
                local: self.own_relayed,
                remote: self.peer_relayed,
                rtt: self.relay_rtt,
                nat,
                reason,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::origin;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn path() -> Path {
        Path {
            via: Via::Socket(0),
            remote: address("203.0.113.1:5"),
            local: None,
            kind: CandidateKind::Host,
            rtt: Duration::from_millis(3),
        }
    }

    fn relayed() -> Paths {
        let mut paths = Paths::new("no direct path yet");
        paths.own_relayed(Some(address("192.0.2.1:1000")));
        assert!(paths.peer_relayed(address("192.0.2.1:2000")));
        assert!(!paths.peer_relayed(address("192.0.2.1:2000")), "known");
        assert!(!paths.reachable(address("192.0.2.1:3000")), "somebody else");
        assert!(!paths.is_any());
        assert!(paths.reachable(address("192.0.2.1:2000")));
        paths
    }

    #[test]
    fn relay_then_direct_then_both_then_relay() {
        let start = origin();
        let mut paths = relayed();
        let relay = Way::Relay(address("192.0.2.1:2000"));
        let direct = Way::Direct(Via::Socket(0), address("203.0.113.1:5"));
        assert_eq!(paths.ways(start).collect::<Vec<_>>(), [relay]);
        paths.selected(start, path());
        assert_eq!(paths.ways(start).collect::<Vec<_>>(), [direct, relay]);
        let settled = start + BEGINNING;
        assert_eq!(paths.ways(settled).collect::<Vec<_>>(), [direct]);
        assert_eq!(paths.all_ways().collect::<Vec<_>>(), [direct, relay]);
        let later = start + DOUBT;
        assert_eq!(paths.ways(later).collect::<Vec<_>>(), [direct, relay]);
        paths.heard(later, Via::Socket(1), address("203.0.113.1:5"));
        assert_eq!(paths.ways(later).count(), 2, "another socket says nothing");
        paths.heard(later, Via::Socket(0), address("203.0.113.1:5"));
        assert_eq!(paths.ways(later).collect::<Vec<_>>(), [direct]);
        paths.lost("the direct path went silent");
        assert_eq!(paths.ways(later).collect::<Vec<_>>(), [relay]);
        assert_eq!(paths.info().reason, "the direct path went silent");
    }

    #[test]
    fn tells_how_the_two_are_connected() {
        let mut paths = relayed();
        paths.round_trip(Duration::from_millis(9));
        paths.nat("one port for every destination");
        let info = paths.info();
        assert_eq!(info.path, PathKind::Relayed);
        assert_eq!(info.local, Some(address("192.0.2.1:1000")));
        assert_eq!(info.remote, Some(address("192.0.2.1:2000")));
        assert_eq!(info.rtt, Some(Duration::from_millis(9)));
        assert_eq!(info.nat.as_deref(), Some("one port for every destination"));
        paths.selected(origin(), path());
        let info = paths.info();
        assert_eq!(info.path, PathKind::Direct);
        assert_eq!(info.remote, Some(address("203.0.113.1:5")));
        assert_eq!(info.rtt, Some(Duration::from_millis(3)));
    }

    #[test]
    fn only_what_changes_the_path_is_news() {
        let mut paths = relayed();
        let first = paths.info();
        paths.nat("one port for every destination");
        paths.round_trip(Duration::from_micros(19_999));
        assert!(!paths.info().is_news_after(&first), "too little");
        paths.round_trip(Duration::from_millis(20));
        let second = paths.info();
        assert!(second.is_news_after(&first));
        paths.round_trip(Duration::from_millis(39));
        assert!(!paths.info().is_news_after(&second));
        paths.round_trip(Duration::from_millis(40));
        assert!(paths.info().is_news_after(&second));
        paths.own_relayed(second.local);
        assert!(!paths.info().is_news_after(&second), "not known any more");
        paths.own_relayed(Some(address("192.0.2.1:1001")));
        assert!(paths.info().is_news_after(&second), "another address");
        paths.own_relayed(second.local);
        assert!(paths.peer_relayed(address("192.0.2.1:2001")));
        assert!(paths.info().is_news_after(&second), "another address");
        paths.lost("another reason");
        let third = paths.info();
        assert!(third.is_news_after(&second));
        paths.selected(origin(), path());
        let direct = paths.info();
        assert!(direct.is_news_after(&third));
        paths.measured(Duration::from_millis(22));
        assert!(!paths.info().is_news_after(&direct));
        paths.measured(Duration::from_millis(23));
        assert!(paths.info().is_news_after(&direct));
    }

    #[test]
    fn a_relay_is_asked_when_nothing_comes_back() {
        let mut now = origin();
        assert!(!Paths::new("no relay").is_relay_in_doubt(now));
        let mut paths = relayed();
        let mut asked = Vec::new();
        for ms in 0..4_000 {
            now += Duration::from_millis(1);
            if paths.is_relay_in_doubt(now) {
                asked.push(ms);
            }
        }
        assert_eq!(asked, [500, 1500, 3500]);
        paths.not_quiet();
        assert!(!paths.is_relay_in_doubt(now), "the peer was heard");
        assert!(!paths.is_relay_in_doubt(now + QUIET / 2));
        assert!(paths.is_relay_in_doubt(now + QUIET));
    }

    #[test]
    fn a_lost_allocation_is_no_way() {
        let mut paths = relayed();
        paths.own_relayed(None);
        assert!(!paths.is_any());
        paths.own_relayed(Some(address("192.0.2.1:1001")));
        assert!(!paths.is_any(), "the new one has no channel yet");
        assert!(paths.reachable(address("192.0.2.1:2000")));
        assert!(paths.is_any());
    }
}
