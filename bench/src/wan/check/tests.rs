//! What the self-check makes of its measurements.

use std::collections::BTreeSet;

use super::super::topology::LinkSpec;
use super::*;

const MS: Duration = Duration::from_millis(1);

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn finding(wanted: f64, measured: Option<f64>) -> Finding {
    Finding {
        subject: "a -> b".into(),
        wanted,
        measured,
        allowed: wanted * TOLERANCE,
    }
}

fn report(finding: Finding, demand: Option<Rate>) -> Report {
    Report {
        name: "x".into(),
        sections: vec![Section {
            kind: "rate",
            unit: "Mbit/s",
            findings: vec![finding],
        }],
        ceiling: rate("2Gbit/s"),
        demand,
        realtime: true,
        lateness: super::super::Lateness::default(),
        astray: 0,
    }
}

#[test]
fn rounds_cover_each_ordered_pair_once_and_use_each_site_once() {
    let network = Topology::uniform(7, LinkSpec::default()).resolve().unwrap();
    let rounds = rounds(&network);
    let all: BTreeSet<_> = rounds.iter().flatten().copied().collect();
    assert_eq!(all, network.pairs().collect());
    assert_eq!(rounds.iter().map(Vec::len).sum::<usize>(), all.len());
    for round in rounds {
        assert_eq!(
            round
                .iter()
                .map(|pair| pair.0)
                .collect::<BTreeSet<_>>()
                .len(),
            7
        );
        assert_eq!(
            round
                .iter()
                .map(|pair| pair.1)
                .collect::<BTreeSet<_>>()
                .len(),
            7
        );
    }
}

#[test]
fn a_rate_counts_only_while_all_flows_arrive() {
    let flow = Flow {
        from: SiteId(0),
        to: SiteId(1),
        rate: rate("8Mbit/s"),
        packet_len: 1000,
    };
    // 1,000 bytes each ms; the second flow comes 50 ms later and ends as much later.
    let received = |delay: u32| Received {
        sent: 100,
        arrivals: (0..100).map(|n| (delay + n) * MS).collect(),
    };
    let results = [(flow, received(10)), (flow, received(60))];
    let pairs = || results.iter().map(|(flow, received)| (flow, received));
    let both = rate_finding("both".into(), rate("16Mbit/s"), pairs());
    assert!((both.measured.unwrap() - 16.0).abs() < 1e-9, "{both:?}");
    let one = rate_finding("one".into(), rate("8Mbit/s"), pairs().take(1));
    assert!((one.measured.unwrap() - 8.0).abs() < 1e-9, "{one:?}");

    let silent = Received {
        sent: 100,
        arrivals: Vec::new(),
    };
    let nothing = rate_finding("nothing".into(), flow.rate, [(&flow, &silent)].into_iter());
    assert!(!nothing.is_ok() && nothing.measured.is_none());
}

#[test]
fn an_access_link_is_measured_by_itself_only_where_no_pair_does_it() {
    let mut topology = Topology::uniform(
        4,
        LinkSpec {
            rate: Some(rate("10Mbit/s")),
            ..LinkSpec::default()
        },
    );
    for (up, expected) in [("10Mbit/s", false), ("15Mbit/s", true), ("30Mbit/s", false)] {
        topology.sites[0].up = Some(rate(up));
        let network = topology.resolve().unwrap();
        let pairs = (1..4).map(|to| (SiteId(0), SiteId(to))).collect();
        let flows = fan_flows(&network, rate(up), pairs, Duration::from_secs(1));
        assert_eq!(flows.is_some(), expected, "{up}");
        for flow in flows.unwrap_or_default() {
            assert!(
                flow.rate < rate("9.1Mbit/s"),
                "a pair would be full: {flow:?}"
            );
        }
    }
}

#[test]
fn what_is_off_or_too_much_is_a_fault() {
    let demand = Some(rate("500Mbit/s"));
    for measured in [95.0, 100.0, 105.0] {
        let faults = report(finding(100.0, Some(measured)), demand).faults();
        assert!(faults.is_empty(), "{faults:?}");
    }
    for measured in [Some(94.9), Some(105.1), None] {
        assert_eq!(
            report(finding(100.0, measured), demand).faults().len(),
            1,
            "{measured:?}"
        );
    }
    for demand in [None, Some(rate("501Mbit/s"))] {
        assert_eq!(
            report(finding(1.0, Some(1.0)), demand).faults().len(),
            1,
            "{demand:?}"
        );
    }
    let astray = Report {
        astray: 1,
        ..report(finding(1.0, Some(1.0)), demand)
    };
    assert_eq!(astray.faults(), ["1 packets went astray"]);
}
