//! The tables of the room and what happens in them.

mod seat;
mod upkeep;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use hashbrown::HashMap;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use crate::pairing::{ErrorCode, MAX_BLOB, Reason, RendezvousId, Role, SessionId};
use crate::proto::Mono;
use crate::proto::bucket::TokenBucket;

use super::address::Address;
use super::ended::Ended;
use super::few::Few;
use super::{
    Denied, Event, Full, Hold, Holding, Mailbox, Pairing, RoomLimits, Shares, Wait, Waiting,
};
use seat::{Entry, SeatState};

/// Signals a second that a side of a session may send for long.
const SIGNALS_PER_SECOND: u64 = 2;

/// How often a side of a session may tell what became of it: the path may move.
const REPORTS: u8 = 4;

/// Names a seat; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SeatKey(u64);

/// Two that can signal to each other. It is over when one of them leaves: the other one need not
/// say anything for that, and may stay for years.
struct Session<G> {
    sides: [Side; 2],
    /// Where the receiver is, to whom it is counted.
    receiver: IpAddr,
    /// Later ones have higher ones.
    number: u64,
    _hold: Option<G>,
}

struct Side {
    seat: SeatKey,
    budget: TokenBucket,
    reports: u8,
}

/// See [`Room`](super::Room).
pub(super) struct Table<M: Mailbox, G: Hold> {
    limits: RoomLimits,
    rng: ChaCha12Rng,
    hold: Holding<G>,
    closed: bool,
    /// Seats that are `leaving`.
    leaving: usize,
    /// The latest time that was passed in.
    now: Mono,
    last_seat: u64,
    seats: HashMap<SeatKey, SeatState<M, G>, RandomState>,
    /// Who waits under an id, in the order of their coming.
    ids: HashMap<RendezvousId, Few<SeatKey>, RandomState>,
    deadlines: BTreeSet<(Mono, SeatKey)>,
    /// Who waits, by where it is.
    waiting: Shares<SeatKey>,
    sessions: HashMap<SessionId, Session<G>, RandomState>,
    /// The sessions, by where their receivers are.
    receivers: Shares<(u64, SessionId)>,
    last_session: u64,
}

impl<M: Mailbox, G: Hold> Table<M, G> {
    pub(super) fn new(limits: RoomLimits, seed: [u8; 32], hold: Holding<G>) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut word = || rng.next_u64();
        let seeds = RandomState::with_seeds(word(), word(), word(), word());
        Self {
            limits,
            rng,
            hold,
            closed: false,
            leaving: 0,
            now: Mono(0),
            last_seat: 0,
            seats: HashMap::with_hasher(seeds.clone()),
            ids: HashMap::with_hasher(seeds.clone()),
            deadlines: BTreeSet::new(),
            waiting: Shares::new(limits.waiting, limits.waiting_per_source, seeds.clone()),
            sessions: HashMap::with_hasher(seeds.clone()),
            receivers: Shares::new(limits.sessions, limits.sessions_per_source, seeds),
            last_session: 0,
        }
    }

    pub(super) fn seat(&mut self, mailbox: M, observed: SocketAddr, signals: bool) -> SeatKey {
        self.last_seat += 1;
        let key = SeatKey(self.last_seat);
        let seat = SeatState::new(mailbox, observed, signals);
        self.seats.insert(key, seat);
        key
    }

    pub(super) fn unseat(&mut self, key: SeatKey) {
        drop(self.stop_waiting(key));
        let Some(seat) = self.seats.remove(&key) else {
            return;
        };
        self.leaving -= usize::from(seat.leaving);
        for session in seat.sessions() {
            self.end(*session, Some(key), false);
        }
    }

    pub(super) fn wait(&mut self, now: Mono, key: SeatKey, wait: Wait) -> Result<Waiting, Denied> {
        self.now = now;
        let limits = self.limits;
        let session = self.random_session();
        let seat = self.seats.get(&key).ok_or(ErrorCode::Internal)?;
        if self.closed {
            return Err(ErrorCode::GoingAway.into());
        }
        if seat.waiting.is_some() {
            return Err(ErrorCode::BadRequest.into());
        }
        let ip = seat.observed.ip();
        let displaced = self.waiting.admit(ip).map_err(|full| match full {
            Full::Source => Reason::Waits,
            Full::All => Reason::AllWaits,
        })?;
        let queue = self.ids.get(&wait.id);
        if queue.is_some_and(|queue| queue.len() >= limits.waiting_per_id) {
            return Err(ErrorCode::Busy.into());
        }
        if let Some(displaced) = displaced {
            self.end_wait(displaced, Event::Displaced);
        }
        let wait_s = match wait.host {
            true => limits.host_silence_s,
            false => wait.wait_s.clamp(1, limits.max_wait_s.max(1)),
        };
        let deadline = now.plus_secs(wait_s);
        let queue = self.ids.entry(wait.id).or_default();
        queue.insert(queue.len(), key);
        self.waiting.enter(ip, key);
        self.deadlines.insert((deadline, key));
        let seat = self.seats.get_mut(&key).ok_or(ErrorCode::Internal)?;
        seat.waiting = Some(Box::new(Entry {
            id: wait.id,
            protocol: wait.protocol,
            host: wait.host,
            deadline,
            session,
            target_ip: wait.target_ip.map(|ip| ip.to_canonical()),
            endpoints: wait.endpoints.into(),
            hold: (seat.signals && !wait.host).then(|| (self.hold)(&session)),
        }));
        Ok(Waiting {
            session: (!wait.host).then_some(session),
            wait_s,
        })
    }

    pub(super) fn receive(
        &mut self,
        now: Mono,
        key: SeatKey,
        id: RendezvousId,
        endpoints: Vec<SocketAddr>,
    ) -> Result<Pairing, Denied> {
        self.now = now;
        let receiver = self.seats.get(&key).ok_or(ErrorCode::Internal)?;
        if self.closed {
            return Err(ErrorCode::GoingAway.into());
        }
        if receiver.waiting.is_some() {
            return Err(ErrorCode::BadRequest.into());
        }
        if receiver.sessions().len() >= self.limits.sessions_per_seat {
            return Err(Reason::Sessions.into());
        }
        let mut refusal = Denied::from(ErrorCode::NobodyWaits);
        for waiter in self.candidates(&id) {
            match self.try_pair(now, waiter, key, &endpoints) {
                Ok(pairing) => return Ok(pairing),
                // Another one may do; the caller learns that the matter is only one of caps.
                Err(denied) if denied.reason.is_some() => refusal = denied,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    /// Who waits under an id, in the order in which receivers get them: those who wait for one
    /// receiver in the order of their coming, then hosts, the latest first, because one that had
    /// to connect again is there twice for a while.
    fn candidates(&self, id: &RendezvousId) -> Vec<SeatKey> {
        let queue = self.ids.get(id).map_or(&[][..], |queue| queue);
        let is_host = |key: &&SeatKey| {
            let entry = self.seats.get(*key).and_then(|seat| seat.waiting.as_ref());
            entry.is_some_and(|entry| entry.host)
        };
        let once = queue.iter().filter(|key| !is_host(key));
        let hosts = queue.iter().rev().filter(is_host);
        once.chain(hosts).copied().collect()
    }

    fn try_pair(
        &mut self,
        now: Mono,
        waiter: SeatKey,
        key: SeatKey,
        endpoints: &[SocketAddr],
    ) -> Result<Pairing, Denied> {
        let fresh = self.random_session();
        let receiver = self.seats.get(&key).ok_or(ErrorCode::Internal)?;
        let initiator = self.seats.get(&waiter).ok_or(ErrorCode::NobodyWaits)?;
        let entry = initiator.waiting.as_ref().ok_or(ErrorCode::NobodyWaits)?;
        if entry.deadline <= now {
            // Its time is up, whether or not it was told already.
            self.end_wait(waiter, Event::TimedOut);
            return Err(ErrorCode::NobodyWaits.into());
        }
        let [observed, peer_observed] = [receiver, initiator].map(|seat| seat.observed.socket());
        if entry.target_ip.is_some_and(|ip| ip != observed.ip()) {
            return Err(ErrorCode::NobodyWaits.into());
        }
        let mut displaced = None;
        if initiator.signals && receiver.signals {
            if initiator.sessions().len() >= self.limits.sessions_per_seat {
                return Err(Reason::HostSessions.into());
            }
            let admitted = self.receivers.admit(observed.ip());
            displaced = admitted.map_err(|full| match full {
                Full::Source => Reason::Sessions,
                Full::All => Reason::AllSessions,
            })?;
        }
        let (host, protocol) = (entry.host, entry.protocol);
        let session = if host { fresh } else { entry.session };
        let peer_endpoints = entry.endpoints.to_vec();
        let told = initiator.mailbox.deliver(Event::Paired(Pairing {
            session,
            role: Role::Initiator,
            protocol,
            observed: peer_observed,
            peer_observed: observed,
            peer_endpoints: endpoints.to_vec(),
            host,
        }));
        if told.is_err() {
            // Its connection is ending. Nobody is paired with the dead.
            drop(self.stop_waiting(waiter));
            return Err(ErrorCode::NobodyWaits.into());
        }
        let mut hold = None;
        if !host {
            hold = self.stop_waiting(waiter);
        }
        if let Some(hold) = &mut hold {
            hold.paired();
        }
        if let Some((_, displaced)) = displaced {
            self.end(displaced, None, false);
        }
        self.begin(session, [waiter, key], observed.ip(), hold);
        Ok(Pairing {
            session,
            role: Role::Receiver,
            protocol,
            observed,
            peer_observed,
            peer_endpoints,
            host,
        })
    }

    /// Begins a session. Where one of the two can not signal there is nothing to be in, but
    /// the other one may tell what became of it.
    fn begin(
        &mut self,
        session: SessionId,
        seats: [SeatKey; 2],
        receiver: IpAddr,
        hold: Option<G>,
    ) {
        let signals = |key: &SeatKey| self.seats.get(key).is_some_and(|seat| seat.signals);
        let kept = seats.iter().all(signals);
        for key in seats {
            match self.seats.get_mut(&key).filter(|seat| seat.signals) {
                Some(seat) if kept => seat.begin(session),
                Some(seat) => seat.remember(session, 0),
                None => {}
            }
        }
        if !kept {
            return;
        }
        let sides = seats.map(|seat| Side {
            seat,
            budget: TokenBucket::new(SIGNALS_PER_SECOND, u64::from(self.limits.signals)),
            reports: 0,
        });
        self.last_session += 1;
        let number = self.last_session;
        self.receivers.enter(receiver, (number, session));
        let begun = Session {
            sides,
            receiver,
            number,
            _hold: hold,
        };
        self.sessions.insert(session, begun);
    }

    pub(super) fn renew(&mut self, now: Mono, key: SeatKey) {
        self.now = now;
        let deadline = now.plus_secs(self.limits.host_silence_s);
        let entry = self.seats.get_mut(&key).and_then(|s| s.waiting.as_mut());
        if let Some(entry) = entry.filter(|entry| entry.host && entry.deadline > now) {
            self.deadlines.remove(&(entry.deadline, key));
            entry.deadline = deadline;
            self.deadlines.insert((deadline, key));
        }
    }

    pub(super) fn signal(
        &mut self,
        now: Mono,
        key: SeatKey,
        session: SessionId,
        blob: String,
    ) -> Result<(), Denied> {
        self.now = now;
        if blob.len() > MAX_BLOB {
            return Err(ErrorCode::TooLarge.into());
        }
        let found = self.sessions.get_mut(&session);
        let (own, peer) = match &mut found.ok_or(ErrorCode::NoSession)?.sides {
            [own, peer] | [peer, own] if own.seat == key => (own, peer.seat),
            _ => return Err(ErrorCode::NoSession.into()),
        };
        if !own.budget.take(now, 1) {
            return Err(Reason::Signals.into());
        }
        if let Some(peer) = self.seats.get(&peer) {
            // A peer that does not take it is about to end, and then the sender is told.
            let _ = peer.mailbox.deliver(Event::Signal { session, blob });
        }
        Ok(())
    }

    pub(super) fn report(&mut self, key: SeatKey, session: &SessionId) -> Result<bool, Denied> {
        let sides = self.sessions.get_mut(session).map(|found| &mut found.sides);
        let own = sides.and_then(|sides| sides.iter_mut().find(|side| side.seat == key));
        let reports = match own {
            Some(own) => Some(&mut own.reports),
            None => {
                let seat = self.seats.get_mut(&key);
                seat.and_then(|seat| seat.reports(session))
            }
        };
        let reports = reports.ok_or(ErrorCode::NoSession)?;
        *reports = reports.saturating_add(1);
        Ok(*reports <= REPORTS)
    }

    pub(super) fn has_sessions(&self, key: SeatKey) -> bool {
        let seat = self.seats.get(&key);
        seat.is_some_and(|seat| !seat.sessions().is_empty())
    }

    pub(super) fn leave(
        &mut self,
        key: SeatKey,
        session: SessionId,
        busy: bool,
    ) -> Result<(), Denied> {
        let seat = self.seats.get_mut(&key).ok_or(ErrorCode::Internal)?;
        if seat.sessions().contains(&session) {
            self.end(session, Some(key), busy);
            return Ok(());
        }
        // The other side may have been first.
        match seat.forget(&session) {
            true => Ok(()),
            false => Err(ErrorCode::NoSession.into()),
        }
    }

    /// Ends a session, and tells those of the two who did not end it, also whether it ends because
    /// of a `busy` peer.
    fn end(&mut self, session: SessionId, leaver: Option<SeatKey>, busy: bool) {
        let Some(ended) = self.sessions.remove(&session) else {
            return;
        };
        let place = (ended.number, session);
        self.receivers.leave(ended.receiver, place);
        for side in &ended.sides {
            let Some(seat) = self.seats.get_mut(&side.seat) else {
                continue;
            };
            seat.leave(&session);
            if leaver != Some(side.seat) {
                seat.remember(session, side.reports);
                // One that does not take it is leaving, too.
                let _ = seat.mailbox.deliver(Event::PeerLeft { session, busy });
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Mono) {
        self.now = now;
        while let Some(&(deadline, key)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.end_wait(key, Event::TimedOut);
        }
        self.shrink();
    }

    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends a wait, and says why.
    fn end_wait(&mut self, key: SeatKey, why: Event) {
        drop(self.stop_waiting(key));
        if let Some(seat) = self.seats.get(&key) {
            // One that does not take it has gone without waiting for the answer.
            let _ = seat.mailbox.deliver(why);
        }
    }

    /// Takes a waiting entry out of every table; what is held for it is left to the caller.
    fn stop_waiting(&mut self, key: SeatKey) -> Option<G> {
        let seat = self.seats.get_mut(&key)?;
        let entry = seat.waiting.take()?;
        self.waiting.leave(seat.observed.ip(), key);
        self.deadlines.remove(&(entry.deadline, key));
        if let Some(queue) = self.ids.get_mut(&entry.id) {
            if let Some(at) = queue.iter().position(|waiter| *waiter == key) {
                queue.remove(at);
            }
            if queue.is_empty() {
                self.ids.remove(&entry.id);
            }
        }
        entry.hold
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        while let Some(&(_, key)) = self.deadlines.first() {
            if let Some(seat) = self.seats.get_mut(&key) {
                self.leaving += usize::from(!seat.leaving);
                seat.leaving = true;
            }
            self.end_wait(key, Event::GoingAway);
        }
    }

    fn random_session(&mut self) -> SessionId {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        SessionId(id)
    }
}
