//! nginx with sendfile: what serving a plain file costs at least.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::{Place, apt_install, free_port};
use crate::process::Process;

const CONFIG: &str = include_str!("nginx/nginx.conf");

const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A running nginx, killed on drop.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    reach: Ipv4Addr,
    port: u16,
}

impl Nginx {
    /// Serves the files of `root` on loopback; configuration and logs go below `dir`.
    pub fn start(dir: &Path, root: &Path) -> Result<Self> {
        Self::start_at(&Place::here(), free_port()?, dir, root)
    }

    /// [`Self::start`] elsewhere.
    pub fn start_at(place: &Place, port: u16, dir: &Path, root: &Path) -> Result<Self> {
        apt_install(&["nginx-light"])?;
        fs::create_dir_all(dir)?;
        let (dir, root) = (dir.canonicalize()?, root.canonicalize()?);
        let listen = format!("{}:{port}", place.listen());
        let config = CONFIG
            .replace("@DIR@", &dir.to_string_lossy())
            .replace("@ROOT@", &root.to_string_lossy())
            .replace("@LISTEN@", &listen);
        let config_file = dir.join("nginx.conf");
        fs::write(&config_file, config)?;
        let mut process = Process::spawn(
            "nginx",
            place
                .command("nginx")
                .arg("-p")
                .arg(&dir)
                .arg("-c")
                .arg(&config_file),
            &dir.join("nginx.log"),
        )?;
        let url = format!("http://{}:{port}/ready", place.reach());
        process.wait_ready(READY_TIMEOUT, || ureq::get(&url).call().is_ok())?;
        Ok(Self {
            process,
            reach: place.reach(),
            port,
        })
    }

    /// Where the file `name` of its root is served for this process.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}:{}/{name}", self.reach, self.port)
    }

    /// The master; its workers are its children.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
