//! nginx with the compressed image at every holder; every client downloads from the nearest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::glance::curl;
use super::{Form, Kind, Setting, System, file_len, version};
use crate::peers::apt_install;
use crate::peers::nginx::Nginx;
use crate::scenario::field::Field;
use crate::scenario::schedule::{Plan, Pull};

const PORT: u16 = 8080;

pub(super) const KIND: Kind = Kind {
    name: "nginx",
    form: Form::Qcow2,
    install: |_| {
        apt_install(&["nginx-light", "curl"])?;
        Ok(vec![
            version("nginx", &["-v"]),
            version("curl", &["--version"]),
        ])
    },
    deploy: |setting, field, plan| {
        let image = setting.image(&plan.images[0])?;
        let root = image.qcow2.parent().context("no directory")?;
        Ok(Box::new(Files {
            copy_len: file_len(&image.qcow2)?,
            setting,
            servers: Servers::start(field, plan, root)?,
        }))
    },
};

struct Files<'a> {
    setting: &'a Setting,
    servers: Servers<'a>,
    copy_len: f64,
}

impl System for Files<'_> {
    fn pull(&self, pull: &Pull, to: &Path, timeout: Duration) -> Result<PathBuf> {
        let file = &self.setting.image(&pull.image)?.qcow2;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let url = self.servers.nearest(&pull.site)? + &name;
        curl(self.servers.field, &pull.site, &url, to, timeout)
    }

    fn payload(&self) -> Result<Option<f64>> {
        Ok(Some(self.copy_len))
    }
}

/// An nginx with the same files at every holder.
pub(super) struct Servers<'a> {
    pub(super) field: &'a Field,
    plan: &'a Plan,
    _running: Vec<Nginx>,
}

impl<'a> Servers<'a> {
    pub(super) fn start(field: &'a Field, plan: &'a Plan, root: &Path) -> Result<Self> {
        let start = |holder: &String| {
            let dir = field.site_dir(holder)?.join("nginx");
            Nginx::start_at(&field.place(holder)?, PORT, &dir, root)
        };
        Ok(Self {
            field,
            plan,
            _running: plan.holders.iter().map(start).collect::<Result<_>>()?,
        })
    }

    /// The URL of the nearest one's files, with the slash.
    pub(super) fn nearest(&self, site: &str) -> Result<String> {
        let holder = self.field.nearest(site, &self.plan.holders)?;
        Ok(format!("http://{}:{PORT}/", self.field.addr(holder)?))
    }
}
