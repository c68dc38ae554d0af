//! The file format: an experiment as people write it down.
//!
//! [`Scenario::load`] reads a file and refuses what makes no sense before anything is started.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::log::Run;
use crate::wan::{Network, Rate, TimedEvent, Topology, optional_duration};

/// How long one pull may take when the file does not say.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// The most pulls of one workload; each has a thread.
const PULLS_MAX: usize = 2_000;

/// The most parts of one set of images.
const PARTS_MAX: u32 = 1_000;

/// A scenario whose names all mean something.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    /// Its name.
    pub(super) name: String,
    /// Seed of schedules and losses.
    pub(super) seed: u64,
    /// Repetitions of every workload with every system.
    pub(super) repetitions: u32,
    /// The network, with a management network and without events.
    pub(super) topology: Topology,
    /// The most that is carried at once; what the topology allows when absent.
    pub(super) demand: Option<Rate>,
    /// Congestion control of TCP at the sites.
    pub(super) tcp: String,
    /// Systems to measure, all when empty.
    pub(super) systems: Vec<String>,
    /// All images by name; sets are spread out.
    pub(super) images: BTreeMap<String, ImageSpec>,
    /// Names of the images of each set; an image that is none is a set of one.
    pub(super) sets: BTreeMap<String, Vec<String>>,
    /// What is done.
    pub(super) workloads: Vec<Workload>,
    /// The file's text, and that of the topology it names.
    pub(super) texts: Vec<String>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageSpec {
    /// Image of the corpus.
    pub(super) from: String,
    /// Which part of its data; the whole image when absent.
    pub(super) part: Option<Part>,
}

/// Bytes `index * len` to `(index + 1) * len` of an image's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Counts from 0.
    pub(super) index: u32,
    /// Bytes.
    pub(super) len: u64,
}

/// Something that sites do.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Workload {
    /// Unique in the file.
    pub(super) name: String,
    /// What it is.
    pub(super) work: Work,
    /// What changes in the network meanwhile; times count from the first pull.
    #[serde(default)]
    pub(super) events: Vec<TimedEvent>,
    /// How long each pull may take.
    #[serde(default, with = "optional_duration")]
    timeout: Option<Duration>,
}

impl Workload {
    /// How long each pull may take before it is ended and counts as failed.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }
}

/// The kinds of work.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Work {
    /// One image at some sites at once.
    Pull {
        /// The image.
        image: String,
        /// Sites that have it.
        holders: Vec<String>,
        /// Sites that want it.
        at: Vec<String>,
        /// How many clients at each of them.
        #[serde(default = "one_client")]
        clients: usize,
        /// What those sites have already.
        base: Option<String>,
    },
    /// One image to many sites, in the system's own way.
    Preseed {
        /// The image.
        image: String,
        /// Sites that have it.
        holders: Vec<String>,
        /// Sites that are to have it; all others when absent.
        to: Option<Vec<String>>,
        /// What those sites have already.
        base: Option<String>,
    },
    /// Many images at many sites at random times.
    #[serde(rename_all = "kebab-case")]
    Storm {
        /// The set of images, the most popular one first.
        images: String,
        /// Sites that have all of them.
        holders: Vec<String>,
        /// Sites that want some of them; all others when absent.
        at: Option<Vec<String>>,
        /// How many pulls.
        pulls: usize,
        /// Mean rate of the Poisson process, all sites together.
        per_second: f64,
        /// Exponent of Zipf's law.
        #[serde(default = "plain_zipf")]
        zipf: f64,
    },
}

impl Work {
    /// Sites that have the images before the clock starts.
    pub(super) fn holders(&self) -> &[String] {
        match self {
            Self::Pull { holders, .. }
            | Self::Preseed { holders, .. }
            | Self::Storm { holders, .. } => holders,
        }
    }

    /// Sites that want images, as far as the file names them.
    fn receivers(&self) -> &[String] {
        match self {
            Self::Pull { at, .. } => at,
            Self::Preseed { to, .. } => to.as_deref().unwrap_or_default(),
            Self::Storm { at, .. } => at.as_deref().unwrap_or_default(),
        }
    }

    /// Names of the images or of the set.
    fn images(&self) -> impl Iterator<Item = &String> {
        let (image, base) = match self {
            Self::Pull { image, base, .. } | Self::Preseed { image, base, .. } => {
                (image, base.as_ref())
            }
            Self::Storm { images, .. } => (images, None),
        };
        std::iter::once(image).chain(base)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    seed: u64,
    #[serde(default = "three")]
    repetitions: u32,
    topology: toml::Value,
    #[serde(default = "unscaled")]
    scale: f64,
    demand: Option<Rate>,
    #[serde(default = "cubic")]
    tcp: String,
    #[serde(default)]
    systems: Vec<String>,
    images: BTreeMap<String, Images>,
    workloads: Vec<Workload>,
    #[serde(default)]
    quick: Quick,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Images {
    from: String,
    #[serde(default, deserialize_with = "size")]
    len: Option<u64>,
    count: Option<u32>,
}

/// What `--quick` leaves of a file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Quick {
    repetitions: Option<u32>,
    systems: Option<Vec<String>>,
    workloads: Option<Vec<String>>,
}

fn one_client() -> usize {
    1
}

fn plain_zipf() -> f64 {
    1.0
}

fn three() -> u32 {
    3
}

fn unscaled() -> f64 {
    1.0
}

fn cubic() -> String {
    "cubic".to_owned()
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mebibytes = text
        .strip_suffix("MiB")
        .and_then(|number| number.trim().parse::<u32>().ok())
        .filter(|number| *number > 0);
    mebibytes
        .map(|number| Some(u64::from(number) << 20))
        .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a size such as 24MiB")))
}

impl Scenario {
    /// Reads a file; `quick` takes the part of it that is meant for a few minutes.
    pub(super) fn load(path: &Path, quick: bool) -> Result<Self> {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        let text = read(path)?;
        let beside = |name: &str| path.parent().unwrap_or(Path::new("")).join(name);
        Self::parse(&text, quick, |name| read(&beside(name)))
            .with_context(|| format!("{} makes no scenario", path.display()))
    }

    /// The scenario of a run, from its record.
    pub(super) fn of_run(run: &Run) -> Result<Self> {
        let text = |index: usize| {
            run.texts
                .get(index)
                .context("a text is missing in the record")
        };
        Self::parse(text(0)?, run.quick, |_| Ok(text(1)?.clone()))
    }

    /// Reads TOML; `topology` gives the text of a topology that is named.
    fn parse(
        text: &str,
        quick: bool,
        topology: impl FnOnce(&str) -> Result<String>,
    ) -> Result<Self> {
        let mut file: File = toml::from_str(text)?;
        let mut texts = vec![text.to_owned()];
        let mut topology: Topology = match file.topology {
            toml::Value::String(name) => {
                texts.push(topology(&name)?);
                Topology::parse(&texts[1])?
            }
            table => table.try_into().context("the topology")?,
        };
        ensure!(
            topology.events.is_empty(),
            "events belong to the workloads, not to the topology"
        );
        topology.scale *= file.scale;
        topology.seed ^= file.seed;
        topology.mgmt = true;

        if quick {
            file.repetitions = file.quick.repetitions.unwrap_or(1);
            if let Some(systems) = file.quick.systems {
                file.systems = systems;
            }
            if let Some(names) = &file.quick.workloads {
                for name in names {
                    let known = file.workloads.iter().any(|workload| workload.name == *name);
                    ensure!(known, "[quick] names no workload: {name}");
                }
                file.workloads
                    .retain(|workload| names.contains(&workload.name));
            }
        }
        let (mut images, mut sets) = (BTreeMap::new(), BTreeMap::new());
        for (name, spec) in file.images {
            let spread = spread(&name, &spec)?;
            sets.insert(name, spread.iter().map(|(name, _)| name.clone()).collect());
            images.extend(spread);
        }
        let scenario = Self {
            name: file.name,
            seed: file.seed,
            repetitions: file.repetitions,
            topology,
            demand: file.demand,
            tcp: file.tcp,
            systems: file.systems,
            images,
            sets,
            workloads: file.workloads,
            texts,
        };
        scenario.check()?;
        Ok(scenario)
    }

    /// Checks what serde cannot.
    fn check(&self) -> Result<()> {
        let plain = |name: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            !name.is_empty() && name.len() <= 64 && name.chars().all(fits)
        };
        ensure!(
            plain(&self.name),
            "bad name {:?}: letters, digits, - and _",
            self.name
        );
        ensure!(
            (1..=1_000).contains(&self.repetitions),
            "repetitions must be 1 to 1,000"
        );
        ensure!(!self.workloads.is_empty(), "no workload");
        let network = self.topology.resolve()?;
        for (index, workload) in self.workloads.iter().enumerate() {
            let known = self.workloads[..index]
                .iter()
                .any(|other| other.name == workload.name);
            ensure!(!known, "two workloads are called {}", workload.name);
            ensure!(
                plain(&workload.name),
                "bad name of a workload: {:?}",
                workload.name
            );
            self.check_workload(workload, &network)
                .with_context(|| format!("workload {}", workload.name))?;
        }
        Ok(())
    }

    fn check_workload(&self, workload: &Workload, network: &Network) -> Result<()> {
        let work = &workload.work;
        ensure!(!work.holders().is_empty(), "no holders");
        for site in work.holders().iter().chain(work.receivers()) {
            network.site(site)?;
        }
        for holder in work.holders() {
            ensure!(
                !work.receivers().contains(holder),
                "{holder} cannot hold and want"
            );
        }
        let storm = matches!(work, Work::Storm { .. });
        for name in work.images() {
            let known = if storm {
                self.sets.contains_key(name)
            } else {
                self.images.contains_key(name)
            };
            ensure!(known, "no image {name}");
        }
        let pulls = match *work {
            Work::Pull {
                ref at, clients, ..
            } => clients.saturating_mul(at.len()),
            Work::Preseed { .. } => 1,
            Work::Storm {
                pulls,
                per_second,
                zipf,
                ..
            } => {
                ensure!(
                    per_second.is_finite() && per_second > 0.0,
                    "per-second must be above 0"
                );
                ensure!((0.0..=10.0).contains(&zipf), "zipf must be 0 to 10");
                pulls
            }
        };
        ensure!(
            (1..=PULLS_MAX).contains(&pulls),
            "{pulls} pulls: 1 to {PULLS_MAX}"
        );
        for event in &workload.events {
            network.check_event(&event.event)?;
        }
        Ok(())
    }

    /// Leaves out all workloads but these; none of them means all.
    pub(super) fn keep_workloads(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            let known = self.workloads.iter().any(|w| w.name == *name);
            ensure!(known, "no workload is called {name}");
        }
        self.workloads
            .retain(|w| names.is_empty() || names.contains(&w.name));
        Ok(())
    }

    /// Where the images of the corpus that this needs are named.
    pub(super) fn corpus_images(&self) -> Vec<String> {
        let mut names: Vec<_> = self.images.values().map(|spec| spec.from.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The images that an entry stands for.
fn spread(name: &str, spec: &Images) -> Result<Vec<(String, ImageSpec)>> {
    let image = |part| ImageSpec {
        from: spec.from.clone(),
        part,
    };
    Ok(match (spec.len, spec.count) {
        (None, None) => vec![(name.to_owned(), image(None))],
        (None, Some(_)) => bail!("images {name}: a count needs a len"),
        (Some(len), None) => vec![(name.to_owned(), image(Some(Part { index: 0, len })))],
        (Some(len), Some(count)) => {
            ensure!(
                (1..=PARTS_MAX).contains(&count),
                "images {name}: 1 to {PARTS_MAX} parts"
            );
            let part = |index| {
                let part = image(Some(Part { index, len }));
                (format!("{name}-{}", index + 1), part)
            };
            (0..count).map(part).collect()
        }
    })
}

/// Where the scenarios of this repository are, for tests.
#[cfg(test)]
pub(super) fn own_files() -> Vec<std::path::PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files.collect()
}

#[cfg(test)]
mod tests;
