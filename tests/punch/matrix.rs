//! Which pairs of NATs connect directly, how often and how soon. `--nocapture` prints the table.

use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::world::{Kind, Net, World};

const RUNS: u64 = 100;

/// Probes of random ports in one go.
const BURST: usize = 1024;

/// What became of the runs of one pair.
#[derive(Default)]
struct Cell {
    direct: u64,
    /// How long each took, beyond three round trips.
    times: Vec<Duration>,
    rtts: Vec<Duration>,
    probes: Vec<u64>,
    /// From the first to the last probe of each burst, of all runs.
    bursts: Vec<Duration>,
    reasons: Vec<String>,
}

impl Cell {
    fn quantile(&self, of: f64) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        let at = ((times.len() as f64 * of) as usize).min(times.len().saturating_sub(1));
        times.get(at).copied().unwrap_or_default()
    }
}

/// When each probe of random ports left, by side.
#[derive(Default)]
struct Probed([Vec<Instant>; 2]);

impl Probed {
    fn look(&mut self, world: &World) {
        for (times, side) in self.0.iter_mut().zip(&world.sides) {
            times.resize(side.agent.stats().probes as usize, world.now);
        }
    }

    fn bursts(&self) -> impl Iterator<Item = Duration> {
        let bursts = self.0.iter().flat_map(|times| times.chunks(BURST));
        bursts.map(|burst| burst[burst.len() - 1] - burst[0])
    }
}

fn net(dice: &mut Dice, loss: f64) -> Net {
    Net {
        latency: Duration::from_millis(5 + dice.below(95)),
        loss,
        burst: if loss > 0.0 { 2.0 } else { 1.0 },
        signals: true,
        refines: true,
    }
}

fn cell(kinds: [Kind; 2], loss: f64, change: impl Fn(&mut Net)) -> Cell {
    let mut cell = Cell::default();
    for seed in 0..RUNS {
        let mut dice = Dice::new(seed ^ 0xD1CE);
        let mut net = net(&mut dice, loss);
        change(&mut net);
        let mut world = World::new(kinds, net, seed);
        let given_up = |w: &World| w.sides.iter().any(|s| s.gave_up.is_some());
        let mut probed = Probed::default();
        world.run(Duration::from_secs(15), |w| {
            probed.look(w);
            w.both_selected() || given_up(w)
        });
        cell.bursts.extend(probed.bursts());
        if world.both_selected() {
            cell.times
                .push(world.now.saturating_duration_since(world.known_at));
            cell.rtts.push(net.latency * 2);
            let probes = world.sides.iter().map(|side| side.agent.stats().probes);
            cell.probes.push(probes.sum());
            assert!(
                world.agree(),
                "{kinds:?} seed {seed}: {:?}",
                world.sides.map(|s| s.path)
            );
            cell.direct += 1;
        } else {
            let reason = world.sides.iter().find_map(|side| side.gave_up);
            cell.reasons
                .push(reason.map(|(_, why)| why.to_string()).unwrap_or_default());
        }
    }
    let [a, b] = kinds.map(Kind::name);
    println!(
        "{a:>6} {b:>6} {:>4.0} % loss: {:>3} of {RUNS} direct, median {:>5} ms, p99 {:>5} ms, most probes {:>4} {}",
        loss * 100.0,
        cell.direct,
        cell.quantile(0.5).as_millis(),
        cell.quantile(0.99).as_millis(),
        cell.probes.iter().max().unwrap_or(&0),
        cell.reasons.first().map(String::as_str).unwrap_or_default(),
    );
    cell
}

const EASY: [Kind; 8] = [
    Kind::N0,
    Kind::N1,
    Kind::N2,
    Kind::N3,
    Kind::N3b,
    Kind::N7,
    Kind::N8,
    Kind::N9,
];

/// P01: every pair of easy NATs, always, soon.
#[test]
fn easy_nats_always_connect() {
    for a in EASY {
        for b in EASY {
            let cell = cell([a, b], 0.0, |_| {});
            assert_eq!(cell.direct, RUNS, "{a:?} {b:?}: {:?}", cell.reasons);
            let allowed = |rtt: &Duration| *rtt * 3 + Duration::from_millis(200);
            let soon = cell.times.iter().zip(&cell.rtts);
            let soon = soon.filter(|(time, rtt)| **time <= allowed(rtt)).count() as u64;
            assert!(soon >= RUNS / 2, "{a:?} {b:?}: {soon} soon enough");
            assert!(cell.quantile(0.99) <= Duration::from_secs(2), "{a:?} {b:?}");
        }
    }
}

/// P02: random ports on one side.
#[test]
fn random_ports_meet_an_easy_nat() {
    let mut longest_of_all = Duration::ZERO;
    for (easy, least) in [
        (Kind::N0, 100),
        (Kind::N1, 100),
        (Kind::N2, 100),
        (Kind::N3, 98),
        (Kind::N3b, 98),
        (Kind::N7, 98),
        (Kind::N9, 100),
    ] {
        for kinds in [[easy, Kind::N5], [Kind::N5, easy]] {
            let cell = cell(kinds, 0.0, |_| {});
            let in_time = |time: &&Duration| **time <= Duration::from_secs(3);
            let in_time = cell.times.iter().filter(in_time).count();
            assert!(in_time >= least, "{kinds:?}: {in_time} in time");
            assert!(cell.probes.iter().all(|probes| *probes <= 2048));
            let longest = cell.bursts.iter().max().copied().unwrap_or_default();
            assert!(longest <= Duration::from_secs(1), "{kinds:?}: {longest:?}");
            longest_of_all = longest_of_all.max(longest);
        }
    }
    // Some runs needed all of one.
    assert!(longest_of_all > Duration::from_millis(900));
}

/// P03: ports in order.
#[test]
fn counted_ports_are_predicted() {
    for delta in [1, 2] {
        for (cross, least) in [(0.0, 95), (0.1, 95)] {
            let counting = Kind::N4(delta, cross);
            for other in [Kind::N0, Kind::N2, Kind::N3, Kind::N3b, counting] {
                for kinds in [[counting, other], [other, counting]] {
                    let cell = cell(kinds, 0.0, |_| {});
                    assert!(cell.direct >= least, "{kinds:?}: {}", cell.direct);
                    if other == counting {
                        break;
                    }
                }
            }
        }
    }
    // The step is known from two ports only, and so is wrong sometimes.
    let counting = Kind::N4(1, 0.1);
    let cell = cell([counting, counting], 0.0, |net| net.refines = false);
    assert!(cell.direct >= 80, "{}", cell.direct);
}

/// P04: where no direct path can be, it is soon known, and why.
#[test]
fn hopeless_pairs_say_why() {
    let counting = Kind::N4(1, 0.0);
    for (kinds, why) in [
        ([Kind::N5, Kind::N5], "random one"),
        ([Kind::N5, counting], "random one"),
        ([counting, Kind::N5], "random one"),
        ([Kind::N6, Kind::N3], "blocked"),
        ([Kind::N3, Kind::N6], "blocked"),
        ([Kind::N6, Kind::N6], "blocked"),
    ] {
        let cell = cell(kinds, 0.0, |_| {});
        assert_eq!(cell.direct, 0, "{kinds:?}");
        assert!(cell.reasons.iter().all(|reason| reason.contains(why)));
    }
}

/// P12: with losses in runs.
#[test]
fn losses_do_not_keep_easy_nats_apart() {
    for loss in [0.05, 0.2] {
        for kinds in [
            [Kind::N0, Kind::N3],
            [Kind::N3, Kind::N3],
            [Kind::N3b, Kind::N3b],
            [Kind::N2, Kind::N7],
            [Kind::N8, Kind::N8],
        ] {
            let cell = cell(kinds, loss, |_| {});
            assert_eq!(cell.direct, RUNS, "{kinds:?} {:?}", cell.reasons);
        }
    }
    for kinds in [[Kind::N3, Kind::N5], [Kind::N4(1, 0.0), Kind::N3]] {
        let cell = cell(kinds, 0.05, |_| {});
        assert!(cell.direct >= 90, "{kinds:?}: {}", cell.direct);
    }
}

/// Without anything but candidates from the other side it takes longer, but works.
#[test]
fn what_agents_tell_each_other_may_be_left_out() {
    for (kinds, least) in [
        ([Kind::N3, Kind::N3], 100),
        ([Kind::N3b, Kind::N3b], 100),
        // One burst instead of two.
        ([Kind::N3, Kind::N5], 95),
    ] {
        let cell = cell(kinds, 0.0, |net| net.signals = false);
        assert!(cell.direct >= least, "{kinds:?} {:?}", cell.reasons);
    }
}
