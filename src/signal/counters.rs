//! What is counted. Labels come from enums only.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::pairing::{ErrorCode, Outcome};

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitEnd {
    /// A receiver came.
    Paired,
    /// No receiver came in time.
    TimedOut,
    /// The initiator went away.
    Left,
    /// It had to go for one from elsewhere.
    Displaced,
    /// The server went away.
    GoingAway,
}

impl WaitEnd {
    /// All of them.
    pub(super) const ALL: [Self; 5] = [
        Self::Paired,
        Self::TimedOut,
        Self::Left,
        Self::Displaced,
        Self::GoingAway,
    ];

    /// The label's value.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Paired => "paired",
            Self::TimedOut => "timed_out",
            Self::Left => "left",
            Self::Displaced => "displaced",
            Self::GoingAway => "going_away",
        }
    }
}

/// How a join was answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinAnswer {
    /// An initiator waits.
    Waiting,
    /// A receiver is paired.
    Paired,
    /// It was refused.
    Refused(ErrorCode),
}

const REFUSALS: [ErrorCode; 9] = [
    ErrorCode::NobodyWaits,
    ErrorCode::Busy,
    ErrorCode::TooMany,
    ErrorCode::BadRequest,
    ErrorCode::ProofRequired,
    ErrorCode::ProofWrong,
    ErrorCode::TooLarge,
    ErrorCode::GoingAway,
    ErrorCode::Internal,
];

const OUTCOMES: [Outcome; 3] = [Outcome::Direct, Outcome::Relayed, Outcome::Failed];

/// The counters of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Counters {
    joins: [AtomicU64; 2 + REFUSALS.len()],
    waits: [AtomicU64; WaitEnd::ALL.len()],
    outcomes: [AtomicU64; OUTCOMES.len()],
    pairs: AtomicU64,
    refused_connections: AtomicU64,
}

/// A reading of all counters and gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Who waits now.
    pub waiting: u64,
    /// Sessions that can be signalled in.
    pub sessions: u64,
    /// Open connections.
    pub connections: u64,
    /// Connections that were closed at once, by a cap.
    pub refused_connections: u64,
    /// Pairs that were made.
    pub pairs: u64,
    /// Joins by their first answer.
    pub joins: Vec<(&'static str, u64)>,
    /// Waits by their end; a host's ends once.
    pub waits: Vec<(&'static str, u64)>,
    /// What became of sessions, as clients report it.
    pub outcomes: Vec<(&'static str, u64)>,
}

impl Counters {
    pub(super) fn join(&self, answer: JoinAnswer) {
        let index = match answer {
            JoinAnswer::Waiting => 0,
            JoinAnswer::Paired => 1,
            // What is not in the list can not come of a join; it would be our own mistake.
            JoinAnswer::Refused(code) => {
                let at = REFUSALS.iter().position(|known| *known == code);
                2 + at.unwrap_or(REFUSALS.len() - 1)
            }
        };
        self.joins[index].fetch_add(1, Relaxed);
    }

    pub(super) fn wait_ended(&self, end: WaitEnd) {
        self.waits[end as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn paired(&self) {
        self.pairs.fetch_add(1, Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.refused_connections.fetch_add(1, Relaxed);
    }

    /// The counters; the gauges are for the caller to fill in.
    pub(super) fn snapshot(&self) -> Snapshot {
        fn read<'a>(
            names: impl Iterator<Item = &'static str> + 'a,
            values: &'a [AtomicU64],
        ) -> Vec<(&'static str, u64)> {
            let values = values.iter().map(|value| value.load(Relaxed));
            names.zip(values).collect()
        }
        let joins = ["waiting", "paired"].into_iter();
        Snapshot {
            joins: read(joins.chain(REFUSALS.map(code_name)), &self.joins),
            waits: read(WaitEnd::ALL.into_iter().map(WaitEnd::name), &self.waits),
            outcomes: read(OUTCOMES.into_iter().map(outcome_name), &self.outcomes),
            pairs: self.pairs.load(Relaxed),
            refused_connections: self.refused_connections.load(Relaxed),
            ..Snapshot::default()
        }
    }
}

/// The name of a code as it stands in messages.
pub(super) const fn code_name(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::NobodyWaits => "nobody_waits",
        ErrorCode::TimedOut => "timed_out",
        ErrorCode::Busy => "busy",
        ErrorCode::TooMany => "too_many",
        ErrorCode::BadRequest => "bad_request",
        ErrorCode::ProofRequired => "proof_required",
        ErrorCode::ProofWrong => "proof_wrong",
        ErrorCode::TooLarge => "too_large",
        ErrorCode::NoSession => "no_session",
        ErrorCode::GoingAway => "going_away",
        ErrorCode::Internal => "internal",
    }
}

const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Direct => "direct",
        Outcome::Relayed => "relayed",
        Outcome::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_has_its_counter() {
        let counters = Counters::default();
        for code in REFUSALS {
            counters.join(JoinAnswer::Refused(code));
        }
        counters.join(JoinAnswer::Waiting);
        counters.join(JoinAnswer::Paired);
        WaitEnd::ALL
            .iter()
            .for_each(|end| counters.wait_ended(*end));
        OUTCOMES
            .iter()
            .for_each(|outcome| counters.outcome(*outcome));
        let read = counters.snapshot();
        for (name, count) in read.joins.iter().chain(&read.waits).chain(&read.outcomes) {
            assert_eq!(*count, 1, "{name}");
        }
        assert_eq!(
            (read.joins.len(), read.waits.len(), read.outcomes.len()),
            (11, 5, 3)
        );
    }
}
