//! The event loop: flows that share one link, or the uplinks of sites.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Random;
use super::flow::{Flow, Record};
use super::path::{Link, Path};

/// How the way back treats acknowledgements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckPolicy {
    /// The receiver acknowledges every so many packets, or after 25 ms.
    pub(crate) every: usize,
    /// The way back lets acknowledgements through at multiples of this only; zero is never held.
    pub(crate) batched: Duration,
    /// Share of acknowledgements lost.
    pub(crate) loss: f64,
}

impl Default for AckPolicy {
    fn default() -> Self {
        Self {
            every: 2,
            batched: Duration::ZERO,
            loss: 0.0,
        }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival { flow: usize, number: u64 },
    AckTimer { flow: usize },
    Ack { flow: usize, numbers: Vec<u64> },
    Wake { flow: usize },
}

/// Looks at the flows of a network, or changes them, as time goes on.
pub(crate) type Watch = Box<dyn FnMut(Duration, &mut [Flow])>;

/// An acknowledgement as an IP packet, bytes.
const ACK_LEN: u64 = 70;

/// Flows over one link, or over one of several.
pub(crate) struct Network {
    paths: Vec<Path>,
    flows: Vec<Flow>,
    /// The link of each flow, and that of its acknowledgements if they share one with data.
    via: Vec<(usize, Option<usize>)>,
    /// Extra round trip of each flow beside the link's.
    extra: Vec<Duration>,
    back_delay: Duration,
    /// From a time on, the way back takes longer by so much.
    longer: Option<(Duration, Duration)>,
    outages: Vec<(Duration, Duration)>,
    acks: AckPolicy,
    random: Random,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    wakes: Vec<Option<Duration>>,
    now: Duration,
    /// Called with the time and the flows after each event, at most once per 10 ms.
    pub(crate) watch: Option<Watch>,
    watched_at: Duration,
}

impl Network {
    pub(crate) fn new(link: Link, seed: u64) -> Self {
        let back = link.back();
        Self {
            back_delay: back.propagation,
            longer: None,
            outages: back.bursts,
            paths: vec![Path::new(link, seed)],
            flows: Vec::new(),
            via: Vec::new(),
            extra: Vec::new(),
            acks: AckPolicy::default(),
            random: Random::new(seed ^ 0xACC),
            events: BinaryHeap::new(),
            sequence: 0,
            wakes: Vec::new(),
            now: Duration::ZERO,
            watch: None,
            watched_at: Duration::ZERO,
        }
    }

    /// So many more links like the first: the uplinks of sites.
    pub(crate) fn sites(mut self, link: &Link, count: usize) -> Self {
        let seeds = 1..count as u64;
        self.paths
            .extend(seeds.map(|seed| Path::new(link.clone(), seed)));
        self
    }

    /// A flow from one site to another: its data takes the link of the one, its acknowledgements that of the other, and
    /// a round trip takes `extra` beside the two.
    pub(crate) fn between(self, flow: Flow, from: usize, to: usize, extra: Duration) -> Self {
        let mut network = self.far_flow(flow, extra);
        if let Some(via) = network.via.last_mut() {
            *via = (from, Some(to));
        }
        network
    }

    /// From `at` on, the round trip is longer by `by`: another route.
    pub(crate) fn lengthen(&mut self, at: Duration, by: Duration) {
        self.longer = Some((at, by));
    }

    pub(crate) fn acks(mut self, acks: AckPolicy) -> Self {
        self.acks = acks;
        self
    }

    pub(crate) fn flow(self, flow: Flow) -> Self {
        self.far_flow(flow, Duration::ZERO)
    }

    /// A flow whose round trip is longer than the link's by `extra`.
    pub(crate) fn far_flow(mut self, flow: Flow, extra: Duration) -> Self {
        let index = self.flows.len();
        let start = flow.start;
        self.flows.push(flow);
        self.extra.push(extra);
        self.via.push((0, None));
        self.wakes.push(None);
        self.wake(index, start);
        self
    }

    /// Runs until `end` and returns what each flow did.
    pub(crate) fn run(mut self, end: Duration) -> Vec<Record> {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at >= end {
                break;
            }
            self.now = at;
            self.handle(event);
            if at >= self.watched_at + Duration::from_millis(10) {
                self.watched_at = at;
                if let Some(watch) = &mut self.watch {
                    watch(at, &mut self.flows);
                }
            }
        }
        self.flows.into_iter().map(|flow| flow.record).collect()
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn wake(&mut self, flow: usize, at: Duration) {
        if self.wakes[flow].is_none_or(|due| at < due) {
            self.wakes[flow] = Some(at);
            self.push(at, Event::Wake { flow });
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Arrival { flow, number } => {
                if self.flows[flow].on_arrival(now, number, self.acks.every) {
                    self.acknowledge(flow);
                } else if let Some(due) = self.flows[flow].ack_due {
                    self.push(due, Event::AckTimer { flow });
                }
            }
            Event::AckTimer { flow } => {
                if self.flows[flow].ack_due.is_some_and(|due| due <= now) {
                    self.acknowledge(flow);
                }
            }
            Event::Ack { flow, numbers } => {
                self.flows[flow].on_ack(now, &numbers);
                self.drive(flow);
            }
            Event::Wake { flow } => {
                if self.wakes[flow] != Some(now) {
                    return;
                }
                self.wakes[flow] = None;
                if self.flows[flow].loss_timer().is_some_and(|at| at <= now) {
                    self.flows[flow].on_loss_timer(now);
                }
                self.drive(flow);
            }
        }
    }

    fn acknowledge(&mut self, flow: usize) {
        let numbers = self.flows[flow].take_ack();
        let gone = self
            .outages
            .iter()
            .any(|&(from, to)| from <= self.now && self.now < to);
        if gone || self.random.unit() < self.acks.loss {
            self.flows[flow].ack_was_lost(numbers);
            return;
        }
        let back = match self.via[flow].1 {
            Some(link) => self.paths[link].send(self.now, ACK_LEN),
            None => Some(self.now + self.back_delay),
        };
        let Some(back) = back else {
            self.flows[flow].ack_was_lost(numbers);
            return;
        };
        let mut at = back + self.extra[flow] / 2;
        if let Some((from, by)) = self.longer
            && self.now >= from
        {
            at += by;
        }
        if !self.acks.batched.is_zero() {
            let slot = at.as_nanos() / self.acks.batched.as_nanos() + 1;
            at = self.acks.batched * slot as u32;
        }
        self.push(at, Event::Ack { flow, numbers });
    }

    fn drive(&mut self, flow: usize) {
        loop {
            match self.flows[flow].poll_send(self.now) {
                Ok(number) => {
                    if let Some(at) = self.paths[self.via[flow].0].send(self.now, super::flow::MTU)
                    {
                        let at = at + self.extra[flow] / 2;
                        self.push(at, Event::Arrival { flow, number });
                    }
                }
                Err(at) => {
                    let timer = self.flows[flow].loss_timer();
                    if let Some(at) = [at, timer].into_iter().flatten().min() {
                        self.wake(flow, at.max(self.now + Duration::from_nanos(1)));
                    }
                    return;
                }
            }
        }
    }
}
