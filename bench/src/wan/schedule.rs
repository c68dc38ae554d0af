//! What is going to happen in a [`Fabric`](super::fabric::Fabric), in order.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use super::network::SiteId;
use super::port::Packet;

/// Hidden actions are not put off for longer than this, so that queues do not become lumpy.
const SLACK_MAX: Duration = Duration::from_millis(1);

/// Where a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortId {
    /// From a site.
    Up(SiteId),
    /// From one site to another.
    Pair(SiteId, SiteId),
    /// To a site.
    Down(SiteId),
}

/// One thing that happens.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A port has sent a packet.
    Sent(PortId),
    /// A packet has passed its pair's delay.
    Arrive(Packet),
}

impl Action {
    /// Hidden actions happen in the sending half of the network. At least a pair's delay passes
    /// before anybody outside can tell when they were looked at.
    fn is_hidden(&self) -> bool {
        matches!(self, Self::Sent(PortId::Up(_) | PortId::Pair(..)))
    }
}

/// Actions by the time at which they are due; those of one time in the order they came in.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    hidden: BinaryHeap<Reverse<Scheduled>>,
    visible: BinaryHeap<Reverse<Scheduled>>,
    serial: u64,
}

impl Schedule {
    /// Adds an action.
    pub(super) fn push(&mut self, due: Duration, action: Action) {
        self.serial += 1;
        let heap = if action.is_hidden() {
            &mut self.hidden
        } else {
            &mut self.visible
        };
        heap.push(Reverse(Scheduled {
            due,
            serial: self.serial,
            action,
        }));
    }

    /// Takes out the first action, if it is due at `now`, with its own time.
    pub(super) fn pop(&mut self, now: Duration) -> Option<(Duration, Action)> {
        let order = |heap: &BinaryHeap<Reverse<Scheduled>>| {
            heap.peek().map(|Reverse(first)| (first.due, first.serial))
        };
        let heap = match (order(&self.hidden), order(&self.visible)) {
            (Some(hidden), Some(visible)) if hidden < visible => &mut self.hidden,
            (Some(_), None) => &mut self.hidden,
            _ => &mut self.visible,
        };
        if heap.peek()?.0.due > now {
            return None;
        }
        heap.pop().map(|Reverse(first)| (first.due, first.action))
    }

    /// When to look again, if what hidden actions lead to takes at least `slack`.
    pub(super) fn next_due(&self, slack: Duration) -> Option<Duration> {
        let hidden = self
            .hidden
            .peek()
            .map(|Reverse(first)| first.due + slack.min(SLACK_MAX));
        let visible = self.visible.peek().map(|Reverse(first)| first.due);
        hidden.into_iter().chain(visible).min()
    }
}

#[derive(Debug)]
struct Scheduled {
    due: Duration,
    serial: u64,
    action: Action,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.serial).cmp(&(other.due, other.serial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn actions_come_by_time_then_in_the_order_they_came_in() {
        let ports = [
            (3 * MS, PortId::Up(SiteId(0))),
            (MS, PortId::Down(SiteId(1))),
            (2 * MS, PortId::Down(SiteId(2))),
            (2 * MS, PortId::Pair(SiteId(3), SiteId(4))),
            (2 * MS, PortId::Down(SiteId(5))),
        ];
        let mut schedule = Schedule::default();
        for (due, port) in ports {
            schedule.push(due, Action::Sent(port));
        }
        assert_eq!(schedule.pop(MS / 2), None);
        for index in [1, 2, 3, 4, 0] {
            let (due, port) = ports[index];
            assert_eq!(schedule.pop(3 * MS), Some((due, Action::Sent(port))));
        }
        assert_eq!(schedule.pop(3 * MS), None);
    }

    #[test]
    fn hidden_actions_may_wait_but_not_for_long() {
        let mut schedule = Schedule::default();
        schedule.push(4 * MS, Action::Sent(PortId::Up(SiteId(0))));
        assert_eq!(schedule.next_due(Duration::ZERO), Some(4 * MS));
        assert_eq!(schedule.next_due(MS / 2), Some(4 * MS + MS / 2));
        assert_eq!(schedule.next_due(100 * MS), Some(5 * MS));
        schedule.push(4 * MS + MS / 4, Action::Sent(PortId::Down(SiteId(0))));
        assert_eq!(schedule.next_due(100 * MS), Some(4 * MS + MS / 4));
    }
}
