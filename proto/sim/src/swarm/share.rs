//! How concurrent transfers share uplinks and downlinks: the fluid max-min fair allocation, by weights.
//!
//! A rate, over the transfer's weight, is as large as the smallest fair share of the links that the transfer uses, and what a transfer cannot use
//! others may (progressive filling: Bertsekas and Gallager, *Data Networks*, 6.5.2). That is what congestion control
//! aims at, without its queues and losses. Capacity ÷ transfers at each link would be simpler, but leaves unused what
//! a transfer that is limited elsewhere leaves over, and so would make every plan look worse than it is.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// What nothing limits has this rate, in bytes per second.
const RATE_MAX: f64 = 1e12;

/// One transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// The sender.
    pub(super) from: usize,
    /// The receiver.
    pub(super) to: usize,
    /// It takes no more than this, in bytes per second; may be infinite.
    pub(super) most: f64,
    /// It has so many times what one of weight 1 has on the same link.
    pub(super) weight: f64,
}

/// What is left of a link.
struct Link {
    rate: f64,
    /// Transfers over it whose rates are open, and their weights.
    open: usize,
    weight: f64,
    demands: Vec<usize>,
}

impl Link {
    /// Of a transfer of weight 1.
    fn share(&self) -> f64 {
        self.rate.max(0.0) / self.weight
    }
}

/// The rate of each demand, in their order. `ups` and `downs` are the sites' links in bytes per second, infinite for no
/// limit.
///
/// Time: O(d log d) for d demands, and the number of sites.
pub(super) fn share(ups: &[f64], downs: &[f64], demands: &[Demand]) -> Vec<f64> {
    let mut filling = Filling::new(ups, downs, demands);
    let mut modest: Vec<usize> = (0..demands.len()).collect();
    let most = |demand: usize| demands[demand].most.min(RATE_MAX) / demands[demand].weight;
    modest.sort_by(|a, b| most(*a).total_cmp(&most(*b)));
    let mut modest = modest.into_iter().peekable();
    loop {
        while modest.next_if(|demand| !filling.is_open(*demand)).is_some() {}
        let Some(&demand) = modest.peek() else {
            return filling.rates;
        };
        match filling.tightest() {
            Some((share, link)) if share < most(demand) => filling.fill(link, share),
            _ => filling.fix(demand, most(demand)),
        }
    }
}

struct Filling<'a> {
    demands: &'a [Demand],
    /// Uplinks, then downlinks.
    links: Vec<Link>,
    sites: usize,
    /// Not a number while it is open.
    rates: Vec<f64>,
    /// Shares of links as they were when they were put here; since then they have only grown.
    heap: BinaryHeap<Reverse<Entry>>,
}

#[derive(Clone, Copy)]
struct Entry {
    share: f64,
    link: usize,
}

impl<'a> Filling<'a> {
    fn new(ups: &[f64], downs: &[f64], demands: &'a [Demand]) -> Self {
        let link = |rate: &f64| Link {
            rate: *rate,
            open: 0,
            weight: 0.0,
            demands: Vec::new(),
        };
        let mut links: Vec<Link> = ups.iter().chain(downs).map(link).collect();
        for (number, demand) in demands.iter().enumerate() {
            for end in [demand.from, ups.len() + demand.to] {
                links[end].open += 1;
                links[end].weight += demand.weight;
                links[end].demands.push(number);
            }
        }
        let used = (0..links.len()).filter(|link| links[*link].open > 0);
        let entry = |link: usize| {
            let share = links[link].share();
            Reverse(Entry { share, link })
        };
        Self {
            heap: used.map(entry).collect(),
            rates: vec![f64::NAN; demands.len()],
            sites: ups.len(),
            links,
            demands,
        }
    }

    fn is_open(&self, demand: usize) -> bool {
        self.rates[demand].is_nan()
    }

    /// The link with the least share, which stays at the top of the heap.
    fn tightest(&mut self) -> Option<(f64, usize)> {
        loop {
            let Reverse(Entry { share: then, link }) = *self.heap.peek()?;
            let now = &self.links[link];
            if now.open == 0 {
                self.heap.pop();
                continue;
            }
            let share = now.share();
            if share <= then {
                return Some((share, link));
            }
            self.heap.pop();
            self.heap.push(Reverse(Entry { share, link }));
        }
    }

    /// Gives every open transfer over a link its share.
    fn fill(&mut self, link: usize, share: f64) {
        for demand in std::mem::take(&mut self.links[link].demands) {
            if self.is_open(demand) {
                self.fix(demand, share);
            }
        }
    }

    /// Gives a transfer its weight's share of what one of weight 1 has.
    fn fix(&mut self, demand: usize, share: f64) {
        let Demand {
            from, to, weight, ..
        } = self.demands[demand];
        self.rates[demand] = share * weight;
        for end in [from, self.sites + to] {
            self.links[end].open -= 1;
            self.links[end].weight -= weight;
            self.links[end].rate -= share * weight;
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        let shares = self.share.total_cmp(&other.share);
        shares.then(self.link.cmp(&other.link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vitrail_proto::random::Random;

    const FREE: f64 = f64::INFINITY;

    fn demand(from: usize, to: usize) -> Demand {
        Demand {
            from,
            to,
            most: FREE,
            weight: 1.0,
        }
    }

    #[test]
    fn what_one_cannot_use_others_may() {
        // Both uplinks are 10; the first receiver takes 2.
        let demands = [demand(0, 1), demand(0, 2), demand(3, 2)];
        let rates = share(&[10.0, 0.0, 0.0, 10.0], &[FREE, 2.0, 12.0, FREE], &demands);
        assert_eq!(rates, [2.0, 6.0, 6.0]);
        let capped = Demand {
            most: 1.0,
            ..demand(0, 2)
        };
        let demands = [demand(0, 1), capped, demand(3, 2)];
        let rates = share(&[10.0, 0.0, 0.0, 20.0], &[FREE, 2.0, 12.0, FREE], &demands);
        assert_eq!(rates, [2.0, 1.0, 11.0]);
        assert_eq!(share(&[FREE; 2], &[FREE; 2], &[demand(0, 1)]), [RATE_MAX]);
    }

    /// What makes an allocation max-min fair: every transfer has all it wants, or uses a full link on which nobody has more
    /// for its weight.
    #[test]
    fn nobody_can_have_more_without_one_that_has_less() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let sites = 2 + random.below(8);
            let mut rate = |_| (1 + random.below(20)) as f64;
            let ups: Vec<f64> = (0..sites).map(&mut rate).collect();
            let downs: Vec<f64> = (0..sites).map(&mut rate).collect();
            let demands: Vec<Demand> = (0..random.below(40))
                .map(|_| Demand {
                    from: random.below(sites),
                    to: random.below(sites),
                    most: random.pick(&[FREE, 1.0, 5.0]),
                    weight: random.pick(&[1.0, 1.0, 3.0]),
                })
                .collect();
            let rates = share(&ups, &downs, &demands);
            let over = |end: fn(&Demand) -> usize, site: usize| -> Vec<(f64, f64)> {
                let all = demands.iter().zip(&rates);
                let over = all.filter(|(demand, _)| end(demand) == site);
                over.map(|(demand, rate)| (*rate, rate / demand.weight))
                    .collect()
            };
            for (demand, &rate) in demands.iter().zip(&rates) {
                let share = rate / demand.weight;
                let binds = |capacity: f64, others: Vec<(f64, f64)>| {
                    let sum: f64 = others.iter().map(|(rate, _)| rate).sum();
                    assert!(sum <= capacity + 1e-6, "seed {seed}");
                    let none_has_more = others.iter().all(|(_, other)| *other <= share + 1e-6);
                    sum >= capacity - 1e-6 && none_has_more
                };
                let up = binds(ups[demand.from], over(|d| d.from, demand.from));
                let down = binds(downs[demand.to], over(|d| d.to, demand.to));
                let content = rate >= demand.most - 1e-6;
                assert!(up || down || content, "seed {seed}: {demand:?} has {rate}");
            }
        }
    }
}
