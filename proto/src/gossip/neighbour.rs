//! One connection: what the neighbour lacks, what it has more, and which messages are due.

use std::collections::BTreeMap;
use std::time::Duration;

use super::entry::{Family, HalfOctave, LogId, SiteNumber};
use super::overlay::Target;

/// What we know of a neighbour. A log that is neither in `behind` nor in `ahead` counts as equal: if it is
/// not, the neighbour finds a gap and asks.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) site: SiteNumber,
    pub(super) name: String,
    /// What it was dialled as, if we dialled.
    pub(super) dialled: Option<Target>,
    pub(super) since: Duration,
    /// The boot of its hello, once that is there.
    pub(super) boot: Option<u64>,
    pub(super) rtt_us: HalfOctave,
    pub(super) goodput: HalfOctave,
    /// Whether it gets entries unasked, or only versions.
    pub(super) eager: bool,
    /// Whether it was told to send us only versions.
    pub(super) told_lazy: bool,
    pub(super) due: Due,
    behind: BTreeMap<LogId, Behind>,
    ahead: BTreeMap<LogId, u64>,
    /// When what it is behind in is pushed.
    pub(super) push_at: Option<Duration>,
    /// Whether the owner was told that there is something to send and has not yet drained it.
    pub(super) ready: bool,
}

/// Messages that go as soon as the stream takes them.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) hello: bool,
    pub(super) lazy: bool,
    pub(super) digest: bool,
    pub(super) same: bool,
    pub(super) buckets: bool,
    /// Buckets whose versions are due.
    pub(super) versions: u64,
    pub(super) wants: BTreeMap<LogId, u64>,
}

impl Due {
    fn any(&self) -> bool {
        self.hello
            || self.lazy
            || self.digest
            || self.same
            || self.buckets
            || self.versions != 0
            || !self.wants.is_empty()
    }
}

#[derive(Debug, Clone, Copy)]
struct Behind {
    /// What it has.
    from: u64,
    /// It has asked.
    owed: bool,
    /// It has been told our version.
    told: bool,
}

impl Neighbour {
    pub(super) fn new(
        site: SiteNumber,
        name: String,
        dialled: Option<Target>,
        now: Duration,
    ) -> Self {
        Self {
            site,
            name,
            dialled,
            since: now,
            boot: None,
            rtt_us: HalfOctave::UNKNOWN,
            goodput: HalfOctave::UNKNOWN,
            eager: true,
            told_lazy: false,
            due: Due {
                hello: true,
                ..Due::default()
            },
            behind: BTreeMap::new(),
            ahead: BTreeMap::new(),
            push_at: None,
            ready: false,
        }
    }

    /// Whether its hello has come.
    pub(super) fn is_greeted(&self) -> bool {
        self.boot.is_some()
    }

    /// Whether there is something to send at `now`.
    pub(super) fn has_message(&self, now: Duration) -> bool {
        if !self.is_greeted() {
            return self.due.hello;
        }
        self.due.any()
            || self.behind.values().any(|behind| behind.owed)
            || self.push_at.is_some_and(|at| at <= now)
    }

    /// Our log went on from `old` to `new`.
    pub(super) fn advanced(&mut self, log: LogId, old: u64, new: u64) {
        let mut from = old;
        if let Some(&ahead) = self.ahead.get(&log) {
            if ahead > new {
                return;
            }
            self.ahead.remove(&log);
            from = ahead;
        }
        if from < new {
            let behind = self.behind.entry(log).or_insert(Behind {
                from,
                owed: false,
                told: false,
            });
            behind.told = false;
        }
    }

    /// It has the log up to `version`; we have it up to `ours`.
    pub(super) fn has(&mut self, log: LogId, version: u64, ours: u64) {
        if version > ours {
            let ahead = self.ahead.entry(log).or_insert(version);
            *ahead = (*ahead).max(version);
        } else if self.ahead.get(&log).is_some_and(|&ahead| ahead <= ours) {
            self.ahead.remove(&log);
        }
        match self.behind.get_mut(&log) {
            // It has asked for the log whole, since not all in it is right.
            Some(behind) if behind.owed && behind.from == 0 => {}
            Some(_) if version >= ours => {
                self.behind.remove(&log);
            }
            Some(behind) => behind.from = behind.from.max(version),
            None => {}
        }
    }

    /// It asks for what comes after `from`, of which we have something.
    pub(super) fn owes(&mut self, log: LogId, from: u64) {
        self.behind.insert(
            log,
            Behind {
                from,
                owed: true,
                told: true,
            },
        );
    }

    /// Whether it is ahead of us.
    pub(super) fn is_ahead(&self, log: LogId) -> bool {
        self.ahead.contains_key(&log)
    }

    /// Logs in which it is ahead of us.
    pub(super) fn ahead_in(&self) -> impl Iterator<Item = LogId> + '_ {
        self.ahead.keys().copied()
    }

    /// A log of these families with entries to send now, and what it has of it.
    pub(super) fn next_behind(&self, families: &[Family], now: Duration) -> Option<(LogId, u64)> {
        let push = self.eager && self.push_at.is_some_and(|at| at <= now);
        self.behind
            .iter()
            .find(|(log, behind)| (behind.owed || push) && families.contains(&log.family))
            .map(|(log, behind)| (*log, behind.from))
    }

    /// The log was sent up to `to`; `done` if that is all.
    pub(super) fn sent(&mut self, log: LogId, to: u64, done: bool) {
        if done {
            self.behind.remove(&log);
        } else if let Some(behind) = self.behind.get_mut(&log) {
            behind.from = to;
        }
    }

    /// Logs in which it is behind without having been told.
    pub(super) fn take_untold(&mut self, most: usize) -> Vec<LogId> {
        self.behind
            .iter_mut()
            .filter(|(_, behind)| !behind.told)
            .take(most)
            .map(|(log, behind)| {
                behind.told = true;
                *log
            })
            .collect()
    }

    /// Whether a push or a telling has something to do.
    pub(super) fn has_untold(&self) -> bool {
        self.behind.values().any(|behind| !behind.told)
    }

    /// Forgets what is known of a log.
    pub(super) fn forget(&mut self, log: LogId) {
        self.behind.remove(&log);
        self.ahead.remove(&log);
        self.due.wants.remove(&log);
    }
}
