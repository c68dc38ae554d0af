//! One workload with one system: deploy, pull by the schedule, count, compare every byte.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::bound::{PAYLOAD_SHARE, bound};
use super::field::Field;
use super::file::{Scenario, Workload};
use super::log::{Case, LinkBytes, PullResult, Sample};
use super::progress::Progress;
use super::rates::Rates;
use super::schedule::{Plan, Pull};
use super::systems::{Kind, Setting, System};
use crate::wan::Counters;

/// How often the counters are read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// How often the end of all pulls is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a site may take to give what it has to the comparison.
const READ_TIMEOUT: Duration = Duration::from_secs(600);

/// What a case is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task<'a> {
    /// Of the scenario.
    pub(super) workload: &'a Workload,
    /// Who does it.
    pub(super) kind: &'a Kind,
    /// Counts from 0.
    pub(super) repetition: u32,
}

/// Runs a case on a network and in a directory of its own. What fails before the first pull, or in a way that leaves
/// no figures, is in the case's `failure`.
pub(super) fn run(
    task: Task<'_>,
    scenario: &Scenario,
    setting: &Setting,
    rates: &Rates,
    dir: &Path,
    progress: &Progress,
) -> Case {
    match measure(task, scenario, setting, rates, dir, progress) {
        Ok(case) => case,
        Err(error) => Case {
            failure: format!("{error:#}"),
            ..empty(task)
        },
    }
}

fn empty(task: Task<'_>) -> Case {
    Case::new(&task.workload.name, task.kind.name, task.repetition)
}

fn measure(
    task: Task<'_>,
    scenario: &Scenario,
    setting: &Setting,
    rates: &Rates,
    dir: &Path,
    progress: &Progress,
) -> Result<Case> {
    let plan = Plan::new(scenario, task.workload, task.repetition);
    let mut topology = scenario.topology.clone();
    topology.events = task.workload.events.clone();
    topology.seed ^= u64::from(task.repetition) << 32;
    progress.step("deploy");
    let field = Field::start(&topology, &scenario.tcp, dir)?;
    let system = (task.kind.deploy)(setting, &field, &plan)?;
    let network = field.network();

    let before = network.counters()?;
    network.arm_events()?;
    let timeout = task.workload.timeout();
    let (outcomes, samples, seconds) =
        watch(&field, &before, progress, plan.pulls.len(), |done| {
            pull_all(&*system, &plan, dir, timeout, done)
        })?;
    let after = network.counters()?;
    let void = after.overflow.packets + after.refused.packets;
    ensure!(void == 0, "the emulator could not keep up: {void} packets");

    let commands = field.commands();
    progress.step("compare every byte");
    let pulls = plan
        .pulls
        .iter()
        .zip(outcomes)
        .map(|(pull, outcome)| verify(&*system, setting, task.kind, pull, outcome))
        .collect::<Result<Vec<_>>>()?;
    // Who failed has nothing to say, and no bound to be held to.
    let failed = pulls.iter().any(|pull| !pull.error.is_empty());
    let (payload_bytes, facts) = if failed {
        (None, Value::Null)
    } else {
        (system.payload()?, system.facts()?)
    };
    let received_bytes = received(&before, &after, &plan)?;
    let copies = plan.receivers.len() as f64;
    let at_once = plan.images.len() == 1 && plan.pulls.iter().all(|pull| pull.at.is_zero());
    let payload = payload_bytes.unwrap_or(received_bytes as f64 * PAYLOAD_SHARE / copies);
    let bound = bound(rates, &plan.holders, &plan.receivers, payload);
    let links = links(&before, &after);
    Ok(Case {
        seconds,
        pulls,
        bound: bound.filter(|_| at_once && !failed),
        received_bytes,
        wan_bytes: links.iter().map(|link| link.bytes).sum(),
        payload_bytes,
        links,
        samples,
        late_p99_us: after.lateness.p99.as_secs_f64() * 1e6,
        commands,
        facts,
        ..empty(task)
    })
}

/// How a pull went: how long it took, and what it gave.
type Outcome = (Duration, Result<PathBuf>);

/// Does all pulls at their times. Counts those that have ended in `done`.
fn pull_all(
    system: &dyn System,
    plan: &Plan,
    dir: &Path,
    timeout: Duration,
    done: &AtomicUsize,
) -> Result<Vec<Outcome>> {
    if plan.together {
        let sites = &plan.receivers;
        if let Some(result) = system.preseed(&plan.images[0], sites, timeout) {
            done.store(sites.len(), Ordering::Relaxed);
            let target = |(number, time): (usize, Duration)| (time, Ok(target(dir, number)));
            return Ok(result?.into_iter().enumerate().map(target).collect());
        }
    }
    let start = Instant::now();
    let work = |number: usize, pull: &Pull| -> Outcome {
        thread::sleep(pull.at.saturating_sub(start.elapsed()));
        let file = system.pull(pull, &target(dir, number), timeout);
        done.fetch_add(1, Ordering::Relaxed);
        (start.elapsed().saturating_sub(pull.at), file)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = plan
            .pulls
            .iter()
            .enumerate()
            .map(|(number, pull)| scope.spawn(move || work(number, pull)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Outcome>| match thread.join() {
            Ok(outcome) => Ok(outcome),
            Err(_) => bail!("a pull panicked"),
        };
        threads.into_iter().map(join).collect()
    })
}

/// Where a pull may write.
fn target(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("pull-{number}"))
}

/// Reads the counters and tells the progress while `work` is done.
fn watch<T: Send>(
    field: &Field,
    before: &Counters,
    progress: &Progress,
    pulls: usize,
    work: impl FnOnce(&AtomicUsize) -> Result<T> + Send,
) -> Result<(T, Vec<Sample>, f64)> {
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        let start = Instant::now();
        let done = &done;
        let worker = scope.spawn(move || {
            let result = work(done);
            (result, start.elapsed().as_secs_f64())
        });
        let mut samples = Vec::new();
        let mut next = Duration::ZERO;
        while !worker.is_finished() {
            if start.elapsed() >= next {
                next += SAMPLE_INTERVAL;
                let sample = sample(before, &field.network().counters()?);
                progress.pulling(done.load(Ordering::Relaxed), pulls, &sample, samples.last());
                samples.push(sample);
            }
            thread::sleep(POLL_INTERVAL);
        }
        samples.push(sample(before, &field.network().counters()?));
        let Ok((result, seconds)) = worker.join() else {
            bail!("the pulls panicked");
        };
        Ok((result?, samples, seconds))
    })
}

fn sample(before: &Counters, now: &Counters) -> Sample {
    let pairs = before.sites.iter().zip(&now.sites);
    Sample {
        at: (now.at - before.at).as_secs_f64(),
        rx: pairs
            .map(|(before, now)| now.count.rx.since(before.count.rx).bytes)
            .collect(),
    }
}

fn received(before: &Counters, after: &Counters, plan: &Plan) -> Result<u64> {
    let mut sum = 0;
    for site in &plan.receivers {
        let rx = |counters: &Counters| counters.site(site).map(|count| count.rx);
        let (before, after) = rx(before).zip(rx(after)).context("no such site")?;
        sum += after.since(before).bytes;
    }
    Ok(sum)
}

fn links(before: &Counters, after: &Counters) -> Vec<LinkBytes> {
    let pairs = before.pairs.iter().zip(&after.pairs);
    pairs
        .map(|(before, after)| LinkBytes {
            from: after.from.clone(),
            to: after.to.clone(),
            bytes: after.count.delivered.since(before.count.delivered).bytes,
        })
        .filter(|link| link.bytes > 0)
        .collect()
}

/// Compares what a pull gave with the image.
fn verify(
    system: &dyn System,
    setting: &Setting,
    kind: &Kind,
    pull: &Pull,
    (time, outcome): Outcome,
) -> Result<PullResult> {
    let wanted = kind.form.of(setting.image(&pull.image)?);
    let checked = outcome.and_then(|file| {
        // What was brought by a preseed is in the system's own store: a pull reads it from there.
        let file = if file.exists() {
            file
        } else {
            system.pull(pull, &file, READ_TIMEOUT)?
        };
        compare(&file, wanted)
    });
    let error = checked.map_or_else(|error| format!("{error:#}"), |()| String::new());
    Ok(PullResult {
        at: pull.at.as_secs_f64(),
        site: pull.site.clone(),
        image: pull.image.clone(),
        seconds: time.as_secs_f64(),
        error,
    })
}

/// Fails unless both files have the same bytes.
fn compare(got: &Path, wanted: &Path) -> Result<()> {
    let len = |path: &Path| path.metadata().map(|metadata| metadata.len());
    let (got_len, wanted_len) = (len(got)?, len(wanted)?);
    ensure!(
        got_len == wanted_len,
        "{got_len} bytes came instead of {wanted_len}"
    );
    let (mut got, mut wanted) = (File::open(got)?, File::open(wanted)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < wanted_len {
        let len = (wanted_len - at).min(1 << 20) as usize;
        got.read_exact(&mut a[..len])?;
        wanted.read_exact(&mut b[..len])?;
        ensure!(a[..len] == b[..len], "wrong bytes in the MiB at {at}");
        at += len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_wrong_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let mut bytes = vec![7; (1 << 20) + 5];
        fs::write(&a, &bytes).unwrap();
        fs::write(&b, &bytes).unwrap();
        compare(&a, &b).unwrap();
        *bytes.last_mut().unwrap() = 8;
        fs::write(&b, &bytes).unwrap();
        assert!(compare(&a, &b).is_err());
        bytes.pop();
        fs::write(&b, &bytes).unwrap();
        assert!(compare(&a, &b).is_err());
    }
}
