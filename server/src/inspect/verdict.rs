//! Whether content may be what it is declared to be.

use super::{Facts, Format, Unsafe};

/// What an image's record says of its data.
#[derive(Clone, Copy, Debug)]
pub struct Declared<'a> {
    /// As in the record: `raw`, `qcow2`, `ami`, …
    pub disk_format: &'a str,
    /// As in the record. Data in any container but `bare` is not inspected.
    pub container_format: &'a str,
}

/// What an operator may relax. Nothing relaxes the refusal of other unsafe content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Refuse content of another format than the declared one (default). Otherwise it is accepted,
    /// of unknown virtual size.
    pub require_match: bool,
    /// Refuse partition tables that no tool writes (default), where the content is declared to be
    /// one (`raw`, `gpt`). Boot loaders and kernels bear the same mark.
    pub check_mbr: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            require_match: true,
            check_mbr: true,
        }
    }
}

/// Content that may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// For the record, in bytes; `None` where unknown.
    pub virtual_size: Option<u64>,
}

/// Content that must not be stored, with a text for the one who sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The content is of another format than declared.
    #[error("Image disk_format {declared} does not match stream data {found}")]
    Mismatch {
        /// The declared `disk_format`.
        declared: String,
        /// What the content is.
        found: Format,
    },
    /// The content is dangerous, whatever it is declared to be.
    #[error("Image failed safety checks: {0}")]
    Unsafe(#[from] Unsafe),
}

impl Facts {
    /// Decides as Glance does, but safety first: unsafe content is refused for that also when it
    /// does not match, or need not.
    ///
    /// A claim to be `raw` is believed of all safe content, and no bytes at all are fit for every
    /// format, as such images are made to stand for data kept elsewhere.
    pub fn judge(&self, declared: Declared<'_>, rules: Rules) -> Result<Verdict, Refusal> {
        let unknown = Ok(Verdict { virtual_size: None });
        if declared.container_format != "bare" || self.len == 0 {
            return unknown;
        }
        let claimed = Format::from_disk_format(declared.disk_format);
        let reads_partitions = matches!(claimed, Some(Format::Raw | Format::Gpt));
        match &self.safety {
            Err(Unsafe::Mbr(_)) if !(rules.check_mbr && reads_partitions) => {}
            safety => safety.clone()?,
        }
        match claimed {
            Some(claimed) if claimed == self.format => Ok(Verdict {
                virtual_size: self.virtual_size,
            }),
            Some(Format::Raw) => Ok(Verdict {
                virtual_size: Some(self.len),
            }),
            None if self.format == Format::Raw => unknown,
            _ if !rules.require_match => unknown,
            _ => Err(Refusal::Mismatch {
                declared: declared.disk_format.to_owned(),
                found: self.format,
            }),
        }
    }
}
