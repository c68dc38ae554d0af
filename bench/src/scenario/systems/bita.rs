//! bita: chunks out of one archive by HTTP ranges from the nearest holder, with what the site holds as seed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::copies::{Copies, base_of, place_base};
use super::nginx::Servers;
use super::{Form, Kind, Setting, System};
use crate::peers::{Cache, apt_install};
use crate::process::run;
use crate::scenario::schedule::{Plan, Pull};

const VERSION: &str = "0.15.0";

const ARCHIVE: &str = "image.cba";

/// How often an archive is made before the case fails.
const ATTEMPTS: u32 = 10;

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
            root = setting.published("bita", image, |dir| publish(&program, &image.raw, dir))?;
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

/// Makes an archive and looks whether it is whole: bita 0.15.0 sometimes ends before its last bytes are written.
fn publish(program: &Path, image: &Path, dir: &Path) -> Result<()> {
    let (archive, probe) = (dir.join(ARCHIVE), dir.join("probe"));
    for _ in 0..ATTEMPTS {
        let mut compress = Command::new(program);
        compress
            .args(["compress", "--force-create", "--input"])
            .args([image, &archive]);
        run("bita compress", &mut compress)?;
        let mut clone = Command::new(program);
        clone
            .args(["clone", "--force-create"])
            .args([&archive, &probe]);
        let whole = run("bita clone", &mut clone).is_ok();
        fs::remove_file(&probe).ok();
        if whole {
            return Ok(());
        }
    }
    bail!("bita compress made {ATTEMPTS} archives that end too early");
}

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
                // Its messages are long enough.
                command.env_remove("RUST_BACKTRACE").arg("clone");
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
