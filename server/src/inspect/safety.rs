//! Why content is refused whatever it is declared to be.

use super::Format;

/// What makes an image dangerous, or impossible to vouch for. The text completes "Image failed
/// safety checks: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsafe {
    /// The stream ended before everything that must be checked had passed.
    #[error("the stream ends inside the {0} headers")]
    CutShort(Format),
    /// The same bytes are an image of more than one format.
    #[error("the data is of several formats at once: {}", names(.0))]
    SeveralFormats(Vec<Format>),
    /// A format that is never accepted.
    #[error("format {0} is not accepted")]
    Banned(Format),
    /// A version that nobody here knows how to check.
    #[error("{format} version {version} is not supported")]
    Version {
        /// The format that has this version.
        format: Format,
        /// The version its header states.
        version: u32,
    },
    /// Reading the image would read another file beneath it (CVE-2024-32498, CVE-2022-47951).
    #[error("the image has a backing file")]
    BackingFile,
    /// Reading the image would read its data from another file.
    #[error("the image keeps its data in another file")]
    DataFile,
    /// Incompatible feature bits of qcow2 that nobody here knows how to check.
    #[error("unknown incompatible qcow2 features {0:#x}")]
    UnknownFeatures(u64),
    /// A vmdk's header, descriptor or footer.
    #[error("vmdk: {0}")]
    Vmdk(&'static str),
    /// A vhdx's region or metadata tables.
    #[error("vhdx: {0}")]
    Vhdx(&'static str),
    /// A master boot record that no partitioning tool writes.
    #[error("MBR: {0}")]
    Mbr(&'static str),
    /// A virtual disk of 2^63 bytes or more, which no file offset reaches.
    #[error("the virtual size is 2^63 bytes or more")]
    TooLarge,
}

fn names(formats: &[Format]) -> String {
    formats
        .iter()
        .map(|format| format.name())
        .collect::<Vec<_>>()
        .join(", ")
}
