//! Connections: what they carry, how fast, and whose turn it is.
//!
//! There is one for each sender and receiver. All streams with something to send share it evenly, but for those that go
//! first. Its rate is its share of the links; at first it is held back by the window of a new connection, which doubles
//! every round trip.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vitrail_proto::random::mix;

use super::holder::FIRST;
use super::share::{Demand, share};
use super::{Event, Swarm};

/// Rates are divided anew at most so often: congestion control takes at least a round trip to notice that somebody has
/// come or gone.
const SETTLE: Duration = Duration::from_millis(10);
/// A connection begins with what this rate carries in a round trip, and at most with this window (`docs/TRANSPORT.md`).
const FIRST_RATE: f64 = 500_000.0;
const FIRST_WINDOW: f64 = 32.0 * 1440.0;
/// What is used of links that carry background work only: flows that make way for each other, and whose acknowledgements
/// wait in the other's queue, leave some of them unused (eight regions in `tests/congestion_company.rs`: 0.86 of 0.958).
const BACKGROUND_SHARE: f64 = 0.9;

/// All connections.
#[derive(Default)]
pub(super) struct Carrier {
    flows: Vec<Flow>,
    numbers: BTreeMap<(usize, usize), usize>,
    busy: BTreeSet<usize>,
    shared_at: Duration,
    share_is_due: bool,
    /// How many times as much as another a connection may have on the same link.
    uneven: Option<u64>,
}

struct Flow {
    from: usize,
    to: usize,
    delay: Duration,
    rtt: Duration,
    /// What it has of a link beside one of weight 1.
    weight: f64,
    /// What it may use, in bytes per second, and the most that this can become.
    most: f64,
    ceiling: f64,
    widening: bool,
    /// What it uses.
    rate: f64,
    /// Messages that are being sent, one of each stream that has any, as of `since`.
    in_hand: Vec<InHand>,
    since: Duration,
    /// Of the end of the next of them; an older one is void.
    stamp: u64,
    carried: u64,
}

struct InHand {
    session: usize,
    stream: usize,
    bytes: u64,
    left: f64,
    event: Event,
}

/// What rounding leaves of a message that has been sent.
const NOTHING: f64 = 1e-3;

impl Flow {
    /// Streams that share the rate: those that go first, if there are any.
    fn served(&self) -> (bool, usize) {
        let first = self.in_hand.iter().filter(|m| m.stream == FIRST).count();
        (
            first > 0,
            if first > 0 { first } else { self.in_hand.len() },
        )
    }

    /// Takes off what has been sent until now.
    fn settle(&mut self, now: Duration) {
        let time = now.saturating_sub(self.since).as_secs_f64();
        self.since = now;
        let (first, count) = self.served();
        for message in &mut self.in_hand {
            if !first || message.stream == FIRST {
                message.left -= self.rate * time / count as f64;
            }
        }
    }

    /// How long the next message takes; none while nothing moves.
    fn next_end(&self) -> Option<Duration> {
        let (first, count) = self.served();
        let served = self.in_hand.iter();
        let served = served.filter(|message| !first || message.stream == FIRST);
        let least = served.map(|message| message.left).min_by(f64::total_cmp)?;
        let seconds = least.max(0.0) * count as f64 / self.rate;
        // Rounded up, or nothing would have been sent in a time of nothing.
        (self.rate > 0.0).then(|| Duration::from_secs_f64(seconds) + Duration::from_nanos(1))
    }
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
    /// Connections get from 1 to `most` shares of the links that they meet at, drawn for each, instead of one: congestion
    /// control is only roughly fair, least so at different round trips. To be called before anything is sent.
    pub fn share_unevenly(&mut self, most: u64) {
        self.carrier.uneven = Some(most.max(1));
    }

    /// The connection from one site to another.
    pub(super) fn flow(&mut self, from: usize, to: usize) -> usize {
        let next = self.carrier.flows.len();
        let number = *self.carrier.numbers.entry((from, to)).or_insert(next);
        if number == next {
            let rtt = self.network.rtt(from, to);
            let ceiling = self.network.connection_rate(from, to);
            let weight = match self.carrier.uneven {
                Some(most) => 1 + mix(mix(from as u64) ^ to as u64) % most,
                None => 1,
            };
            self.carrier.flows.push(Flow {
                from,
                to,
                delay: self.network.path(from, to).delay,
                rtt,
                weight: weight as f64,
                most: ceiling.min(FIRST_RATE.min(FIRST_WINDOW / rtt.as_secs_f64())),
                ceiling,
                widening: false,
                rate: 0.0,
                in_hand: Vec::new(),
                since: self.now,
                stamp: 0,
                carried: 0,
            });
        }
        number
    }

    /// Whether bytes of a session are under way.
    pub(super) fn is_sending(&self, session: usize) -> bool {
        let flow = &self.carrier.flows[self.sessions[session].flow];
        flow.rate > 0.0
            && flow
                .in_hand
                .iter()
                .any(|message| message.session == session)
    }

    /// A stream of a session has something to send.
    pub(super) fn begin_sending(&mut self, session: usize, stream: usize) {
        let number = self.sessions[session].flow;
        self.carrier.flows[number].settle(self.now);
        if self.take_in_hand(session, stream) {
            self.go_on(number);
        }
    }

    /// What was in hand, or a part of it, has left.
    pub(super) fn sent(&mut self, number: usize, stamp: u64) {
        let flow = &mut self.carrier.flows[number];
        if flow.stamp != stamp {
            return;
        }
        flow.settle(self.now);
        let delay = flow.delay;
        let is_sent = |message: &mut InHand| message.left <= NOTHING;
        let sent: Vec<InHand> = flow.in_hand.extract_if(.., is_sent).collect();
        for message in sent {
            self.carrier.flows[number].carried += message.bytes;
            self.after(delay, message.event);
            self.take_in_hand(message.session, message.stream);
        }
        self.go_on(number);
    }

    /// Takes the next message of a stream, if it has one. Those without bytes leave at once.
    fn take_in_hand(&mut self, session: usize, stream: usize) -> bool {
        let number = self.sessions[session].flow;
        while let Some((bytes, event)) = self.next_message(session, stream) {
            let flow = &mut self.carrier.flows[number];
            if bytes == 0 {
                let delay = flow.delay;
                self.after(delay, event);
                continue;
            }
            flow.in_hand.push(InHand {
                session,
                stream,
                bytes,
                left: bytes as f64,
                event,
            });
            return true;
        }
        false
    }

    /// After what is in hand has changed.
    fn go_on(&mut self, number: usize) {
        if self.carrier.flows[number].in_hand.is_empty() {
            if self.carrier.busy.remove(&number) {
                self.carrier.flows[number].rate = 0.0;
                self.want_share();
            }
        } else if self.carrier.busy.insert(number) {
            self.want_share();
            self.begin_widening(number);
        } else {
            self.schedule_end(number);
        }
    }

    fn schedule_end(&mut self, number: usize) {
        let flow = &mut self.carrier.flows[number];
        flow.stamp += 1;
        let stamp = flow.stamp;
        if let Some(time) = flow.next_end() {
            let flow = number;
            self.after(time, Event::Sent { flow, stamp });
        }
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
                let flow = &self.carrier.flows[*number];
                Demand {
                    from: flow.from,
                    to: flow.to,
                    most: flow.most,
                    weight: flow.weight,
                }
            })
            .collect();
        let ups: Vec<f64> = self.network.sites.iter().map(|site| site.up).collect();
        let downs: Vec<f64> = self.network.sites.iter().map(|site| site.down).collect();
        let rates = share(&ups, &downs, &demands);
        for (number, rate) in busy.into_iter().zip(rates) {
            let background = self.is_background(number);
            let rate = if background {
                rate * BACKGROUND_SHARE
            } else {
                rate
            };
            let flow = &mut self.carrier.flows[number];
            if flow.rate == rate {
                continue;
            }
            flow.settle(self.now);
            flow.rate = rate;
            self.schedule_end(number);
        }
    }

    /// Whether no client waits for what a connection carries.
    fn is_background(&self, number: usize) -> bool {
        let mut in_hand = self.carrier.flows[number].in_hand.iter();
        in_hand.all(|message| {
            let pull = self.sessions[message.session].pull;
            self.pulls[pull].reads.is_none()
        })
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
        // A rate that the window holds back, of whichever class.
        let binds = flow.rate >= flow.most * BACKGROUND_SHARE;
        flow.most = (2.0 * flow.most).min(flow.ceiling);
        if binds {
            self.want_share();
        }
        self.begin_widening(number);
    }
}
