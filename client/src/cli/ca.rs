//! `vitrail ca`: the certificate authority of a mesh. Works on files alone.

use std::path::PathBuf;

use clap::Subcommand;
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
        /// Days for which the certificate is valid, 1 to 3650.
        #[arg(long, value_name = "N", default_value_t = ca::SITE_VALID_DAYS)]
        days: u32,
    },
}

pub(super) fn run(command: Command, output: Output) -> anyhow::Result<Exit> {
    let files = match command {
        Command::Init { dir } => ca::init(&dir)?,
        Command::Issue { site, dir, days } => ca::issue(&dir, &site, days)?,
    };
    output.print(&files, table)?;
    Ok(Exit::Success)
}

fn table(files: &ca::Files) -> Table {
    let mut table = Table::default();
    table.field("certificate", files.certificate.display().to_string());
    table.field("key", files.key.display().to_string());
    table
}
