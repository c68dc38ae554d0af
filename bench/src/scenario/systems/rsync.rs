//! rsync from the nearest holder's daemon, with what the site holds as basis.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::copies::{Copies, base_of, copy_sparse, place_base};
use super::{Form, Kind, Setting, System, version};
use crate::peers::apt_install;
use crate::process::Process;
use crate::scenario::field::Field;
use crate::scenario::schedule::{Plan, Pull};

const PORT: u16 = 8730;

pub(super) const KIND: Kind = Kind {
    name: "rsync",
    form: Form::Raw,
    install: |_| {
        apt_install(&["rsync"])?;
        Ok(vec![version("rsync", &["--version"])])
    },
    deploy: |setting, field, plan| {
        let base = plan.base.as_deref().map(|name| setting.image(name));
        place_base(field, plan, base.transpose()?)?;
        let root = setting.image(&plan.images[0])?.raw.parent();
        let serve = |holder: &String| serve(field, holder, root.context("no directory")?);
        let servers = plan.holders.iter().map(serve).collect::<Result<_>>()?;
        Ok(Box::new(Rsync {
            setting,
            field,
            plan,
            copies: Copies::default(),
            _servers: servers,
        }))
    },
};

struct Rsync<'a> {
    setting: &'a Setting,
    field: &'a Field,
    plan: &'a Plan,
    copies: Copies,
    _servers: Vec<Process>,
}

/// A daemon that lets everybody read `root`.
fn serve(field: &Field, holder: &str, root: &Path) -> Result<Process> {
    let config = field.site_dir(holder)?.join("rsyncd.conf");
    let text = format!(
        "use chroot = no\nport = {PORT}\nreverse lookup = no\nmax connections = 0\n\
         [images]\npath = {}\nread only = yes\nuid = root\ngid = root\n",
        root.display()
    );
    fs::write(&config, text)?;
    field.serve(holder, "rsync", |command| {
        command
            .args([
                "--daemon",
                "--no-detach",
                "--log-file=/dev/stderr",
                "--config",
            ])
            .arg(config);
    })
}

impl System for Rsync<'_> {
    fn pull(&self, pull: &Pull, to: &Path, timeout: Duration) -> Result<PathBuf> {
        self.copies.get(pull, || {
            // The file that is to be updated lies where the new one will.
            if self.plan.base.is_some() {
                let base = base_of(self.field, &pull.site)?;
                if fs::rename(&base, to).is_err() {
                    copy_sparse(&base, to)?;
                }
            }
            let holder = self.field.nearest(&pull.site, &self.plan.holders)?;
            let file = &self.setting.image(&pull.image)?.raw;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let url = format!("rsync://{}:{PORT}/images/{name}", self.field.addr(holder)?);
            self.field.run(&pull.site, "rsync", timeout, |command| {
                command
                    .args(["--compress", "--compress-choice=zstd", "--block-size=4096"])
                    .args(["--sparse", "--ignore-times", &url])
                    .arg(to);
            })?;
            Ok(to.to_owned())
        })
    }

    fn payload(&self) -> Result<Option<f64>> {
        Ok(None)
    }
}
