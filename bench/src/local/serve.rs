//! Serving images that are in the store and warm: to one client, by ranges, and to a hundred at once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use vitrail_chunkstore::Options as StoreOptions;

use super::Run;
use crate::corpus::{Corpus, SMALL};
use crate::image_api::{ImageApi, agent};
use crate::journal::{Better, Measure, Unit};
use crate::machine::version;
use crate::peers::glance::{Glance, Setup};
use crate::peers::nginx::Nginx;
use crate::peers::vitrail::Vitrail;
use crate::peers::{Place, free_port};
use crate::process;
use crate::report::{VITRAIL, format_value};

const WHOLE: Measure = Measure {
    key: "serve.whole",
    title: "Raw image to one curl",
    unit: Unit::BytesPerSecond,
    better: Better::More,
};
const WHOLE_CPU: Measure = Measure {
    key: "serve.whole.cpu",
    title: "Raw image to one curl, CPU time of the server",
    unit: Unit::SecondsPerGb,
    better: Better::Less,
};
const WHOLE_QCOW2: Measure = Measure {
    key: "serve.qcow2",
    title: "Compressed qcow2 to one curl",
    unit: Unit::BytesPerSecond,
    better: Better::More,
};
const RANGES: Measure = Measure {
    key: "serve.ranges",
    title: "64 KiB at a random place that holds data",
    unit: Unit::Seconds,
    better: Better::Less,
};
const CROWD: Measure = Measure {
    key: "serve.crowd",
    title: "Compressed qcow2 to 100 clients at once",
    unit: Unit::BytesPerSecond,
    better: Better::More,
};
const CROWD_RSS: Measure = Measure {
    key: "serve.crowd.rss",
    title: "Compressed qcow2 to 100 clients at once, peak memory",
    unit: Unit::Bytes,
    better: Better::Less,
};
const SPREAD: Measure = Measure {
    key: "serve.spread",
    title: "100 parts of the raw image to 100 clients at once",
    unit: Unit::BytesPerSecond,
    better: Better::More,
};
const SPREAD_RSS: Measure = Measure {
    key: "serve.spread.rss",
    title: "100 parts of the raw image to 100 clients at once, peak memory",
    unit: Unit::Bytes,
    better: Better::Less,
};

const RANGE_LEN: u64 = 64 << 10;
const RANGES_EACH: usize = 1000;
/// Requests to one server before it is the next one's turn.
const RANGES_IN_TURN: usize = 100;
const CLIENTS: u64 = 100;
/// Part of the raw image that each of the clients reads when they spread over it.
const PART_LEN: u64 = 128 << 20;

/// A server that holds the raw and the qcow2 file of one image.
struct Target<'a> {
    name: &'static str,
    process: &'a process::Process,
    raw: String,
    qcow2: String,
    keeps_alive: bool,
}

pub(super) fn run(run: &mut Run, corpus: &Corpus) -> Result<()> {
    let (raw, qcow2) = (corpus.raw(SMALL[0]), corpus.qcow2(SMALL[0]));

    let vitrail = Vitrail::start(&run.vitraild, &run.fresh("vitrail")?)?;
    let mut targets = vec![upload(
        VITRAIL,
        vitrail.process(),
        vitrail.api(),
        true,
        [&raw, &qcow2],
    )?];
    let glances: Vec<_> = [
        ("glance", Setup::AsShipped),
        ("glance with cache", Setup::ImageCache),
    ]
    .into_iter()
    .map(|(name, setup)| {
        let dir = run.fresh(&name.replace(' ', "-"))?;
        let place = Place::here();
        let glance = Glance::start(&run.cache, &dir, &place, free_port()?, setup);
        Ok((name, glance))
    })
    .collect::<Result<_>>()?;
    for (name, glance) in &glances {
        let uploaded = glance
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error:#}"))
            .and_then(|glance| upload(name, glance.process(), glance.api(), false, [&raw, &qcow2]));
        match uploaded {
            Ok(target) => targets.push(target),
            Err(error) => run.journal.missing(name, &error)?,
        }
    }
    let nginx = Nginx::start(&run.fresh("nginx")?, corpus.dir());
    match &nginx {
        Ok(nginx) => {
            let name = |path: &Path| {
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            };
            targets.push(Target {
                name: "nginx",
                process: nginx.process(),
                raw: nginx.url(&name(&raw)),
                qcow2: nginx.url(&name(&qcow2)),
                keeps_alive: true,
            });
            run.journal.version("nginx", &version("nginx", &["-v"]))?;
        }
        Err(error) => run.journal.missing("nginx", error)?,
    }

    each(run, &mut targets, "compare every byte", |_, target| {
        compare(&target.raw, &raw).context("raw image")?;
        compare(&target.qcow2, &qcow2).context("qcow2")
    })?;
    for repetition in 1..=run.repetitions {
        eprintln!("serve: repetition {repetition} of {}", run.repetitions);
        each(run, &mut targets, "one client", |run, target| {
            whole(run, target, &raw, &qcow2)
        })?;
        each(run, &mut targets, "a hundred clients", |run, target| {
            crowd(run, target, &raw, &qcow2)
        })?;
        if !targets.is_empty() {
            targets.rotate_left(1);
        }
    }
    ranges(run, &targets, &raw)?;
    run.journal.note(
        "Serving is over loopback with everything in the page cache, client and server on the same cores. Ranges reuse \
         a connection where the server keeps it open (Glance under uWSGI does not), and lie where the image has data.",
    )?;
    run.journal.note(&format!(
        "Vitrail's memory has a stated ceiling of store.memory + 200 MB = {} with its defaults.",
        format_value(StoreOptions::default().memory as f64 + 200e6, Unit::Bytes),
    ))
}

/// Does a step with each target; those with which it fails are recorded as missing and left out from
/// then on.
fn each(
    run: &mut Run,
    targets: &mut Vec<Target<'_>>,
    what: &'static str,
    step: impl Fn(&mut Run, &Target<'_>) -> Result<()>,
) -> Result<()> {
    let mut failed = Vec::new();
    for target in targets.iter() {
        eprintln!("serve: {what}: {}", target.name);
        if let Err(error) = step(run, target) {
            run.journal.missing(target.name, &error.context(what))?;
            failed.push(target.name);
        }
    }
    targets.retain(|target| !failed.contains(&target.name));
    Ok(())
}

fn upload<'a>(
    name: &'static str,
    process: &'a process::Process,
    api: &ImageApi,
    keeps_alive: bool,
    [raw, qcow2]: [&Path; 2],
) -> Result<Target<'a>> {
    eprintln!("serve: upload to {name}");
    let (raw, _) = api.push(raw)?;
    let (qcow2, _) = api.push(qcow2)?;
    let (raw, qcow2) = (api.file_url(&raw), api.file_url(&qcow2));
    Ok(Target {
        name,
        process,
        raw,
        qcow2,
        keeps_alive,
    })
}

/// Downloads `url` and fails unless it is `file`, byte for byte.
fn compare(url: &str, file: &Path) -> Result<()> {
    let mut body = agent(false).get(url).call()?.into_body().into_reader();
    let mut file = File::open(file)?;
    let (mut got, mut wanted) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let len = file.read(&mut wanted)?;
        if len == 0 {
            ensure!(body.read(&mut got)? == 0, "more than {at} bytes");
            return Ok(());
        }
        body.read_exact(&mut got[..len])
            .with_context(|| format!("after {at} bytes"))?;
        ensure!(
            got[..len] == wanted[..len],
            "wrong bytes in the MiB at {at}"
        );
        at += len;
    }
}

/// The whole files to one curl.
fn whole(run: &mut Run, target: &Target<'_>, raw: &Path, qcow2: &Path) -> Result<()> {
    let cpu_before = target.process.cpu()?;
    let speed = curl(&target.raw, raw.metadata()?.len())?;
    let cpu = target.process.cpu()?.saturating_sub(cpu_before);
    run.journal.value(&WHOLE, target.name, speed)?;
    let gb = raw.metadata()?.len() as f64 / 1e9;
    run.journal
        .value(&WHOLE_CPU, target.name, cpu.as_secs_f64() / gb)?;
    let speed = curl(&target.qcow2, qcow2.metadata()?.len())?;
    run.journal.value(&WHOLE_QCOW2, target.name, speed)
}

/// Bytes per second that curl reports for a whole download.
fn curl(url: &str, len: u64) -> Result<f64> {
    let (report, _) = process::run(
        "curl",
        Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--output",
                "/dev/null",
            ])
            .args(["--write-out", "%{size_download} %{time_total}"])
            .arg(url),
    )?;
    let numbers: Vec<f64> = report
        .split(' ')
        .filter_map(|number| number.parse().ok())
        .collect();
    let [size, seconds] = numbers[..] else {
        bail!("curl reported {report:?}")
    };
    ensure!(size == len as f64, "{size} bytes of {len} from {url}");
    Ok(size / seconds)
}

/// A hundred clients at once: all the same file, then each its own part of another.
fn crowd(run: &mut Run, target: &Target<'_>, raw: &Path, qcow2: &Path) -> Result<()> {
    let (raw_len, qcow2_len) = (raw.metadata()?.len(), qcow2.metadata()?.len());
    target.process.reset_peak_rss()?;
    let speed = download_all(&target.qcow2, |_| (0, qcow2_len))?;
    run.journal.value(&CROWD, target.name, speed)?;
    run.journal
        .value(&CROWD_RSS, target.name, target.process.peak_rss() as f64)?;

    target.process.reset_peak_rss()?;
    let stride = (raw_len - PART_LEN) / CLIENTS;
    let speed = download_all(&target.raw, |client| (client * stride, PART_LEN))?;
    run.journal.value(&SPREAD, target.name, speed)?;
    run.journal
        .value(&SPREAD_RSS, target.name, target.process.peak_rss() as f64)
}

/// Bytes per second of all clients together; `part` tells each client its offset and length.
fn download_all(url: &str, part: impl Fn(u64) -> (u64, u64)) -> Result<f64> {
    let start = Instant::now();
    let lens: Vec<Result<u64>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (offset, len) = part(client);
                scope.spawn(move || download(url, offset, len))
            })
            .collect();
        let join = |client: thread::ScopedJoinHandle<'_, _>| {
            client.join().unwrap_or_else(|_| bail!("a client panicked"))
        };
        clients.into_iter().map(join).collect()
    });
    let mut total = 0;
    for len in lens {
        total += len?;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

fn download(url: &str, offset: u64, len: u64) -> Result<u64> {
    let response = agent(false)
        .get(url)
        .header("Range", byte_range(offset, len))
        .call()?;
    let got = io::copy(&mut response.into_body().into_reader(), &mut io::sink())?;
    ensure!(got == len, "{got} bytes of {len} at {offset}");
    Ok(got)
}

fn byte_range(offset: u64, len: u64) -> String {
    format!("bytes={offset}-{}", offset + len - 1)
}

/// Single requests for 64 KiB; the bytes are compared after the clock is stopped.
fn ranges(run: &mut Run, targets: &[Target<'_>], raw: &Path) -> Result<()> {
    let file = File::open(raw)?;
    let offsets = data_offsets(&file, RANGES_EACH)?;
    let agents: Vec<_> = targets
        .iter()
        .map(|target| agent(target.keeps_alive))
        .collect();
    let mut wanted = vec![0; RANGE_LEN as usize];
    for turn in offsets.chunks(RANGES_IN_TURN) {
        for (target, agent) in targets.iter().zip(&agents) {
            let mut times = Vec::with_capacity(turn.len());
            for &offset in turn {
                let mut got = Vec::with_capacity(wanted.len() + 1);
                let start = Instant::now();
                let response = agent
                    .get(&target.raw)
                    .header("Range", byte_range(offset, RANGE_LEN))
                    .call()?;
                ensure!(
                    response.status() == 206,
                    "{} for a range",
                    response.status()
                );
                response
                    .into_body()
                    .into_reader()
                    .take(RANGE_LEN + 1)
                    .read_to_end(&mut got)?;
                times.push(start.elapsed());
                file.read_exact_at(&mut wanted, offset)?;
                ensure!(
                    got == wanted,
                    "wrong bytes at {offset} from {}",
                    target.name
                );
            }
            run.journal.times(&RANGES, target.name, &times)?;
        }
    }
    Ok(())
}

/// Random multiples of 4 KiB at which the file has 64 KiB that are not all zero; the same each time.
fn data_offsets(file: &File, count: usize) -> Result<Vec<u64>> {
    let pages = (file.metadata()?.len().saturating_sub(RANGE_LEN)) / 4096;
    ensure!(pages > 0, "the image is shorter than a range");
    let mut random = SmallRng::seed_from_u64(1);
    let mut bytes = vec![0; RANGE_LEN as usize];
    let mut offsets = Vec::with_capacity(count);
    for _ in 0..count * 1000 {
        if offsets.len() == count {
            return Ok(offsets);
        }
        let offset = random.random_range(0..pages) * 4096;
        file.read_exact_at(&mut bytes, offset)?;
        if bytes.iter().any(|&byte| byte != 0) {
            offsets.push(offset);
        }
    }
    bail!("the image holds hardly any data");
}
