//! restic: content-defined chunks of about 1 MiB in encrypted packs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Cost, Store, apt_install};
use crate::disk;
use crate::process::run;

/// A restic repository of format 2, which compresses; encryption cannot be turned off.
#[derive(Debug)]
pub struct Restic {
    dir: PathBuf,
}

impl Restic {
    /// An empty repository below `dir`, with restic's own defaults.
    pub fn open(dir: &Path) -> Result<Self> {
        apt_install(&["restic"])?;
        std::fs::create_dir_all(dir)?;
        let restic = Self {
            dir: dir.to_owned(),
        };
        run(
            "restic init",
            restic.command().args(["init", "--repository-version", "2"]),
        )?;
        Ok(restic)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("restic");
        command
            .env("RESTIC_REPOSITORY", self.dir.join("repo"))
            .env("RESTIC_PASSWORD", "bench")
            .env("RESTIC_CACHE_DIR", self.dir.join("cache"));
        command
    }
}

impl Store for Restic {
    fn ingest(&mut self, image: &Path) -> Result<Cost> {
        let (_, cost) = run(
            "restic backup",
            self.command().args(["backup", "--quiet"]).arg(image),
        )?;
        Ok(cost)
    }

    fn close(self: Box<Self>) -> Result<u64> {
        disk::allocated(&self.dir.join("repo"))
    }
}
