//! The network in virtual time.

use proptest::prelude::*;

use super::super::topology::{LinkSpec, SiteSpec, Topology};
use super::*;

const MS: Duration = Duration::from_millis(1);

/// An IPv4 packet of `len` bytes to `to`; only what the fabric looks at is filled in.
fn packet(to: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[0] = 0x45;
    bytes[16..20].copy_from_slice(&SiteId(to).addr().octets());
    bytes
}

fn link(rtt_ms: u32, rate: Option<&str>, loss: f64) -> LinkSpec {
    LinkSpec {
        rtt: Some(MS * rtt_ms),
        rate: rate.map(|rate| rate.parse().unwrap()),
        loss: Some(loss),
        ..LinkSpec::default()
    }
}

fn fabric(topology: &Topology) -> Fabric {
    Fabric::new(topology.resolve().unwrap())
}

/// Sends at `at` to the other site of two.
fn send_at(fabric: &mut Fabric, at: Duration, from: usize, len: usize) {
    fabric.advance(at);
    fabric.send(SiteId(from), packet(1 - from, len));
}

/// Advances from due time to due time until nothing is under way; returns when and where packets
/// came out.
fn drain(fabric: &mut Fabric) -> Vec<(Duration, SiteId)> {
    let mut out = Vec::new();
    loop {
        while let Some((due, packet)) = fabric.poll_delivery() {
            out.push((due, packet.to));
        }
        match fabric.next_due() {
            Some(due) => fabric.advance(due),
            None => return out,
        }
    }
}

fn pair(between: [&str; 2]) -> [String; 2] {
    between.map(str::to_owned)
}

#[test]
fn a_packet_takes_each_serialisation_and_half_the_rtt() {
    let mut topology = Topology::uniform(2, link(40, Some("8Mbit/s"), 0.0));
    topology.sites[0].up = "16Mbit/s".parse().ok();
    topology.sites[0].down = "4Mbit/s".parse().ok();
    let mut fabric = fabric(&topology);
    send_at(&mut fabric, MS, 0, 1000);
    // 1 ms, then up 0.5 ms, pair 1 ms, delay 20 ms, down 2 ms.
    assert_eq!(drain(&mut fabric), [(24 * MS + MS / 2, SiteId(1))]);
}

#[test]
fn late_calls_do_not_change_a_rate() {
    let mut fabric = fabric(&Topology::uniform(2, link(10, Some("80Mbit/s"), 0.0)));
    for _ in 0..50 {
        send_at(&mut fabric, Duration::ZERO, 0, 1000);
    }
    // Nobody looks for a second; the packets still have their own times.
    fabric.advance(Duration::from_secs(1));
    let due: Vec<_> = std::iter::from_fn(|| fabric.poll_delivery())
        .map(|(due, _)| due)
        .collect();
    let expected: Vec<_> = (1..=50).map(|n| 5 * MS + MS / 10 * n).collect();
    assert_eq!(due, expected);
}

#[test]
fn a_site_shares_its_uplink_between_pairs() {
    let mut topology = Topology::uniform(3, link(0, None, 0.0));
    topology.sites[0].up = "8Mbit/s".parse().ok();
    let mut fabric = fabric(&topology);
    for to in [1, 2, 1, 2] {
        fabric.send(SiteId(0), packet(to, 1000));
    }
    let out = drain(&mut fabric);
    let expected = [(MS, 1), (2 * MS, 2), (3 * MS, 1), (4 * MS, 2)];
    assert_eq!(out, expected.map(|(due, to)| (due, SiteId(to))));
}

#[test]
fn a_full_queue_drops_and_says_where() {
    let mut topology = Topology::uniform(2, link(0, None, 0.0));
    topology.sites[0].up = "8Mbit/s".parse().ok();
    topology.sites[0].queue = "20KiB".parse().ok();
    let mut fabric = fabric(&topology);
    for _ in 0..30 {
        send_at(&mut fabric, Duration::ZERO, 0, 1024);
    }
    assert_eq!(drain(&mut fabric).len(), 21, "one being sent, 20 waiting");
    let dropped = Count {
        packets: 9,
        bytes: 9 * 1024,
    };
    assert_eq!(fabric.site_count(SiteId(0)).up_dropped, dropped);
    assert_eq!(fabric.pair_count(SiteId(0), SiteId(1)).dropped, dropped);
}

#[test]
fn a_halved_pair_delivers_half_as_fast_and_recovers() {
    let mut fabric = fabric(&Topology::uniform(2, link(0, Some("8Mbit/s"), 0.0)));
    let between = pair(["site-1", "site-2"]);
    for factor in [0.5, 0.5] {
        fabric
            .apply(&Event::PairRate {
                between: between.clone(),
                factor,
            })
            .unwrap();
    }
    send_at(&mut fabric, Duration::ZERO, 0, 1000);
    send_at(&mut fabric, Duration::ZERO, 1, 1000);
    assert_eq!(
        drain(&mut fabric),
        [(2 * MS, SiteId(1)), (2 * MS, SiteId(0))]
    );
    fabric
        .apply(&Event::PairRate {
            between,
            factor: 1.0,
        })
        .unwrap();
    send_at(&mut fabric, 10 * MS, 0, 1000);
    assert_eq!(drain(&mut fabric), [(11 * MS, SiteId(1))]);
}

#[test]
fn a_lost_site_loses_what_is_under_way_to_it_and_waits_at_it() {
    let mut fabric = fabric(&Topology::uniform(2, link(20, Some("8Mbit/s"), 0.0)));
    send_at(&mut fabric, Duration::ZERO, 0, 1000);
    send_at(&mut fabric, Duration::ZERO, 1, 1000);
    fabric.advance(5 * MS);
    fabric
        .apply(&Event::SiteDown {
            site: "site-2".into(),
        })
        .unwrap();
    send_at(&mut fabric, 6 * MS, 0, 1000);
    assert_eq!(drain(&mut fabric), []);
    let count = fabric.pair_count(SiteId(0), SiteId(1));
    assert_eq!((count.sent.packets, count.cut.packets), (2, 2));
    assert_eq!(fabric.pair_count(SiteId(1), SiteId(0)).cut.packets, 1);

    fabric
        .apply(&Event::SiteUp {
            site: "site-2".into(),
        })
        .unwrap();
    send_at(&mut fabric, 100 * MS, 0, 1000);
    assert_eq!(drain(&mut fabric), [(111 * MS, SiteId(1))]);
}

#[test]
fn a_partition_cuts_between_groups_only_until_it_heals() {
    let mut fabric = fabric(&Topology::uniform(4, link(0, None, 0.0)));
    let groups = vec![vec!["site-1".into(), "site-2".into()]];
    fabric.apply(&Event::Partition { groups }).unwrap();
    for (from, to) in [(0, 1), (0, 2), (2, 3), (3, 1)] {
        fabric.send(SiteId(from), packet(to, 100));
    }
    assert_eq!(
        drain(&mut fabric),
        [(Duration::ZERO, SiteId(1)), (Duration::ZERO, SiteId(3))]
    );
    fabric.apply(&Event::Heal).unwrap();
    fabric.send(SiteId(0), packet(2, 100));
    assert_eq!(drain(&mut fabric).len(), 1);
}

#[test]
fn a_loss_episode_ends_at_the_topologys_loss() {
    let mut fabric = fabric(&Topology::uniform(2, link(0, None, 0.0)));
    let loss = |loss| Event::Loss {
        between: None,
        loss,
        burst: None,
    };
    let delivered = |fabric: &mut Fabric| {
        for _ in 0..1000 {
            fabric.send(SiteId(0), packet(1, 100));
        }
        drain(fabric).len()
    };
    fabric.apply(&loss(Some(0.5))).unwrap();
    // 500 expected, standard deviation 16.
    assert!((420..=580).contains(&delivered(&mut fabric)));
    fabric.apply(&loss(None)).unwrap();
    assert_eq!(delivered(&mut fabric), 1000);
}

#[test]
fn a_new_rtt_is_for_packets_sent_after_it() {
    let mut fabric = fabric(&Topology::uniform(2, link(40, None, 0.0)));
    send_at(&mut fabric, Duration::ZERO, 0, 100);
    let between = pair(["site-2", "site-1"]);
    fabric
        .apply(&Event::Rtt {
            between,
            rtt: Some(10 * MS),
        })
        .unwrap();
    send_at(&mut fabric, MS, 0, 100);
    assert_eq!(
        drain(&mut fabric),
        [(6 * MS, SiteId(1)), (20 * MS, SiteId(1))]
    );
}

#[test]
fn what_no_site_can_get_is_counted_and_dropped() {
    let mut fabric = fabric(&Topology::uniform(2, link(0, None, 0.0)));
    let mut version_6 = packet(1, 60);
    version_6[0] = 0x60;
    let to_itself = packet(0, 60);
    for bytes in [
        Vec::new(),
        vec![0x45],
        packet(1, 20)[..19].to_vec(),
        version_6,
        to_itself,
    ] {
        fabric.send(SiteId(0), bytes);
    }
    fabric.send(SiteId(0), packet(7, 60));
    assert_eq!(drain(&mut fabric), []);
    assert_eq!(fabric.unroutable().packets, 6);
}

#[test]
fn bytes_under_way_are_bounded() {
    let mut fabric = fabric(&Topology::uniform(2, link(1000, None, 0.0)));
    let count = UNDER_WAY_BYTES_MAX / 65_535 + 10;
    for _ in 0..count {
        fabric.send(SiteId(0), packet(1, 65_535));
    }
    let overflow = fabric.overflow().packets;
    assert_eq!(overflow, 10);
    assert_eq!(drain(&mut fabric).len() as u64, count - overflow);
    // There is room again.
    fabric.send(SiteId(0), packet(1, 65_535));
    assert_eq!(fabric.overflow().packets, overflow);
}

#[test]
fn events_of_strangers_are_refused() {
    let mut fabric = fabric(&Topology::uniform(2, link(0, None, 0.0)));
    let unknown = Event::SiteDown {
        site: "site-9".into(),
    };
    assert_eq!(
        fabric.apply(&unknown),
        Err(NetworkError::UnknownSite("site-9".into()))
    );
    let itself = Event::PairRate {
        between: pair(["site-1", "site-1"]),
        factor: 0.5,
    };
    assert_eq!(
        fabric.apply(&itself),
        Err(NetworkError::SelfPair("site-1".into()))
    );
    let twice = Event::Partition {
        groups: vec![vec!["site-1".into()], vec!["site-1".into()]],
    };
    assert_eq!(
        fabric.apply(&twice),
        Err(NetworkError::InTwoGroups("site-1".into()))
    );
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Send { from: usize, to: usize, len: usize },
    Wait { micros: u64 },
    Apply(Event),
}

fn step() -> impl Strategy<Value = Step> {
    let site = || (1..4_u8).prop_map(|number| format!("site-{number}"));
    let event = prop_oneof![
        site().prop_map(|site| Event::SiteDown { site }),
        site().prop_map(|site| Event::SiteUp { site }),
        (site(), 0.1..2.0).prop_map(|(site, factor)| Event::SiteRate { site, factor }),
        site().prop_map(|site| Event::Partition {
            groups: vec![vec![site]]
        }),
        Just(Event::Heal),
        (0.0..0.9).prop_map(|loss| Event::Loss {
            between: None,
            loss: Some(loss),
            burst: None
        }),
    ];
    prop_oneof![
        8 => (0..3_usize, 0..3_usize, 20..1500_usize)
            .prop_map(|(from, to, len)| Step::Send { from, to, len }),
        2 => (0..20_000_u64).prop_map(|micros| Step::Wait { micros }),
        1 => event.prop_map(Step::Apply),
    ]
}

proptest! {
    /// Every packet has exactly one end, whatever happens on the way, and no byte stays behind.
    #[test]
    fn every_packet_is_accounted_for(steps in prop::collection::vec(step(), 1..300), seed: u64) {
        let mut topology = Topology::uniform(3, link(10, Some("2Mbit/s"), 0.1));
        topology.sites[0] = SiteSpec {
            up: "3Mbit/s".parse().ok(),
            down: "1Mbit/s".parse().ok(),
            ..topology.sites[0].clone()
        };
        topology.seed = seed;
        let mut fabric = fabric(&topology);
        let mut now = Duration::ZERO;
        let mut delivered = 0;
        for step in steps {
            match step {
                Step::Send { from, to, len } => fabric.send(SiteId(from), packet(to, len)),
                Step::Wait { micros } => {
                    now += Duration::from_micros(micros);
                    fabric.advance(now);
                    delivered += std::iter::from_fn(|| fabric.poll_delivery()).count();
                }
                Step::Apply(event) => fabric.apply(&event).unwrap(),
            }
        }
        delivered += drain(&mut fabric).len();
        let mut delivered_count = 0;
        for (from, to) in fabric.network().pairs().collect::<Vec<_>>() {
            let count = fabric.pair_count(from, to);
            for field in [|c: &Count| c.packets, |c: &Count| c.bytes] {
                let ends = [count.delivered, count.lost, count.dropped, count.cut];
                prop_assert_eq!(field(&count.sent), ends.iter().map(field).sum::<u64>());
            }
            delivered_count += count.delivered.packets;
        }
        prop_assert_eq!(delivered_count, delivered as u64);
        prop_assert_eq!(fabric.under_way_bytes, 0);
    }
}
