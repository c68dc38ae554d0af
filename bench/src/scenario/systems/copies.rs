//! Sites that keep the files they got.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use crate::scenario::field::Field;
use crate::scenario::images::ImageFile;
use crate::scenario::schedule::{Plan, Pull};

/// A file, once it is there; locked while it is being fetched.
type Copy = Arc<Mutex<Option<PathBuf>>>;

/// Which site has which image, so that a second pull waits for the first and fetches nothing.
#[derive(Debug, Default)]
pub(super) struct Copies {
    kept: Mutex<BTreeMap<(String, String), Copy>>,
}

impl Copies {
    /// The file of a pull; `fetch` gets it when the site does not have it. After a failure the next one tries again.
    pub(super) fn get(
        &self,
        pull: &Pull,
        fetch: impl FnOnce() -> Result<PathBuf>,
    ) -> Result<PathBuf> {
        let key = (pull.site.clone(), pull.image.clone());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = Arc::clone(kept.entry(key).or_default());
        drop(kept);
        let mut copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*copy {
            return Ok(file.clone());
        }
        let file = fetch()?;
        *copy = Some(file.clone());
        Ok(file)
    }
}

/// Gives every receiver its own copy of the base, if the plan has one.
pub(super) fn place_base(field: &Field, plan: &Plan, base: Option<&ImageFile>) -> Result<()> {
    let Some(base) = base else { return Ok(()) };
    for site in &plan.receivers {
        copy_sparse(&base.raw, &base_of(field, site)?)?;
    }
    Ok(())
}

/// Where the copy of the base is.
pub(super) fn base_of(field: &Field, site: &str) -> Result<PathBuf> {
    Ok(field.site_dir(site)?.join("base.raw"))
}

/// Copies a file with its holes.
pub(super) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    crate::process::run(
        "cp",
        std::process::Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .args([from, to]),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::bail;

    use super::*;

    #[test]
    fn a_site_fetches_an_image_once_and_again_after_a_failure() {
        let copies = Copies::default();
        let pull = |site: &str| Pull {
            at: Duration::ZERO,
            site: site.into(),
            image: "image".into(),
        };
        let fetched = |name: &'static str| move || Ok(PathBuf::from(name));
        assert!(copies.get(&pull("a"), || bail!("no link")).is_err());
        let get = |site, name| copies.get(&pull(site), fetched(name)).unwrap();
        assert_eq!(get("a", "first"), Path::new("first"));
        assert_eq!(get("a", "second"), Path::new("first"));
        assert_eq!(get("b", "other"), Path::new("other"));
    }
}
