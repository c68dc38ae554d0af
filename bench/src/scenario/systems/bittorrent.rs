//! BitTorrent: aria2 seeds at every holder, and every site that has got an image seeds it, too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::copies::{Copies, copy_sparse};
use super::{Form, Kind, System, file_len, version};
use crate::peers::apt_install;
use crate::process::{Process, run};
use crate::scenario::field::Field;
use crate::scenario::schedule::Pull;

const TRACKER_PORT: u16 = 6969;

/// The tracker's own interval is half an hour: sites that begin together would not find each other.
const ANNOUNCE_INTERVAL_S: u32 = 5;

/// How long seeds may take until the tracker knows them.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the end of a download is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// aria2 runs this when all bytes are there, and goes on as a seed.
const HOOK: &str = "#!/bin/sh\n: > \"$DONE\"\n";

pub(super) const KIND: Kind = Kind {
    name: "bittorrent",
    form: Form::Qcow2,
    install: |_| {
        apt_install(&["aria2", "mktorrent", "opentracker"])?;
        let tracker = run(
            "dpkg-query",
            Command::new("dpkg-query").args(["-W", "-f", "${Version}", "opentracker"]),
        )?;
        Ok(vec![
            version("aria2c", &["--version"]),
            ("opentracker".to_owned(), tracker.0),
        ])
    },
    deploy: |setting, field, plan| {
        let tracker_site = &plan.holders[0];
        let announce = format!(
            "http://{}:{TRACKER_PORT}/announce",
            field.addr(tracker_site)?
        );
        let shared = field.dir().join("torrents");
        fs::create_dir_all(&shared)?;
        let hook = shared.join("hook");
        fs::write(&hook, HOOK)?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;

        let (mut torrents, mut hashes) = (BTreeMap::new(), Vec::new());
        let mut copy_len = 0.0;
        for name in &plan.images {
            let torrent = shared.join(format!("{name}.torrent"));
            let image = &setting.image(name)?.qcow2;
            copy_len = file_len(image)?;
            let mut command = Command::new("mktorrent");
            command
                .args(["-a", &announce, "-n", &format!("{name}.qcow2"), "-o"])
                .args([&torrent, image]);
            run("mktorrent", &mut command)?;
            hashes.push(info_hash(&torrent)?);
            torrents.insert(name.as_str(), torrent);
        }
        let tracker = track(field, tracker_site, &shared, &hashes)?;
        let swarm = Swarm {
            field,
            hook,
            torrents,
            copy_len,
            copies: Copies::default(),
            running: Mutex::new(vec![tracker]),
        };
        for holder in &plan.holders {
            let dir = field.site_dir(holder)?.join("seed");
            fs::create_dir_all(&dir)?;
            for name in &plan.images {
                copy_sparse(
                    &setting.image(name)?.qcow2,
                    &dir.join(format!("{name}.qcow2")),
                )?;
            }
            let torrents: Vec<_> = swarm.torrents.values().collect();
            let done = shared.join(format!("{holder}.ready"));
            // Files that are there are checked, and then count as downloads that are complete.
            let seed = swarm.aria2(holder, &dir, &torrents, &done, |command| {
                command.args([
                    "--check-integrity=true",
                    "--bt-enable-hook-after-hash-check=true",
                ]);
            })?;
            swarm.keep(seed);
            wait_for(&done, READY_TIMEOUT).with_context(|| format!("the seed at {holder}"))?;
        }
        Ok(Box::new(swarm))
    },
};

struct Swarm<'a> {
    field: &'a Field,
    hook: PathBuf,
    torrents: BTreeMap<&'a str, PathBuf>,
    copy_len: f64,
    copies: Copies,
    running: Mutex<Vec<Process>>,
}

impl Swarm<'_> {
    fn keep(&self, process: Process) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.push(process);
    }

    /// An aria2 that downloads into `dir`, makes the file `done`, and seeds for ever.
    fn aria2(
        &self,
        site: &str,
        dir: &Path,
        torrents: &[&PathBuf],
        done: &Path,
        more: impl FnOnce(&mut Command),
    ) -> Result<Process> {
        self.field.serve(site, "aria2c", |command| {
            command
                .args([
                    "--no-conf",
                    "--quiet",
                    "--seed-ratio=0.0",
                    "--file-allocation=none",
                ])
                .args(["--enable-dht=false", "--bt-enable-lpd=false"])
                .arg(format!("--bt-tracker-interval={ANNOUNCE_INTERVAL_S}"))
                .arg(format!("--max-concurrent-downloads={}", torrents.len()))
                .arg(format!("--dir={}", dir.display()))
                .arg(format!("--on-bt-download-complete={}", self.hook.display()))
                .args(torrents)
                .env("DONE", done);
            more(command);
            self.field.note("aria2c", command);
        })
    }
}

impl System for Swarm<'_> {
    fn pull(&self, pull: &Pull, to: &Path, timeout: Duration) -> Result<PathBuf> {
        self.copies.get(pull, || {
            let name = pull.image.as_str();
            let torrent = self.torrents.get(name).context("no such image")?;
            let dir = to.with_extension("dir");
            fs::create_dir_all(&dir)?;
            let done = to.with_extension("done");
            let aria2 = self.aria2(&pull.site, &dir, &[torrent], &done, |_| {})?;
            self.keep(aria2);
            wait_for(&done, timeout)?;
            Ok(dir.join(format!("{name}.qcow2")))
        })
    }

    fn payload(&self) -> Result<Option<f64>> {
        Ok(Some(self.copy_len))
    }
}

fn wait_for(file: &Path, timeout: Duration) -> Result<()> {
    let start = Instant::now();
    while !file.exists() {
        ensure!(
            start.elapsed() < timeout,
            "aria2c was not done after {} s",
            timeout.as_secs()
        );
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// A tracker that knows these torrents.
fn track(field: &Field, site: &str, dir: &Path, hashes: &[String]) -> Result<Process> {
    let list = dir.join("whitelist");
    fs::write(&list, hashes.join("\n") + "\n")?;
    // It runs as somebody else.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    File::open(&list)?.set_permissions(fs::Permissions::from_mode(0o644))?;
    let addr = field.addr(site)?.to_string();
    field.serve(site, "opentracker", |command| {
        command
            .args([
                "-i",
                &addr,
                "-p",
                &TRACKER_PORT.to_string(),
                "-u",
                "nobody",
                "-d",
            ])
            .arg(dir)
            .args(["-w", "whitelist"]);
    })
}

/// The name of a torrent among trackers and peers.
fn info_hash(torrent: &Path) -> Result<String> {
    let (listing, _) = run(
        "aria2c",
        Command::new("aria2c").arg("--show-files").arg(torrent),
    )?;
    let hash = listing
        .lines()
        .find_map(|line| line.strip_prefix("Info Hash: "));
    Ok(hash.context("aria2c shows no info hash")?.trim().to_owned())
}
