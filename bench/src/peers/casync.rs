//! casync: content-defined chunks, each its own compressed file.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Cost, Store, apt_install, file_name};
use crate::disk;
use crate::process::run;

/// A casync store with the index files beside it.
#[derive(Debug)]
pub struct Casync {
    dir: PathBuf,
}

impl Casync {
    /// An empty store below `dir`, with casync's own defaults.
    pub fn open(dir: &Path) -> Result<Self> {
        apt_install(&["casync"])?;
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }
}

impl Store for Casync {
    fn ingest(&mut self, image: &Path) -> Result<Cost> {
        let index = self.dir.join(file_name(image)).with_extension("caibx");
        let (_, cost) = run(
            "casync make",
            Command::new("casync")
                .arg(format!(
                    "--store={}",
                    self.dir.join("store.castr").display()
                ))
                .arg("make")
                .arg(index)
                .arg(image),
        )?;
        Ok(cost)
    }

    fn close(self: Box<Self>) -> Result<u64> {
        disk::allocated(&self.dir)
    }
}
