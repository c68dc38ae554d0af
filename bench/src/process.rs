//! Processes under measurement: start, CPU time, memory, and an end that always comes.
//!
//! A measured process runs in a process group of its own. The group is killed when its handle is
//! dropped and, through [`kill_all_on_interrupt`], when the experiment is interrupted, so no
//! experiment leaves a server behind. CPU time comes from the kernel's clock of each process; that of
//! processes that have ended is in `/proc`, in ticks of 10 ms: measure them over periods that are long beside that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::cpu_clock;

/// Process groups to kill when the experiment is interrupted.
static GROUPS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Directories to remove when the experiment is interrupted.
static SCRATCH: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// How long a process may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a running command's memory is sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

fn groups() -> MutexGuard<'static, BTreeSet<u32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory for what the processes write, removed on drop and on interrupt.
///
/// It is made below `parent`, or below the system's temporary directory when there is none given.
pub fn scratch_dir(parent: Option<&Path>) -> Result<TempDir> {
    const PREFIX: &str = "vitrail-bench-";
    let made = match parent {
        Some(parent) => TempDir::with_prefix_in(PREFIX, parent),
        None => TempDir::with_prefix(PREFIX),
    };
    let dir = made.context("make scratch space")?;
    let mut scratch = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
    scratch.push(dir.path().to_owned());
    Ok(dir)
}

/// Makes Ctrl-C and SIGTERM kill every process started here, remove the scratch space, and exit with
/// status 130.
pub fn kill_all_on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        // Held to the end, so that nothing starts any more and no one reports the deaths as failures.
        let groups = groups();
        for &group in groups.iter() {
            signal_group(group, Signal::KILL);
        }
        for dir in SCRATCH
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            // Gone already, or left for its owner to see: there is no one to tell any more.
            fs::remove_dir_all(dir).ok();
        }
        std::process::exit(130);
    })
    .context("install the interrupt handler")
}

fn signal_group(group: u32, signal: Signal) {
    // A group that is already gone is what was wanted.
    if let Some(pid) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        kill_process_group(pid, signal).ok();
    }
}

/// A running process with all its descendants, killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command` in a process group of its own, with both outputs appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        Self::start(name, command)
    }

    fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut registered = groups();
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        registered.insert(child.id());
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    /// Waits until `ready` says true; fails when the process ends first or `timeout` passes.
    pub fn wait_ready(&mut self, timeout: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < timeout {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at start: {status}", self.name);
            }
            if ready() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("{} was not ready after {} s", self.name, timeout.as_secs());
    }

    /// Waits until the process ends by itself, and kills it after `timeout`; fails unless it succeeds.
    pub fn finish(mut self, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{} failed: {status}", self.name);
                return Ok(());
            }
            ensure!(
                start.elapsed() < timeout,
                "{} had not ended after {} s",
                self.name,
                timeout.as_secs()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Blocks until the process ends by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Asks the group to end with SIGTERM and kills it if it does not within 20 s.
    pub fn stop(mut self) -> Result<ExitStatus> {
        signal_group(self.child.id(), Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!(
            "{} did not stop within {} s of SIGTERM",
            self.name,
            STOP_TIMEOUT.as_secs()
        );
    }

    /// CPU time of the process and its descendants so far, those already reaped included.
    pub fn cpu(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for pid in tree(self.child.id()) {
            total += cpu_of(pid).unwrap_or_default();
        }
        Ok(total)
    }

    /// Forgets earlier peaks, so that [`Self::peak_rss`] speaks of what comes now.
    pub fn reset_peak_rss(&self) -> Result<()> {
        for pid in tree(self.child.id()) {
            let path = format!("/proc/{pid}/clear_refs");
            fs::write(&path, "5").with_context(|| format!("reset peak memory through {path}"))?;
        }
        Ok(())
    }

    /// Sum of the peak resident sizes of the process and its descendants, in bytes.
    pub fn peak_rss(&self) -> u64 {
        tree(self.child.id())
            .into_iter()
            .filter_map(peak_rss_of)
            .sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        signal_group(self.child.id(), Signal::KILL);
        self.child.wait().ok();
        groups().remove(&self.child.id());
    }
}

/// What one finished command cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Time from start to end.
    pub wall: Duration,
    /// User and system time of the command and its descendants.
    pub cpu: Duration,
    /// Largest sum of resident sizes seen, in bytes; sampled, so a short peak may be missed.
    pub peak_rss: u64,
}

/// Runs `command` to its end and says what it cost; its standard output comes back as text.
///
/// The CPU time is what the kernel adds to this process when it reaps the command, so only one
/// command may run like this at a time. Fails when the command does; its standard error is passed
/// on in the message.
pub fn run(name: &str, command: &mut Command) -> Result<(String, Cost)> {
    let scratch = tempfile::tempdir().context("make a scratch directory")?;
    let (out, err) = (scratch.path().join("out"), scratch.path().join("err"));
    command
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?);

    let cpu_before = reaped_cpu()?;
    let start = Instant::now();
    let mut process = Process::start(name, command)?;
    let mut peak_rss = 0;
    let status = loop {
        if let Some(status) = process.child.try_wait()? {
            break status;
        }
        peak_rss = peak_rss.max(process.peak_rss());
        thread::sleep(SAMPLE_INTERVAL);
    };
    let wall = start.elapsed();
    let cpu = reaped_cpu()?.saturating_sub(cpu_before);
    if !status.success() {
        let stderr = fs::read(&err)?;
        let tail = String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(2000)..]);
        bail!("{name} failed: {status}\n{tail}");
    }
    let stdout = fs::read(&out)?;
    Ok((
        String::from_utf8_lossy(&stdout).into_owned(),
        Cost {
            wall,
            cpu,
            peak_rss,
        },
    ))
}

/// `root` and every process below it. Processes that come or go meanwhile may be missed.
fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    found
}

/// Fields 14 to 17 of `/proc/PID/stat`: user, system, and the same of reaped children, in ticks.
fn stat_ticks(pid: &str) -> io::Result<[u64; 4]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything, spaces and parentheses too.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = after_name
        .split_whitespace()
        .skip(11)
        .map_while(|field| field.parse().ok());
    let mut next = || ticks.next().ok_or(io::ErrorKind::InvalidData);
    Ok([next()?, next()?, next()?, next()?])
}

fn cpu_of(pid: u32) -> io::Result<Duration> {
    let [.., user, system] = stat_ticks(&pid.to_string())?;
    Ok(cpu_clock::of(pid)? + ticks(user + system))
}

/// CPU time of this process's own children that were waited for.
fn reaped_cpu() -> io::Result<Duration> {
    let [.., user, system] = stat_ticks("self")?;
    Ok(ticks(user + system))
}

fn ticks(count: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second();
    Duration::from_secs_f64(count as f64 / per_second as f64)
}

fn peak_rss_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn run_counts_cpu_of_grandchildren_and_returns_output() {
        let busy = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo done";
        let (output, cost) = run("loop", &mut shell(busy)).unwrap();
        assert_eq!(output, "done\n");
        assert!(cost.cpu > Duration::ZERO);
    }

    #[test]
    fn run_fails_with_the_reason() {
        let error = run("bad", &mut shell("echo no such thing >&2; exit 3")).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
    }

    #[test]
    fn drop_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let process = Process::spawn("sleepers", &mut shell("sleep 60 & sleep 60"), &log).unwrap();
        while tree(process.child.id()).len() < 3 {
            thread::sleep(Duration::from_millis(5));
        }
        let pids = tree(process.child.id());
        drop(process);
        // The kernel takes a moment; who is left until init reaps it has no memory any more.
        let alive = || pids.iter().any(|&pid| peak_rss_of(pid).is_some());
        for _ in 0..1000 {
            if !alive() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("some of {pids:?} survived");
    }

    #[test]
    fn a_process_that_dies_early_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut process = Process::spawn("short", &mut shell("exit 1"), &log).unwrap();
        let error = process
            .wait_ready(Duration::from_secs(10), || false)
            .unwrap_err();
        assert!(error.to_string().contains("ended at start"), "{error}");
    }
}
