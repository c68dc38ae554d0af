//! The least time in which some sites can have an image.
//!
//! Every site that receives may pass bytes on. No scheme, coded or not, gets more than the least of the
//! maximum flows from all holders to a single receiver (with the sites' own limits as limits of nodes) to
//! every receiver at once, nor more than all uplinks together divided by the receivers (the fluid bound of Kumar and
//! Ross, 2006). For one receiver the flow is min(downlink, sum over holders of min(uplink, path)).

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rates::Rates;

/// Share of a packet of 1,500 bytes that is payload: 1,448 with TCP, about 1,440 with QUIC.
pub(super) const PAYLOAD_SHARE: f64 = 0.96;

/// A bound and what it is made from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Bound {
    /// No site set can have its bytes sooner.
    pub(super) seconds: f64,
    /// Bytes of one copy, without headers.
    pub(super) payload_bytes: f64,
    /// The most that each receiver can get while all do, bits per second of packets.
    pub(super) bits_per_second: f64,
}

/// The bound for `payload_bytes` to each of `receivers` from `holders`. `None` when nothing limits them.
pub(super) fn bound(
    rates: &Rates,
    holders: &[String],
    receivers: &[String],
    payload_bytes: f64,
) -> Option<Bound> {
    let rate = rate(rates, holders, receivers);
    if !rate.is_finite() || rate <= 0.0 {
        return None;
    }
    let latency = latency(rates, holders, receivers);
    Some(Bound {
        seconds: payload_bytes * 8.0 / PAYLOAD_SHARE / rate + latency.as_secs_f64(),
        payload_bytes,
        bits_per_second: rate,
    })
}

/// Bits per second that every receiver can get at once; infinite when nothing limits them.
fn rate(rates: &Rates, holders: &[String], receivers: &[String]) -> f64 {
    let uplinks: f64 = holders.iter().chain(receivers).map(|s| rates.up(s)).sum();
    let flows = receivers
        .iter()
        .map(|receiver| max_flow(rates, holders, receivers, receiver));
    flows.fold(uplinks / receivers.len() as f64, f64::min)
}

/// One round trip for the request and half of one for the bytes, for the site that has it farthest.
fn latency(rates: &Rates, holders: &[String], receivers: &[String]) -> Duration {
    let nearest = |receiver: &String| {
        let rtts = holders.iter().map(|holder| rates.rtt(holder, receiver));
        rtts.min().unwrap_or_default()
    };
    receivers.iter().map(nearest).max().unwrap_or_default() * 3 / 2
}

/// The maximum flow from all holders to one receiver, through the others (Edmonds and Karp, 1972).
fn max_flow(rates: &Rates, holders: &[String], receivers: &[String], to: &String) -> f64 {
    let sites: Vec<&String> = holders.iter().chain(receivers).collect();
    // Each site is two nodes, what comes in and what goes out; the source is one more.
    let (inside, outside) = (|site: usize| 2 * site, |site: usize| 2 * site + 1);
    let source = 2 * sites.len();
    let Some(target) = sites.iter().position(|site| *site == to) else {
        return 0.0;
    };
    let mut left = vec![vec![0.0_f64; source + 1]; source + 1];
    // The downlinks of sites that pass bytes on are left out, which only lowers the bound.
    for (a, from) in sites.iter().enumerate() {
        left[inside(a)][outside(a)] = rates.up(from);
        if a < holders.len() {
            left[source][inside(a)] = f64::INFINITY;
        }
        for (b, other) in sites.iter().enumerate() {
            if a != b {
                left[outside(a)][inside(b)] = rates.path(from, other);
            }
        }
    }
    let mut flow = 0.0;
    // Far more rounds than there can be: each fills an edge, and an edge can be filled n / 2 times.
    for _ in 0..left.len().pow(3) {
        let Some(path) = shortest_path(&left, source, inside(target)) else {
            break;
        };
        let edges = || path.windows(2).map(|pair| (pair[0], pair[1]));
        let least = edges()
            .map(|(a, b)| left[a][b])
            .fold(f64::INFINITY, f64::min);
        if least.is_infinite() {
            flow = f64::INFINITY;
            break;
        }
        for (a, b) in edges() {
            left[a][b] -= least;
            left[b][a] += least;
        }
        flow += least;
    }
    flow.min(rates.down(to))
}

fn shortest_path(left: &[Vec<f64>], from: usize, to: usize) -> Option<Vec<usize>> {
    /// What rounding leaves of a full edge, in bits per second.
    const NOTHING: f64 = 1e-3;
    let mut before = vec![usize::MAX; left.len()];
    let mut queue = VecDeque::from([from]);
    before[from] = from;
    while let Some(node) = queue.pop_front() {
        for next in 0..left.len() {
            if before[next] == usize::MAX && left[node][next] > NOTHING {
                before[next] = node;
                queue.push_back(next);
            }
        }
    }
    if before[to] == usize::MAX {
        return None;
    }
    let mut path = vec![to];
    let mut node = to;
    while node != from {
        node = before[node];
        path.push(node);
    }
    path.reverse();
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::Topology;

    fn rates(text: &str) -> Rates {
        Rates::wanted(&Topology::parse(text).unwrap().resolve().unwrap())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn mbit(rates: &Rates, holders: &[&str], receivers: &[&str]) -> f64 {
        rate(rates, &names(holders), &names(receivers)) / 1e6
    }

    #[test]
    fn one_receiver_gets_what_its_holders_can_send() {
        let rates = rates(
            "name = 'net'\nlink = { rtt = '40ms', rate = '15Mbit/s' }\n\
             sites = [{ name = 'a', up = '10Mbit/s' }, { name = 'b', up = '20Mbit/s' }, { name = 'c', down = '22Mbit/s' }]",
        );
        assert_eq!(mbit(&rates, &["a"], &["c"]), 10.0);
        assert_eq!(mbit(&rates, &["b"], &["c"]), 15.0);
        assert_eq!(mbit(&rates, &["a", "b"], &["c"]), 22.0);
        let bound = bound(&rates, &names(&["a"]), &names(&["c"]), 1.2e6).unwrap();
        assert!((bound.seconds - (1.0 + 0.06)).abs() < 1e-9, "{bound:?}");
    }

    #[test]
    fn many_receivers_share_all_uplinks() {
        // A seed with 40 Mbit/s up and 15 sites with 10 up and 40 down.
        let rates = rates(
            "name = 'access'\nsites = [{ name = 'seed', up = '40Mbit/s', down = '40Mbit/s' }, \
             { name = 'site', count = 15, up = '10Mbit/s', down = '40Mbit/s' }]",
        );
        let receivers: Vec<String> = (1..=15).map(|n| format!("site-{n}")).collect();
        let all = rate(&rates, &names(&["seed"]), &receivers) / 1e6;
        assert!((all - 190.0 / 15.0).abs() < 1e-6, "{all}");
        assert_eq!(mbit(&rates, &["seed"], &["site-1"]), 40.0);
    }

    #[test]
    fn a_slow_path_is_gone_round() {
        let rates = rates(
            "name = 'net'\nlink = { rate = '10Mbit/s' }\n\
             sites = [{ name = 'a' }, { name = 'b' }, { name = 'c' }]\n\
             pairs = [{ between = ['a', 'c'], link = { rate = '1Mbit/s' } }]",
        );
        assert_eq!(mbit(&rates, &["a"], &["c"]), 1.0);
        assert_eq!(mbit(&rates, &["a"], &["b", "c"]), 11.0);
    }

    #[test]
    fn without_limits_there_is_no_bound() {
        let rates = rates("name = 'net'\nsites = [{ name = 'a' }, { name = 'b' }]");
        assert!(bound(&rates, &names(&["a"]), &names(&["b"]), 1e6).is_none());
    }
}
