//! Coming to the mesh: for the first time, or after so long that others have forgotten what was removed.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::{Catalogue, CatalogueFailed, Event, Family, Gossip, LogId, Now, Snapshot};
use crate::record::{Merge, Record};

/// If nobody who has all that the mesh has is met in this time, there is no such site.
const SETTLED_WAIT: Duration = Duration::from_secs(300);

/// Whether this site has all that the mesh has.
#[derive(Debug)]
pub(super) enum Standing {
    /// It had when it came, and has been told of everything since.
    Settled,
    /// It comes for the first time.
    Joining {
        /// When it counts as settled in any case. Runs from the first hello on.
        until: Option<Duration>,
    },
    /// It comes after a long time.
    Returning {
        /// When it counts as settled in any case.
        until: Option<Duration>,
        /// When it was last in contact.
        contact_ms: u64,
        /// Records that nobody has sent since.
        stale: BTreeSet<Uuid>,
    },
}

impl Standing {
    /// A site without seeds is the first of its mesh.
    pub(super) fn at_start(no_seeds: bool, snapshot: &Snapshot) -> Self {
        if no_seeds || snapshot.last_contact_ms.is_some() {
            Self::Settled
        } else {
            Self::Joining { until: None }
        }
    }

    pub(super) fn met(&mut self, now: Now) {
        if let Self::Joining { until } | Self::Returning { until, .. } = self {
            until.get_or_insert(now.monotonic + SETTLED_WAIT);
        }
    }

    pub(super) fn next_at(&self) -> Option<Duration> {
        match self {
            Self::Settled => None,
            Self::Joining { until } | Self::Returning { until, .. } => *until,
        }
    }
}

impl Gossip {
    /// Whether records here may hold what others have removed.
    pub(super) fn is_returning(&self) -> bool {
        matches!(self.standing, Standing::Returning { .. })
    }

    /// Drops all image logs, ours too: what is still so comes from others.
    pub(super) fn begin_return(&mut self, contact_ms: u64, now: Now, catalogue: &dyn Catalogue) {
        let logs: Vec<LogId> = self
            .state
            .ids()
            .filter(|log| log.family == Family::Images)
            .collect();
        for log in logs {
            self.state.drop_log(log);
            self.missing.remove(&log);
            for neighbour in self.neighbours.values_mut() {
                neighbour.forget(log);
            }
        }
        self.own
            .told
            .retain(|_, stamp| stamp.unix_ms() <= contact_ms);
        self.standing = Standing::Returning {
            until: None,
            contact_ms,
            stale: catalogue.ids().into_iter().collect(),
        };
        self.reconcile_at = now.monotonic;
    }

    /// Merges a record from elsewhere. After a long absence it replaces ours, and our writes since are added.
    pub(super) fn take_record(
        &mut self,
        mut record: Record,
        catalogue: &mut dyn Catalogue,
    ) -> Result<Merge, CatalogueFailed> {
        let id = record.id;
        let contact_ms = match &self.standing {
            Standing::Returning {
                stale, contact_ms, ..
            } if stale.contains(&id) => *contact_ms,
            _ => return catalogue.merge(record),
        };
        let ours = catalogue
            .record(id)
            .and_then(|ours| ours.written_since(self.own.number, contact_ms));
        let outcome = match ours {
            Some(ours) => record.merge(ours),
            None => Merge::Changed,
        };
        catalogue.replace(record)?;
        if let Standing::Returning { stale, .. } = &mut self.standing {
            stale.remove(&id);
        }
        Ok(outcome)
    }

    /// A settled neighbour has the same as we: this is all there is.
    pub(super) fn settle(
        &mut self,
        now: Now,
        catalogue: &mut dyn Catalogue,
    ) -> Result<(), CatalogueFailed> {
        let Standing::Returning {
            stale, contact_ms, ..
        } = &self.standing
        else {
            self.standing = Standing::Settled;
            return Ok(());
        };
        let own = self.own.number;
        let mut dropped = Vec::new();
        for id in stale {
            let ours = catalogue.record(*id).is_some_and(|record| {
                record.created.site() == own && record.created.unix_ms() > *contact_ms
            });
            if !ours {
                catalogue.forget(*id)?;
                dropped.push(*id);
            }
        }
        self.standing = Standing::Settled;
        self.returned(dropped, now, catalogue);
        Ok(())
    }

    /// Waits no longer for a settled neighbour: nobody has more than we.
    pub(super) fn wait_for_settled(&mut self, now: Now, catalogue: &dyn Catalogue) {
        if self.standing.next_at().is_none_or(|at| at > now.monotonic) {
            return;
        }
        let before = std::mem::replace(&mut self.standing, Standing::Settled);
        if let Standing::Returning { stale, .. } = before {
            for id in stale {
                self.adopt_record(id, now);
            }
            self.returned(Vec::new(), now, catalogue);
        }
    }

    fn returned(&mut self, dropped: Vec<Uuid>, now: Now, catalogue: &dyn Catalogue) {
        self.tell_records(now, catalogue);
        self.last_contact_ms = Some(now.unix_ms);
        for neighbour in self.neighbours.values_mut() {
            neighbour.push_at = Some(now.monotonic);
        }
        self.event(Event::Returned { dropped });
    }
}
