//! The daemon under test, started like any of its peers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Cost, Store, free_port};
use crate::disk;
use crate::image_api::ImageApi;
use crate::process::Process;

/// A fresh or existing store opens within two seconds; the rest is for a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// A running `vitraild` with one site, killed on drop.
#[derive(Debug)]
pub struct Vitrail {
    process: Process,
    api: ImageApi,
    data_dir: std::path::PathBuf,
}

impl Vitrail {
    /// Starts `binary` on `data_dir` with both APIs on free loopback ports, and no Keystone.
    pub fn start(binary: &Path, data_dir: &Path) -> Result<Self> {
        Self::spawn(Command::new(binary), data_dir)
    }

    /// The same with a configuration that says more than where its data and its ports are.
    pub fn configured(binary: &Path, data_dir: &Path, config: &str) -> Result<Self> {
        let file = data_dir.with_extension("toml");
        fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(file);
        Self::spawn(command, data_dir)
    }

    fn spawn(mut command: Command, data_dir: &Path) -> Result<Self> {
        let (api_port, admin_port) = (free_port()?, free_port()?);
        let log = data_dir.with_extension("log");
        let mut process = Process::spawn(
            "vitraild",
            command
                .arg("--data-dir")
                .arg(data_dir)
                .args(["--api-listen", &format!("127.0.0.1:{api_port}")])
                .args(["--admin-listen", &format!("127.0.0.1:{admin_port}")]),
            &log,
        )?;
        let ready = format!("http://127.0.0.1:{admin_port}/readyz");
        process
            .wait_ready(READY_TIMEOUT, || ureq::get(&ready).call().is_ok())
            .with_context(|| format!("see {}", log.display()))?;
        let api = ImageApi::new(format!("http://127.0.0.1:{api_port}"), true);
        Ok(Self {
            process,
            api,
            data_dir: data_dir.to_owned(),
        })
    }

    /// Its Image API.
    pub fn api(&self) -> &ImageApi {
        &self.api
    }

    /// The daemon's process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Store for Vitrail {
    fn ingest(&mut self, image: &Path) -> Result<Cost> {
        self.api.ingest(&self.process, image)
    }

    fn close(self: Box<Self>) -> Result<u64> {
        self.process.stop()?;
        disk::allocated(&self.data_dir)
    }
}
