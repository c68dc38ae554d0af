//! One site: taking images in, keeping them, and serving them, beside what people use today.
//!
//! Every repetition measures all subjects one after the other, and the next repetition starts with
//! another one, so that a slow spell of the machine does not fall on one subject alone.

mod ingest;
mod serve;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use tempfile::TempDir;

use crate::corpus::Corpus;
use crate::journal::Journal;
use crate::machine::version;
use crate::peers::Cache;
use crate::process::scratch_dir;
use crate::report;

/// A half of the experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Taking images in, and the disk space afterwards.
    Ingest,
    /// Serving them.
    Serve,
}

/// Options of this experiment.
#[derive(Args, Clone, Debug)]
pub struct LocalOptions {
    #[command(flatten)]
    options: Options,
    /// Only this half
    #[arg(long, value_enum)]
    only: Option<Part>,
}

/// Options of the experiments that run the daemon beside its peers.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Directory of images; built when empty [default: corpus in the cache directory]
    #[arg(long, env = "VITRAIL_CORPUS", value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// The daemon [default: vitraild beside this program]
    #[arg(long, value_name = "FILE")]
    vitraild: Option<PathBuf>,
    /// Repetitions of what is not measured request by request
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Scratch space for the stores; needs about 20 GB [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Where results are kept
    #[arg(long, default_value = "bench/results", value_name = "DIR")]
    results: PathBuf,
}

impl Options {
    /// Where the images are.
    pub fn corpus_dir(&self, cache: &Cache) -> PathBuf {
        self.corpus.clone().unwrap_or_else(|| cache.path("corpus"))
    }

    /// Where results are kept.
    pub fn results(&self) -> &Path {
        &self.results
    }

    /// How often each measurement is made.
    pub fn repetitions(&self) -> u32 {
        self.repetitions
    }
}

/// A run in progress with all it needs.
pub(crate) struct Run {
    pub(crate) journal: Journal,
    pub(crate) cache: Cache,
    pub(crate) vitraild: PathBuf,
    pub(crate) repetitions: u32,
    scratch: TempDir,
}

impl Run {
    pub(crate) fn begin(options: &Options, cache: Cache, name: &str) -> Result<Self> {
        let vitraild = match &options.vitraild {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("vitraild"),
        };
        ensure!(
            vitraild.exists(),
            "no daemon at {}: build it with --release",
            vitraild.display()
        );
        let mut run = Self {
            journal: Journal::begin(options.results(), name)?,
            cache,
            vitraild,
            repetitions: options.repetitions,
            scratch: scratch_dir(options.scratch.as_deref())?,
        };
        run.record_versions()?;
        Ok(run)
    }

    fn record_versions(&mut self) -> Result<()> {
        let vitraild = self.vitraild.to_string_lossy().into_owned();
        for (name, program, args) in [
            ("vitraild", vitraild.as_str(), &["--version"][..]),
            ("commit", "git", &["rev-parse", "HEAD"]),
            ("curl", "curl", &["--version"]),
        ] {
            self.journal.version(name, &version(program, args))?;
        }
        Ok(())
    }

    /// A path for `name` below the scratch space; what was there is removed.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.path().join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        Ok(path)
    }
}

/// Runs the whole experiment and publishes its results.
pub fn run(LocalOptions { options, only }: &LocalOptions, cache: Cache) -> Result<()> {
    let corpus = Corpus::open(&options.corpus_dir(&cache))?;
    let mut run = Run::begin(options, cache, "local")?;
    for (name, size) in sizes(corpus.dir())? {
        run.journal.version(&name, &size)?;
    }
    if *only != Some(Part::Serve) {
        ingest::run(&mut run, &corpus)?;
    }
    if *only != Some(Part::Ingest) {
        serve::run(&mut run, &corpus)?;
    }
    report::publish(&run.journal)
}

/// Bytes and allocated bytes of the image files, for the record.
fn sizes(dir: &Path) -> Result<Vec<(String, String)>> {
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "raw" || extension == "qcow2")
        {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let allocated = crate::disk::allocated(&path)?;
            sizes.push((
                name,
                format!("{} bytes, {allocated} allocated", path.metadata()?.len()),
            ));
        }
    }
    sizes.sort();
    Ok(sizes)
}
