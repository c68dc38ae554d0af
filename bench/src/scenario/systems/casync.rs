//! casync: chunks by HTTP from the nearest holder, with what the site holds as seed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::copies::{Copies, base_of, place_base};
use super::nginx::Servers;
use super::{Form, Kind, Setting, System, version};
use crate::peers::apt_install;
use crate::process::run;
use crate::scenario::schedule::{Plan, Pull};

pub(super) const KIND: Kind = Kind {
    name: "casync",
    form: Form::Raw,
    install: |_| {
        apt_install(&["casync", "nginx-light"])?;
        Ok(vec![version("casync", &["--version"])])
    },
    deploy: |setting, field, plan| {
        let mut root = PathBuf::new();
        for name in &plan.images {
            let image = setting.image(name)?;
            root = setting.published("casync", image, |dir| {
                let mut command = Command::new("casync");
                command
                    .arg(format!("--store={}", dir.join("store.castr").display()))
                    .arg("make")
                    .arg(dir.join("image.caibx"))
                    .arg(&image.raw);
                run("casync make", &mut command).map(drop)
            })?;
        }
        let base = plan.base.as_deref().map(|name| setting.image(name));
        place_base(field, plan, base.transpose()?)?;
        Ok(Box::new(Casync {
            setting,
            plan,
            servers: Servers::start(field, plan, &root)?,
            copies: Copies::default(),
        }))
    },
};

struct Casync<'a> {
    setting: &'a Setting,
    plan: &'a Plan,
    servers: Servers<'a>,
    copies: Copies,
}

impl System for Casync<'_> {
    fn pull(&self, pull: &Pull, to: &Path, timeout: Duration) -> Result<PathBuf> {
        self.copies.get(pull, || {
            let field = self.servers.field;
            let key = &self.setting.image(&pull.image)?.key;
            let url = self.servers.nearest(&pull.site)? + key;
            let base = base_of(field, &pull.site)?;
            field.run(&pull.site, "casync", timeout, |command| {
                command.arg(format!("--store={url}/store.castr"));
                if self.plan.base.is_some() {
                    command.arg(format!("--seed={}", base.display()));
                }
                command
                    .arg("extract")
                    .arg(format!("{url}/image.caibx"))
                    .arg(to);
            })?;
            Ok(to.to_owned())
        })
    }

    fn payload(&self) -> Result<Option<f64>> {
        Ok(None)
    }
}
