//! One flow on one path: does it fill the link, and what does it cost?
//!
//! Goodput is payload over the rate of the link; with headers counted, 0.958 is the ceiling.

mod link;

use std::time::Duration;

use link::flow::{Flow, Record, interactive};
use link::network::{AckPolicy, Network};
use link::path::Link;
use link::rival;

const MBIT: u64 = 1_000_000;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn run(link: Link, seed: u64, time: Duration) -> Record {
    run_with(link, AckPolicy::default(), seed, time)
}

fn run_with(link: Link, acks: AckPolicy, seed: u64, time: Duration) -> Record {
    let flow = Flow::new(interactive(seed), ms(0), time);
    let network = Network::new(link, seed).acks(acks).flow(flow);
    network.run(time).remove(0)
}

#[test]
fn random_loss_does_not_slow_it() {
    for (loss, least) in [(0.0, 0.92), (0.001, 0.92), (0.01, 0.92), (0.03, 0.85)] {
        let link = Link::new(100 * MBIT, ms(100)).loss(loss);
        let record = run(link, 1, ms(12_000));
        let goodput = record.goodput(ms(5000), ms(12_000)) / 100e6;
        assert!(goodput >= least, "loss {loss}: goodput {goodput}");
        let twice = record.sent_twice();
        assert!(twice <= loss + 0.015, "loss {loss}: sent twice {twice}");
    }
}

/// Rates from thin to thick, round trips from a campus to a satellite.
#[test]
fn every_path_is_filled() {
    // The thickest paths take a minute; they run with the many seeds.
    let many = std::env::var_os("VITRAIL_SEEDS").is_some();
    let rates: &[u64] = if many {
        &[5, 20, 100, 400]
    } else {
        &[5, 20, 100]
    };
    for &rate in rates {
        for rtt in [2, 5, 20, 100, 300] {
            for loss in [0.0, 0.001, 0.01] {
                let start = ms(rtt * 20).max(ms(500));
                let end = start + ms(rtt * 20).max(ms(2000));
                let link = Link::new(rate * MBIT, ms(rtt)).loss(loss);
                let record = run(link, 7, end);
                let goodput = record.goodput(start, end) / (rate * MBIT) as f64;
                let cell = format!("{rate} Mbit/s, {rtt} ms, loss {loss}");
                assert!(goodput >= 0.85, "{cell}: goodput {goodput}");
            }
        }
    }
}

#[test]
fn late_and_batched_acknowledgements_do_not_slow_it() {
    for (rate, rtt) in [(20, 2), (100, 2), (200, 5), (100, 20), (100, 100)] {
        for batched in [5, 10, 25] {
            let mut link = Link::new(rate * MBIT, ms(rtt));
            // A batch leaves at once; the queue must hold it.
            link.queue = link.queue.max(rate * MBIT / 8 * (rtt + batched) / 1000);
            let acks = AckPolicy {
                batched: ms(batched),
                ..AckPolicy::default()
            };
            let record = run_with(link, acks, 3, ms(5000));
            let goodput = record.goodput(ms(2000), ms(5000)) / (rate * MBIT) as f64;
            assert!(goodput >= 0.85, "{rate} {rtt} {batched}: goodput {goodput}");
        }
    }
}

#[test]
fn jitter_and_lost_acknowledgements_do_not_slow_it() {
    let mut link = Link::new(50 * MBIT, ms(40));
    link.jitter = ms(10);
    link.queue *= 2;
    let acks = AckPolicy {
        loss: 0.05,
        ..AckPolicy::default()
    };
    let record = run_with(link, acks, 5, ms(8000));
    let goodput = record.goodput(ms(3000), ms(8000)) / 50e6;
    assert!(goodput >= 0.85, "goodput {goodput}");
}

#[test]
fn reordering_is_not_taken_for_congestion() {
    let mut link = Link::new(100 * MBIT, ms(100));
    link.reordering = (0.01, ms(10));
    let record = run(link, 1, ms(10_000));
    let goodput = record.goodput(ms(4000), ms(10_000)) / 100e6;
    assert!(goodput >= 0.90, "goodput {goodput}");
}

#[test]
fn the_queue_is_kept_small() {
    let record = run(Link::new(100 * MBIT, ms(100)), 1, ms(15_000));
    let least = record.rtts.iter().map(|r| r.1).min().unwrap();
    let high = record.rtt_quantile(0.95, ms(3000));
    let ratio = high.as_secs_f64() / least.as_secs_f64();
    assert!(
        ratio <= 1.35,
        "95% of round trips up to {ratio} of the least"
    );
}

#[test]
fn a_shallow_queue_is_enough() {
    let link = Link::new(100 * MBIT, ms(100)).queue(100 * MBIT / 8 / 100);
    let record = run(link, 1, ms(15_000));
    let goodput = record.goodput(ms(5000), ms(15_000)) / 100e6;
    assert!(goodput >= 0.85, "goodput {goodput}");
    let twice = record.sent_twice();
    assert!(twice <= 0.03, "sent twice {twice}");
}

#[test]
fn a_policer_is_obeyed() {
    for bucket in [32 << 10, 64 << 10, 256 << 10] {
        let mut link = Link::new(100 * MBIT, ms(100));
        link.policer = Some((20 * MBIT, bucket));
        let record = run(link, 1, ms(20_000));
        let goodput = record.goodput(ms(5000), ms(20_000)) / 20e6;
        assert!(goodput >= 0.80, "bucket {bucket}: goodput {goodput}");
        let twice = record.sent_twice();
        assert!(twice <= 0.05, "bucket {bucket}: sent twice {twice}");
    }
}

#[test]
fn a_step_of_the_rate_is_followed_within_three_seconds() {
    for (before, after) in [(100, 50), (50, 100), (25, 100)] {
        let mut link = Link::new(100 * MBIT, ms(100));
        link.rates = vec![(ms(0), before * MBIT), (ms(6000), after * MBIT)];
        let record = run(link, 2, ms(12_000));
        let goodput = record.goodput(ms(9000), ms(12_000)) / (after * MBIT) as f64;
        assert!(goodput >= 0.90, "{before} to {after}: goodput {goodput}");
    }
}

/// Counted from the first acknowledgement after the outage: how long the transport waits before
/// it probes a dead path is not the controller's to choose.
#[test]
fn an_outage_is_recovered_from_within_three_seconds() {
    let mut link = Link::new(100 * MBIT, ms(100));
    link.rates = vec![(ms(0), 100 * MBIT), (ms(4000), 0), (ms(9000), 100 * MBIT)];
    let record = run(link, 1, ms(18_000));
    let bin = record
        .acked
        .iter()
        .skip(90)
        .position(|&bytes| bytes > 0)
        .unwrap();
    let alive_at = Record::BIN * (90 + bin as u32);
    assert!(alive_at < ms(14_000), "first sign of life at {alive_at:?}");
    let goodput = record.goodput(alive_at + ms(3000), alive_at + ms(4000)) / 100e6;
    assert!(goodput >= 0.90, "goodput {goodput}");
}

#[test]
fn a_burst_of_losses_is_forgotten_within_three_seconds() {
    for length in [20, 100, 350] {
        let mut link = Link::new(100 * MBIT, ms(100));
        link.bursts = vec![(ms(5000), ms(5000 + length))];
        let record = run(link, 1, ms(11_000));
        let goodput = record.goodput(ms(9000), ms(11_000)) / 100e6;
        assert!(goodput >= 0.90, "{length} ms: goodput {goodput}");
    }
}

#[test]
fn a_longer_route_is_noticed() {
    // The round trip doubles: the old minimum must be given up, or half the path stays empty.
    let mut network = Network::new(Link::new(20 * MBIT, ms(50)), 1);
    network.lengthen(ms(4000), ms(50));
    let flow = Flow::new(interactive(1), ms(0), ms(25_000));
    let record = network.flow(flow).run(ms(25_000)).remove(0);
    let goodput = record.goodput(ms(18_000), ms(25_000)) / 20e6;
    assert!(goodput >= 0.85, "goodput {goodput}");
}

#[test]
fn a_flow_without_data_does_not_forget_the_path() {
    // A trickle of 1 Mbit/s for eight seconds, then all there is.
    let mut network = Network::new(Link::new(100 * MBIT, ms(50)), 1);
    network.watch = Some(Box::new(|now, flows| {
        let trickle = now > ms(3000) && now < ms(11_000);
        flows[0].supply_from(now, trickle.then_some(1e6 / 8.0));
    }));
    let flow = Flow::new(interactive(1), ms(0), ms(13_000));
    let record = network.flow(flow).run(ms(13_000)).remove(0);
    let trickle = record.goodput(ms(4000), ms(10_000));
    assert!((0.8e6..1.2e6).contains(&trickle), "trickle {trickle}");
    let goodput = record.goodput(ms(11_500), ms(13_000)) / 100e6;
    assert!(goodput >= 0.90, "goodput {goodput}");
}

#[test]
fn the_first_ten_megabytes_come_as_fast_as_with_tcp_bbr() {
    let first = |algorithm| {
        let flow = Flow::new(algorithm, ms(0), ms(5000));
        let network = Network::new(Link::new(100 * MBIT, ms(100)), 1).flow(flow);
        network.run(ms(5000))[0].time_of(10_000_000).unwrap()
    };
    let (ours, bbr) = (first(interactive(1)), first(rival::Bbr::boxed()));
    assert!(ours <= bbr.mul_f64(1.25), "{ours:?} and {bbr:?}");
}
