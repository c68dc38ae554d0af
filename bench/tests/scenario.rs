//! A scenario that is interrupted leaves nothing behind and goes on. Needs what the emulator needs, nginx and curl;
//! without them each test says so on standard error and passes.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use vitrail_bench::wan::Emulator;

/// A workload that takes a moment, and one that lasts long enough to be interrupted.
const SCENARIO: &str = r#"
name = "interrupted"
repetitions = 1
systems = ["nginx"]
topology = "topology.toml"
[images]
tiny = { from = "tiny" }
[[workloads]]
name = "short"
work = { kind = "pull", image = "tiny", holders = ["site-1"], at = ["site-2"] }
[[workloads]]
name = "long"
work = { kind = "pull", image = "tiny", holders = ["site-1"], at = ["site-2"] }
events = [{ at = "0s", lasts = "2s", event = { kind = "site-down", site = "site-2" } }]
"#;

const TOPOLOGY: &str = r#"
name = "two"
link = { rtt = "10ms", rate = "20Mbit/s" }
sites = [{ name = "site", count = 2 }]
"#;

const IMAGE_LEN: usize = 300_000;

fn unavailable() -> Option<String> {
    let lacks = |program: &&str| Command::new(program).arg("-V").output().is_err();
    let missing = ["nginx", "curl"].into_iter().find(lacks);
    let error = Emulator::available().err().map(|error| error.to_string());
    error.or(missing.map(|program| format!("no {program}")))
}

/// Everything that a run needs, below `dir`.
fn prepare(dir: &Path) {
    let image: Vec<u8> = (0..IMAGE_LEN).map(|n| (n * 31 % 251) as u8).collect();
    for (name, bytes) in [
        ("scenario.toml", SCENARIO.as_bytes()),
        ("topology.toml", TOPOLOGY.as_bytes()),
        ("corpus/tiny.raw", &image),
        ("corpus/tiny.zlib.qcow2", &image),
    ] {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::create_dir(dir.join("scratch")).unwrap();
}

fn start(dir: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["run", "--unchecked", "--scratch"]);
    command
        .arg(dir.join("scratch"))
        .arg("--cache")
        .arg(dir.join("cache"));
    command.arg("--corpus").arg(dir.join("corpus"));
    command.arg("--out").arg(dir.join("result"));
    command.arg(dir.join("scenario.toml")).args(more);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "not within 60 s: {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Command lines of all processes that mention `word`.
fn processes_with(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(word) {
            found.push(line);
        }
    }
    found
}

fn namespaces_of(pid: u32) -> usize {
    let prefix = format!("wan-{pid}-");
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .count()
}

fn cases(dir: &Path) -> Vec<serde_json::Value> {
    let raw = fs::read_to_string(dir.join("result/raw.jsonl")).unwrap_or_default();
    let lines = raw
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter_map(|mut line: serde_json::Value| {
            let case = line["case"].take();
            (!case.is_null()).then_some(case)
        })
        .collect()
}

fn interrupt(signal: &str) {
    if let Some(reason) = unavailable() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path();
    let scratch = dir.join("scratch").to_string_lossy().into_owned();
    prepare(dir);

    let mut run = start(dir, &[]);
    let pulling = || {
        processes_with(&scratch)
            .iter()
            .any(|line| line.starts_with("curl "))
    };
    eventually("the second pull", || cases(dir).len() == 1 && pulling());
    assert_eq!(namespaces_of(run.id()), 2);
    let first = cases(dir);
    let kill = Command::new("kill")
        .args([signal, &run.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    run.wait().unwrap();
    eventually("all namespaces to go", || namespaces_of(run.id()) == 0);
    eventually("all processes to go", || {
        processes_with(&scratch).is_empty()
    });

    let mut run = start(dir, &["--resume"]);
    let status = run.wait().unwrap();
    assert_eq!(namespaces_of(run.id()), 0);
    let all = cases(dir);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], first[0], "the first case was not done again");
    for (case, name) in all.iter().zip(["short", "long"]) {
        assert_eq!(case["workload"], name);
        assert_eq!(case["failure"], "");
        assert_eq!(case["pulls"][0]["error"], "");
        assert!(case["received_bytes"].as_u64().unwrap() > IMAGE_LEN as u64);
    }
    assert!(status.success());
    assert!(dir.join("result/report.html").exists());
}

#[test]
fn after_ctrl_c_nothing_is_left_and_the_run_goes_on() {
    interrupt("-INT");
}

#[test]
fn after_a_kill_nothing_is_left_and_the_run_goes_on() {
    interrupt("-KILL");
}
