//! The `bench` command: one subcommand per experiment, each in its own module.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use vitrail_bench::peers::Cache;
use vitrail_bench::peers::glance::Glance;
use vitrail_bench::process;
use vitrail_bench::wan::cli::{self as wan, WanCommand};

/// Experiments that measure Vitrail beside what people use today.
#[derive(Parser)]
#[command(name = "bench", version)]
struct Cli {
    /// Where installed peers are kept between runs [default: ~/.cache/vitrail-bench]
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a real Glance (SQLite, file store, no tokens) until interrupted
    Glance {
        /// Its database, images and log
        #[arg(long)]
        dir: PathBuf,
        /// Port on 127.0.0.1
        #[arg(long, default_value_t = 9292)]
        port: u16,
    },
    /// Emulate a wide-area network of namespaces
    #[command(subcommand)]
    Wan(WanCommand),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    // A network has its own way to end.
    if !matches!(cli.command, Command::Wan(_)) {
        process::kill_all_on_interrupt()?;
    }
    match cli.command {
        Command::Glance { dir, port } => {
            let mut glance = Glance::start(&Cache::open(cli.cache)?, &dir, port)?;
            eprintln!("Glance answers at {}; Ctrl-C ends it", glance.url());
            let status = glance.process().wait()?;
            ensure!(status.success(), "Glance ended: {status}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Wan(command) => wan::run(command),
    }
}
