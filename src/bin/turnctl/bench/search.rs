//! The search for the highest rate that the server carries: doubling, then halving the interval,
//! then a longer run that confirms. Every part of it is bounded.

use super::tally::Tally;

/// How close the two ends of the interval are when the search ends.
const CLOSE: f64 = 1.03;
/// The most steps, confirmations included.
const MOST_STEPS: usize = 40;
/// This machine is the limit when it sends less than this part of what was asked.
const KEPT_UP: f64 = 0.95;
/// Tries at a rate when this machine fell behind; once it does, it may have been busy elsewhere.
const TRIES: usize = 3;
/// Loss or duplicates up to this, in percent, may have been bad luck: such a step is made once
/// more.
const BAD_LUCK: f64 = 5.0;

/// One step that was made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// Packets per second that were asked for.
    pub(super) offered: f64,
    /// Packets per second that this machine sent.
    pub(super) achieved: f64,
    pub(super) seconds: f64,
    pub(super) tally: Tally,
}

impl Made {
    pub(super) fn new(offered: f64, seconds: f64, tally: Tally) -> Self {
        Self {
            offered,
            achieved: tally.all_sent() as f64 / seconds,
            seconds,
            tally,
        }
    }

    /// `max_loss`, in percent, is the limit of loss, and that of duplicates.
    pub(super) fn passes(&self, max_loss: f64) -> bool {
        let tally = &self.tally;
        tally.all_received() > 0 && self.excess() <= max_loss && tally.corrupted == 0
    }

    /// Loss or duplicates in percent, whichever is more.
    fn excess(&self) -> f64 {
        self.tally.loss().max(self.tally.duplication())
    }

    /// Whether this machine could not send as much as was asked.
    pub(super) fn fell_behind(&self) -> bool {
        self.achieved < KEPT_UP * self.offered
    }
}

/// What a search found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) steps: Vec<Made>,
    /// The step that was confirmed, or else the lowest one.
    pub(super) best: Made,
    /// The load generator was the limit, not the server.
    pub(super) generator_limited: bool,
}

/// Searches from `from` to `to` packets per second; `make` makes a step of this rate, `longer`
/// for a confirmation.
pub(super) fn search(
    from: f64,
    to: f64,
    max_loss: f64,
    mut make: impl FnMut(f64, bool) -> Result<Made, String>,
) -> Result<Found, String> {
    let mut steps: Vec<Made> = Vec::new();
    let mut limited = false;
    // The best of a few tries at one rate; none when the server does not carry it.
    let mut step = |rate: f64, longer: bool, steps: &mut Vec<Made>| {
        let mut best: Option<Made> = None;
        let mut failures = 0;
        for _ in 0..TRIES {
            let made = make(rate, longer)?;
            steps.push(made.clone());
            if made.passes(max_loss) {
                let kept_up = !made.fell_behind();
                if best
                    .as_ref()
                    .is_none_or(|best| made.achieved > best.achieved)
                {
                    best = Some(made);
                }
                if kept_up {
                    break;
                }
            } else {
                failures += 1;
                if failures == 2 || made.excess() > BAD_LUCK || made.tally.corrupted > 0 {
                    break;
                }
            }
        }
        Ok::<_, String>(best)
    };
    // `low` passed and `high` did not.
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut rate = from;
    while steps.len() < MOST_STEPS {
        if let Some(made) = step(rate, false, &mut steps)? {
            low = rate;
            if made.fell_behind() {
                limited = true;
                // More cannot be sent, and how much was is what counts.
                low = made.achieved;
                break;
            }
        } else {
            high = rate;
        }
        rate = match (low > 0.0, high.is_finite()) {
            (_, false) if rate >= to => break,
            (_, false) => (2.0 * rate).min(to),
            (true, true) if high / low <= CLOSE => break,
            (true, true) => (low * high).sqrt(),
            // Not even the first rate.
            (false, true) if high < 0.05 * from => break,
            (false, true) => high / 2.0,
        };
    }
    // The searching steps are short: what they found must hold for longer.
    let mut rate = low;
    let mut best = None;
    while rate > 0.0 && best.is_none() && steps.len() < MOST_STEPS {
        best = step(rate, true, &mut steps)?;
        rate /= CLOSE;
    }
    let best = best.or_else(|| steps.last().cloned());
    let best = best.ok_or("no step was made")?;
    Ok(Found {
        generator_limited: limited && best.passes(max_loss),
        best,
        steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(offered: f64, achieved: f64, loss: f64) -> Made {
        let mut tally = Tally::new();
        tally.sent[0] = achieved as u64;
        tally.received[0] = (achieved * (1.0 - loss)) as u64;
        Made::new(offered, 1.0, tally)
    }

    #[test]
    fn the_capacity_is_found() {
        for capacity in [300.0, 9_000.0, 123_456.0] {
            let found = search(8000.0, 1e7, 0.1, |rate, _| {
                let loss = if rate > capacity { 0.3 } else { 0.0 };
                Ok(made(rate, rate, loss))
            });
            let found = found.expect("found");
            assert!(found.best.passes(0.1));
            let ratio = found.best.offered / capacity;
            // Below a twentieth of where it began the search gives up.
            if capacity > 400.0 {
                assert!((0.97..=1.0).contains(&ratio), "{capacity}: {ratio}");
            }
            assert!(!found.generator_limited && found.steps.len() < 20);
        }
    }

    #[test]
    fn duplicates_have_the_limit_of_loss() {
        let twice = |rate: f64, part: f64| {
            let mut made = made(rate, rate, 0.0);
            made.tally.duplicated = (rate * part) as u64;
            made
        };
        assert!(twice(10_000.0, 0.001).passes(0.1));
        assert!(!twice(10_000.0, 0.0011).passes(0.1));
        assert!(twice(10_000.0, 0.0011).passes(0.2));

        let found = search(8000.0, 1e7, 0.1, |rate, _| {
            Ok(twice(rate, if rate > 30_000.0 { 1.0 } else { 0.0 }))
        });
        let found = found.expect("found");
        assert!(found.best.passes(0.1), "{:?}", found.best);
        assert!((29_000.0..=30_000.0).contains(&found.best.offered));
    }

    #[test]
    fn a_slow_generator_is_told() {
        let found = search(8000.0, 1e7, 0.1, |rate, _| {
            Ok(made(rate, rate.min(50_000.0), 0.0))
        });
        let found = found.expect("found");
        assert!(found.generator_limited);
        assert!((found.best.achieved - 50_000.0).abs() < 1.0);
    }

    #[test]
    fn bad_luck_is_forgiven_once_and_a_dead_server_is_not() {
        let mut first = true;
        let found = search(1000.0, 2000.0, 0.1, |rate, _| {
            let loss = if std::mem::take(&mut first) {
                0.02
            } else {
                0.0
            };
            Ok(made(rate, rate, loss))
        });
        assert_eq!(found.expect("found").best.offered, 2000.0);
        let found = search(1000.0, 2000.0, 0.1, |rate, _| Ok(made(rate, rate, 1.0)));
        let found = found.expect("bounded");
        assert!(!found.best.passes(0.1) && found.steps.len() < 10);
    }
}
