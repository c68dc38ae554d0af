//! Vitrail: a daemon at every site, clients that talk to their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::glance::curl;
use super::{Form, Kind, Setting, System, Versions};
use crate::machine;
use crate::mesh::site::{Mesh, Setup, Site};
use crate::process::Process;
use crate::report::VITRAIL;
use crate::scenario::field::{Field, tail};
use crate::scenario::schedule::{Plan, Pull};

/// Where a site's own clients find the Image API.
const LOCAL_API: &str = "http://127.0.0.1:9292";

pub(super) const KIND: Kind = Kind {
    name: VITRAIL,
    form: Form::Raw,
    install,
    deploy: |setting, field, plan| deploy(setting, field, plan, None),
};

/// Vitrail but for how it chooses holders: scheduling policies of the literature.
pub(super) const RANDOM: Kind = Kind {
    name: "vitrail:random",
    deploy: |setting, field, plan| deploy(setting, field, plan, Some("random")),
    ..KIND
};
/// See [`RANDOM`].
pub(super) const NEAREST: Kind = Kind {
    name: "vitrail:nearest",
    deploy: |setting, field, plan| deploy(setting, field, plan, Some("nearest")),
    ..KIND
};
/// See [`RANDOM`].
pub(super) const STATIC: Kind = Kind {
    name: "vitrail:static",
    deploy: |setting, field, plan| deploy(setting, field, plan, Some("static")),
    ..KIND
};

fn install(setting: &Setting) -> Result<Versions> {
    let program = setting.programs.join("vitraild");
    ensure!(
        program.exists(),
        "no {}: build it with --release",
        program.display()
    );
    let version = |program: &str, args: &[&str]| machine::version(program, args);
    Ok(vec![
        (
            "vitraild".to_owned(),
            version(&program.to_string_lossy(), &["--version"]),
        ),
        ("commit".to_owned(), version("git", &["rev-parse", "HEAD"])),
    ])
}

fn deploy<'a>(
    setting: &'a Setting,
    field: &'a Field,
    plan: &'a Plan,
    policy: Option<&'static str>,
) -> Result<Box<dyn System + 'a>> {
    let setup = Setup {
        programs: setting.programs.clone(),
        dir: field.dir().to_owned(),
        policy,
    };
    let mesh = Mesh::deploy(&setup, "sites", field.network().clone())?;
    let mut ids = BTreeMap::new();
    for name in &plan.images {
        // Equal bytes make equal manifests: each holder holds what any of the records names.
        for holder in &plan.holders {
            let id = push(setting, mesh.site(holder)?, name)?;
            ids.entry(name.as_str()).or_insert(id);
        }
    }
    for site in &plan.receivers {
        let site = mesh.site(site)?;
        if let Some(base) = &plan.base {
            push(setting, site, base)?;
        }
    }
    let holders: Vec<&str> = plan.holders.iter().map(String::as_str).collect();
    for site in &plan.receivers {
        for id in ids.values() {
            mesh.site(site)?.wait_for_holders(id, &holders)?;
        }
    }
    Ok(Box::new(Daemons {
        vitrail: setting.programs.join("vitrail"),
        field,
        plan,
        mesh,
        ids,
    }))
}

struct Daemons<'a> {
    vitrail: PathBuf,
    field: &'a Field,
    plan: &'a Plan,
    mesh: Mesh,
    ids: BTreeMap<&'a str, String>,
}

fn push(setting: &Setting, site: &Site, image: &str) -> Result<String> {
    Ok(site.api().push(&setting.image(image)?.raw)?.0)
}

impl Daemons<'_> {
    fn id(&self, image: &str) -> Result<&str> {
        let id = self.ids.get(image).context("no such image")?;
        Ok(id)
    }

    /// The newest receipt of each image that a plan brings to each site.
    fn receipts(&self) -> Result<Vec<Value>> {
        let mut wanted: Vec<_> = self
            .plan
            .pulls
            .iter()
            .map(|pull| (&pull.site, &pull.image))
            .collect();
        wanted.sort();
        wanted.dedup();
        let receipt =
            |(site, image): (&String, &String)| self.mesh.site(site)?.receipt(self.id(image)?);
        wanted.into_iter().map(receipt).collect()
    }
}

impl System for Daemons<'_> {
    fn pull(&self, pull: &Pull, to: &Path, timeout: Duration) -> Result<PathBuf> {
        let url = format!("{LOCAL_API}/v2/images/{}/file", self.id(&pull.image)?);
        curl(self.field, &pull.site, &url, to, timeout)
    }

    fn preseed(
        &self,
        image: &str,
        sites: &[String],
        timeout: Duration,
    ) -> Option<Result<Vec<Duration>>> {
        Some(self.preseed_all(image, sites, timeout))
    }

    /// What the mean of the receipts says that peers sent, without QUIC's headers.
    fn payload(&self) -> Result<Option<f64>> {
        let receipts = self.receipts()?;
        let peers = |receipt: &Value| receipt["peers"].as_object().cloned().unwrap_or_default();
        let wire: f64 = receipts
            .iter()
            .flat_map(|receipt| peers(receipt).into_iter())
            .filter_map(|(_, count)| count["wire"].as_f64())
            .sum();
        Ok(Some(wire / receipts.len() as f64))
    }

    fn facts(&self) -> Result<Value> {
        Ok(json!({"receipts": self.receipts()?}))
    }
}

impl Daemons<'_> {
    fn preseed_all(
        &self,
        image: &str,
        sites: &[String],
        timeout: Duration,
    ) -> Result<Vec<Duration>> {
        let origin = self.mesh.site(&self.plan.holders[0])?;
        let mut command = Command::new(&self.vitrail);
        command
            .args(["--endpoint", origin.api().url()])
            .args(["--admin-endpoint", origin.admin_url()])
            .args(["--json", "preseed", self.id(image)?, "--sites"])
            .arg(sites.join(","));
        self.field.note("vitrail", &command);
        let log = self.field.dir().join("preseed.log");
        Process::spawn("vitrail preseed", &mut command, &log)?
            .finish(timeout)
            .with_context(|| tail(&log))?;
        let seconds = |site: &String| {
            let receipt = self.mesh.site(site)?.receipt(self.id(image)?)?;
            let seconds = receipt["seconds"].as_f64().context("no seconds")?;
            Ok(Duration::from_secs_f64(seconds))
        };
        sites.iter().map(seconds).collect()
    }
}
