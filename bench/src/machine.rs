//! What a figure depends on besides the programs: the machine and the versions of everything.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Processor model and count of logical processors.
    pub cpu: String,
    /// Physical memory in bytes.
    pub memory: u64,
    /// Distribution and kernel.
    pub system: String,
    /// Load averages of 1, 5 and 15 minutes when the run began: figures on a busy machine are worth less.
    pub load: String,
}

impl Machine {
    /// The machine this runs on; what `/proc` does not tell is empty.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str, separator: char| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .trim_start()
                        .strip_prefix(separator)
                })
                .map(|value| value.trim().trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':');
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            cpu: format!(
                "{} x {cores}",
                field(&read("/proc/cpuinfo"), "model name", ':')
            ),
            memory: memory_kib * 1024,
            system: format!(
                "{}, Linux {}",
                field(&read("/etc/os-release"), "PRETTY_NAME", '='),
                read("/proc/sys/kernel/osrelease").trim(),
            ),
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

/// First line that `program` with `args` prints, on either output; says so when it cannot be run.
pub fn version(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        }
        Err(error) => format!("not to be had: {error}"),
    }
}
