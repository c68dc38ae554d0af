//! The network itself, without I/O and without a clock.
//!
//! A packet from site A to site B passes A's `up` port, the pair's policer and port, the loss process, the
//! pair's delay and B's `down` port. Each port sends at its rate and has a bounded queue. What
//! happens has the time at which it should have happened, however late the caller is: lateness
//! shifts single packets, but never adds up in a rate.
//!
//! Call in a loop: [`Fabric::advance`] to the present, take what [`Fabric::poll_delivery`] gives,
//! hand over new packets with [`Fabric::send`], sleep until [`Fabric::next_due`].

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::counters::{Count, PairCount, SiteCount};
use super::event::Event;
use super::loss::LossProcess;
use super::network::{Loss, Network, NetworkError, SiteId};
use super::policer::Policer;
use super::port::{Offered, Packet, Port};
use super::schedule::{Action, PortId, Schedule};

/// All packets in the network together may have this many bytes; more are dropped and counted as
/// overflow. 2 Gbit/s × 300 ms are 75 MB.
const UNDER_WAY_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug)]
struct SiteState {
    up: Port,
    down: Port,
    alive: bool,
    group: usize,
    count: SiteCount,
}

#[derive(Debug)]
struct PairState {
    policer: Option<Policer>,
    port: Port,
    delay: Duration,
    loss: LossProcess,
    /// When a burst of losses is over even if it had fewer packets: a sender that hears nothing would
    /// take for ever to use it up.
    burst_until: Option<Duration>,
    count: PairCount,
}

/// A running network.
#[derive(Debug)]
pub struct Fabric {
    network: Network,
    now: Duration,
    sites: Vec<SiteState>,
    pairs: Vec<PairState>,
    schedule: Schedule,
    /// How long a packet that leaves the sending half takes at least until it matters again.
    slack: Duration,
    deliveries: VecDeque<(Duration, Packet)>,
    under_way_bytes: u64,
    unroutable: Count,
    overflow: Count,
}

impl Fabric {
    /// An idle network at time 0.
    pub fn new(network: Network) -> Self {
        let sites = network.sites.iter().map(|site| SiteState {
            up: Port::new(site.up),
            down: Port::new(site.down),
            alive: true,
            group: 0,
            count: SiteCount::default(),
        });
        let sites = sites.collect();
        let mut pairs = Vec::new();
        for from in network.site_ids() {
            for to in network.site_ids() {
                let link = network.link(from, to);
                // Each direction draws from its own sequence: traffic elsewhere changes nothing.
                let seed = network.seed ^ ((pairs.len() as u64 + 1) << 32);
                pairs.push(PairState {
                    policer: link.policer.map(Policer::new),
                    port: Port::new(link.port),
                    delay: link.delay,
                    loss: LossProcess::new(link.loss, seed),
                    burst_until: None,
                    count: PairCount::default(),
                });
            }
        }
        let slack = slack(&network, &pairs);
        Self {
            network,
            slack,
            now: Duration::ZERO,
            sites,
            pairs,
            schedule: Schedule::default(),
            deliveries: VecDeque::new(),
            under_way_bytes: 0,
            unroutable: Count::default(),
            overflow: Count::default(),
        }
    }

    /// What it was made from.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Lets everything happen that is due until `now`. A time before the last one is the last one.
    pub fn advance(&mut self, now: Duration) {
        while let Some((due, action)) = self.schedule.pop(now) {
            self.now = self.now.max(due);
            match action {
                Action::Sent(port) => self.sent(port),
                Action::Arrive(packet) => self.arrive(packet),
            }
        }
        self.now = self.now.max(now);
    }

    /// When to call [`Self::advance`] next so that no delivery is late, if nothing new comes.
    pub fn next_due(&self) -> Option<Duration> {
        self.schedule.next_due(self.slack)
    }

    /// A packet that site `from` sent at the time of the last [`Self::advance`].
    pub fn send(&mut self, from: SiteId, bytes: Vec<u8>) {
        let len = bytes.len();
        self.sites[from.0].count.tx.add(len);
        let to = destination(&bytes).filter(|to| to.0 < self.sites.len() && *to != from);
        let Some(to) = to else {
            self.unroutable.add(len);
            return;
        };
        let packet = Packet { from, to, bytes };
        self.pair_mut(from, to).count.sent.add(len);
        if self.is_cut(from, to) {
            self.pair_mut(from, to).count.cut.add(len);
        } else if self.under_way_bytes + len as u64 > UNDER_WAY_BYTES_MAX {
            self.overflow.add(len);
        } else {
            self.under_way_bytes += len as u64;
            self.offer(PortId::Up(from), packet);
        }
    }

    /// The next packet to hand over, and when that was due.
    pub fn poll_delivery(&mut self) -> Option<(Duration, Packet)> {
        self.deliveries.pop_front()
    }

    /// Changes the network at the time of the last [`Self::advance`].
    pub fn apply(&mut self, event: &Event) -> Result<(), NetworkError> {
        self.network.check_event(event)?;
        match event {
            Event::PairRate { between, factor } => {
                for (from, to) in self.directions(between)? {
                    self.pair_mut(from, to).port.scale_rate(*factor);
                }
            }
            Event::SiteRate { site, factor } => {
                let site = self.network.site(site)?;
                self.sites[site.0].up.scale_rate(*factor);
                self.sites[site.0].down.scale_rate(*factor);
            }
            Event::Rtt { between, rtt } => {
                for (from, to) in self.directions(between)? {
                    let delay = rtt.map_or(self.network.link(from, to).delay, |rtt| rtt / 2);
                    self.pair_mut(from, to).delay = delay;
                }
                self.slack = slack(&self.network, &self.pairs);
            }
            Event::Loss {
                between,
                loss,
                burst,
            } => {
                let directions = match between {
                    Some(between) => self.directions(between)?.to_vec(),
                    None => self.network.pairs().collect(),
                };
                for (from, to) in directions {
                    let base = self.network.link(from, to).loss;
                    let loss = loss.map_or(base, |share| Loss {
                        share,
                        burst: *burst,
                    });
                    self.pair_mut(from, to).loss.set(loss);
                }
            }
            Event::Burst { from, to, packets } => {
                let (from, to) = self.network.pair(&[from.clone(), to.clone()])?;
                let len = usize::from(self.network.mtu) * *packets as usize;
                let rate = self.network.path_rate(from, to);
                let until = rate.map(|rate| self.now + rate.time_for(len));
                let pair = self.pair_mut(from, to);
                pair.loss.burst(*packets);
                pair.burst_until = until;
            }
            Event::SiteDown { site } => {
                let site = self.network.site(site)?;
                let state = &mut self.sites[site.0];
                state.alive = false;
                let waiting: Vec<_> = state.up.flush().chain(state.down.flush()).collect();
                for packet in waiting {
                    self.cut(&packet);
                }
            }
            Event::SiteUp { site } => {
                let site = self.network.site(site)?;
                self.sites[site.0].alive = true;
            }
            Event::Partition { groups } => {
                let group_of = self.network.partition(groups)?;
                for (site, group) in self.sites.iter_mut().zip(group_of) {
                    site.group = group;
                }
            }
            Event::Heal => self.sites.iter_mut().for_each(|site| site.group = 0),
        }
        Ok(())
    }

    /// The figures of one site so far.
    pub fn site_count(&self, site: SiteId) -> SiteCount {
        self.sites[site.0].count
    }

    /// The figures of one direction so far.
    pub fn pair_count(&self, from: SiteId, to: SiteId) -> PairCount {
        self.pairs[self.index(from, to)].count
    }

    /// Packets to an address of no site, or not IPv4, so far.
    pub fn unroutable(&self) -> Count {
        self.unroutable
    }

    /// Packets beyond the bound on all bytes under way so far.
    pub fn overflow(&self) -> Count {
        self.overflow
    }

    fn offer(&mut self, id: PortId, packet: Packet) {
        let now = self.now;
        let (from, to, len) = (packet.from, packet.to, packet.bytes.len());
        match self.port_mut(id).offer(now, packet) {
            Offered::Passed(packet) => self.passed(id, packet),
            Offered::Sending(done) => self.schedule.push(done, Action::Sent(id)),
            Offered::Queued => {}
            Offered::Dropped => {
                self.under_way_bytes -= len as u64;
                self.pair_mut(from, to).count.dropped.add(len);
                match id {
                    PortId::Up(site) => self.sites[site.0].count.up_dropped.add(len),
                    PortId::Pair(..) => {}
                    PortId::Down(site) => self.sites[site.0].count.down_dropped.add(len),
                }
            }
        }
    }

    fn sent(&mut self, id: PortId) {
        let now = self.now;
        let (packet, next) = self.port_mut(id).sent(now);
        if let Some(next) = next {
            self.schedule.push(next, Action::Sent(id));
        }
        self.passed(id, packet);
    }

    /// The packet has left the port.
    fn passed(&mut self, id: PortId, packet: Packet) {
        let (from, to) = (packet.from, packet.to);
        if self.is_cut(from, to) {
            return self.cut(&packet);
        }
        match id {
            PortId::Up(_) => {
                let (now, len) = (self.now, packet.bytes.len());
                let pair = self.pair_mut(from, to);
                let policer = pair.policer.as_mut();
                if policer.is_none_or(|policer| policer.passes(now, len)) {
                    self.offer(PortId::Pair(from, to), packet);
                } else {
                    pair.count.dropped.add(len);
                    self.under_way_bytes -= len as u64;
                }
            }
            PortId::Pair(..) => {
                let now = self.now;
                let pair = self.pair_mut(from, to);
                if pair.burst_until.is_some_and(|until| now >= until) {
                    pair.burst_until = None;
                    pair.loss.burst(0);
                }
                if pair.loss.lose() {
                    let len = packet.bytes.len();
                    pair.count.lost.add(len);
                    self.under_way_bytes -= len as u64;
                } else {
                    let arrival = now + pair.delay;
                    self.schedule.push(arrival, Action::Arrive(packet));
                }
            }
            PortId::Down(_) => {
                let len = packet.bytes.len();
                self.under_way_bytes -= len as u64;
                self.pair_mut(from, to).count.delivered.add(len);
                self.sites[to.0].count.rx.add(len);
                self.deliveries.push_back((self.now, packet));
            }
        }
    }

    fn arrive(&mut self, packet: Packet) {
        if self.is_cut(packet.from, packet.to) {
            self.cut(&packet);
        } else {
            self.offer(PortId::Down(packet.to), packet);
        }
    }

    fn is_cut(&self, from: SiteId, to: SiteId) -> bool {
        let (from, to) = (&self.sites[from.0], &self.sites[to.0]);
        !from.alive || !to.alive || from.group != to.group
    }

    /// Ends a packet's way at a cut.
    fn cut(&mut self, packet: &Packet) {
        let len = packet.bytes.len();
        self.under_way_bytes -= len as u64;
        self.pair_mut(packet.from, packet.to).count.cut.add(len);
    }

    fn port_mut(&mut self, id: PortId) -> &mut Port {
        match id {
            PortId::Up(site) => &mut self.sites[site.0].up,
            PortId::Pair(from, to) => &mut self.pair_mut(from, to).port,
            PortId::Down(site) => &mut self.sites[site.0].down,
        }
    }

    fn pair_mut(&mut self, from: SiteId, to: SiteId) -> &mut PairState {
        let index = self.index(from, to);
        &mut self.pairs[index]
    }

    fn directions(&self, between: &[String; 2]) -> Result<[(SiteId, SiteId); 2], NetworkError> {
        let (a, b) = self.network.pair(between)?;
        Ok([(a, b), (b, a)])
    }

    fn index(&self, from: SiteId, to: SiteId) -> usize {
        from.0 * self.sites.len() + to.0
    }
}

/// The shortest delay of any pair.
fn slack(network: &Network, pairs: &[PairState]) -> Duration {
    let count = network.sites.len();
    let delays = network
        .pairs()
        .map(|(from, to)| pairs[from.0 * count + to.0].delay);
    delays.min().unwrap_or_default()
}

/// The site an IPv4 packet is for.
fn destination(packet: &[u8]) -> Option<SiteId> {
    const VERSION_4: u8 = 4;
    let &[first, ..] = packet else { return None };
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (first >> 4 == VERSION_4).then_some(())?;
    SiteId::of_addr(Ipv4Addr::from(address))
}

#[cfg(test)]
mod tests;
