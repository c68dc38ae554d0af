//! Many sites that pull at once: everything comes to each, and nothing twice without need.
//!
//! `VITRAIL_SIM_SEEDS` and `VITRAIL_SIM_SEED` as in `seeds.rs`.

use std::time::Duration;

use vitrail_proto::random::Random;
use vitrail_sim::faults::seeds;
use vitrail_sim::swarm::{Chunk, Network, Path, Report, Serving, Site, Swarm, Way};

const MBIT: f64 = 125_000.0;
const END: Duration = Duration::from_secs(3600);

/// Chunks of together about this length, which travel as half of it.
fn chunks(random: &mut Random, len: u64) -> Vec<Chunk> {
    let mut left = len as i64;
    std::iter::from_fn(|| {
        let len = 16 * 1024 + random.below(96 * 1024) as u32;
        left -= i64::from(len);
        (left > 0).then(|| Chunk {
            name: random.number(),
            len,
            wire: len / 2,
        })
    })
    .collect()
}

fn site(up: f64, down: f64) -> Site {
    Site {
        up: up * MBIT,
        down: down * MBIT,
        zone: None,
    }
}

#[test]
fn one_from_one_takes_its_bytes_at_the_rate_and_a_round_trip() {
    for (up, down, path, rtt_ms) in [
        (10.0, 100.0, 1e3, 100),
        (100.0, 10.0, 1e3, 20),
        (100.0, 100.0, 20.0, 200),
    ] {
        let rtt = Duration::from_millis(rtt_ms);
        let path = Path {
            delay: rtt / 2,
            rate: path * MBIT,
        };
        let network = Network::new(vec![site(up, up), site(down, down)], |_, _| path);
        let mut swarm = Swarm::new(network, 1);
        let image = swarm.image(&chunks(&mut Random::new(1), 256 << 20));
        swarm.hold(0, image);
        swarm.pull(1, image, Duration::ZERO, Way::Read);
        let bytes = swarm.copy_bytes(image, None);
        let least = bytes as f64 / path.rate.min(up.min(down) * MBIT) + rtt.as_secs_f64();
        let report = swarm.run(END);
        assert_eq!(report.links[&(0, 1)], bytes);
        let time = report.slowest().unwrap().as_secs_f64();
        assert!(
            (least..least * 1.02).contains(&time),
            "{time} s, not {least}"
        );
    }
}

/// A preseed: all sites but the first ask for an image at once.
fn preseed(sites: usize, seed: u64) -> Report {
    let mut random = Random::new(seed);
    let mut all = vec![site(40.0, 40.0)];
    let some = |random: &mut Random| site(random.pick(&[5.0, 10.0, 40.0]), 40.0);
    all.extend((1..sites).map(|_| some(&mut random)));
    let rtts: Vec<u64> = (0..sites).map(|_| 5 + random.below(60) as u64).collect();
    let network = Network::new(all, |a, b| Path {
        delay: Duration::from_millis(rtts[a] + rtts[b]),
        rate: f64::INFINITY,
    });
    let mut swarm = Swarm::new(network, seed);
    let base = chunks(&mut random, 8 << 20);
    let new = chunks(&mut random, 24 << 20);
    let (old, image) = (swarm.image(&base), swarm.image(&[base, new].concat()));
    swarm.hold(0, image);
    for receiver in 1..sites {
        if random.once_in(3) {
            swarm.hold_quietly(receiver, old);
        }
        let within = Duration::from_secs(random.pick(&[0, 20]));
        let at = random.delay(within);
        let way = random.pick(&[Way::Hold, Way::Hold, Way::Read]);
        swarm.pull(receiver, image, at, way);
    }
    let report = swarm.run(END).clone();
    for receiver in 1..sites {
        assert!(swarm.holds(receiver, image), "site {receiver}, seed {seed}");
    }
    report
}

#[test]
fn everything_comes_to_all_and_nothing_twice_without_need() {
    for seed in seeds(30) {
        for sites in [9, 17] {
            let report = preseed(sites, seed);
            assert!(report.slowest().is_some(), "seed {seed}: {report:?}");
            let again = report.arrived_bytes - report.missing_bytes;
            assert!(again <= report.excused_bytes, "seed {seed}: {report:?}");
        }
    }
}

#[test]
fn a_preseed_takes_little_more_than_it_must() {
    let ways = [Serving::IN_TURN, Serving::DAEMON];
    for (receivers, serving) in [8, 16].into_iter().flat_map(|n| ways.map(|way| (n, way))) {
        for seed in seeds(1) {
            let mut all = vec![site(40.0, 40.0)];
            all.extend(vec![site(10.0, 40.0); receivers]);
            let network = Network::uniform(all, Duration::from_millis(40));
            let mut swarm = Swarm::new(network.clone(), seed);
            swarm.set_serving(serving);
            let image = swarm.image(&chunks(&mut Random::new(seed), 128 << 20));
            swarm.hold(0, image);
            let sites: Vec<usize> = (1..=receivers).collect();
            for site in &sites {
                swarm.pull(*site, image, Duration::ZERO, Way::Hold);
            }
            let least = swarm.copy_bytes(image, None) as f64 / network.rate_most(&[0], &sites);
            let time = swarm.run(END).slowest().expect("all end").as_secs_f64();
            assert!(
                time < 1.3 * least,
                "{time} s, not {least}, seed {seed}: {serving:?}"
            );
        }
    }
}

/// The origin's uplink is all that limits: what it sends twice costs everybody the time.
#[test]
fn what_the_origin_sends_twice_is_little() {
    for seed in seeds(1) {
        let network = Network::uniform(vec![site(40.0, 40.0); 17], Duration::from_millis(40));
        let mut swarm = Swarm::new(network, seed);
        swarm.share_unevenly(8);
        let image = swarm.image(&chunks(&mut Random::new(seed), 256 << 20));
        swarm.hold(0, image);
        for site in 1..17 {
            swarm.pull(site, image, Duration::ZERO, Way::Hold);
        }
        let once = swarm.copy_bytes(image, None);
        let report = swarm.run(END);
        let copies = report.sent(0) as f64 / once as f64;
        assert!(copies < 1.3, "{copies} copies, seed {seed}");
        assert!(report.slowest().is_some(), "seed {seed}: {report:?}");
    }
}

#[test]
fn a_storm_shares_what_images_have_in_common() {
    let network = Network::uniform(vec![site(20.0, 20.0); 5], Duration::from_millis(40));
    let mut swarm = Swarm::new(network, 1);
    let mut random = Random::new(1);
    let common = chunks(&mut random, 16 << 20);
    let images: Vec<usize> = (0..3)
        .map(|_| {
            let own = chunks(&mut random, 4 << 20);
            swarm.image(&[common.clone(), own].concat())
        })
        .collect();
    for (number, image) in images.iter().enumerate() {
        swarm.hold(0, *image);
        for site in 1..5 {
            let at = Duration::from_secs(60 * number as u64);
            swarm.pull(site, *image, at, Way::Read);
            // Another client of the same site costs nothing.
            swarm.pull(site, *image, at, Way::Read);
        }
    }
    let own = |image: usize| swarm.copy_bytes(images[image], Some(images[0]));
    assert!(own(1) < 3 << 20);
    let all = swarm.copy_bytes(images[0], None) + own(1) + own(2);
    let report = swarm.run(END).clone();
    assert_eq!(report.pulls.len(), 24);
    assert!(report.slowest().is_some(), "{report:?}");
    let received: u64 = (1..5).map(|site| report.received(site)).sum();
    let again = report.arrived_bytes - report.missing_bytes;
    assert!(received.abs_diff(4 * all) <= again + 1024, "{received}");
}

#[test]
fn without_a_holder_a_pull_fails() {
    let network = Network::uniform(vec![site(20.0, 20.0); 2], Duration::from_millis(40));
    let mut swarm = Swarm::new(network, 1);
    let image = swarm.image(&chunks(&mut Random::new(1), 1 << 20));
    swarm.pull(1, image, Duration::ZERO, Way::Read);
    assert_eq!(swarm.run(END).pulls[0].time, None);
}

#[test]
fn equal_seeds_give_equal_swarms() {
    assert_eq!(preseed(9, 3), preseed(9, 3));
}
