//! `vitrail ca`: the certificate authority of a mesh. Works on files alone.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use vitrail::ca;

use crate::cli::exit::Exit;
use crate::cli::output::{Output, Table};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a new authority: DIR/ca.crt for every site, DIR/ca.key for nobody but you.
    Init {
        /// Where its files are kept.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Make a certificate for a site: DIR/SITE.crt and DIR/SITE.key.
    Issue {
        /// Name of the site, as in its `[site] name`.
        site: String,
        /// Where the authority is kept.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How long the certificate is valid.
        #[arg(long, value_name = "N", default_value_t = ca::SITE_VALID_DAYS)]
        days: u32,
    },
}

#[derive(Serialize)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

pub(super) fn run(command: Command, output: Output) -> anyhow::Result<Exit> {
    let written = match command {
        Command::Init { dir } => ca::init(&dir)?,
        Command::Issue { site, dir, days } => ca::issue(&dir, &site, days)?,
    };
    let files = Files {
        certificate: written.certificate,
        key: written.key,
    };
    output.print(&files, |files| {
        let mut table = Table::default();
        table.field("certificate", files.certificate.display().to_string());
        table.field("key", files.key.display().to_string());
        table
    })?;
    Ok(Exit::Success)
}
