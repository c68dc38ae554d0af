//! Disk space as the file system accounts for it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Bytes allocated to everything below `dir`, directories included, as `du` counts them.
pub fn allocated(dir: &Path) -> Result<u64> {
    let mut total = 0;
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let about = || format!("measure {}", path.display());
        let metadata = fs::symlink_metadata(&path).with_context(about)?;
        total += metadata.blocks() * 512;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).with_context(about)? {
                pending.push(entry?.path());
            }
        }
    }
    Ok(total)
}

/// Writes out all dirty pages, so that one measurement does not pay for the one before it.
pub fn settle() {
    rustix::fs::sync();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_not_counted_and_directories_are_walked() {
        let dir = tempfile::tempdir().unwrap();
        let empty = allocated(dir.path()).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/data"), vec![1; 1 << 20]).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        settle();
        let used = allocated(dir.path()).unwrap() - empty;
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
    }
}
