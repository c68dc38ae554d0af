//! A link's sending end: a rate, and a bounded queue in front of it that drops at its tail.

use std::collections::VecDeque;
use std::time::Duration;

use super::network::{PortConfig, SiteId};
use super::units::Rate;

/// An IP packet on its way.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it came from, by the interface and not by its source address.
    pub from: SiteId,
    /// Where its destination address is.
    pub to: SiteId,
    /// The whole packet, from the IP header on.
    pub bytes: Vec<u8>,
}

/// What became of a packet that was offered to a [`Port`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// The port has no rate: the packet goes on now.
    Passed(Packet),
    /// The port was idle; call [`Port::sent`] at this time.
    Sending(Duration),
    /// It waits behind others.
    Queued,
    /// The queue is full.
    Dropped,
}

/// Sends one packet after the other, each for its length ÷ rate.
#[derive(Debug)]
pub(super) struct Port {
    base: PortConfig,
    rate: Option<Rate>,
    /// The packet being sent is the first; `queued_bytes` speaks of those behind it.
    packets: VecDeque<Packet>,
    queued_bytes: u64,
}

impl Port {
    /// An idle port.
    pub(super) fn new(config: PortConfig) -> Self {
        Self {
            base: config,
            rate: config.rate,
            packets: VecDeque::new(),
            queued_bytes: 0,
        }
    }

    /// Sets the rate to `factor` × the configured one; an unlimited port stays so. The packet that
    /// is being sent is not affected.
    pub(super) fn scale_rate(&mut self, factor: f64) {
        self.rate = self.base.rate.map(|rate| rate.scaled(factor));
    }

    /// Takes a packet at time `now`.
    pub(super) fn offer(&mut self, now: Duration, packet: Packet) -> Offered {
        let Some(rate) = self.rate else {
            return Offered::Passed(packet);
        };
        let len = packet.bytes.len();
        if self.packets.is_empty() {
            self.packets.push_back(packet);
            return Offered::Sending(now + rate.time_for(len));
        }
        if self.queued_bytes + len as u64 > self.base.queue_bytes {
            return Offered::Dropped;
        }
        self.queued_bytes += len as u64;
        self.packets.push_back(packet);
        Offered::Queued
    }

    /// The packet whose sending ends at `now`, and when the next one's will.
    ///
    /// # Panics
    /// When nothing is being sent.
    pub(super) fn sent(&mut self, now: Duration) -> (Packet, Option<Duration>) {
        let packet = self
            .packets
            .pop_front()
            .expect("a port that reports sent is sending");
        let next = self.packets.front().map(|next| {
            let len = next.bytes.len();
            self.queued_bytes -= len as u64;
            now + self.rate.map_or(Duration::ZERO, |rate| rate.time_for(len))
        });
        (packet, next)
    }

    /// Takes out all that waits; the packet that is being sent still comes out of [`Self::sent`].
    pub(super) fn flush(&mut self) -> impl Iterator<Item = Packet> {
        self.queued_bytes = 0;
        let keep = self.packets.len().min(1);
        self.packets.drain(keep..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn packet(len: usize) -> Packet {
        Packet {
            from: SiteId(0),
            to: SiteId(1),
            bytes: vec![0; len],
        }
    }

    /// 1,000 bytes take 1 ms.
    fn port(queue_bytes: u64) -> Port {
        Port::new(PortConfig {
            rate: "8Mbit/s".parse().ok(),
            queue_bytes,
        })
    }

    #[test]
    fn packets_leave_one_after_the_other() {
        let mut port = port(10_000);
        assert_eq!(port.offer(MS, packet(1000)), Offered::Sending(2 * MS));
        assert_eq!(port.offer(MS, packet(500)), Offered::Queued);
        let (first, next) = port.sent(2 * MS);
        assert_eq!((first.bytes.len(), next), (1000, Some(2 * MS + MS / 2)));
        let (second, next) = port.sent(2 * MS + MS / 2);
        assert_eq!((second.bytes.len(), next), (500, None));
    }

    #[test]
    fn the_queue_drops_at_its_tail() {
        let mut port = port(1500);
        assert_eq!(port.offer(MS, packet(1000)), Offered::Sending(2 * MS));
        assert_eq!(port.offer(MS, packet(1000)), Offered::Queued);
        assert_eq!(port.offer(MS, packet(501)), Offered::Dropped);
        assert_eq!(port.offer(MS, packet(500)), Offered::Queued);
        // The room of the packet that is now being sent is free again.
        port.sent(2 * MS);
        assert_eq!(port.offer(2 * MS, packet(1000)), Offered::Queued);
        assert_eq!(port.offer(2 * MS, packet(1)), Offered::Dropped);
    }

    #[test]
    fn a_new_rate_is_for_the_packets_that_wait() {
        let mut port = port(10_000);
        assert_eq!(
            port.offer(Duration::ZERO, packet(1000)),
            Offered::Sending(MS)
        );
        assert_eq!(port.offer(Duration::ZERO, packet(1000)), Offered::Queued);
        port.scale_rate(0.5);
        assert_eq!(port.sent(MS).1, Some(3 * MS));
        port.scale_rate(1.0);
        assert_eq!(port.offer(MS, packet(1000)), Offered::Queued);
        assert_eq!(port.sent(3 * MS).1, Some(4 * MS));
    }

    #[test]
    fn flush_leaves_only_what_is_being_sent() {
        let mut port = port(10_000);
        for _ in 0..4 {
            port.offer(MS, packet(1000));
        }
        assert_eq!(port.flush().count(), 3);
        assert_eq!(port.sent(2 * MS).1, None);
        assert_eq!(
            port.offer(3 * MS, packet(10_000)),
            Offered::Sending(13 * MS)
        );
    }

    #[test]
    fn an_unlimited_port_holds_nothing() {
        let mut port = Port::new(PortConfig {
            rate: None,
            queue_bytes: 0,
        });
        port.scale_rate(0.5);
        assert_eq!(port.offer(MS, packet(9000)), Offered::Passed(packet(9000)));
    }
}
