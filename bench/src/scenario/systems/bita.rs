//! bita: chunks out of one archive by HTTP ranges from the nearest holder, with what the site holds as seed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::copies::{Copies, base_of, place_base};
use super::nginx::Servers;
use super::{Form, Kind, Setting, System};
use crate::peers::{Cache, apt_install};
use crate::process::run;
use crate::scenario::schedule::{Plan, Pull};

const VERSION: &str = "0.15.0";

const ARCHIVE: &str = "image.cba";

fn program(cache: &Cache) -> Result<PathBuf> {
    cache.cargo_install("bita", VERSION)
}

pub(super) const KIND: Kind = Kind {
    name: "bita",
    form: Form::Raw,
    install: |setting| {
        apt_install(&["nginx-light"])?;
        program(&setting.cache)?;
        Ok(vec![("bita".to_owned(), VERSION.to_owned())])
    },
    deploy: |setting, field, plan| {
        let program = program(&setting.cache)?;
        let mut root = PathBuf::new();
        for name in &plan.images {
            let image = setting.image(name)?;
            root = setting.published("bita", image, |dir| {
                let mut command = Command::new(&program);
                command
                    .args(["compress", "--input"])
                    .args([&image.raw, &dir.join(ARCHIVE)]);
                run("bita compress", &mut command).map(drop)
            })?;
        }
        let base = plan.base.as_deref().map(|name| setting.image(name));
        place_base(field, plan, base.transpose()?)?;
        Ok(Box::new(Bita {
            program: program.to_string_lossy().into_owned(),
            setting,
            plan,
            servers: Servers::start(field, plan, &root)?,
            copies: Copies::default(),
        }))
    },
};

struct Bita<'a> {
    program: String,
    setting: &'a Setting,
    plan: &'a Plan,
    servers: Servers<'a>,
    copies: Copies,
}

impl System for Bita<'_> {
    fn pull(&self, pull: &Pull, to: &Path, timeout: Duration) -> Result<PathBuf> {
        self.copies.get(pull, || {
            let field = self.servers.field;
            let key = &self.setting.image(&pull.image)?.key;
            let url = self.servers.nearest(&pull.site)? + key;
            let base = base_of(field, &pull.site)?;
            field.run(&pull.site, &self.program, timeout, |command| {
                command.arg("clone");
                if self.plan.base.is_some() {
                    command.arg("--seed").arg(base);
                }
                command.arg(format!("{url}/{ARCHIVE}")).arg(to);
            })?;
            Ok(to.to_owned())
        })
    }

    fn payload(&self) -> Result<Option<f64>> {
        Ok(None)
    }
}
