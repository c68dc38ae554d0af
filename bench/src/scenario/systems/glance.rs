//! One central Glance; every client downloads from there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Form, Kind, System, file_len, version};
use crate::peers::glance::{Glance, PACKAGES, Setup};
use crate::scenario::field::Field;
use crate::scenario::schedule::Pull;

const PORT: u16 = 9292;

pub(super) const KIND: Kind = Kind {
    name: "glance",
    form: Form::Qcow2,
    install: |setting| {
        setting.cache.venv("glance", PACKAGES)?;
        Ok(vec![
            ("glance".to_owned(), PACKAGES.join(", ")),
            version("curl", &["--version"]),
        ])
    },
    deploy: |setting, field, plan| {
        let origin = &plan.holders[0];
        let dir = field.site_dir(origin)?.join("glance");
        let place = field.place(origin)?;
        let glance = Glance::start(&setting.cache, &dir, &place, PORT, Setup::AsShipped)?;
        let mut ids = BTreeMap::new();
        let mut copy_len = 0.0;
        for name in &plan.images {
            let file = &setting.image(name)?.qcow2;
            copy_len = file_len(file)?;
            ids.insert(name.as_str(), glance.api().push(file)?.0);
        }
        Ok(Box::new(Central {
            field,
            url: format!("http://{}:{PORT}", field.addr(origin)?),
            ids,
            copy_len,
            _glance: glance,
        }))
    },
};

struct Central<'a> {
    field: &'a Field,
    url: String,
    ids: BTreeMap<&'a str, String>,
    copy_len: f64,
    _glance: Glance,
}

impl System for Central<'_> {
    fn pull(&self, pull: &Pull, to: &Path, timeout: Duration) -> Result<PathBuf> {
        let id = self.ids.get(pull.image.as_str()).context("no such image")?;
        let url = format!("{}/v2/images/{id}/file", self.url);
        curl(self.field, &pull.site, &url, to, timeout)
    }

    fn payload(&self) -> Result<Option<f64>> {
        Ok(Some(self.copy_len))
    }
}

/// Downloads a URL at a site.
pub(super) fn curl(
    field: &Field,
    site: &str,
    url: &str,
    to: &Path,
    timeout: Duration,
) -> Result<PathBuf> {
    field.run(site, "curl", timeout, |command| {
        command
            .args(["--silent", "--show-error", "--fail", "--output"])
            .arg(to)
            .arg(url);
    })?;
    Ok(to.to_owned())
}
