//! Network namespaces that do not outlive their owner.
//!
//! A namespace's name says which process owns it. It goes, with every process in it, when its
//! handle is dropped; when the owner dies without that, the [`Reaper`] removes it; when the reaper
//! dies too, [`clean_stale`] does so at the next start.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::emulator::Error;
use super::sys;

/// Where `ip netns` keeps its handles.
const NETNS_DIR: &str = "/run/netns";

/// What every name begins with.
const PREFIX: &str = "wan";

/// How long killed processes may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The names of the namespaces of one network, unique on this machine also when process ids
/// repeat: `wan-PID-START-SERIAL-SITE`, where START is the process's start time in clock ticks.
pub(super) fn names<'a>(sites: impl Iterator<Item = &'a str>) -> Result<Vec<String>, Error> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let pid = std::process::id();
    let start = start_ticks(pid)
        .ok_or_else(|| Error::Unavailable("/proc does not tell when this process began".into()))?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    Ok(sites
        .map(|site| format!("{PREFIX}-{pid}-{start}-{serial}-{site}"))
        .collect())
}

/// A network namespace, removed on drop with all processes in it.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes an empty namespace; only its loopback exists, and that is down.
    pub(super) fn create(name: &str) -> Result<Self, Error> {
        ip(&["netns", "add", name], "")?;
        let path = path_of(name);
        let handle = File::open(&path).map_err(|source| Error::Io {
            what: format!("open {}", path.display()),
            source,
        })?;
        Ok(Self {
            name: name.into(),
            handle,
        })
    }

    /// Its name for `ip netns`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside. Sockets made there stay in the namespace wherever they are
    /// used; `/proc/sys/net` is the namespace's.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let inside = || {
            move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Starts a process inside.
    pub(super) fn spawn(&self, mut command: Command) -> io::Result<Child> {
        sys::enter_namespace_on_spawn(&mut command, self.handle.try_clone()?.into());
        command.spawn()
    }

    /// Runs commands of `ip` inside, one per line.
    pub(super) fn ip_batch(&self, lines: &str) -> Result<(), Error> {
        ip(&["-netns", &self.name, "-batch", "-"], lines)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("warning: {error}");
        }
    }
}

/// Runs `ip` with `input` on its standard input.
pub(super) fn ip(args: &[&str], input: &str) -> Result<(), Error> {
    let failed = |detail: String| Error::Ip {
        args: args.join(" "),
        detail,
    };
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .map_err(|error| failed(error.to_string()))?;
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}

/// Kills every process in the namespace and removes it.
fn remove(name: &str) -> Result<(), Error> {
    let path = path_of(name);
    let start = Instant::now();
    // Again and again: a process may have forked between being listed and being killed.
    loop {
        let pids = processes_in(&path);
        if pids.is_empty() || start.elapsed() > KILL_TIMEOUT {
            break;
        }
        for pid in pids {
            // One that is already gone is what was wanted.
            kill_process(pid, Signal::KILL).ok();
        }
        thread::sleep(Duration::from_millis(5));
    }
    match ip(&["netns", "del", name], "") {
        // Somebody else who cleans up was faster.
        Err(_) if !path.exists() => Ok(()),
        result => result,
    }
}

/// The processes whose network namespace is the one that `path` is a handle of.
fn processes_in(path: &Path) -> Vec<Pid> {
    let identity = |path: &Path| {
        fs::metadata(path)
            .ok()
            .map(|metadata| (metadata.st_dev(), metadata.st_ino()))
    };
    let Some(wanted) = identity(path) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| identity(&entry.path().join("ns/net")) == Some(wanted))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

/// Removes the namespaces of owners that are dead, and returns their names.
pub fn clean_stale() -> Result<Vec<String>, Error> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return Ok(Vec::new());
    };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if owner(&name).is_some_and(|(pid, start)| start_ticks(pid) != Some(start)) {
            remove(&name)?;
            removed.push(name);
        }
    }
    Ok(removed)
}

/// Process id and start time in a name made by [`names`].
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.splitn(4, '-');
    let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next()?.parse::<u64>().ok()?;
    parts.next().map(|_| (pid, start))
}

/// When the process began, in clock ticks since boot; `None` when there is none.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything. Behind it, field 3 comes first; 22 is wanted.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(22 - 3)?.parse().ok()
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// A shell that removes the namespaces when this process dies, however it dies.
///
/// It waits for a line or the end of its standard input, whose other end only this process holds.
/// A line means that all went well.
#[derive(Debug)]
pub(super) struct Reaper {
    child: Child,
    dismiss: ChildStdin,
}

/// Its arguments are the names. A namespace that was not made or is gone already is no error.
const REAP: &str = r#"
read -r _ && exit
for name do
    [ -e "/run/netns/$name" ] || continue
    ip netns pids "$name" | xargs -r kill -9
    ip netns del "$name"
done
"#;

impl Reaper {
    /// To be called before the namespaces are made, and dropped after they are removed.
    pub(super) fn start(names: &[String]) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            what: "start the namespace reaper".into(),
            source,
        };
        let mut child = Command::new("sh")
            .args(["-c", REAP, "wan-reaper"])
            .args(names)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at a terminal goes to the whole foreground group; this must survive it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let dismiss = child
            .stdin
            .take()
            .ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { child, dismiss })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // Should it be dead, there is nothing left to dismiss.
        self.dismiss.write_all(b"done\n").ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        let names = names(["dallas", "a-b-1"].into_iter()).unwrap();
        let pid = std::process::id();
        for name in &names {
            assert_eq!(owner(name), Some((pid, start_ticks(pid).unwrap())));
        }
        assert!(names[1].ends_with("-a-b-1"));
    }

    #[test]
    fn foreign_names_have_no_owner() {
        for name in [
            "wan",
            "wan-1-2-3",
            "wan-x-2-3-a",
            "other-1-2-3-a",
            "wan-1-2-x-a",
        ] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
