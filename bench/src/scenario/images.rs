//! The image files of a scenario: those of the corpus, and parts of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::file::{ImageSpec, Part, Scenario};
use crate::corpus::Corpus;
use crate::peers::{Cache, apt_install};
use crate::process::run;

/// Data is told from holes in units of this.
const BLOCK: usize = 64 << 10;

/// One image in both forms.
#[derive(Clone, Debug)]
pub(super) struct ImageFile {
    /// Names it among what is kept in the cache: changes when the bytes do.
    pub(super) key: String,
    /// As it lies on a virtual disk.
    pub(super) raw: PathBuf,
    /// Compressed qcow2 of the same.
    pub qcow2: PathBuf,
}

/// All images of a scenario by name. What is missing in the corpus or the cache is made, which takes
/// minutes for the corpus.
pub(super) fn prepare(
    scenario: &Scenario,
    corpus_dir: &Path,
    cache: &Cache,
) -> Result<BTreeMap<String, ImageFile>> {
    let corpus = Corpus::with(corpus_dir, &scenario.corpus_images())?;
    let parts = cache.path("parts");
    fs::create_dir_all(&parts)?;
    let mut images = BTreeMap::new();
    for (name, spec) in &scenario.images {
        images.insert(name.clone(), image(spec, &corpus, &parts)?);
    }
    Ok(images)
}

fn image(spec: &ImageSpec, corpus: &Corpus, parts: &Path) -> Result<ImageFile> {
    let raw = corpus.raw(&spec.from);
    let metadata = raw
        .metadata()
        .with_context(|| format!("no image {} in the corpus", spec.from))?;
    let changed = metadata
        .modified()?
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let key = format!("{}-{}-{changed}", spec.from, metadata.len());
    let Some(part) = spec.part else {
        return Ok(ImageFile {
            key,
            qcow2: corpus.qcow2(&spec.from),
            raw,
        });
    };
    let key = format!("{key}-{}m-{}", part.len >> 20, part.index);
    let file = ImageFile {
        raw: parts.join(format!("{key}.raw")),
        qcow2: parts.join(format!("{key}.qcow2")),
        key,
    };
    if !file.qcow2.exists() {
        eprintln!("making {}", file.raw.display());
        cut(&raw, part, &file.raw)?;
        convert(&file.raw, &file.qcow2)?;
    }
    Ok(file)
}

/// Writes a part of the data of `image`, its zero blocks left out.
fn cut(image: &Path, part: Part, to: &Path) -> Result<()> {
    let mut from = BufReader::with_capacity(1 << 20, File::open(image)?);
    let mut out = File::create(to)?;
    let mut block = vec![0; BLOCK];
    let (start, end) = (
        u64::from(part.index) * part.len,
        (u64::from(part.index) + 1) * part.len,
    );
    let mut at = 0;
    while at < end {
        if from.read_exact(&mut block).is_err() {
            break;
        }
        if block.iter().all(|&byte| byte == 0) {
            continue;
        }
        if at >= start {
            out.write_all(&block)?;
        }
        at += BLOCK as u64;
    }
    ensure!(
        at == end,
        "{} has {at} bytes of data, too few for part {} of {} bytes",
        image.display(),
        part.index + 1,
        part.len
    );
    Ok(())
}

/// Makes the compressed qcow2; complete, or not there under its name.
fn convert(raw: &Path, qcow2: &Path) -> Result<()> {
    apt_install(&["qemu-utils"])?;
    let unfinished = qcow2.with_extension("part");
    run(
        "qemu-img convert",
        Command::new("qemu-img")
            .args(["convert", "-c", "-f", "raw", "-O", "qcow2"])
            .args([raw, &unfinished]),
    )?;
    Ok(fs::rename(unfinished, qcow2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_data_without_holes() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image.raw");
        let mut bytes = Vec::new();
        for block in [0, 1, 0, 2, 3, 0, 4] {
            bytes.extend(vec![block; BLOCK]);
        }
        fs::write(&image, bytes).unwrap();
        let part = |index| {
            let out = dir.path().join("part.raw");
            let len = 2 * BLOCK as u64;
            cut(&image, Part { index, len }, &out).map(|()| fs::read(out).unwrap())
        };
        let blocks = |bytes: [u8; 2]| bytes.map(|byte| vec![byte; BLOCK]).concat();
        assert_eq!(part(0).unwrap(), blocks([1, 2]));
        assert_eq!(part(1).unwrap(), blocks([3, 4]));
        assert!(part(2).is_err());
    }
}
