//! The `bench` command: one subcommand per experiment, each in its own module.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use vitrail_bench::local::{LocalOptions, Options};
use vitrail_bench::peers::glance::{Glance, Setup};
use vitrail_bench::peers::{Cache, Place};
use vitrail_bench::scenario::{self, ReportOptions, RunOptions, SimulateOptions};
use vitrail_bench::wan::cli::{self as wan, WanCommand};
use vitrail_bench::{api, chunks, corpus, local, mesh, micro, process, transport};

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
    /// Build real Debian images to measure with
    Corpus {
        /// Where they are kept
        dir: PathBuf,
        /// Sets (small, full) or single images
        #[arg(default_value = "small")]
        images: Vec<String>,
    },
    /// One site beside Glance, nginx, borg, restic and casync: ingest, disk space, serving
    Local(LocalOptions),
    /// The Image API of a cloud with a Keystone and a thousand images, beside Glance on SQLite and on MariaDB
    Api(api::ApiOptions),
    /// Chunker, index and manifest alone
    Micro(Options),
    /// What other sizes of chunks and frames would cost
    Chunks(Options),
    /// Serve a real Glance (SQLite, file store, no tokens) until interrupted
    Glance {
        /// Its database, images and log
        #[arg(long)]
        dir: PathBuf,
        /// Port on 127.0.0.1
        #[arg(long, default_value_t = 9292)]
        port: u16,
    },
    /// Several sites on an emulated wide-area network
    Mesh(mesh::Options),
    /// The daemon's transport on emulated paths, beside TCP and quinn's own controllers
    Transport(transport::Options),
    /// Run a scenario: real systems beside each other on an emulated wide-area network
    Run(RunOptions),
    /// Run a scenario in virtual time, with Vitrail's planner at every site, for up to 1,000 sites
    Simulate(SimulateOptions),
    /// Draw the report of a run again
    Report(ReportOptions),
    /// Put two results of scenarios side by side
    Compare {
        /// Directory of the first result
        a: PathBuf,
        /// Directory of the second result
        b: PathBuf,
        /// Fail when a ratio is farther from 1 than this many percent
        #[arg(long, value_name = "PERCENT")]
        within: Option<f64>,
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
        Command::Corpus { dir, images } => corpus::build(&dir, &images)?,
        Command::Local(options) => local::run(&options, Cache::open(cli.cache)?)?,
        Command::Api(options) => api::run(&options, Cache::open(cli.cache)?)?,
        Command::Micro(options) => micro::run(&options, &Cache::open(cli.cache)?)?,
        Command::Chunks(options) => chunks::run(&options, &Cache::open(cli.cache)?)?,
        Command::Glance { dir, port } => {
            let (cache, place) = (Cache::open(cli.cache)?, Place::here());
            let glance = Glance::start(&cache, &dir, &place, port, Setup::AsShipped)?;
            eprintln!("Glance answers at {}; Ctrl-C ends it", glance.api().url());
            glance.wait()?;
        }
        Command::Mesh(options) => mesh::run(&options)?,
        Command::Transport(options) => transport::run(&options)?,
        Command::Run(options) => return scenario::run(&options, Cache::open(cli.cache)?),
        Command::Simulate(options) => {
            return scenario::simulate(&options, &Cache::open(cli.cache)?);
        }
        Command::Report(options) => scenario::report(&options)?,
        Command::Compare { a, b, within } => return scenario::compare(&a, &b, within),
        Command::Wan(command) => return wan::run(command),
    }
    Ok(ExitCode::SUCCESS)
}
