//! What becomes of a path: kept, lost, found again, given up for a better one.

use std::time::Duration;

use crate::world::{Kind, Net, World};

const NET: Net = Net {
    latency: Duration::from_millis(30),
    loss: 0.0,
    burst: 1.0,
    signals: true,
    refines: true,
};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn connected(kinds: [Kind; 2], net: Net, seed: u64) -> World {
    let mut world = World::new(kinds, net, seed);
    assert!(
        world.run(Duration::from_secs(5), World::both_selected),
        "{kinds:?} {seed}"
    );
    world
}

/// Both applications send every 50 ms for so long.
fn talk(world: &mut World, total: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
    let end = world.now + total;
    while world.now < end {
        world.send_data(0);
        world.send_data(1);
        if world.run(ms(50), |w| done(w)) {
            return true;
        }
    }
    false
}

#[test]
fn devices_in_one_network_use_it() {
    for seed in 0..20 {
        for kind in [Kind::N3, Kind::N5, Kind::N4(1, 0.0)] {
            let mut world = World::same_lan(kind, NET, seed);
            assert!(
                world.run(Duration::from_secs(2), World::both_selected),
                "{kind:?}"
            );
            for side in &world.sides {
                let remote = side.path.expect("selected").remote;
                assert!(remote.ip().to_string().starts_with("10."), "{remote}");
            }
            assert!(world.agree());
        }
    }
}

/// The answers lie in its sockets when it goes on.
#[test]
fn a_process_that_did_not_run_loses_no_path() {
    for seed in 0..100 {
        let mut world = connected([Kind::N3, Kind::N3], NET, seed);
        talk(&mut world, Duration::from_secs(1), |_| false);
        // From the moment at which it asks, and from others.
        let until = world.now + ms(300 + seed * 10);
        world.send_data(0);
        world.sides[0].asleep_until = Some(until);
        while world.now < until {
            world.send_data(1);
            world.run(ms(50), |_| false);
        }
        talk(&mut world, Duration::from_secs(3), |_| false);
        assert!(world.both_selected(), "{seed}");
        let lost = world.sides.each_ref().map(|side| side.lost_at);
        assert_eq!(lost[0], None, "{seed}");
    }
}

/// P08, with data in both directions.
#[test]
fn a_dead_path_is_lost_within_a_second_and_found_again() {
    for seed in 0..100 {
        let kinds = [
            [Kind::N3, Kind::N3],
            [Kind::N0, Kind::N5],
            [Kind::N3b, Kind::N4(1, 0.0)],
        ];
        let latency = ms(5 + seed % 95);
        let net = Net { latency, ..NET };
        let mut world = connected(kinds[seed as usize % 3], net, seed);
        talk(&mut world, Duration::from_secs(3), |_| false);
        assert!(world.both_selected(), "{seed}: it holds");
        world.cut = true;
        let cut = world.now;
        let lost = |w: &World| w.sides.iter().all(|side| side.path.is_none());
        assert!(talk(&mut world, Duration::from_secs(3), lost), "{seed}");
        for side in &world.sides {
            let took = side.lost_at.expect("lost").duration_since(cut);
            assert!(took <= ms(1050), "{seed}: {took:?}");
        }
        talk(&mut world, ms(seed * 300), |_| false);
        world.cut = false;
        assert!(
            talk(&mut world, Duration::from_secs(10), World::both_selected),
            "{seed}"
        );
        assert!(world.agree(), "{seed}");
    }
}

/// Nobody sends anything for an hour: keepalives hold the mappings.
#[test]
fn an_idle_path_stays() {
    for kinds in [
        [Kind::N3, Kind::N3],
        [Kind::N5, Kind::N2],
        [Kind::N8, Kind::N8],
    ] {
        let mut world = connected(kinds, NET, 1);
        let before = world.sides.each_ref().map(|side| side.agent.stats().checks);
        world.run(Duration::from_secs(3600), |_| false);
        assert!(world.agree());
        for (side, before) in world.sides.iter().zip(before) {
            assert_eq!(side.moves, 1);
            let checks = side.agent.stats().checks - before;
            assert!((230..1200).contains(&checks), "{kinds:?}: {checks}");
        }
    }
}

/// An idle path that dies is noticed at the next keepalive.
#[test]
fn an_idle_path_that_dies_is_noticed() {
    let mut world = connected([Kind::N3, Kind::N3], NET, 1);
    world.run(Duration::from_secs(100), |_| false);
    world.cut = true;
    assert!(world.run(Duration::from_secs(18), |w| {
        w.sides.iter().all(|s| s.path.is_none())
    }));
}

/// A router that restarts forgets its mappings; the ports are the same again here.
#[test]
fn a_router_that_restarts_costs_seconds() {
    for seed in 0..50 {
        let mut world = connected([Kind::N3, Kind::N3], NET, seed);
        talk(&mut world, Duration::from_secs(2), |_| false);
        world.nats[0].forget();
        talk(&mut world, Duration::from_secs(4), |_| false);
        assert!(world.both_selected(), "{seed}");
        assert!(world.agree());
    }
}

/// Ports in order are further on when the first attempt has failed: they are measured again.
#[test]
fn a_later_attempt_knows_the_ports_that_come_next_too() {
    let mut direct = 0;
    for seed in 0..40 {
        let mut world = World::new([Kind::N4(1, 0.1), Kind::N4(2, 0.1)], NET, seed);
        world.cut = true;
        let gave_up = |w: &World| w.sides.iter().all(|side| side.gave_up.is_some());
        assert!(world.run(Duration::from_secs(20), gave_up), "{seed}");
        world.cut = false;
        direct += u32::from(world.run(Duration::from_secs(12), World::both_selected));
    }
    assert!(direct >= 38, "{direct} of 40");
}

/// Losses of a fifth, in runs, do not shake a path off.
#[test]
fn losses_do_not_end_a_path() {
    let mut lost = 0;
    for seed in 0..20 {
        let net = Net {
            loss: 0.2,
            burst: 2.0,
            ..NET
        };
        let mut world = connected([Kind::N3, Kind::N3], net, seed);
        talk(&mut world, Duration::from_secs(60), |_| false);
        lost += world
            .sides
            .iter()
            .filter(|side| side.lost_at.is_some())
            .count();
    }
    assert!(lost <= 2, "{lost} of 40 minutes");
}

/// Devices behind one NAT that cannot reach each other but over its outer side.
#[test]
fn a_nat_that_sends_back_in_is_enough() {
    for seed in 0..20 {
        let mut world = World::hairpin(Kind::N3, NET, seed);
        assert!(
            world.run(Duration::from_secs(3), World::both_selected),
            "{seed}"
        );
        assert!(world.agree());
    }
}

/// P09: one side changes its network.
#[test]
fn a_change_of_network_costs_less_than_two_seconds() {
    for seed in 0..100 {
        let mut world = connected([Kind::N3, Kind::N3], NET, seed);
        talk(&mut world, Duration::from_secs(2), |_| false);
        let roaming = seed as usize % 2;
        world.roam(roaming);
        let since = world.now;
        let there = |w: &World| {
            let moved = w.sides[roaming]
                .path
                .is_some_and(|path| path.local.is_some());
            let other = w.sides[1 - roaming].path;
            moved && other.is_some_and(|path| path.remote.to_string().starts_with("203.0.113.77"))
        };
        assert!(talk(&mut world, Duration::from_secs(2), there), "{seed}");
        assert!(world.now - since <= Duration::from_secs(2));
        assert!(world.agree(), "{seed}");
    }
}

/// Better candidates that come later are used, and the move loses nothing on the way: both sides
/// hear what comes on the old path all the time.
#[test]
fn a_better_path_takes_over() {
    for seed in 0..20 {
        let mut world = connected([Kind::N3, Kind::N3b], NET, seed);
        talk(&mut world, Duration::from_secs(5), |_| false);
        let before = world.sides.each_ref().map(|side| side.received.len());
        world.find_ipv6();
        let moved = |w: &World| {
            let mut paths = w.sides.iter().map(|side| side.path);
            paths.all(|path| path.is_some_and(|path| path.remote.is_ipv6()))
        };
        assert!(talk(&mut world, Duration::from_secs(3), moved), "{seed}");
        world.run(ms(200), |_| false);
        for (side, before) in world.sides.iter().zip(before) {
            assert!(side.lost_at.is_none(), "{seed}");
            assert!(side.received.len() > before);
            let times: Vec<_> = side.received.iter().map(|(at, _, _)| *at).collect();
            let gap = times.windows(2).map(|two| two[1] - two[0]).max();
            assert!(gap <= Some(ms(56)), "{seed}: {gap:?}");
        }
        assert!(world.agree());
    }
}

/// One seed, one run: what is sent is the same to the byte.
#[test]
fn everything_follows_from_the_seed() {
    let run = || {
        let mut world = World::new([Kind::N4(1, 0.1), Kind::N3], NET, 7);
        world.tap = Some(Vec::new());
        world.run(Duration::from_secs(30), |_| false);
        world.tap.expect("a tap")
    };
    let first = run();
    assert!(first.len() > 20);
    assert_eq!(first, run());
}

/// Only one side sends. Both notice when the path dies: the other one from what comes over the
/// relay then.
#[test]
fn a_path_that_carries_data_one_way_is_watched_too() {
    for seed in 0..20 {
        let mut world = connected([Kind::N3, Kind::N3], NET, seed);
        let sender = seed as usize % 2;
        let stream = |world: &mut World, total: Duration| {
            let end = world.now + total;
            while world.now < end {
                world.send_data(sender);
                world.run(ms(20), |_| false);
            }
        };
        stream(&mut world, Duration::from_secs(10));
        assert!(world.sides.iter().all(|side| side.lost_at.is_none()));
        world.cut = true;
        let cut = world.now;
        stream(&mut world, Duration::from_secs(3));
        let took = world
            .sides
            .each_ref()
            .map(|side| side.lost_at.map(|at| at - cut));
        assert!(
            took[sender] <= Some(Duration::from_secs(1)),
            "{seed}: {took:?}"
        );
        assert!(took[1 - sender].is_some() && took[1 - sender] <= Some(ms(2000)));
        world.cut = false;
        stream(&mut world, Duration::from_secs(10));
        assert!(world.both_selected() && world.agree(), "{seed}");
    }
}

/// A device behind a NAT with random ports whose peer is not to be reached, and then is.
#[test]
fn sockets_for_random_ports_are_closed_when_they_were_in_vain_and_opened_anew() {
    let mut world = World::new([Kind::N5, Kind::N3], NET, 5);
    world.cut = true;
    let given_up = |w: &World| w.sides[0].gave_up.is_some();
    assert!(world.run(Duration::from_secs(30), given_up));
    assert_eq!(world.sides[0].asked_sockets, 255);
    assert_eq!(world.sides[0].sockets.len(), 1, "only the main one is left");
    // Trying again in the same network is in vain for as many ports.
    world.run(Duration::from_secs(60), |_| false);
    assert_eq!(world.sides[0].asked_sockets, 255);
    world.cut = false;
    for side in &mut world.sides {
        side.agent.restart(world.now);
    }
    assert!(world.run(Duration::from_secs(30), World::both_selected));
    assert_eq!(world.sides[0].asked_sockets, 510, "it is another network");
    assert!(
        world.sides[0].sockets.len() <= 2,
        "that of the path is kept"
    );
}
