//! Properties that hold on any path, over many seeds.
//!
//! `VITRAIL_SEEDS=10000` runs that many; a failure names its seed, and `VITRAIL_SEED=n` runs that
//! one alone.

mod link;

use std::ops::Range;
use std::time::Duration;

use link::Random;
use link::endpoints::transfer;
use link::flow::{Flow, MTU, background, interactive};
use link::network::{AckPolicy, Network};
use link::path::Link;
use vitrail_proto::congestion::Class;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seeds(usually: u64) -> Range<u64> {
    match (number("VITRAIL_SEED"), number("VITRAIL_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, many) => 0..many.unwrap_or(usually),
    }
}

/// A path drawn by a seed. It is disturbed in the first half of the run and then left alone.
#[derive(Debug)]
struct Scenario {
    link: Link,
    acks: AckPolicy,
    rtt: Duration,
    /// Bits per second in the second half.
    rate: u64,
    rate_max: u64,
    time: Duration,
    deferring: bool,
}

impl Scenario {
    fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let rate_max = random.pick(&[2, 5, 10, 20, 50]) * 1_000_000;
        let rtt = ms(random.pick(&[2, 5, 10, 20, 50, 100, 200, 300]));
        let mut link = Link::new(rate_max, rtt).loss(random.pick(&[0.0, 0.0, 0.001, 0.01, 0.02]));
        // Long enough to settle twice, and the longer the slower the path tells.
        let half = (rtt * 60).max(ms(3000)).min(ms(12_000));
        let mut rate = rate_max;
        let at = half.mul_f64(0.3 + 0.4 * random.unit());
        match random.below(6) {
            0 => {
                rate = rate_max / random.pick(&[2, 4]);
                link.rates.push((at, rate));
            }
            1 => link
                .rates
                .insert(0, (ms(0), rate_max / random.pick(&[2, 4]))),
            2 => link
                .bursts
                .push((at, at + rtt.mul_f64(2.0 * random.unit()))),
            3 => {
                let pause = ms(random.below(1000));
                link.rates.extend([(at, 0), (at + pause, rate_max)]);
            }
            _ => {}
        }
        if link.rates.len() == 2 && link.rates[1].0 == ms(0) {
            link.rates[1].0 = at;
        }
        link.queue = link.queue * random.pick(&[1, 1, 2, 3]) / random.pick(&[1, 1, 2]);
        if random.below(4) == 0 {
            link.jitter = rtt.mul_f64(0.2 * random.unit());
        }
        if random.below(4) == 0 {
            link.reordering = (0.01, rtt / 10);
        }
        let deferring = random.below(5) == 0;
        let mut acks = AckPolicy {
            every: random.pick(&[1, 2, 2, 10]),
            batched: random.pick(&[ms(0), ms(0), (rtt / 4).min(ms(25))]),
            loss: random.pick(&[0.0, 0.0, 0.02]),
        };
        if deferring {
            // To a background flow, what is late has queued: it would rightly stand aside.
            acks.every = acks.every.min(2);
            acks.batched = ms(0);
            link.jitter = ms(0);
        }
        Self {
            link,
            acks,
            rtt,
            rate,
            rate_max,
            time: half * 2,
            deferring,
        }
    }
}

#[test]
fn never_stuck_and_never_without_bound() {
    let mut failures = Vec::new();
    for seed in seeds(200) {
        let scenario = Scenario::draw(seed);
        let algorithm = if scenario.deferring {
            background(seed)
        } else {
            interactive(seed)
        };
        let flow = Flow::new(algorithm, ms(0), scenario.time);
        let network = Network::new(scenario.link.clone(), seed).acks(scenario.acks);
        let record = network.flow(flow).run(scenario.time).remove(0);
        let replay = format!("replay with VITRAIL_SEED={seed}: {scenario:?}");

        let goodput = record.goodput(scenario.time.mul_f64(0.75), scenario.time);
        let share = goodput / scenario.rate as f64;
        let floor = if scenario.deferring {
            FLOOR_BACKGROUND
        } else {
            FLOOR
        };
        if share < floor {
            failures.push(format!("goodput {share}; {replay}"));
        }

        let carried = scenario.rate_max as f64 / 8.0 * scenario.rtt.as_secs_f64();
        let held = carried + scenario.link.queue as f64;
        let late = scenario.acks.batched.max(ms(25)) + scenario.link.jitter;
        let late = scenario.rate_max as f64 / 8.0 * late.as_secs_f64() * 2.0;
        let bound = 2.5 * held + late + 40.0 * MTU as f64;
        let window = record.window_max as f64;
        if window > bound {
            failures.push(format!("window {window} of {bound}; {replay}"));
        }
    }
    let count = failures.len();
    assert!(count == 0, "{count} failed:\n{}", failures.join("\n"));
}

/// Goodput that any of these paths gives, of the rate of the link. A background flow may still be
/// letting out a queue that is many times its path.
const FLOOR: f64 = 0.6;
const FLOOR_BACKGROUND: f64 = 0.3;

#[test]
fn quic_transfers_are_never_stuck() {
    // One in fifty: encryption makes them as much slower.
    for seed in seeds(600).filter(|seed| seed % 50 == 0 || number("VITRAIL_SEED").is_some()) {
        let mut random = Random::new(seed ^ 0x0DD);
        let rate = random.pick(&[5, 10, 20]) * 1_000_000;
        let rtt = ms(random.pick(&[2, 10, 50, 150]));
        let mut link = Link::new(rate, rtt).loss(random.pick(&[0.0, 0.001, 0.01]));
        if random.below(2) == 0 {
            link.bursts.push((ms(1000), ms(1000 + random.below(300))));
        }
        let time = (rtt * 60).max(ms(4000));
        let report = transfer(link, Class::Interactive, seed, time);
        let goodput = report.goodput(time.mul_f64(0.75), time) / rate as f64;
        let replay = format!("replay with VITRAIL_SEED={seed}: {rate} bit/s, {rtt:?}");
        assert!(report.alive, "{replay}");
        assert!(goodput >= FLOOR, "goodput {goodput}; {replay}");
    }
}
