//! BorgBackup: content-defined chunks of about 2 MiB in segments.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Cost, Store, apt_install, file_name};
use crate::disk;
use crate::process::run;

/// An unencrypted borg repository.
#[derive(Debug)]
pub struct Borg {
    dir: PathBuf,
    compression: &'static str,
}

impl Borg {
    /// An empty repository below `dir`; `compression` as `borg create --compression` takes it.
    pub fn open(dir: &Path, compression: &'static str) -> Result<Self> {
        apt_install(&["borgbackup"])?;
        std::fs::create_dir_all(dir)?;
        let borg = Self {
            dir: dir.to_owned(),
            compression,
        };
        run(
            "borg init",
            borg.command()
                .args(["init", "--encryption", "none"])
                .arg(borg.repo()),
        )?;
        Ok(borg)
    }

    fn repo(&self) -> PathBuf {
        self.dir.join("repo")
    }

    /// Caches and keys stay below the directory, and are not counted as stored.
    fn command(&self) -> Command {
        let mut command = Command::new("borg");
        command
            .env("BORG_BASE_DIR", self.dir.join("base"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command
    }
}

impl Store for Borg {
    fn ingest(&mut self, image: &Path) -> Result<Cost> {
        let archive = format!("{}::{}", self.repo().display(), file_name(image).display());
        let (_, cost) = run(
            "borg create",
            self.command()
                .args(["create", "--compression", self.compression])
                .arg(archive)
                .arg(image),
        )?;
        Ok(cost)
    }

    fn close(self: Box<Self>) -> Result<u64> {
        disk::allocated(&self.repo())
    }
}
