//! The data directory: whose it is and what format it has.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "vitrail-store ";
/// Version of the layout that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Takes the directory for this process and checks or writes its format.
pub(crate) fn claim(directory: &Path) -> Result<File> {
    let io = |what: &str| {
        let what = format!("{what} {}", directory.display());
        move |e| Error::io(what, e)
    };
    std::fs::create_dir_all(directory).map_err(io("making"))?;
    let lock = File::create(directory.join("LOCK")).map_err(io("locking"))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked(directory.to_owned())),
        Err(error) => return Err(io("locking")(error.into())),
    }
    let unsupported = |why: String| Error::Unsupported {
        path: directory.to_owned(),
        why,
    };
    let format = directory.join(FORMAT_FILE);
    match std::fs::read_to_string(&format) {
        Ok(text) => {
            let version = text.trim_end().strip_prefix(FORMAT_PREFIX);
            match version.and_then(|v| v.parse::<u32>().ok()) {
                Some(FORMAT_VERSION) => Ok(lock),
                Some(other) => Err(unsupported(format!(
                    "the store has format {other}; this program knows {FORMAT_VERSION}. Use the \
                     version of vitraild that wrote it"
                ))),
                None => Err(unsupported("its FORMAT file is not one of a store".into())),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let stranger = std::fs::read_dir(directory)
                .map_err(io("reading"))?
                .flatten()
                .find(|f| {
                    !["LOCK", "FORMAT.new", "lost+found"]
                        .iter()
                        .any(|n| f.file_name() == *n)
                });
            if let Some(file) = stranger {
                return Err(unsupported(format!(
                    "it is not a store and not empty (it has {:?}); choose another directory",
                    file.file_name()
                )));
            }
            let text = format!("{FORMAT_PREFIX}{FORMAT_VERSION}\n");
            write_durably(directory, FORMAT_FILE, &text).map_err(io("writing FORMAT in"))?;
            Ok(lock)
        }
        Err(error) => Err(io("reading FORMAT in")(error)),
    }
}

fn write_durably(directory: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    std::fs::write(&temporary, text)?;
    File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}
