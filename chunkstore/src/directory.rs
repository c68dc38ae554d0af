//! The data directory: whose it is and what format it has.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "vitrail-store ";
const LOCK_FILE: &str = "LOCK";
/// Version of the layout that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Takes the directory for this process, and checks its format or writes it into a new one. What is not a
/// store of this version is left as it is.
pub(crate) fn claim(directory: &Path) -> Result<File> {
    let io = |what: &str| {
        let what = format!("{what} {}", directory.display());
        move |e| Error::io(what, e)
    };
    std::fs::create_dir_all(directory).map_err(io("making"))?;
    if !has_format(directory)?
        && let Some(name) = stranger(directory).map_err(io("reading"))?
        // Again: another process may be making a store here.
        && !has_format(directory)?
    {
        return Err(unsupported(
            directory,
            format!("it is not a store and not empty (it has {name:?}); choose another directory"),
        ));
    }
    let lock = File::create(directory.join(LOCK_FILE)).map_err(io("locking"))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked(directory.to_owned())),
        Err(error) => return Err(io("locking")(error.into())),
    }
    // Again: another process may have made one here and let go of the lock.
    if !has_format(directory)? {
        write_format(directory).map_err(io("writing FORMAT in"))?;
    }
    Ok(lock)
}

/// Makes the names in `directory` durable.
pub(crate) fn sync_names(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|e| Error::io(format!("syncing {}", directory.display()), e))
}

/// Whether this is a store of the version that this program knows, or nothing yet; an error if it is
/// something else.
fn has_format(directory: &Path) -> Result<bool> {
    let text = match std::fs::read_to_string(directory.join(FORMAT_FILE)) {
        Ok(text) => text,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound => Ok(false),
                io::ErrorKind::InvalidData => Err(not_a_store(directory)),
                _ => Err(Error::io(
                    format!("reading FORMAT in {}", directory.display()),
                    error,
                )),
            };
        }
    };
    let version = text.trim_end().strip_prefix(FORMAT_PREFIX);
    match version.and_then(|v| v.parse::<u32>().ok()) {
        Some(FORMAT_VERSION) => Ok(true),
        Some(other) => Err(unsupported(
            directory,
            format!(
                "the store has format {other}; this program knows {FORMAT_VERSION}. Use the version of \
                 vitraild that wrote it"
            ),
        )),
        None => Err(not_a_store(directory)),
    }
}

/// Something in `directory` that neither an open that was cut short nor a new file system leaves.
fn stranger(directory: &Path) -> io::Result<Option<OsString>> {
    let ours = [LOCK_FILE, "FORMAT.new", "lost+found"];
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if ours.iter().all(|known| name != *known) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn unsupported(directory: &Path, why: String) -> Error {
    Error::Unsupported {
        path: directory.to_owned(),
        why,
    }
}

fn not_a_store(directory: &Path) -> Error {
    unsupported(directory, "its FORMAT file is not one of a store".into())
}

fn write_format(directory: &Path) -> io::Result<()> {
    let temporary = directory.join(format!("{FORMAT_FILE}.new"));
    std::fs::write(&temporary, format!("{FORMAT_PREFIX}{FORMAT_VERSION}\n"))?;
    File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, directory.join(FORMAT_FILE))?;
    File::open(directory)?.sync_all()
}
