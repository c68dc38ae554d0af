//! What Vitrail is measured against, and how each of these comes onto the machine.
//!
//! Peers are installed by the harness: distribution packages with `apt-get`, Python packages into a
//! virtual environment under the [`Cache`]. A peer that cannot be installed is an error to its
//! caller, who reports it as missing.

pub mod borg;
pub mod casync;
pub mod glance;
pub mod keystone;
pub mod mariadb;
pub mod nginx;
pub mod restic;
pub mod vitrail;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;

pub use crate::process::Cost;

/// Where a server runs.
#[derive(Clone, Debug)]
pub struct Place {
    namespace: Option<String>,
    reach: Ipv4Addr,
}

impl Place {
    /// This machine, on loopback.
    pub fn here() -> Self {
        Self {
            namespace: None,
            reach: Ipv4Addr::LOCALHOST,
        }
    }

    /// A network namespace that the root namespace reaches at `reach`.
    pub fn namespace(name: &str, reach: Ipv4Addr) -> Self {
        Self {
            namespace: Some(name.to_owned()),
            reach,
        }
    }

    /// A command that runs there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(namespace) = &self.namespace else {
            return Command::new(program);
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    /// What a server there listens on: loopback here, everything in a namespace.
    pub fn listen(&self) -> Ipv4Addr {
        match self.namespace {
            None => Ipv4Addr::LOCALHOST,
            Some(_) => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Its address for this process.
    pub fn reach(&self) -> Ipv4Addr {
        self.reach
    }
}

/// Something that takes image files in and keeps them.
pub trait Store {
    /// Takes one image file in, and says what that cost on the side that keeps it.
    fn ingest(&mut self, image: &Path) -> Result<Cost>;

    /// Ends it and says how many bytes it holds on disk: data, indexes and metadata.
    fn close(self: Box<Self>) -> Result<u64>;
}

/// Directory that keeps what is installed for the peers from one run to the next.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens `dir`, or `~/.cache/vitrail-bench` when there is none given.
    pub fn open(dir: Option<PathBuf>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir,
            None => env::home_dir()
                .context("no home directory")?
                .join(".cache/vitrail-bench"),
        };
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self {
            dir: dir.canonicalize()?,
        })
    }

    /// Where something called `name` is kept.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A program of crates.io, built on first use.
    pub fn cargo_install(&self, name: &str, version: &str) -> Result<PathBuf> {
        let root = self.path(&format!("cargo-{name}-{version}"));
        let program = root.join("bin").join(name);
        if !program.exists() {
            eprintln!("building {name} {version} into {}", root.display());
            run(
                "cargo install",
                Command::new("cargo")
                    .args(["install", "--quiet", "--locked", "--root"])
                    .arg(&root)
                    .args(["--version", version, name]),
            )?;
        }
        Ok(program)
    }

    /// A Python virtual environment that holds `packages`; made on first use.
    ///
    /// A file written last marks it complete, so one that was interrupted, or that holds other
    /// packages, is made again.
    pub fn venv(&self, name: &str, packages: &[&str]) -> Result<PathBuf> {
        let venv = self.path(&format!("venv-{name}"));
        let marker = venv.join("vitrail-bench-packages");
        let wanted = packages.join("\n");
        if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
            return Ok(venv);
        }
        eprintln!("installing {name} into {}", venv.display());
        apt_install(&["python3-venv", "python3-dev", "gcc"])?;
        run(
            "python3 -m venv",
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&venv),
        )?;
        run(
            "pip install",
            Command::new(venv.join("bin/pip"))
                .args(["install", "-q"])
                .args(packages),
        )?;
        fs::write(marker, wanted)?;
        Ok(venv)
    }
}

/// A loopback port that nothing listens on at the moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// The last part of an image's path.
fn file_name(image: &Path) -> &Path {
    image.file_name().map_or(image, Path::new)
}

/// Installs those of `packages` that the distribution's package manager does not have yet.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    let installed = |package: &&str| {
        Command::new("dpkg-query")
            .args(["-W", "-f", "${db:Status-Status}", package])
            .output()
            .is_ok_and(|output| output.stdout == b"installed")
    };
    if packages.iter().all(installed) {
        return Ok(());
    }
    eprintln!("installing {}", packages.join(" "));
    let install = || {
        run(
            "apt-get install",
            Command::new("apt-get")
                .args(["install", "-qq", "-y", "--no-install-recommends"])
                .args(packages)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // Package lists may be missing or stale: refresh them once before giving up.
    if install().is_err() {
        run(
            "apt-get update",
            Command::new("apt-get").args(["update", "-qq"]),
        )?;
        install()?;
    }
    Ok(())
}
