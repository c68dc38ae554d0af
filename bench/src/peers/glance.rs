//! Real Glance from PyPI: file store, two processes of sixteen threads, SQLite unless it is told otherwise.
//!
//! Everything is as shipped, but where there is no Keystone: then the pipeline is the package's own
//! `keystone` flavour with `authtoken` replaced by a trusting filter, so policy and quota checks
//! still run. Compared with a production Glance it is spared the proxy in front.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::keystone::Keystone;
use super::mariadb::MariaDb;
use super::{Cache, Cost, Place, Store};
use crate::disk;
use crate::image_api::ImageApi;
use crate::process::{Process, run};

/// What is installed. The OpenStack client is there for people who start Glance by hand.
pub const PACKAGES: &[&str] = &[
    "glance==33.0.0",
    "pymysql==1.1.3",
    "uwsgi==2.0.31",
    "python-openstackclient==10.5.0",
];

const CONFIG: &str = include_str!("glance/glance-api.conf");
const UWSGI: &str = include_str!("glance/uwsgi.ini");
const TRUSTED_FILTER: &str = include_str!("glance/trusted.py");

/// Both processes import about a thousand modules before they answer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What of Glance is on.
#[derive(Debug, Clone, Copy)]
pub enum Setup<'a> {
    /// Its defaults.
    AsShipped,
    /// And the cache of images on the API node, as most deployments with a remote store have it.
    ImageCache,
    /// As part of a cloud: tokens of a Keystone, and a database server or SQLite.
    Cloud(&'a Keystone, Option<&'a MariaDb>),
}

/// A running Glance, killed on drop.
#[derive(Debug)]
pub struct Glance {
    process: Process,
    api: ImageApi,
    dir: PathBuf,
}

impl Glance {
    /// Installs Glance into `cache` unless it is there, writes its configuration and an empty
    /// database under `dir`, and serves the Image API on port `port` of `place`.
    pub fn start(
        cache: &Cache,
        dir: &Path,
        place: &Place,
        port: u16,
        setup: Setup<'_>,
    ) -> Result<Self> {
        let venv = cache.venv("glance", PACKAGES)?;
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let etc = dir.join("etc");
        for sub in ["etc", "images", "staging", "tasks", "cache"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let listen = format!("{}:{port}", place.listen());
        let flavor = match setup {
            Setup::AsShipped | Setup::Cloud(..) => "keystone",
            Setup::ImageCache => "keystone+cachemanagement",
        };
        let database = match setup {
            Setup::Cloud(_, Some(server)) => server.url("glance"),
            _ => format!("sqlite:///{}", dir.join("glance.sqlite").display()),
        };
        let authtoken = match setup {
            Setup::Cloud(keystone, _) => keystone.authtoken(),
            _ => String::new(),
        };
        let fill = |template: &str| {
            template
                .replace("@FLAVOR@", flavor)
                .replace("@DATABASE@", &database)
                .replace("@AUTHTOKEN@", &authtoken)
                .replace("@DIR@", &dir.to_string_lossy())
                .replace("@LISTEN@", &listen)
                .replace("@PORT@", &port.to_string())
        };
        fs::write(etc.join("glance-api.conf"), fill(CONFIG))?;
        fs::write(etc.join("uwsgi.ini"), fill(UWSGI))?;
        fs::write(etc.join("trusted.py"), TRUSTED_FILTER)?;
        let shipped = venv.join("etc/glance/glance-api-paste.ini");
        let shipped =
            fs::read_to_string(&shipped).with_context(|| format!("read {}", shipped.display()))?;
        let pipeline = match setup {
            Setup::Cloud(..) => shipped,
            _ => trusting_pipeline(&shipped)?,
        };
        fs::write(etc.join("glance-api-paste.ini"), pipeline)?;

        run(
            "glance-manage db_sync",
            Command::new(venv.join("bin/glance-manage"))
                .arg("--config-file")
                .arg(etc.join("glance-api.conf"))
                .arg("db_sync"),
        )?;
        let mut process = Process::spawn(
            "glance",
            place
                .command(venv.join("bin/uwsgi"))
                .arg("--ini")
                .arg(etc.join("uwsgi.ini"))
                .arg("--virtualenv")
                .arg(&venv)
                .env("OS_GLANCE_CONFIG_DIR", &etc),
            &dir.join("glance.log"),
        )?;
        let url = format!("http://{}:{port}", place.reach());
        let health = format!("{url}/healthcheck");
        process
            .wait_ready(READY_TIMEOUT, || ureq::get(&health).call().is_ok())
            .with_context(|| format!("see {}", dir.join("glance.log").display()))?;
        Ok(Self {
            process,
            api: ImageApi::new(url, false),
            dir,
        })
    }

    /// Its Image API.
    pub fn api(&self) -> &ImageApi {
        &self.api
    }

    /// The uWSGI master; its workers are its children.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Blocks until the server ends by itself.
    pub fn wait(mut self) -> Result<()> {
        let status = self.process.wait()?;
        bail!("Glance ended: {status}");
    }
}

impl Store for Glance {
    fn ingest(&mut self, image: &Path) -> Result<Cost> {
        self.api.ingest(&self.process, image)
    }

    fn close(self: Box<Self>) -> Result<u64> {
        self.process.stop()?;
        Ok(disk::allocated(&self.dir.join("images"))?
            + disk::allocated(&self.dir.join("glance.sqlite"))?)
    }
}

/// The shipped paste configuration with the token check replaced by [`TRUSTED_FILTER`].
fn trusting_pipeline(shipped: &str) -> Result<String> {
    let changed = shipped.replace(" authtoken context ", " trusted context ");
    ensure!(
        changed != shipped,
        "Glance's paste configuration has no `authtoken context` to replace"
    );
    Ok(changed + "\n[filter:trusted]\npaste.filter_factory = trusted:factory\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_check_is_replaced() {
        let shipped = "keystone = cors authtoken context rootapp\ndefault = cors rootapp\n";
        let changed = trusting_pipeline(shipped).unwrap();
        assert!(
            changed
                .starts_with("keystone = cors trusted context rootapp\ndefault = cors rootapp\n")
        );
        assert!(trusting_pipeline("keystone = cors rootapp").is_err());
    }
}
