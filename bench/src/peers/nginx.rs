//! nginx with sendfile: what serving a plain file costs at least.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{apt_install, free_port};
use crate::process::Process;

const CONFIG: &str = include_str!("nginx/nginx.conf");

const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A running nginx, killed on drop.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: u16,
}

impl Nginx {
    /// Serves the files of `root`; configuration and logs go below `dir`.
    pub fn start(dir: &Path, root: &Path) -> Result<Self> {
        apt_install(&["nginx-light"])?;
        fs::create_dir_all(dir)?;
        let (dir, root) = (dir.canonicalize()?, root.canonicalize()?);
        let port = free_port()?;
        let config = CONFIG
            .replace("@DIR@", &dir.to_string_lossy())
            .replace("@ROOT@", &root.to_string_lossy())
            .replace("@PORT@", &port.to_string());
        let config_file = dir.join("nginx.conf");
        fs::write(&config_file, config)?;
        let mut process = Process::spawn(
            "nginx",
            Command::new("nginx")
                .arg("-p")
                .arg(&dir)
                .arg("-c")
                .arg(&config_file),
            &dir.join("nginx.log"),
        )?;
        let url = format!("http://127.0.0.1:{port}/ready");
        process.wait_ready(READY_TIMEOUT, || ureq::get(&url).call().is_ok())?;
        Ok(Self { process, port })
    }

    /// Where the file `name` of its root is served.
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// The master; its workers are its children.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
