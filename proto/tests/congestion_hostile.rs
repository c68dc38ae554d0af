//! A peer, a clock or a path that misbehaves: rate and memory stay bounded, nothing panics.

mod link;

use std::time::Duration;

use link::Random;
use link::endpoints::transfer_to_slow;
use link::path::Link;
use vitrail_proto::congestion::{Class, Controller};

const MTU: u16 = 1452;
const WINDOW_MAX: u64 = 64 << 20;
const WINDOW_MIN: u64 = 3 * 1200;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn controller() -> Controller {
    Controller::new(ms(0), MTU, Class::Interactive, 1)
}

fn check(controller: &Controller) {
    let window = controller.window();
    assert!((WINDOW_MIN..=WINDOW_MAX).contains(&window), "{window}");
}

#[test]
fn acknowledgements_of_packets_never_sent() {
    let mut controller = controller();
    for t in 0..10_000 {
        controller.on_acked(ms(t), ms(t / 2), u64::MAX / 7);
        controller.on_acks_ended(ms(t), 0, false);
        check(&controller);
    }
    // Nothing was sent, so nothing was learnt.
    assert_eq!(controller.snapshot().rate, 0);
}

/// A receiver that acknowledges before it has received, to draw more.
#[test]
fn optimistic_acknowledgements_draw_no_more_than_the_largest_window() {
    let mut controller = controller();
    let (mut now, mut drawn) = (ms(0), 0u64);
    for _ in 0..20_000 {
        let window = controller.window();
        let sent_at = now;
        controller.on_sent(now, window);
        drawn = drawn.max(window);
        now += Duration::from_micros(100);
        controller.on_acked(now, sent_at, window);
        controller.on_acks_ended(now, 0, false);
        check(&controller);
    }
    assert!(drawn <= WINDOW_MAX);
}

#[test]
fn round_trips_of_zero() {
    let mut controller = controller();
    for t in 0..10_000u64 {
        // Time stands still for a while, then goes on.
        let now = ms(t / 100);
        controller.on_sent(now, 12_000);
        controller.on_acked(now, now, 12_000);
        controller.on_acks_ended(now, 0, t % 3 == 0);
        check(&controller);
    }
    let min_rtt = controller.snapshot().min_rtt.unwrap();
    assert!(!min_rtt.is_zero() && min_rtt < ms(1), "{min_rtt:?}");
}

#[test]
fn a_clock_that_steps() {
    let mut random = Random::new(4);
    let mut controller = controller();
    for _ in 0..50_000 {
        let now = match random.below(50) {
            0 => Duration::ZERO,
            1 => Duration::MAX / 2,
            _ => ms(random.below(100_000)),
        };
        act(&mut controller, &mut random, now);
        check(&controller);
    }
}

/// Any order of calls with any arguments.
#[test]
fn any_sequence_of_events() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut controller = controller();
        let mut now = ms(0);
        for _ in 0..2000 {
            now += Duration::from_micros(random.below(20_000));
            act(&mut controller, &mut random, now);
            check(&controller);
        }
    }
}

fn act(controller: &mut Controller, random: &mut Random, now: Duration) {
    let bytes = match random.below(20) {
        0 => 0,
        1 => u64::MAX,
        _ => random.below(100_000),
    };
    match random.below(12) {
        0..4 => controller.on_sent(now, bytes),
        4..7 => {
            let ago = Duration::from_micros(random.below(500_000));
            controller.on_acked(now, now.saturating_sub(ago), bytes);
        }
        7..9 => controller.on_acks_ended(now, bytes, random.below(3) == 0),
        9 => controller.on_lost(now, bytes, random.below(20) == 0),
        10 => controller.on_mtu(random.below(1 << 16) as u16),
        _ => match random.below(4) {
            0 => controller.set_class(Class::Background),
            1 => controller.set_class(Class::Interactive),
            _ => controller.on_marked(now),
        },
    }
}

/// A path that no longer carries large packets: all of them are lost until the transport gives up
/// the size; then the flow goes on.
#[test]
fn a_black_hole_for_large_packets() {
    let mut controller = controller();
    let mut now = ms(0);
    for _ in 0..200 {
        exchange(&mut controller, &mut now, 50_000);
    }
    for _ in 0..5 {
        controller.on_sent(now, 50_000);
        now += ms(400);
        controller.on_lost(now, 50_000, true);
        check(&controller);
    }
    controller.on_mtu(1200);
    assert!(controller.window() <= 4 * u64::from(MTU));
    for _ in 0..50 {
        exchange(&mut controller, &mut now, 50_000);
    }
    assert!(controller.window() > 40_000, "{}", controller.window());
}

/// Flow control stops the sender at what the receiver has granted; nothing is sent twice for it, and
/// once the receiver reads again the path is full again.
#[test]
fn a_receiver_that_reads_one_byte_a_second() {
    let path = Link::new(50_000_000, ms(40));
    let dawdling = transfer_to_slow(path.clone(), ms(12_000), ms(10_000));
    let windows = 8 * (4 << 20);
    assert!(dawdling.alive);
    assert!(
        dawdling.wire_bytes < windows * 11 / 10,
        "{}",
        dawdling.wire_bytes
    );
    assert!(dawdling.sent_twice() < 0.01, "{}", dawdling.sent_twice());
    let window = dawdling.sender.unwrap().window;
    assert!(window <= WINDOW_MAX, "{window}");

    let awake = transfer_to_slow(path, ms(10_000), ms(16_000));
    let goodput = awake.goodput(ms(13_000), ms(16_000)) / 50e6;
    assert!(goodput >= 0.90, "goodput {goodput}");
}

fn exchange(controller: &mut Controller, now: &mut Duration, bytes: u64) {
    let sent_at = *now;
    controller.on_sent(sent_at, bytes);
    *now += ms(20);
    controller.on_acked(*now, sent_at, bytes);
    controller.on_acks_ended(*now, 0, false);
}
