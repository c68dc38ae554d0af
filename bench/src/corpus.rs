//! The images that experiments run on: real Debian installations, built once and kept.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The builder, which can also be run by hand.
const BUILD: &str = include_str!("../corpus/build");

/// The images of the small set; each is there as `.raw` and as `.zlib.qcow2`.
pub const SMALL: [&str; 2] = ["bookworm-base", "bookworm-updated"];

/// A directory of images.
#[derive(Clone, Debug)]
pub struct Corpus {
    dir: PathBuf,
}

impl Corpus {
    /// The small set in `dir`; what is missing is built, which needs root and takes some minutes.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::with(dir, &SMALL.map(str::to_owned))
    }

    /// These images in `dir`; what is missing is built, as by [`Self::open`].
    pub fn with(dir: &Path, images: &[String]) -> Result<Self> {
        let corpus = Self {
            dir: dir.to_owned(),
        };
        let is_missing =
            |name: &&String| !corpus.raw(name).exists() || !corpus.qcow2(name).exists();
        let missing: Vec<String> = images.iter().filter(is_missing).cloned().collect();
        if !missing.is_empty() {
            build(dir, &missing)?;
        }
        Ok(corpus)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The raw file of an image.
    pub fn raw(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.raw"))
    }

    /// The compressed qcow2 file of an image.
    pub fn qcow2(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.zlib.qcow2"))
    }
}

/// Builds images or sets of images into `dir`; those that are there already are left alone.
pub fn build(dir: &Path, images: &[String]) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let script = scratch.path().join("build");
    fs::write(&script, BUILD)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
    let status = Command::new(&script)
        .arg(dir)
        .args(images)
        .status()
        .context("run the corpus builder")?;
    ensure!(
        status.success(),
        "the corpus builder failed: {status}; see {}/build.log",
        dir.display()
    );
    Ok(())
}
