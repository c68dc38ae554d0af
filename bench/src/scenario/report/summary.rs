//! From cases to the figures of a table: one row for each workload and system.

use crate::report::quantile;
use crate::scenario::file::{Scenario, Work, Workload};
use crate::scenario::log::{Case, Results};
use crate::scenario::schedule::Plan;

/// All systems in one workload.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) workload: &'a Workload,
    pub(crate) plan: Plan,
    pub(crate) rows: Vec<Row<'a>>,
}

/// One system in one workload, over all repetitions.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) system: String,
    /// Those that gave figures.
    pub(crate) cases: Vec<&'a Case>,
    /// Why others gave none.
    pub(crate) failures: Vec<&'a str>,
}

/// The groups of a run in the order of the file, systems in the order in which they were first measured.
pub(crate) fn groups<'a>(scenario: &'a Scenario, results: &'a Results) -> Vec<Group<'a>> {
    let group = |workload: &'a Workload| {
        let mut rows: Vec<Row<'a>> = Vec::new();
        let cases = results.cases.iter();
        for case in cases.filter(|case| case.workload == workload.name) {
            let index = rows.iter().position(|row| row.system == case.system);
            let index = index.unwrap_or_else(|| {
                rows.push(Row {
                    system: case.system.clone(),
                    cases: Vec::new(),
                    failures: Vec::new(),
                });
                rows.len() - 1
            });
            if case.failure.is_empty() {
                rows[index].cases.push(case);
            } else {
                rows[index].failures.push(&case.failure);
            }
        }
        Group {
            workload,
            plan: Plan::new(scenario, workload, 0),
            rows,
        }
    };
    let groups = scenario.workloads.iter().map(group);
    groups.filter(|group| !group.rows.is_empty()).collect()
}

impl Group<'_> {
    /// Whether pulls come one by one, so that their distribution is what counts.
    pub(crate) fn is_storm(&self) -> bool {
        matches!(self.workload.work, Work::Storm { .. })
    }

    /// The row of a system.
    pub(crate) fn row(&self, system: &str) -> Option<&Row<'_>> {
        self.rows.iter().find(|row| row.system == system)
    }

    /// What is done, in words.
    pub(crate) fn text(&self) -> String {
        let plan = &self.plan;
        let sites = |names: &[String]| match names {
            names if names.len() > 4 => format!("{} sites", names.len()),
            names => names.join(", "),
        };
        let (to, from) = (sites(&plan.receivers), sites(&plan.holders));
        let base = plan.base.as_ref();
        let base = base.map_or(String::new(), |base| {
            let verb = if plan.receivers.len() == 1 {
                "holds"
            } else {
                "hold"
            };
            format!(", which {verb} {base}")
        });
        match &self.workload.work {
            Work::Pull { image, clients, .. } => {
                let clients = match clients {
                    1 => String::new(),
                    n => format!(", {n} clients each"),
                };
                format!("{image} from {from} to {to}{base}{clients}")
            }
            Work::Preseed { image, .. } => {
                format!("{image} from {from} to {to}{base}, all at once")
            }
            Work::Storm {
                pulls,
                per_second,
                zipf,
                ..
            } => format!(
                "{pulls} pulls of {} images at {to}, from {from}; {per_second} a second, Zipf {zipf}",
                plan.images.len(),
            ),
        }
    }
}

impl Row<'_> {
    /// The times of all pulls that succeeded.
    pub(crate) fn pull_seconds(&self) -> Vec<f64> {
        let pulls = self.cases.iter().flat_map(|case| &case.pulls);
        let good = pulls.filter(|pull| pull.error.is_empty());
        good.map(|pull| pull.seconds).collect()
    }

    /// A quantile of the times: of single pulls in a storm, of whole repetitions otherwise.
    pub(crate) fn seconds(&self, storm: bool, q: f64) -> f64 {
        if storm {
            return quantile(&self.pull_seconds(), q);
        }
        quantile(&self.values(|case| Some(case.seconds)), q)
    }

    /// Median of the IP bytes that came to the receivers.
    pub(crate) fn received(&self) -> f64 {
        quantile(&self.values(|case| Some(case.received_bytes as f64)), 0.5)
    }

    /// Median of time ÷ bound.
    pub(crate) fn of_bound(&self) -> Option<f64> {
        let ratio = |case: &Case| Some(case.seconds / case.bound?.seconds);
        Some(quantile(&self.values(ratio), 0.5)).filter(|ratio| ratio.is_finite())
    }

    /// Median of bytes that came ÷ bytes of one copy for each receiver.
    pub(crate) fn copies(&self, receivers: usize) -> Option<f64> {
        let copies = |case: &Case| {
            let copy = case.payload_bytes? / crate::scenario::bound::PAYLOAD_SHARE;
            Some(case.received_bytes as f64 / copy / receivers as f64)
        };
        Some(quantile(&self.values(copies), 0.5)).filter(|copies| copies.is_finite())
    }

    /// Pulls that failed and why the first one did.
    pub(crate) fn failed_pulls(&self) -> (usize, Option<&str>) {
        let pulls = self.cases.iter().flat_map(|case| &case.pulls);
        let mut errors = pulls
            .map(|pull| pull.error.as_str())
            .filter(|e| !e.is_empty());
        let first = errors.next();
        (errors.count() + usize::from(first.is_some()), first)
    }

    /// Whether anything went wrong: such a row has no claim to be compared.
    pub(crate) fn is_good(&self) -> bool {
        !self.cases.is_empty() && self.failures.is_empty() && self.failed_pulls().0 == 0
    }

    fn values(&self, value: impl Fn(&Case) -> Option<f64>) -> Vec<f64> {
        self.cases.iter().filter_map(|case| value(case)).collect()
    }
}
