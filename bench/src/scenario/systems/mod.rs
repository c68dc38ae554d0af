//! What brings images from site to site: Vitrail, and what people use today.

mod bita;
mod bittorrent;
mod casync;
mod copies;
mod glance;
mod nginx;
mod rsync;
mod vitrail;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::field::Field;
use super::images::ImageFile;
use super::schedule::{Plan, Pull};
use crate::peers::Cache;

/// The form in which an image is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it lies on a virtual disk.
    Raw,
    /// Compressed qcow2.
    Qcow2,
}

impl Form {
    /// The file of an image that has this form.
    pub(super) fn of(self, image: &ImageFile) -> &Path {
        match self {
            Self::Raw => &image.raw,
            Self::Qcow2 => &image.qcow2,
        }
    }
}

/// What all systems of a run share.
#[derive(Debug)]
pub(super) struct Setting {
    /// Directory of `vitraild` and `vitrail`.
    pub(super) programs: PathBuf,
    /// Where installed and published things are kept.
    pub(super) cache: Cache,
    /// The scenario's images.
    pub(super) images: BTreeMap<String, ImageFile>,
}

impl Setting {
    /// An image of the scenario.
    pub(super) fn image(&self, name: &str) -> Result<&ImageFile> {
        self.images
            .get(name)
            .with_context(|| format!("no image {name}"))
    }

    /// A directory of the cache in which `make` has once made what holders publish of an image.
    fn published(
        &self,
        system: &str,
        image: &ImageFile,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let root = self.cache.path("published").join(system);
        let dir = root.join(&image.key);
        if !dir.exists() {
            eprintln!("{system}: publishing {}", image.key);
            let unfinished = root.join("unfinished");
            if unfinished.exists() {
                std::fs::remove_dir_all(&unfinished)?;
            }
            std::fs::create_dir_all(&unfinished)?;
            make(&unfinished)?;
            std::fs::rename(&unfinished, &dir)?;
        }
        Ok(root)
    }
}

/// A system deployed on the network of a case, its holders ready.
pub(super) trait System: Sync {
    /// Brings an image to a site and returns the file that it is in there, at `to` unless the site had it
    /// already. Called by many threads; gives up after `timeout`.
    fn pull(&self, pull: &Pull, to: &Path, timeout: Duration) -> Result<PathBuf>;

    /// Brings an image to many sites in a way of its own, and says how long each of them took. `None` when
    /// that is to pull at each of them.
    fn preseed(
        &self,
        image: &str,
        sites: &[String],
        timeout: Duration,
    ) -> Option<Result<Vec<Duration>>> {
        _ = (image, sites, timeout);
        None
    }

    /// Bytes of one copy without headers, once it has come; `None` when only the interface tells.
    fn payload(&self) -> Result<Option<f64>>;

    /// What it says of itself, for the record.
    fn facts(&self) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// Names of programs and packages with their versions.
type Versions = Vec<(String, String)>;

/// Starts a system on a network.
type Deploy = for<'a> fn(&'a Setting, &'a Field, &'a Plan) -> Result<Box<dyn System + 'a>>;

/// A system that can be had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Its name in scenarios and reports.
    pub(super) name: &'static str,
    /// What its pulls deliver.
    pub(super) form: Form,
    /// Installs what is not there; says the versions of what takes part.
    pub(super) install: fn(&Setting) -> Result<Versions>,
    /// Deploys it with the holders' images and the receivers' base in place.
    pub(super) deploy: Deploy,
}

/// All systems, in the order in which they are measured.
pub(super) const ALL: [Kind; 7] = [
    vitrail::KIND,
    glance::KIND,
    nginx::KIND,
    rsync::KIND,
    casync::KIND,
    bita::KIND,
    bittorrent::KIND,
];

/// Vitrail with other policies: measured only where a scenario names them.
pub(super) const POLICIES: [Kind; 3] = [vitrail::RANDOM, vitrail::NEAREST, vitrail::STATIC];

/// The bytes of an image's file.
fn file_len(path: &Path) -> Result<f64> {
    let metadata = path
        .metadata()
        .with_context(|| format!("no {}", path.display()))?;
    Ok(metadata.len() as f64)
}

/// Version of a program, as a pair for the record.
fn version(name: &str, args: &[&str]) -> (String, String) {
    (name.to_owned(), crate::machine::version(name, args))
}
