//! Connections: what they carry, how fast, and whose turn it is.
//!
//! There is one for each sender and receiver. The sessions of several pulls take turns on it, a message each. Its rate is
//! its share of the links; at first it is held back by the window of a new connection, which doubles every round trip.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::share::{Demand, share};
use super::{Event, Swarm};

/// Rates are divided anew at most so often: congestion control takes at least a round trip to notice that somebody has
/// come or gone.
const SETTLE: Duration = Duration::from_millis(10);
/// A connection begins with what this rate carries in a round trip, and at most with this window (`docs/TRANSPORT.md`).
const FIRST_RATE: f64 = 500_000.0;
const FIRST_WINDOW: f64 = 32.0 * 1440.0;

/// All connections.
#[derive(Default)]
pub(super) struct Carrier {
    flows: Vec<Flow>,
    numbers: BTreeMap<(usize, usize), usize>,
    busy: BTreeSet<usize>,
    shared_at: Duration,
    share_is_due: bool,
}

struct Flow {
    from: usize,
    to: usize,
    delay: Duration,
    rtt: Duration,
    /// What it may use, in bytes per second, and the most that this can become.
    most: f64,
    ceiling: f64,
    widening: bool,
    /// What it uses.
    rate: f64,
    /// What is left of the message in hand, as of `since`.
    left: f64,
    since: Duration,
    in_hand: Option<(u64, Event)>,
    /// Of the end of the message in hand; an older one is void.
    stamp: u64,
    /// Sessions with something to send.
    turns: VecDeque<usize>,
    carried: u64,
}

impl Carrier {
    /// Bytes that have travelled, by sender and receiver.
    pub(super) fn carried(&self) -> BTreeMap<(usize, usize), u64> {
        let used = self.flows.iter().filter(|flow| flow.carried > 0);
        used.map(|flow| ((flow.from, flow.to), flow.carried))
            .collect()
    }
}

impl Swarm {
    /// The connection from one site to another.
    pub(super) fn flow(&mut self, from: usize, to: usize) -> usize {
        let next = self.carrier.flows.len();
        let number = *self.carrier.numbers.entry((from, to)).or_insert(next);
        if number == next {
            let rtt = self.network.rtt(from, to);
            let ceiling = self.network.connection_rate(from, to);
            self.carrier.flows.push(Flow {
                from,
                to,
                delay: self.network.path(from, to).delay,
                rtt,
                most: ceiling.min(FIRST_RATE.min(FIRST_WINDOW / rtt.as_secs_f64())),
                ceiling,
                widening: false,
                rate: 0.0,
                left: 0.0,
                since: self.now,
                in_hand: None,
                stamp: 0,
                turns: VecDeque::new(),
                carried: 0,
            });
        }
        number
    }

    /// A session has something to send.
    pub(super) fn take_turn(&mut self, session: usize) {
        if std::mem::replace(&mut self.sessions[session].in_turn, true) {
            return;
        }
        let flow = self.sessions[session].flow;
        self.carrier.flows[flow].turns.push_back(session);
        if self.carrier.flows[flow].in_hand.is_none() {
            self.send_next(flow);
        }
    }

    /// What was in hand has left.
    pub(super) fn sent(&mut self, number: usize, stamp: u64) {
        let flow = &mut self.carrier.flows[number];
        if flow.stamp != stamp {
            return;
        }
        if let Some((bytes, event)) = flow.in_hand.take() {
            flow.carried += bytes;
            let delay = flow.delay;
            self.after(delay, event);
        }
        self.send_next(number);
    }

    fn send_next(&mut self, number: usize) {
        while let Some(session) = self.carrier.flows[number].turns.pop_front() {
            let Some((bytes, event)) = self.next_message(session) else {
                self.sessions[session].in_turn = false;
                continue;
            };
            let flow = &mut self.carrier.flows[number];
            flow.turns.push_back(session);
            if bytes == 0 {
                let delay = flow.delay;
                self.after(delay, event);
                continue;
            }
            flow.in_hand = Some((bytes, event));
            flow.left = bytes as f64;
            flow.since = self.now;
            if self.carrier.busy.insert(number) {
                self.want_share();
                self.begin_widening(number);
            } else {
                self.schedule_end(number);
            }
            return;
        }
        if self.carrier.busy.remove(&number) {
            self.carrier.flows[number].rate = 0.0;
            self.want_share();
        }
    }

    fn schedule_end(&mut self, number: usize) {
        let flow = &mut self.carrier.flows[number];
        flow.stamp += 1;
        if flow.rate <= 0.0 {
            return;
        }
        let time = Duration::from_secs_f64((flow.left / flow.rate).max(0.0));
        let (flow, stamp) = (number, flow.stamp);
        self.after(time, Event::Sent { flow, stamp });
    }

    fn want_share(&mut self) {
        if !std::mem::replace(&mut self.carrier.share_is_due, true) {
            let at = self.carrier.shared_at + SETTLE;
            self.after(at.saturating_sub(self.now), Event::Share);
        }
    }

    /// Divides the links among those who send.
    pub(super) fn share(&mut self) {
        self.carrier.share_is_due = false;
        self.carrier.shared_at = self.now;
        let busy: Vec<usize> = self.carrier.busy.iter().copied().collect();
        let demands: Vec<Demand> = busy
            .iter()
            .map(|number| {
                let Flow { from, to, most, .. } = self.carrier.flows[*number];
                Demand { from, to, most }
            })
            .collect();
        let ups: Vec<f64> = self.network.sites.iter().map(|site| site.up).collect();
        let downs: Vec<f64> = self.network.sites.iter().map(|site| site.down).collect();
        let rates = share(&ups, &downs, &demands);
        for (number, rate) in busy.into_iter().zip(rates) {
            let flow = &mut self.carrier.flows[number];
            if flow.rate == rate {
                continue;
            }
            let time = self.now.saturating_sub(flow.since).as_secs_f64();
            flow.left -= flow.rate * time;
            flow.since = self.now;
            flow.rate = rate;
            self.schedule_end(number);
        }
    }

    fn begin_widening(&mut self, number: usize) {
        let flow = &mut self.carrier.flows[number];
        if flow.most < flow.ceiling && !std::mem::replace(&mut flow.widening, true) {
            let rtt = flow.rtt;
            self.after(rtt, Event::Widen(number));
        }
    }

    /// A round trip has passed on a connection whose window is not known yet.
    pub(super) fn widen(&mut self, number: usize) {
        let flow = &mut self.carrier.flows[number];
        flow.widening = false;
        if !self.carrier.busy.contains(&number) {
            return;
        }
        let binds = flow.rate >= flow.most;
        flow.most = (2.0 * flow.most).min(flow.ceiling);
        if binds {
            self.want_share();
        }
        self.begin_widening(number);
    }
}
