//! Flows that share a link: fair to each other, fair to TCP, and out of the way in the background.

mod link;

use std::time::Duration;

use link::flow::{Algorithm, Flow, Record, background, interactive};
use link::network::Network;
use link::path::Link;
use link::rival::{Bbr, Cubic};

const RATE: u64 = 100_000_000;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const END: Duration = ms(35_000);

/// Two flows on a link of 100 Mbit/s with a queue of one bandwidth-delay product.
fn share(
    seed: u64,
    first: (Box<dyn Algorithm>, Duration),
    second: (Box<dyn Algorithm>, Duration),
) -> (f64, f64) {
    let network = Network::new(Link::new(RATE, ms(100)), seed)
        .flow(Flow::new(first.0, first.1, END))
        .flow(Flow::new(second.0, second.1, END));
    shares(&network.run(END), ms(5000))
}

fn shares(records: &[Record], from: Duration) -> (f64, f64) {
    let of = |record: &Record| record.goodput(from, END) / RATE as f64;
    (of(&records[0]), of(&records[1]))
}

/// Jain's index of two shares: 1 is equal, 0.5 is all for one.
fn jain((a, b): (f64, f64)) -> f64 {
    (a + b).powi(2) / (2.0 * (a * a + b * b))
}

#[test]
fn two_pulls_share_equally() {
    for (seed, late) in [(1, ms(0)), (2, ms(3000))] {
        let shares = share(
            seed,
            (interactive(seed), ms(0)),
            (interactive(seed + 99), late),
        );
        assert!(jain(shares) >= 0.95, "late by {late:?}: {shares:?}");
        assert!(shares.0 + shares.1 >= 0.90, "{shares:?}");
    }
}

#[test]
fn a_long_round_trip_is_no_verdict() {
    for seed in 1..3 {
        let link = Link::new(RATE, ms(20)).queue(RATE / 8 / 10);
        let network = Network::new(link, seed)
            .flow(Flow::new(interactive(seed), ms(0), END))
            .far_flow(Flow::new(interactive(seed + 99), ms(0), END), ms(80));
        let shares = shares(&network.run(END), ms(5000));
        assert!(jain(shares) >= 0.85, "{shares:?}");
    }
}

#[test]
fn tcp_cubic_gets_its_share_and_leaves_ours() {
    for (ours_at, cubic_at) in [(ms(0), ms(0)), (ms(0), ms(3000)), (ms(3000), ms(0))] {
        let (ours, cubic) = share(1, (interactive(1), ours_at), (Cubic::boxed(), cubic_at));
        let order = format!("ours at {ours_at:?}, CUBIC at {cubic_at:?}");
        assert!((0.30..=0.70).contains(&ours), "{order}: ours {ours}");
        assert!(cubic <= 0.70, "{order}: CUBIC {cubic}");
    }
}

/// BBR version 1 gives a CUBIC flow 6% of this link. Losses are part of the price of more.
#[test]
fn tcp_bbr_does_not_starve_ours() {
    let cubic = share(1, (Cubic::boxed(), ms(0)), (Bbr::boxed(), ms(0))).0;
    assert!(cubic < 0.10, "the rival is not the one described: {cubic}");
    for seed in 1..5 {
        for (ours_at, bbr_at) in [(ms(0), ms(0)), (ms(0), ms(3000)), (ms(3000), ms(0))] {
            let rival = (Bbr::boxed(), bbr_at);
            let (ours, bbr) = share(seed, (interactive(seed), ours_at), rival);
            let order = format!("seed {seed}, ours at {ours_at:?}, BBR at {bbr_at:?}");
            assert!(ours >= 0.20 && bbr >= 0.30, "{order}: {ours}, BBR {bbr}");
        }
    }
}

#[test]
fn the_background_fills_an_empty_link() {
    let network = Network::new(Link::new(RATE, ms(100)), 1);
    let flow = Flow::new(background(1), ms(0), ms(10_000));
    let record = network.flow(flow).run(ms(10_000)).remove(0);
    let goodput = record.goodput(ms(4000), ms(10_000)) / RATE as f64;
    assert!(goodput >= 0.90, "goodput {goodput}");
}

/// On a path that has become thin, two packets take longer than the queue that shows.
#[test]
fn the_background_fills_a_link_that_became_thin() {
    let mut link = Link::new(5_000_000, ms(300));
    link.rates.push((ms(4000), 1_250_000));
    let end = ms(24_000);
    let flow = Flow::new(background(1), ms(0), end);
    let record = Network::new(link, 1).flow(flow).run(end).remove(0);
    let goodput = record.goodput(ms(16_000), end) / 1.25e6;
    assert!(goodput >= 0.80, "goodput {goodput}");
}

#[test]
fn the_background_steps_aside_for_tcp_and_comes_back() {
    let cubic_until = ms(25_000);
    let network = Network::new(Link::new(RATE, ms(100)), 1)
        .flow(Flow::new(background(1), ms(5000), END))
        .flow(Flow::new(Cubic::boxed(), ms(0), cubic_until));
    let records = network.run(END);
    let beside = records[0].goodput(ms(7000), cubic_until) / RATE as f64;
    assert!(beside <= 0.15, "beside CUBIC {beside}");
    let after = records[0].goodput(cubic_until + ms(3000), END) / RATE as f64;
    assert!(after >= 0.90, "after it {after}");
}

#[test]
fn the_background_gives_way_to_tcp_that_joins_and_comes_back() {
    for seed in 1..4 {
        let cubic_until = ms(25_000);
        let network = Network::new(Link::new(RATE, ms(100)), seed)
            .flow(Flow::new(background(seed), ms(0), END))
            .flow(Flow::new(Cubic::boxed(), ms(5000), cubic_until));
        let records = network.run(END);
        let beside = records[0].goodput(ms(15_000), cubic_until) / RATE as f64;
        assert!(beside <= 0.15, "seed {seed}: beside CUBIC {beside}");
        let after = records[0].goodput(cubic_until + ms(3000), END) / RATE as f64;
        assert!(after >= 0.90, "seed {seed}: after it {after}");
    }
}

#[test]
fn the_background_steps_aside_for_ours() {
    let network = Network::new(Link::new(RATE, ms(100)), 1)
        .flow(Flow::new(background(1), ms(0), END))
        .flow(Flow::new(interactive(2), ms(5000), END));
    let (background, interactive) = shares(&network.run(END), ms(10_000));
    assert!(
        background < interactive / 3.0,
        "{background} and {interactive}"
    );
    assert!(background + interactive >= 0.85);
}

#[test]
fn a_change_of_class_takes_effect_on_a_running_flow() {
    use vitrail_proto::congestion::Class;
    let mut network = Network::new(Link::new(RATE, ms(100)), 1)
        .flow(Flow::new(background(1), ms(5000), END))
        .flow(Flow::new(Cubic::boxed(), ms(0), END));
    network.watch = Some(Box::new(|now, flows| {
        if now > ms(15_000)
            && let Some(controller) = flows[0].algorithm.controller()
        {
            controller.set_class(Class::Interactive);
        }
    }));
    let records = network.run(END);
    let before = records[0].goodput(ms(8000), ms(15_000)) / RATE as f64;
    let after = records[0].goodput(ms(22_000), END) / RATE as f64;
    assert!(
        before < 0.10 && after > before * 3.0,
        "before {before}, after {after}"
    );
}

/// Round trips between eight regions, in ms (`bench/topologies/aws-8.toml`).
const REGIONS: [[u64; 8]; 8] = [
    [0, 68, 85, 90, 237, 168, 197, 117],
    [68, 0, 122, 147, 169, 98, 139, 187],
    [85, 122, 0, 22, 179, 214, 254, 180],
    [90, 148, 23, 0, 155, 223, 246, 203],
    [237, 164, 178, 155, 0, 77, 93, 360],
    [169, 98, 214, 223, 72, 0, 115, 282],
    [197, 139, 256, 246, 93, 115, 0, 308],
    [115, 187, 180, 203, 358, 282, 308, 0],
];

/// Background from each region to all others, over uplinks of 50 Mbit/s that carry the acknowledgements as well.
fn preseed(watch: Option<link::network::Watch>) -> Vec<Vec<Record>> {
    const UP: u64 = 50_000_000;
    let end = ms(20_000);
    let uplink = Link::new(UP, ms(20)).queue(UP / 8 / 5);
    let mut network = Network::new(uplink.clone(), 1).sites(&uplink, REGIONS.len());
    network.watch = watch;
    for (from, row) in REGIONS.iter().enumerate() {
        for (to, &rtt) in row.iter().enumerate().filter(|(to, _)| *to != from) {
            let flow = Flow::new(background((from * 8 + to) as u64), ms(0), end);
            network = network.between(flow, from, to, ms(rtt.saturating_sub(20)));
        }
    }
    let mut records = network.run(end).into_iter();
    let row = |_| records.by_ref().take(REGIONS.len() - 1).collect();
    (0..REGIONS.len()).map(row).collect()
}

#[test]
fn background_between_regions_fills_their_uplinks_and_starves_nobody() {
    for (region, records) in preseed(None).iter().enumerate() {
        let share = |record: &Record| record.goodput(ms(3000), ms(20_000)) / 50e6;
        let shares: Vec<f64> = records.iter().map(share).collect();
        let sum: f64 = shares.iter().sum();
        assert!(sum >= 0.80, "region {region}: {sum} of {shares:?}");
        assert!(
            shares.iter().all(|share| *share >= 0.04),
            "region {region}: {shares:?}"
        );
    }
}

/// A flow with little to send keeps no window that fills a queue whenever there is more.
#[test]
fn background_that_sends_now_and_then_makes_way() {
    let records = preseed(Some(Box::new(|now, flows| {
        for (number, flow) in flows.iter_mut().enumerate() {
            let phase = (now.as_millis() as u64 + 137 * number as u64) % 1500;
            flow.supply_from(now, (phase >= 900).then_some(20_000.0));
        }
    })));
    for record in records.iter().flatten() {
        let quantile = |q| record.rtt_quantile(q, ms(3000));
        let queued = quantile(0.95) - quantile(0.01);
        assert!(queued < ms(150), "{queued:?}");
    }
}
