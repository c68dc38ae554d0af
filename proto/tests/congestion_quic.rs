//! The controller under real QUIC endpoints, in virtual time.

mod link;

use std::time::Duration;

use link::endpoints::{Report, transfer};
use link::path::Link;
use vitrail_proto::congestion::Class;

const MBIT: u64 = 1_000_000;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn pull(link: Link, time: Duration) -> Report {
    let report = transfer(link, Class::Interactive, 1, time);
    assert!(report.alive, "the connection died: {report:?}");
    report
}

#[test]
fn random_loss_does_not_slow_it() {
    for (loss, least) in [(0.0, 0.92), (0.001, 0.92), (0.01, 0.92), (0.03, 0.85)] {
        let report = pull(Link::new(100 * MBIT, ms(100)).loss(loss), ms(9000));
        let goodput = report.goodput(ms(5000), ms(9000)) / 100e6;
        assert!(goodput >= least, "loss {loss}: goodput {goodput}");
        let twice = report.sent_twice();
        assert!(twice <= loss + 0.015, "loss {loss}: sent twice {twice}");
    }
}

#[test]
fn short_round_trips_with_late_acknowledgements() {
    for (rate, rtt) in [(5, 2), (20, 2), (100, 2), (20, 5), (200, 5)] {
        let report = pull(Link::new(rate * MBIT, ms(rtt)).loss(0.001), ms(3000));
        let goodput = report.goodput(ms(1000), ms(3000)) / (rate * MBIT) as f64;
        assert!(
            goodput >= 0.85,
            "{rate} Mbit/s, {rtt} ms: goodput {goodput}"
        );
    }
}

#[test]
fn long_round_trips() {
    for rate in [5, 20, 100] {
        let report = pull(Link::new(rate * MBIT, ms(300)).loss(0.01), ms(12_000));
        let goodput = report.goodput(ms(6000), ms(12_000)) / (rate * MBIT) as f64;
        assert!(goodput >= 0.85, "{rate} Mbit/s: goodput {goodput}");
    }
}

#[test]
fn a_burst_of_losses_kills_nothing() {
    let mut link = Link::new(100 * MBIT, ms(100));
    // Longer than three round trips: everything on the path, and all that follows it.
    link.bursts = vec![(ms(3000), ms(3360))];
    let report = pull(link, ms(9000));
    assert!(report.lost_bytes > 1_000_000, "{}", report.lost_bytes);
    let goodput = report.goodput(ms(7000), ms(9000)) / 100e6;
    assert!(goodput >= 0.90, "goodput {goodput}");
}

#[test]
fn a_dead_path_comes_back() {
    let mut link = Link::new(20 * MBIT, ms(50));
    link.rates = vec![(ms(0), 20 * MBIT), (ms(3000), 0), (ms(6000), 20 * MBIT)];
    let report = pull(link, ms(14_000));
    let goodput = report.goodput(ms(12_000), ms(14_000)) / 20e6;
    assert!(goodput >= 0.90, "goodput {goodput}");
}

#[test]
fn the_queue_is_kept_small() {
    let report = pull(Link::new(100 * MBIT, ms(100)), ms(10_000));
    let mut rtts: Vec<_> = report
        .smoothed_rtts
        .iter()
        .filter(|r| r.0 > ms(3000))
        .map(|r| r.1)
        .collect();
    rtts.sort();
    let high = rtts[rtts.len() * 95 / 100];
    assert!(high <= ms(135), "{high:?}");
}
