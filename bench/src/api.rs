//! The Image API with a thousand images in the catalogue: latency of single requests, and what they
//! cost the server in CPU time, beside real Glance on SQLite.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::image_api::ImageApi;
use crate::journal::{Better, Measure, Unit};
use crate::local::{Options, Run};
use crate::peers::glance::{Glance, Setup};
use crate::peers::vitrail::Vitrail;
use crate::peers::{Cache, Place, free_port};
use crate::process::Process;
use crate::report::{self, VITRAIL};

const IMAGES: usize = 1000;
/// Requests to one server before it is the other's turn.
const IN_TURN: usize = 100;

/// A kind of request, measured by latency and by CPU time of the server.
struct Operation {
    latency: Measure,
    cpu: Measure,
    run: fn(&ImageApi, &[String], &mut SmallRng) -> Result<Option<String>>,
}

macro_rules! operation {
    ($key:literal, $title:literal, $run:expr) => {
        Operation {
            latency: Measure {
                key: concat!("api.", $key),
                title: $title,
                unit: Unit::Seconds,
                better: Better::Less,
            },
            cpu: Measure {
                key: concat!("api.", $key, ".cpu"),
                title: concat!($title, ", CPU time of the server per request"),
                unit: Unit::Seconds,
                better: Better::Less,
            },
            run: $run,
        }
    };
}

/// In the order in which they run: the first makes the images for the others.
static OPERATIONS: [Operation; 4] = [
    operation!(
        "create",
        "create, while the catalogue grows to 1,000",
        create
    ),
    operation!("list", "list of 25, the first page or a random one", list),
    operation!("show", "show", show),
    operation!("patch", "patch that sets one property", patch),
];

struct Subject<'a> {
    name: &'static str,
    process: &'a Process,
    api: &'a ImageApi,
    ids: Vec<String>,
}

/// Runs the experiment and publishes its results.
pub fn run(options: &Options, cache: Cache) -> Result<()> {
    let mut run = Run::begin(options, cache, "api")?;
    let vitrail = Vitrail::start(&run.vitraild, &run.fresh("vitrail")?)?;
    let mut subjects = vec![Subject {
        name: VITRAIL,
        process: vitrail.process(),
        api: vitrail.api(),
        ids: Vec::new(),
    }];
    let place = Place::here();
    let glance = Glance::start(
        &run.cache,
        &run.fresh("glance")?,
        &place,
        free_port()?,
        Setup::AsShipped,
    );
    match &glance {
        Ok(glance) => subjects.push(Subject {
            name: "glance",
            process: glance.process(),
            api: glance.api(),
            ids: Vec::new(),
        }),
        Err(error) => run.journal.missing("glance", error)?,
    }
    for operation in &OPERATIONS {
        measure(&mut run, operation, &mut subjects)?;
    }
    run.journal.note(
        "One client, one request at a time, on loopback; answers are read and parsed within the time. Vitrail keeps the \
         connection open, Glance under uWSGI does not. Glance is spared the token check that it does in production.",
    )?;
    report::publish(&run.journal)
}

fn measure(
    run: &mut Run,
    operation: &'static Operation,
    subjects: &mut [Subject<'_>],
) -> Result<()> {
    let turns = IMAGES / IN_TURN;
    let mut cpu = vec![Duration::ZERO; subjects.len()];
    for turn in 0..turns {
        eprintln!("api: {} {}/{turns}", operation.latency.key, turn + 1);
        for (subject, cpu) in subjects.iter_mut().zip(&mut cpu) {
            let mut random = SmallRng::seed_from_u64(turn as u64);
            let mut times = Vec::with_capacity(IN_TURN);
            let cpu_before = subject.process.cpu()?;
            for _ in 0..IN_TURN {
                let start = Instant::now();
                let made = (operation.run)(subject.api, &subject.ids, &mut random)
                    .with_context(|| format!("{} on {}", operation.latency.key, subject.name))?;
                times.push(start.elapsed());
                subject.ids.extend(made);
            }
            *cpu += subject.process.cpu()?.saturating_sub(cpu_before);
            run.journal
                .times(&operation.latency, subject.name, &times)?;
        }
    }
    for (subject, cpu) in subjects.iter().zip(cpu) {
        run.journal.value(
            &operation.cpu,
            subject.name,
            cpu.as_secs_f64() / (turns * IN_TURN) as f64,
        )?;
    }
    Ok(())
}

/// A record with as many properties as cloud images usually carry; gives back its id.
fn create(api: &ImageApi, ids: &[String], _: &mut SmallRng) -> Result<Option<String>> {
    let number = ids.len();
    let made = api.create(&json!({
        "name": format!("server-{number}"),
        "disk_format": "qcow2",
        "container_format": "bare",
        "visibility": "private",
        "min_disk": 3,
        "min_ram": 512,
        "tags": ["server", "stable"],
        "architecture": "x86_64",
        "os_distro": "debian",
        "os_version": format!("{}", 10 + number % 4),
        "os_admin_user": "debian",
        "hw_disk_bus": "scsi",
        "hw_scsi_model": "virtio-scsi",
        "hw_qemu_guest_agent": "yes",
        "build": format!("{number}"),
    }))?;
    Ok(Some(text(&made, "id")?))
}

fn list(api: &ImageApi, ids: &[String], random: &mut SmallRng) -> Result<Option<String>> {
    let page = if random.random_bool(0.5) {
        api.get("/v2/images?limit=25")?
    } else {
        api.get(&format!("/v2/images?limit=25&marker={}", pick(ids, random)))?
    };
    page["images"]
        .as_array()
        .context("the list has no images")?;
    Ok(None)
}

fn show(api: &ImageApi, ids: &[String], random: &mut SmallRng) -> Result<Option<String>> {
    let id = pick(ids, random);
    let image = api.get(&format!("/v2/images/{id}"))?;
    anyhow::ensure!(image["id"] == id, "asked for {id}, got {image}");
    Ok(None)
}

fn patch(api: &ImageApi, ids: &[String], random: &mut SmallRng) -> Result<Option<String>> {
    let value = random.random::<u32>().to_string();
    let change = json!([{"op": "replace", "path": "/build", "value": value}]);
    let image = api.patch(pick(ids, random), &change)?;
    anyhow::ensure!(image["build"] == value, "set build to {value}, got {image}");
    Ok(None)
}

fn pick<'a>(ids: &'a [String], random: &mut SmallRng) -> &'a str {
    &ids[random.random_range(0..ids.len())]
}

fn text(document: &Value, key: &str) -> Result<String> {
    Ok(document[key]
        .as_str()
        .with_context(|| format!("no {key} in {document}"))?
        .to_owned())
}
