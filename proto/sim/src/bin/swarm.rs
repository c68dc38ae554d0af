//! Time of a preseed beside the least that is possible, and the copies that leave the origin:
//! `cargo run -p vitrail-sim --release --bin swarm [SITES...]`.
//!
//! The sites are those of `bench/topologies/access-16.toml`: an origin that sends 40 Mbit/s, and others with 10 up and
//! 40 down behind 12 to 40 ms; or such that all have 40 up, which makes the origin's uplink the limit. Connections share
//! links evenly, or as chance has it, up to 8 to 1. The image has 256 MiB of data that travel as 96 MiB.

use std::time::{Duration, Instant};

use vitrail_proto::random::Random;
use vitrail_sim::swarm::{Chunk, Network, Path, Site, Swarm, Way};

const MBIT: f64 = 125_000.0;
const IMAGE_LEN: u32 = 256 << 20;
const CHUNK_LEN: u32 = 64 << 10;
const END: Duration = Duration::from_secs(24 * 3600);

fn main() {
    let asked: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    let counts = if asked.is_empty() { vec![8, 16] } else { asked };
    println!(
        "| receivers | uplinks, Mbit/s | shares | seconds: median, slowest | bound | slowest ÷ bound | copies from the origin | twice | simulated in |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for receivers in counts {
        for up in [10.0, 40.0] {
            preseed(receivers, up, 1);
            preseed(receivers, up, 8);
        }
    }
}

fn preseed(receivers: usize, up: f64, uneven: u64) {
    let site = |number: usize| Site {
        up: if number == 0 { 40.0 } else { up } * MBIT,
        down: 40.0 * MBIT,
        zone: None,
    };
    let sites: Vec<Site> = (0..=receivers).map(site).collect();
    let delay = |site: usize| Duration::from_millis(5 + site as u64 % 16);
    let network = Network::new(sites, |a, b| Path {
        delay: delay(a) + delay(b),
        rate: f64::INFINITY,
    });
    let mut random = Random::new(1);
    let chunks: Vec<Chunk> = (0..IMAGE_LEN / CHUNK_LEN)
        .map(|_| Chunk {
            name: random.number(),
            len: CHUNK_LEN,
            wire: CHUNK_LEN * 3 / 8,
        })
        .collect();
    let all: Vec<usize> = (1..=receivers).collect();
    let mut swarm = Swarm::new(network.clone(), 1);
    swarm.share_unevenly(uneven);
    let image = swarm.image(&chunks);
    swarm.hold(0, image);
    for site in &all {
        swarm.pull(*site, image, Duration::ZERO, Way::Hold);
    }
    let bytes = swarm.copy_bytes(image, None);
    let started = Instant::now();
    let report = swarm.run(END);
    let bound = bytes as f64 / network.rate_most(&[0], &all);
    let mut times: Vec<f64> = report
        .pulls
        .iter()
        .map(|pull| pull.time.map_or(f64::INFINITY, |time| time.as_secs_f64()))
        .collect();
    times.sort_by(f64::total_cmp);
    let slowest = times[times.len() - 1];
    println!(
        "| {receivers} | 40, {up} | 1 to {uneven} | {:.1}, {slowest:.1} | {bound:.1} | {:.2} | {:.2} | {:.1} % | {:.1} s |",
        times[times.len() / 2],
        slowest / bound,
        report.sent(0) as f64 / bytes as f64,
        100.0 * (report.arrived_bytes as f64 / report.missing_bytes as f64 - 1.0),
        started.elapsed().as_secs_f64(),
    );
}
